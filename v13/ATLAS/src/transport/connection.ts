/**
 * The socket: one at a time, opened again when it falls, authenticated by a first AUTH frame.
 *
 * The token travels in that frame and nowhere else: never in a URL, never in a header that a proxy
 * may log. What the frames mean is not known here.
 */
import { parseServerFrame, type ServerFrame } from "./frames";

/** Milliseconds before the first new try, and at most. Full jitter: a random part of it. */
const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;
/** A socket that says nothing for so long is asked; without an answer it is given up. */
const SILENCE = 30_000;
/** Close codes of SPEC.md after which a new try with the same token is of no use. */
const REFUSED = 1008;
const TOKEN_EXPIRED = 4401;

/** *refused*: the token was refused or has expired; `renew` goes on. */
export type ConnectionState = "connecting" | "online" | "offline" | "refused";

export interface ConnectionOptions {
  /** Path or URL of the socket. */
  readonly url: string;
  readonly token: string;
  /** The device that this connection is for; the server logs it out when it is revoked. */
  readonly device?: string;
  /** Each frame in its order; READY is the first of each connection. */
  readonly onFrame: (frame: ServerFrame) => void;
  /** Why it is refused, when it is: a code of SPEC.md or empty. */
  readonly onState: (state: ConnectionState, code: string) => void;
  /** In [0, 1); for tests. */
  readonly random?: () => number;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #random: () => number;
  #token: string;
  #socket: WebSocket | null = null;
  #state: ConnectionState = "offline";
  #failures = 0;
  #refusal = "";
  #retry: ReturnType<typeof setTimeout> | null = null;
  #watch: ReturnType<typeof setTimeout> | null = null;
  #wanted = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#random = options.random ?? Math.random;
    this.#token = options.token;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  /** Connect, and stay connected until `close`. */
  open(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    globalThis.addEventListener("online", this.#tryNow);
    globalThis.addEventListener("offline", this.#drop);
    this.#connect();
  }

  close(): void {
    this.#wanted = false;
    globalThis.removeEventListener("online", this.#tryNow);
    globalThis.removeEventListener("offline", this.#drop);
    this.#abandon();
    this.#become("offline");
  }

  /** Go on with a fresh token: on the open socket, or with a new one where the old was refused. */
  renew(token: string): void {
    if (token === this.#token) return;
    this.#token = token;
    if (this.#state === "online") this.#send({ type: "AUTH", token });
    else if (this.#wanted) this.#tryNow();
  }

  /** Send a frame; false when there is no connection (it will say READY when there is). */
  send(frame: object): boolean {
    return this.#state === "online" && this.#send(frame);
  }

  /** Give up the present socket and resume: what could not be dealt with comes again. */
  restart(): void {
    if (!this.#wanted || this.#state === "refused") return;
    this.#abandon();
    this.#later();
  }

  #send(frame: object): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  readonly #tryNow = (): void => {
    if (this.#state === "online") return;
    this.#failures = 0;
    this.#abandon();
    this.#connect();
  };

  readonly #drop = (): void => {
    this.#abandon();
    this.#later();
  };

  #connect(): void {
    this.#become("connecting");
    this.#refusal = "";
    const { url, device } = this.#options;
    const address = new URL(url, globalThis.location.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (device !== undefined) address.searchParams.set("device", device);
    const socket = new WebSocket(address, "atlas.chat.v2");
    this.#socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: "AUTH", token: this.#token }));
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket && typeof data === "string") this.#take(data);
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.#socket) return;
      this.#abandon();
      if (code === REFUSED || code === TOKEN_EXPIRED) this.#become("refused", this.#refusal);
      else this.#later();
    };
    this.#listen();
  }

  #take(data: string): void {
    this.#listen();
    const frame = parseServerFrame(data);
    if (frame === null) return;
    if (frame.type === "READY") {
      this.#failures = 0;
      this.#become("online");
    } else if (frame.type === "ERROR" && frame.seq === null) {
      this.#refusal = frame.code;
    }
    this.#options.onFrame(frame);
  }

  /** Anything that comes shows that the peer is there; silence is asked, then given up. */
  #listen(): void {
    if (this.#watch !== null) clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      if (!this.send({ type: "PING" })) {
        this.restart();
        return;
      }
      this.#watch = setTimeout(() => {
        this.restart();
      }, SILENCE);
    }, SILENCE);
  }

  /** Forget the socket, whatever it still does. */
  #abandon(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#watch !== null) clearTimeout(this.#watch);
    this.#retry = this.#watch = null;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #later(): void {
    this.#become("offline");
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#failures);
    this.#failures += 1;
    this.#retry = setTimeout(() => {
      this.#connect();
    }, longest * this.#random());
  }

  #become(state: ConnectionState, code = ""): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onState(state, code);
  }
}

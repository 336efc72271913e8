/** The far end of the browser's sockets, played by hand: for what no server that is well would say. */

const real = globalThis.WebSocket;

export class FarEnd {
  static opened: FarEnd[] = [];
  readonly url: string;
  readyState: number = WebSocket.CONNECTING;
  readonly sent: string[] = [];
  onopen: () => void = () => undefined;
  onmessage: (event: { data: string }) => void = () => undefined;
  onclose: (event: { code: number }) => void = () => undefined;
  #heard: () => void = () => undefined;

  constructor(url: URL) {
    this.url = url.href;
    FarEnd.opened.push(this);
  }

  /** Every socket that is opened from now on ends here. */
  static stand(): void {
    Object.assign(globalThis, { WebSocket: Object.assign(FarEnd, { OPEN: 1, CONNECTING: 0, CLOSED: 3 }) });
    FarEnd.opened = [];
  }

  static leave(): void {
    globalThis.WebSocket = real;
  }

  static get latest(): FarEnd {
    const one = FarEnd.opened.at(-1);
    if (one === undefined) throw new Error("no socket was opened");
    return one;
  }

  send(text: string): void {
    this.sent.push(text);
    this.#heard();
  }

  close(): void {
    this.readyState = WebSocket.CLOSED;
  }

  accept(): void {
    this.readyState = WebSocket.OPEN;
    this.onopen();
  }

  say(frame: object | string): void {
    this.onmessage({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  /** The frames of a type that have come. */
  frames(type: string): readonly Readonly<Record<string, unknown>>[] {
    const all = this.sent.map((text) => JSON.parse(text) as Readonly<Record<string, unknown>>);
    return all.filter((one) => one["type"] === type);
  }

  /** Resolves when `count` frames of a type have come. */
  hears(type: string, count: number): Promise<void> {
    return new Promise((resolve) => {
      this.#heard = () => {
        if (this.frames(type).length >= count) resolve();
      };
      this.#heard();
    });
  }
}

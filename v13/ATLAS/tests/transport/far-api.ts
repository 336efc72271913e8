/** The REST side of a server, played by hand in the page: true answers, until `lie` changes them. */
import { type Bytes, fromBase64, toBase64 } from "../../src/security/bytes";
import { Certificate } from "../../src/security/devices";
import { Identity } from "../../src/security/identity";
import { Publication } from "../../src/security/prekeys";
import { type KeyDirectory, Stock } from "../security/people";

const real = globalThis.fetch;

/** What is answered; a text that is no JSON goes as it is. */
export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** A route of SPEC.md, with `*` for what varies. */
export type Route =
  | "GET /identities/*"
  | "POST /identities/*/claim"
  | "PUT /identity"
  | "POST /devices"
  | "GET /devices/*/prekeys"
  | "PUT /devices/*/prekeys";

type Fields = Readonly<Record<string, unknown>>;

function bytes(value: unknown): Bytes {
  const data = typeof value === "string" ? fromBase64(value) : null;
  if (data === null) throw new TypeError("the client sends base64");
  return data;
}

const encoded = (one: { encode(): Bytes }): string => toBase64(one.encode());

export class FarApi {
  /** May change an answer, or give none. */
  lie: (route: Route, answer: Answer) => Answer | Promise<Answer> = (_, answer) => answer;
  readonly #directory: KeyDirectory;
  /** Who has come in this page. */
  readonly #identities = new Map<string, Identity>();
  readonly #certificates = new Map<string, Certificate[]>();
  readonly #stock = new Stock();

  private constructor(directory: KeyDirectory) {
    this.#directory = directory;
  }

  /** Everything that the page asks of the chat's REST is answered here, from `directory`. */
  static stand(directory: KeyDirectory): FarApi {
    const api = new FarApi(directory);
    globalThis.fetch = (input, init) => {
      const request = new Request(input, init);
      const { pathname } = new URL(request.url);
      if (!pathname.startsWith("/v1/chat/")) return real(input, init);
      return api.#respond(request, pathname.slice("/v1/chat".length));
    };
    return api;
  }

  static leave(): void {
    globalThis.fetch = real;
  }

  async #respond(request: Request, path: string): Promise<Response> {
    const parts = path.split("/");
    const varies = parts[1] === "identities" || parts[3] === "prekeys";
    const route = `${request.method} ${parts.map((one, at) => (varies && at === 2 ? "*" : one)).join("/")}`;
    const given = request.method === "GET" ? {} : ((await request.json()) as Fields);
    const body = await this.#answer(route as Route, decodeURIComponent(parts[2] ?? ""), given);
    request.signal.throwIfAborted();
    const gone = new Promise<never>((_, reject) => {
      request.signal.addEventListener("abort", () => {
        reject(new DOMException("given up", "AbortError"));
      });
    });
    const answer = await Promise.race([this.lie(route as Route, { status: 200, body }), gone]);
    const text = typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body);
    return new Response(text, { status: answer.status });
  }

  async #answer(route: Route, name: string, given: Fields): Promise<Fields> {
    switch (route) {
      case "GET /identities/*": {
        const listing = await this.#directory.lookup(name);
        const identity = this.#identities.get(name) ?? listing.identity;
        return {
          identity: identity && encoded(identity),
          history: listing.history.map(encoded),
          certificates: (this.#certificates.get(name) ?? listing.certificates).map(encoded),
          revocations: listing.revocations.map(encoded),
          position: 1,
        };
      }
      case "POST /identities/*/claim": {
        const devices = given["devices"] as readonly string[];
        const come = this.#certificates.get(name)?.filter((one) => devices.includes(one.device));
        const bundles =
          come?.map((one) => this.#stock.claim(one.id)) ??
          (await this.#directory.claim(name, devices));
        return { bundles: bundles.map((one, at) => ({ device: devices[at], bundle: encoded(one) })) };
      }
      case "PUT /identity": {
        const identity = Identity.decode(bytes(given["identity"]));
        this.#identities.set(identity.wallet, identity);
        return { position: 1 };
      }
      case "POST /devices": {
        const certificate = Certificate.decode(bytes(given["certificate"]));
        const before = this.#certificates.get(certificate.wallet) ?? [];
        this.#certificates.set(certificate.wallet, [...before, certificate]);
        return { position: 1 };
      }
      case "PUT /devices/*/prekeys":
        this.#stock.publish(Publication.decode(bytes(given["publication"])));
        return { one_time: 50, one_time_kem: 50 };
      case "GET /devices/*/prekeys":
        return { one_time: 50, one_time_kem: 50 };
    }
  }
}

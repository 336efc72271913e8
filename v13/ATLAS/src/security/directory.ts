/**
 * The key directory over REST (SPEC.md, "Key directory"): publishing, asking, claiming.
 *
 * What comes back is decoded, not verified: see `verifyRoster` and `contacts.ts`.
 */
import { type Bytes, fromBase64, toBase64 } from "./bytes";
import { isCode } from "./codec";
import { Certificate, Revocation } from "./devices";
import { CryptoError } from "./errors";
import { Identity } from "./identity";
import { Bundle, type Publication } from "./prekeys";
import { MAX_CERTIFICATES } from "./roster";

/** Milliseconds after which an answer is not waited for any more. */
const ANSWERED_WITHIN = 60_000;

/** What a directory says of one wallet. */
export interface Listing {
  /** Null when the wallet has none. */
  readonly identity: Identity | null;
  /** Earlier statements, oldest first: the last of them, as many as are followed. */
  readonly history: readonly Identity[];
  readonly certificates: readonly Certificate[];
  readonly revocations: readonly Revocation[];
  /** The ledger's position of the wallet's last event, 0 when there is none. */
  readonly position: number;
}

/** One-time prekeys that are left at the directory. */
export interface Stock {
  readonly oneTime: number;
  readonly oneTimeKem: number;
}

/** The directory refused, or could not be asked. */
export class DirectoryError extends Error {
  /** HTTP status; 0 when there was no answer. */
  readonly status: number;
  /** A wire code of SPEC.md; empty when there was no answer. */
  readonly code: string;
  /** Seconds after which to ask again, when the directory says so. */
  readonly retryAfter: number | null;

  constructor(status: number, code: string, retryAfter: number | null) {
    super(status === 0 ? "the key directory does not answer" : `the key directory refused: ${code}`);
    this.name = "DirectoryError";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether nothing was answered: one may go on with what was known before. */
  get unreachable(): boolean {
    return this.status === 0 || this.status >= 500;
  }
}

type Fields = Readonly<Record<string, unknown>>;

/** Every method throws DirectoryError, or `decode` when the answer makes no sense. */
export class Directory {
  readonly #token: () => string;
  readonly #base: string;

  /** `token`: the bearer's, asked for anew at each request. `base`: the server, "" for the page's. */
  constructor(token: () => string, base = "") {
    this.#token = token;
    this.#base = base;
  }

  async lookup(wallet: string): Promise<Listing> {
    const answer = await this.#call("GET", `/identities/${encodeURIComponent(wallet)}`);
    const { identity, position } = answer;
    if (typeof position !== "number") throw malformed();
    const history = list(answer["history"]).slice(-MAX_CERTIFICATES);
    return {
      identity: identity === null ? null : Identity.decode(bytes(identity)),
      history: history.map((one) => Identity.decode(bytes(one))),
      certificates: list(answer["certificates"]).map((one) => Certificate.decode(bytes(one))),
      revocations: list(answer["revocations"]).map((one) => Revocation.decode(bytes(one))),
      position,
    };
  }

  /** A bundle for each of these devices that has published prekeys; each is handed out once. */
  async claim(wallet: string, devices: readonly string[]): Promise<readonly Bundle[]> {
    const path = `/identities/${encodeURIComponent(wallet)}/claim`;
    const { bundles } = await this.#call("POST", path, { devices });
    return list(bundles).map((one) => Bundle.decode(bytes(object(one)["bundle"])));
  }

  /** As are the next two: done again, it changes nothing. */
  async putIdentity(identity: Identity): Promise<void> {
    await this.#call("PUT", "/identity", { identity: toBase64(identity.encode()) });
  }

  async addDevice(certificate: Certificate): Promise<void> {
    await this.#call("POST", "/devices", { certificate: toBase64(certificate.encode()) });
  }

  async revoke(revocation: Revocation): Promise<void> {
    await this.#call("POST", "/revocations", { revocation: toBase64(revocation.encode()) });
  }

  async publishPrekeys(device: string, publication: Publication): Promise<Stock> {
    const body = { publication: toBase64(publication.encode()) };
    return stock(await this.#call("PUT", `/devices/${encodeURIComponent(device)}/prekeys`, body));
  }

  async prekeyStock(device: string): Promise<Stock> {
    return stock(await this.#call("GET", `/devices/${encodeURIComponent(device)}/prekeys`));
  }

  async #call(method: string, path: string, body?: Fields): Promise<Fields> {
    let response: Response;
    try {
      response = await fetch(`${this.#base}/v1/chat${path}`, {
        method,
        cache: "no-store",
        signal: AbortSignal.timeout(ANSWERED_WITHIN),
        headers: {
          authorization: `Bearer ${this.#token()}`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch {
      throw new DirectoryError(0, "", null);
    }
    const answer: unknown = await response.json().catch(() => null);
    if (response.ok && answer === null) throw new DirectoryError(0, "", null);
    if (response.ok) return object(answer);
    const { code, retry_after: retryAfter } = isObject(answer) ? answer : {};
    throw new DirectoryError(
      response.status,
      isCode(code) ? code : "internal",
      typeof retryAfter === "number" ? retryAfter : null,
    );
  }
}

function malformed(): CryptoError {
  return new CryptoError("decode", "the key directory's answer makes no sense");
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null;
}

function object(value: unknown): Fields {
  if (!isObject(value)) throw malformed();
  return value;
}

function list(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw malformed();
  return value;
}

function bytes(value: unknown): Bytes {
  const data = typeof value === "string" ? fromBase64(value) : null;
  if (data === null) throw malformed();
  return data;
}

function stock(answer: Fields): Stock {
  const { one_time: oneTime, one_time_kem: oneTimeKem } = answer;
  if (typeof oneTime !== "number" || typeof oneTimeKem !== "number") throw malformed();
  return { oneTime, oneTimeKem };
}

/**
 * The state at rest: sealed records, and the witness that tells an old state.
 *
 * `Storage` and `Witness` are passed in; `indexed-db.ts` has them in a browser. What the records mean
 * is `messenger.ts`'s.
 *
 * Every operation is a transaction that holds the storage alone, so any number of tabs may use one
 * state: it reads what is newest, and its changes are all kept or none. A commit: (1) the witness
 * still names the generation this state has; (2) the changes are written with the next generation,
 * atomically and durably; (3) the witness moves on; only then (4) may what depends on it leave. A
 * crash before (2) loses only what nobody has seen; one between (2) and (3) shows at the next
 * transaction as a state one generation ahead, which is sound. A state *behind* its witness is an old
 * backup: it reads, but nothing may be sent with it.
 */
import * as aead from "./aead";
import { type Bytes, concat } from "./bytes";
import { labelled, u8, VERSION } from "./codec";
import { CryptoError } from "./errors";
import { STATE } from "./labels";
import { fresh, type Randomness } from "./randomness";

/** What a storage holds under a name: sealed bytes, or a handle to a key that cannot be read. */
export type Stored = Bytes | CryptoKey;

/** Names below `before`, the last `limit` of them. */
export interface Page {
  readonly before?: string;
  readonly limit?: number;
}

/** Holds one device's records. */
export interface Storage {
  /** Run `work` while nobody else, in this process or another, holds the storage. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** How many times it was written; 0 when it is new. */
  generation(): Promise<number>;
  /** What is kept under each name; null where nothing is. */
  read(names: readonly string[]): Promise<readonly (Stored | null)[]>;
  /** The names with this prefix, in ascending order. */
  names(prefix: string, page?: Page): Promise<readonly string[]>;
  /**
   * Write changes (null deletes) and the generation, all or nothing; resolves when they are on the
   * disk. Throws `storage`, and changes nothing, unless `generation` is one more than the last.
   */
  write(generation: number, changes: ReadonlyMap<string, Stored | null>): Promise<void>;
  /** The key that seals the records: made at first, a handle ever after. */
  key(): Promise<CryptoKey>;
}

/** A number that only grows, kept where a backup of the state does not reach. Durable. */
export interface Witness {
  read(): Promise<number>;
  advance(generation: number): Promise<void>;
}

/** Records as one transaction sees them, with its own changes on top. */
export interface Records {
  /** Null when there is no such record. */
  get(name: string): Promise<Stored | null>;
  /** As `get`, for many at once. */
  getAll(names: readonly string[]): Promise<readonly (Stored | null)[]>;
  put(name: string, value: Stored | null): void;
}

/** Changes on top of other records, until they are committed or forgotten. */
export class Changes implements Records {
  readonly #below: Pick<Records, "getAll">;
  readonly changed = new Map<string, Stored | null>();

  constructor(below: Pick<Records, "getAll">) {
    this.#below = below;
  }

  async get(name: string): Promise<Stored | null> {
    return (await this.getAll([name]))[0] ?? null;
  }

  async getAll(names: readonly string[]): Promise<readonly (Stored | null)[]> {
    const absent = names.filter((name) => !this.changed.has(name));
    const found = absent.length > 0 ? await this.#below.getAll(absent) : [];
    const below = new Map(absent.map((name, index) => [name, found[index] ?? null]));
    return names.map((name) => {
      const changed = this.changed.get(name);
      return changed !== undefined ? changed : (below.get(name) ?? null);
    });
  }

  put(name: string, value: Stored | null): void {
    this.changed.set(name, value);
  }

  /** Make the changes part of what they lie on. */
  applyTo(records: Records): void {
    for (const [name, value] of this.changed) records.put(name, value);
  }
}

/** One transaction: records, and what only the committed state knows. */
export interface Transaction extends Records {
  /** Committed names with this prefix, in ascending order. */
  names(prefix: string, page?: Page): Promise<readonly string[]>;
  /** This state is an old one: nothing may be sent, and commits are refused. */
  readonly rolledBack: boolean;
}

class Open extends Changes implements Transaction {
  readonly #storage: Storage;
  readonly rolledBack: boolean;

  constructor(below: Pick<Records, "getAll">, storage: Storage, rolledBack: boolean) {
    super(below);
    this.#storage = storage;
    this.rolledBack = rolledBack;
  }

  names(prefix: string, page?: Page): Promise<readonly string[]> {
    return this.#storage.names(prefix, page);
  }
}

/** Opened records that are remembered; a page that is open for weeks reads more than that. */
const MAX_CACHED = 4096;

/** Records under AES-256-GCM, each bound to its name, in transactions. */
export class SessionStore {
  readonly #storage: Storage;
  readonly #witness: Witness;
  readonly #key: CryptoKey;
  readonly #randomness: Randomness;
  /** Opened records, as of `#cachedAt`; other tabs may have moved on since. */
  readonly #cache = new Map<string, Stored | null>();
  #cachedAt = -1;

  private constructor(storage: Storage, witness: Witness, key: CryptoKey, randomness: Randomness) {
    this.#storage = storage;
    this.#witness = witness;
    this.#key = key;
    this.#randomness = randomness;
  }

  static async open(
    storage: Storage,
    witness: Witness,
    randomness: Randomness = fresh,
  ): Promise<SessionStore> {
    const key = await storage.exclusively(() => storage.key());
    return new SessionStore(storage, witness, key, randomness);
  }

  /**
   * Run `work` on the newest records, then commit what it changed; resolves after that.
   *
   * What `work` throws is thrown, and nothing has changed. Throws `state_rolled_back` when there are
   * changes and this is not the newest state, `state_unreadable` when a record does not open. `work`
   * must not call `transact` again.
   */
  transact<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return this.#exclusively(async (generation, rolledBack, below) => {
      const transaction = new Open(below, this.#storage, rolledBack);
      const result = await work(transaction);
      if (transaction.changed.size > 0) {
        if (rolledBack) {
          throw new CryptoError("state_rolled_back", "the state is not the newest of this device");
        }
        await this.#commit(generation, transaction.changed);
      }
      return result;
    });
  }

  /**
   * Make a rolled-back state usable: `work` must drop every secret that was in use.
   */
  beginAgain(work: (transaction: Transaction) => Promise<void>): Promise<void> {
    return this.#exclusively(async (generation, rolledBack, below) => {
      const transaction = new Open(below, this.#storage, rolledBack);
      await work(transaction);
      await this.#commit(Math.max(generation, await this.#witness.read()), transaction.changed);
    });
  }

  /**
   * This state is an old one although its witness agrees: both were restored. From now on, in every
   * tab and after a reload, nothing is committed until `beginAgain`.
   */
  distrust(): Promise<void> {
    return this.#exclusively(async (generation) => {
      await this.#witness.advance(Math.max(generation, await this.#witness.read()) + 1);
    });
  }

  #exclusively<T>(
    work: (generation: number, rolledBack: boolean, below: Pick<Records, "getAll">) => Promise<T>,
  ): Promise<T> {
    return this.#storage.exclusively(async () => {
      const generation = await this.#storage.generation();
      let witnessed = await this.#witness.read();
      if (generation === witnessed + 1) {
        await this.#witness.advance(generation);
        witnessed = generation;
      }
      if (generation !== this.#cachedAt || this.#cache.size > MAX_CACHED) {
        this.#cache.clear();
        this.#cachedAt = generation;
      }
      return work(generation, generation !== witnessed, { getAll: (names) => this.#read(names) });
    });
  }

  async #read(names: readonly string[]): Promise<readonly (Stored | null)[]> {
    const unread = names.filter((name) => !this.#cache.has(name));
    if (unread.length > 0) {
      const stored = await this.#storage.read(unread);
      const opened = await Promise.all(
        unread.map((name, index) => this.#unseal(name, stored[index] ?? null)),
      );
      unread.forEach((name, index) => this.#cache.set(name, opened[index] ?? null));
    }
    return names.map((name) => this.#cache.get(name) ?? null);
  }

  async #commit(generation: number, changed: ReadonlyMap<string, Stored | null>): Promise<void> {
    const sealed = await Promise.all(
      [...changed].map(async ([name, value]) => [name, await this.#seal(name, value)] as const),
    );
    // Until both writes are done, what the cache holds is not known to be the state.
    this.#cachedAt = -1;
    await this.#storage.write(generation + 1, new Map(sealed));
    // A crash here leaves the state one generation ahead of its witness: see #exclusively.
    await this.#witness.advance(generation + 1);
    for (const [name, value] of changed) this.#cache.set(name, value);
    this.#cachedAt = generation + 1;
  }

  async #seal(name: string, value: Stored | null): Promise<Stored | null> {
    if (!(value instanceof Uint8Array)) return value;
    const nonce = this.#randomness(aead.NONCE);
    return concat(nonce, await aead.seal(this.#key, nonce, value, boundTo(name)));
  }

  async #unseal(name: string, stored: Stored | null): Promise<Stored | null> {
    if (!(stored instanceof Uint8Array)) return stored;
    const nonce = stored.slice(0, aead.NONCE);
    try {
      return await aead.unseal(this.#key, nonce, stored.slice(aead.NONCE), boundTo(name));
    } catch {
      throw new CryptoError("state_unreadable", "a record does not open: torn or altered");
    }
  }
}

const encoder = new TextEncoder();

/** What a sealed record authenticates. */
function boundTo(name: string): Bytes {
  return labelled(STATE, u8(VERSION), encoder.encode(name));
}

/**
 * Storage and witness in a browser: IndexedDB, and Web Locks so that one tab at a time holds them.
 *
 * State and witness lie in databases of their own: what restores the one does not restore the other.
 * A copy of the whole browser profile restores both; then the server refuses the old stream number,
 * and the client calls `Messenger.distrust`. A browser that runs out of space removes
 * everything of an origin at once; then there is no device, and a new one is made under a fresh id.
 */
import { CryptoError } from "./errors";
import { type Page, SessionStore, type Storage, type Stored, type Witness } from "./store";

const RECORDS = "records";
const META = "meta";
const GENERATION = "generation";
const KEY = "key";
const WITNESS_STORE = "witness";

function stateName(wallet: string): string {
  return `atlas-secure-chat/${wallet}`;
}

function witnessName(wallet: string): string {
  return `atlas-secure-chat-witness/${wallet}`;
}

/** The result of a request; rejects with a `storage` error. */
function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => {
      resolve(request.result);
    };
    request.onerror = () => {
      reject(new CryptoError("storage", `the browser's database failed: ${nameOf(request.error)}`));
    };
  });
}

/** What lies under `key`, of the type that is only ever put there; undefined when nothing does. */
function value<T>(store: IDBObjectStore, key: string): Promise<T | undefined> {
  return result(store.get(key) as IDBRequest<T | undefined>);
}

/** Resolves when a transaction is on the disk; rejects when nothing of it is. */
function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => {
      resolve();
    };
    transaction.onabort = () => {
      reject(new CryptoError("storage", `a change was not kept: ${nameOf(transaction.error)}`));
    };
  });
}

function nameOf(error: DOMException | null): string {
  return error?.name ?? "aborted";
}

async function openDatabase(name: string, ...stores: readonly string[]): Promise<IDBDatabase> {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => {
    for (const store of stores) request.result.createObjectStore(store);
  };
  const database = await result(request);
  // Whoever erases the state must not have to wait for this tab.
  database.onversionchange = () => {
    database.close();
  };
  return database;
}

/** Run `work` in a transaction on `store`; the database may have been closed under us. */
function begin(
  database: IDBDatabase,
  stores: string | string[],
  mode: IDBTransactionMode,
): IDBTransaction {
  try {
    // Strict: complete means that it is on the disk, not in a buffer (SPEC-crypto C27).
    return database.transaction(stores, mode, { durability: "strict" });
  } catch {
    throw new CryptoError("storage", "the state was closed or removed; open it again");
  }
}

/** All names with `prefix`, below `before` when there is one. */
function range(prefix: string, before?: string): IDBKeyRange {
  return IDBKeyRange.bound(prefix, before ?? `${prefix}\uffff`, false, true);
}

class IndexedDbStorage implements Storage {
  readonly #database: IDBDatabase;
  readonly #lock: string;

  constructor(database: IDBDatabase, lock: string) {
    this.#database = database;
    this.#lock = lock;
  }

  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    return await navigator.locks.request(this.#lock, work);
  }

  async generation(): Promise<number> {
    const meta = begin(this.#database, META, "readonly").objectStore(META);
    return (await value<number>(meta, GENERATION)) ?? 0;
  }

  async read(names: readonly string[]): Promise<readonly (Stored | null)[]> {
    const records = begin(this.#database, RECORDS, "readonly").objectStore(RECORDS);
    const found = names.map((name) => value<Stored>(records, name));
    return (await Promise.all(found)).map((one) => one ?? null);
  }

  async names(prefix: string, page: Page = {}): Promise<readonly string[]> {
    const records = begin(this.#database, RECORDS, "readonly").objectStore(RECORDS);
    const keys = range(prefix, page.before);
    if (page.limit === undefined) {
      return result(records.getAllKeys(keys) as IDBRequest<string[]>);
    }
    const names: string[] = [];
    const request = records.openKeyCursor(keys, "prev");
    let cursor = await result(request);
    while (cursor !== null && names.length < page.limit) {
      names.push(cursor.key as string);
      cursor.continue();
      cursor = await result(request);
    }
    return names.reverse();
  }

  async write(generation: number, changes: ReadonlyMap<string, Stored | null>): Promise<void> {
    const transaction = begin(this.#database, [RECORDS, META], "readwrite");
    const done = committed(transaction);
    const meta = transaction.objectStore(META);
    const before = (await value<number>(meta, GENERATION)) ?? 0;
    // Lower than the last: somebody wrote without the lock. A rolled-back state skips ahead.
    if (generation <= before) {
      transaction.abort();
      return done;
    }
    const records = transaction.objectStore(RECORDS);
    for (const [name, value] of changes) {
      if (value === null) records.delete(name);
      else records.put(value, name);
    }
    meta.put(generation, GENERATION);
    return done;
  }

  async key(): Promise<CryptoKey> {
    const meta = begin(this.#database, META, "readonly").objectStore(META);
    const known = await value<CryptoKey>(meta, KEY);
    if (known !== undefined) return known;
    const algorithm = { name: "AES-GCM", length: 256 };
    const made = await crypto.subtle.generateKey(algorithm, false, ["encrypt", "decrypt"]);
    const transaction = begin(this.#database, META, "readwrite");
    transaction.objectStore(META).put(made, KEY);
    await committed(transaction);
    return made;
  }
}

class IndexedDbWitness implements Witness {
  readonly #database: IDBDatabase;

  constructor(database: IDBDatabase) {
    this.#database = database;
  }

  async read(): Promise<number> {
    const store = begin(this.#database, WITNESS_STORE, "readonly").objectStore(WITNESS_STORE);
    return (await value<number>(store, GENERATION)) ?? 0;
  }

  async advance(generation: number): Promise<void> {
    const transaction = begin(this.#database, WITNESS_STORE, "readwrite");
    transaction.objectStore(WITNESS_STORE).put(generation, GENERATION);
    await committed(transaction);
  }
}

/**
 * The state of this browser's device of `wallet`, new when there is none. Every tab may open it.
 *
 * Throws `storage` where the browser keeps nothing (no secure context, or a private window that
 * forbids it). The browser is asked not to remove the state when it runs out of space; it may refuse.
 */
export async function openStore(wallet: string): Promise<SessionStore> {
  // The declarations have them always; a page served over plain HTTP does not.
  if ((navigator.locks as LockManager | undefined) === undefined) {
    throw new CryptoError("storage", "this browser has no Web Locks: is the page served over https?");
  }
  const state = await openDatabase(stateName(wallet), RECORDS, META);
  const witness = await openDatabase(witnessName(wallet), WITNESS_STORE);
  if ("persist" in navigator.storage) {
    // Not waited for: the browser may ask the person, who may not answer. A worker cannot ask.
    void navigator.storage.persist().catch(() => false);
  }
  const storage = new IndexedDbStorage(state, stateName(wallet));
  return SessionStore.open(storage, new IndexedDbWitness(witness));
}

/**
 * Remove everything that this browser keeps of `wallet`: the device cannot come back, and its
 * certificate should be revoked. Other tabs get `storage` errors from then on.
 */
export async function eraseStore(wallet: string): Promise<void> {
  await navigator.locks.request(stateName(wallet), async () => {
    await result(indexedDB.deleteDatabase(stateName(wallet)));
    await result(indexedDB.deleteDatabase(witnessName(wallet)));
  });
}

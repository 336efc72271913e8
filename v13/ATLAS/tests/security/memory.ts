/** Storage and witness in memory: what survives a device's process, for tests that need no browser. */
import type { Page, Storage, Stored, Witness } from "../../src/security/store";
import { CryptoError } from "../../src/security/errors";

/** A copy of everything a storage holds. */
export interface Backup {
  readonly generation: number;
  readonly records: ReadonlyMap<string, Stored>;
}

export class MemoryStorage implements Storage {
  #records = new Map<string, Stored>();
  #generation = 0;
  #key: Promise<CryptoKey> | null = null;
  #last: Promise<unknown> = Promise.resolve();

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done;
    return done;
  }

  generation(): Promise<number> {
    return Promise.resolve(this.#generation);
  }

  read(names: readonly string[]): Promise<readonly (Stored | null)[]> {
    return Promise.resolve(names.map((name) => this.#records.get(name) ?? null));
  }

  names(prefix: string, page: Page = {}): Promise<readonly string[]> {
    const { before, limit } = page;
    const names = [...this.#records.keys()]
      .filter((name) => name.startsWith(prefix) && (before === undefined || name < before))
      .sort();
    return Promise.resolve(limit === undefined ? names : names.slice(names.length - limit));
  }

  write(generation: number, changes: ReadonlyMap<string, Stored | null>): Promise<void> {
    if (generation <= this.#generation) {
      return Promise.reject(new CryptoError("storage", "written without the lock"));
    }
    for (const [name, value] of changes) {
      if (value === null) this.#records.delete(name);
      else this.#records.set(name, value);
    }
    this.#generation = generation;
    return Promise.resolve();
  }

  key(): Promise<CryptoKey> {
    const algorithm = { name: "AES-GCM", length: 256 };
    this.#key ??= crypto.subtle.generateKey(algorithm, false, ["encrypt", "decrypt"]);
    return this.#key;
  }

  backup(): Backup {
    return { generation: this.#generation, records: new Map(this.#records) };
  }

  restore(backup: Backup): void {
    this.#generation = backup.generation;
    this.#records = new Map(backup.records);
  }
}

export class MemoryWitness implements Witness {
  generation = 0;

  read(): Promise<number> {
    return Promise.resolve(this.generation);
  }

  advance(generation: number): Promise<void> {
    this.generation = generation;
    return Promise.resolve();
  }
}

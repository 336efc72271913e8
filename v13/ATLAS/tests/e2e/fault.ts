/**
 * Faults of a browser's storage, as a page meets them: a transaction that the browser aborts, as it
 * does on a full disk; one that does not end; data that is removed while it is in use; a process that
 * is killed. Chromium itself does the last two; a transaction is caught at its last write.
 */
import type { BrowserContext } from "playwright";

import type { Person } from "./stage";

/** Where a transaction is caught: when the state, or its witness after it, has been written. */
export type Place = "state" | "witness";

/** The object store in which each place writes its last record. */
const STORES: Readonly<Record<Place, string>> = { state: "meta", witness: "witness" };

interface Caught {
  store: string | null;
  outcome: "abort" | "hold";
  reached: number;
}

/** Let `catchAt` work in every tab of a browser. */
export async function catchable(context: BrowserContext): Promise<void> {
  await context.addInitScript(() => {
    const caught: Caught = { store: null, outcome: "hold", reached: 0 };
    Object.assign(window, { caught });
    // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its object
    const { put } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.put = function (value: unknown, key?: IDBValidKey) {
      const request = put.call(this, value, key);
      if (this.name !== caught.store || key !== "generation") return request;
      caught.reached += 1;
      if (caught.outcome === "abort") {
        this.transaction.abort();
      } else {
        // A transaction with a request under way does not end.
        const on = (): void => {
          this.get("generation").onsuccess = on;
        };
        on();
      }
      return request;
    };
  });
}

/** From now on the tab's transactions there end so; `null`: they pass. */
export async function catchAt(
  { page }: Person,
  place: Place | null,
  outcome: Caught["outcome"] = "hold",
): Promise<void> {
  const store = place === null ? null : STORES[place];
  await page.evaluate((fault) => {
    Object.assign((window as unknown as { caught: Caught }).caught, fault);
  }, { store, outcome, reached: 0 });
}

/** Resolves when a transaction has been caught. */
export async function isCaught({ page }: Person): Promise<void> {
  await page.waitForFunction(() => (window as unknown as { caught: Caught }).caught.reached > 0);
}

/** The browser removes what the site keeps, as it does when the disk is full. */
export async function evict({ context, page, stage }: Person): Promise<void> {
  const browser = await context.newCDPSession(page);
  const origin = new URL(stage.url).origin;
  await browser.send("Storage.clearDataForOrigin", { origin, storageTypes: "indexeddb" });
}

/** The tab's process ends at once, as by a signal that cannot be caught. */
export async function kill({ context, page }: Person): Promise<void> {
  const gone = page.waitForEvent("crash");
  const browser = await context.newCDPSession(page);
  // Its answer never comes.
  browser.send("Page.crash").catch(() => undefined);
  await gone;
  await page.close();
}

/** The browser lets the site keep so many bytes and no more; null: as many as it usually does. */
export async function allow(person: Person, quotaSize: number | null): Promise<void> {
  const { context, page, stage } = person;
  const browser = await context.newCDPSession(page);
  const origin = new URL(stage.url).origin;
  await browser.send("Storage.overrideQuotaForOrigin", {
    origin,
    ...(quotaSize === null ? {} : { quotaSize }),
  });
  // Chromium goes by what it counted before for half a minute: another database of the site shows it.
  const full = quotaSize !== null;
  await person.until(async () => (await page.evaluate(isFull)) === full, "the quota that was set");
}

/** Runs in the page. */
async function isFull(): Promise<boolean> {
  const database = await new Promise<IDBDatabase | null>((resolve) => {
    const opening = indexedDB.open("probe");
    opening.onupgradeneeded = () => opening.result.createObjectStore("probe");
    opening.onsuccess = () => {
      resolve(opening.result);
    };
    opening.onerror = () => {
      resolve(null);
    };
  });
  if (database === null) return true;
  const writing = database.transaction("probe", "readwrite");
  writing.objectStore("probe").put(new Uint8Array(1000), "probe");
  const full = await new Promise<boolean>((resolve) => {
    writing.oncomplete = () => {
      resolve(false);
    };
    writing.onabort = () => {
      resolve(writing.error?.name === "QuotaExceededError");
    };
  });
  database.close();
  return full;
}

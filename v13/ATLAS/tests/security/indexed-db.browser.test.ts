/** The state in a real browser: SPEC-crypto C27, C28, C29, over reloads, tabs, crashes, eviction. */
import { afterEach, beforeAll, expect, test, vi } from "vitest";

import { toBase64 } from "../../src/security/bytes";
import { type DeviceKeys, generateDeviceKeys } from "../../src/security/devices";
import { CryptoError, type ErrorCode } from "../../src/security/errors";
import { Frame } from "../../src/security/frame";
import { eraseStore, openStore } from "../../src/security/indexed-db";
import { Messenger } from "../../src/security/messenger";
import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import { webEd25519, webMldsa65, webMlkem768, webX25519 } from "../../src/security/webcrypto";
import { acquaint, connect, Person, Stock, textOf, utf8 } from "./people";
import type { Report, Task } from "./tab";

let suite: Suite;
let erase: (() => Promise<void>)[] = [];
beforeAll(async () => {
  suite = await selectSuite();
});
afterEach(async () => {
  for (const one of erase) await one();
  erase = [];
});

async function refused(work: Promise<unknown>, code: ErrorCode): Promise<void> {
  const error: unknown = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CryptoError);
  expect((error as CryptoError).code).toBe(code);
}

/** Alice, whose device "web" is kept in IndexedDB, and Bob; they have written to one another. */
async function setUp(): Promise<{ alice: Person; bob: Person; keys: DeviceKeys; web: Messenger }> {
  const stock = new Stock();
  const alice = await Person.make(suite, stock, "phone");
  const bob = await Person.make(suite, stock, "b");
  const { wallet } = alice.wallet;
  erase.push(() => eraseStore(wallet));
  await alice.add("web");
  const { keys } = alice.device("web");
  const web = await Messenger.create(await openStore(wallet), suite, keys, alice.roster, "web");
  stock.publish(await web.publishPrekeys({ oneTime: 2 }));
  await acquaint(alice, bob);
  await web.learn(bob.roster);
  await connect(web, bob);
  const hello = await web.seal(messageTo(bob, "hello"));
  await bob.on("b").open({ frame: hello, roster: alice.roster });
  await web.acknowledged(hello);
  await connect(bob.on("b"), alice);
  const { wallet: recipient } = alice.wallet;
  const message = { recipient, rosters: [alice.roster], content: utf8("hello yourself"), ts: 0 };
  await web.open({ frame: await bob.on("b").seal(message), roster: bob.roster });
  return { alice, bob, keys, web };
}

function messageTo(person: Person, text: string): Parameters<Messenger["seal"]>[0] {
  const { wallet: recipient } = person.wallet;
  return { recipient, rosters: [person.roster], content: utf8(text), ts: 0 };
}

/** As after a reload: everything anew from what is stored. */
async function reload({ wallet }: Person): Promise<Messenger> {
  const messenger = await Messenger.load(await openStore(wallet.wallet), suite);
  if (messenger === null) throw new Error("no device is stored");
  return messenger;
}

function request<T>(made: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    made.onsuccess = () => {
      resolve(made.result);
    };
    made.onerror = () => {
      reject(new Error("IndexedDB", { cause: made.error }));
    };
  });
}

/** Everything in a database, as anybody who can read the disk would see it. */
async function contents(name: string): Promise<Map<string, Map<IDBValidKey, unknown>>> {
  const database = await request(indexedDB.open(name));
  const found = new Map<string, Map<IDBValidKey, unknown>>();
  for (const store of database.objectStoreNames) {
    const objects = database.transaction(store).objectStore(store);
    const [keys, values] = await Promise.all([
      request(objects.getAllKeys()),
      request(objects.getAll() as IDBRequest<unknown[]>),
    ]);
    found.set(store, new Map(keys.map((key, index) => [key, values[index]])));
  }
  database.close();
  return found;
}

/** Put back what `contents` gave. */
async function restore(name: string, backup: Map<string, Map<IDBValidKey, unknown>>): Promise<void> {
  const database = await request(indexedDB.open(name));
  for (const [store, entries] of backup) {
    const objects = database.transaction(store, "readwrite").objectStore(store);
    objects.clear();
    let last = request(objects.count());
    for (const [key, value] of entries) last = request(objects.put(value, key)).then(() => 0);
    await last;
  }
  database.close();
}

test("this Chromium has every algorithm, so that the native ones are what is tested here", () => {
  expect(suite.x25519).toBe(webX25519);
  expect(suite.ed25519).toBe(webEd25519);
  expect(suite.mldsa65).toBe(webMldsa65);
  expect(suite.mlkem768).toBe(webMlkem768);
});

test("keys cannot be read from the browser, and nothing else lies open in it", async () => {
  const { alice, bob, web } = await setUp();
  const canary = "a canary that nobody may read";
  await web.seal(messageTo(bob, canary), () => [{ name: "sent/1", value: utf8(canary) }]);
  const stored = await contents(`atlas-secure-chat/${alice.wallet.wallet}`);
  const records = stored.get("records") ?? new Map<IDBValidKey, unknown>();
  const keys = ["self/signing", "self/agreement", "self/post-quantum"].map((one) => records.get(one));
  for (const key of [...keys, stored.get("meta")?.get("key")]) {
    expect(key).toBeInstanceOf(CryptoKey);
    expect((key as CryptoKey).extractable).toBe(false);
  }
  for (const value of records.values()) {
    if (value instanceof CryptoKey) continue;
    expect(value).toBeInstanceOf(Uint8Array);
    expect(new TextDecoder("latin1").decode(value as Uint8Array<ArrayBuffer>)).not.toContain("canary");
  }
  expect((await web.kept("sent/")).map(({ value }) => textOf({ content: value }))).toEqual([canary]);
});

test("after a reload the conversation goes on, and the outbox is as it was", async () => {
  const { alice, bob, web } = await setUp();
  const waiting = await web.seal(messageTo(bob, "not acknowledged"));
  const again = await reload(alice);
  expect([again.wallet, again.device]).toEqual([alice.wallet.wallet, "web"]);
  expect((await again.outbox()).map((one) => one.toWire())).toEqual([waiting.toWire()]);
  await bob.on("b").open({ frame: waiting, roster: alice.roster });
  const next = await again.seal(messageTo(bob, "after the reload"));
  const opened = await bob.on("b").open({ frame: next, roster: alice.roster });
  expect([textOf(opened), opened.continuity]).toEqual(["after the reload", "continuous"]);
});

function otherTab(alice: Person, bob: Person, messages: number): { worker: Worker; frames: Frame[] } {
  const worker = new Worker(new URL("./tab.ts", import.meta.url), { type: "module" });
  const certificate = bob.roster.device("b");
  const task: Task = {
    wallet: alice.wallet.wallet,
    identity: toBase64(bob.identity.encode()),
    certificate: toBase64(certificate.encode()),
    messages,
  };
  worker.postMessage(task);
  return { worker, frames: [] };
}

/** Waits until the tab has reported `count` frames. */
function reported(tab: { worker: Worker; frames: Frame[] }, count: number): Promise<void> {
  return new Promise((resolve, reject) => {
    tab.worker.onerror = (event) => {
      reject(new Error(event.message));
    };
    tab.worker.onmessage = ({ data }: MessageEvent<Report>) => {
      if ("failed" in data) {
        reject(new Error(data.failed));
        return;
      }
      tab.frames.push(Frame.fromWire(JSON.parse(data.frame)));
      if (tab.frames.length >= count) resolve();
    };
  });
}

test("two tabs seal at the same time: every number once, every message continuous", async () => {
  const { alice, bob, web } = await setUp();
  const tab = otherTab(alice, bob, 30);
  await reported(tab, 1);
  const theirs = reported(tab, 30);
  const frames: Frame[] = [];
  for (let number = 0; number < 30; number++) {
    frames.push(await web.seal(messageTo(bob, `from this tab ${number}`)));
  }
  await theirs;
  tab.worker.terminate();
  const all = [...frames, ...tab.frames].sort((one, other) => one.seq - other.seq);
  expect(all.map((one) => one.seq)).toEqual(Array.from({ length: 60 }, (_, at) => at + 2));
  const results = await bob.on("b").openMany(all.map((frame) => ({ frame, roster: alice.roster })));
  const how = results.map((one) => (one instanceof CryptoError ? one.code : one.continuity));
  expect(new Set(how)).toEqual(new Set(["continuous"]));
  // They did take turns: the lock is given in the order in which it was asked for.
  const turns = all.filter((one, at) => frames.includes(one) !== frames.includes(all[at - 1] ?? one));
  expect(turns.length).toBeGreaterThan(2);
});

test("where the lock does not hold, the database still lets no generation be written twice", async () => {
  const { alice, bob, web } = await setUp();
  const second = await reload(alice);
  const unlocked = (_: string, work: () => unknown): unknown => work();
  vi.spyOn(navigator.locks, "request").mockImplementation(unlocked as LockManager["request"]);
  const sealing = Array.from({ length: 20 }, (_, number) =>
    (number % 2 === 0 ? web : second).seal(messageTo(bob, String(number))),
  );
  const results = await Promise.allSettled(sealing);
  vi.restoreAllMocks();
  const sealed = results.flatMap((one) => (one.status === "fulfilled" ? [one.value.seq] : []));
  expect(sealed.length).toBeLessThan(20);
  expect(new Set(sealed).size).toBe(sealed.length);
  const refusals = results.flatMap((one) =>
    one.status === "rejected" ? [(one.reason as CryptoError).code] : [],
  );
  expect(refusals.filter((one) => one !== "storage" && one !== "state_rolled_back")).toEqual([]);
});

test("a tab that is closed while it seals leaves a sound state", async () => {
  const { alice, bob, web } = await setUp();
  for (let round = 0; round < 5; round++) {
    const tab = otherTab(alice, bob, 10_000);
    await reported(tab, 3 + round);
    tab.worker.terminate();
    expect(await web.rolledBack()).toBe(false);
  }
  const last = await web.seal(messageTo(bob, "the last one"));
  const frames = await web.outbox();
  expect(frames.at(-1)?.seq).toBe(last.seq);
  const results = await bob.on("b").openMany(frames.map((frame) => ({ frame, roster: alice.roster })));
  const how = results.map((one) => (one instanceof CryptoError ? one.code : one.continuity));
  expect(new Set(how)).toEqual(new Set(["continuous"]));
});

test("a restored database does not send, whether its tab was open or is opened anew", async () => {
  const { alice, bob, web } = await setUp();
  const name = `atlas-secure-chat/${alice.wallet.wallet}`;
  const backup = await contents(name);
  await web.seal(messageTo(bob, "after the backup"));
  await web.seal(messageTo(bob, "and one more"));
  await restore(name, backup);
  for (const messenger of [web, await reload(alice)]) {
    await refused(messenger.seal(messageTo(bob, "again")), "state_rolled_back");
    expect(await messenger.rolledBack()).toBe(true);
  }
  await web.beginAgain();
  await connect(web, bob);
  expect((await web.seal(messageTo(bob, "anew"))).seq).toBe(2);
});

test("a device that the browser has removed comes back as another one", async () => {
  const { alice, bob, web } = await setUp();
  const { wallet } = alice.wallet;
  // Only the state: worse than what browsers do, who remove all of an origin.
  await request(indexedDB.deleteDatabase(`atlas-secure-chat/${wallet}`));
  await refused(web.seal(messageTo(bob, "x")), "storage");
  const store = await openStore(wallet);
  expect(await Messenger.load(store, suite)).toBeNull();
  const keys = await generateDeviceKeys(suite);
  await alice.add("web-2", keys);
  const again = await Messenger.create(store, suite, keys, alice.roster, "web-2");
  await again.learn(bob.roster);
  await connect(again, bob);
  const frame = await again.seal(messageTo(bob, "new here"));
  const opened = await bob.on("b").open({ frame, roster: alice.roster });
  expect([opened.device, opened.continuity]).toEqual(["web-2", "first"]);
});

test("erasing in one tab ends the other", async () => {
  const { alice, bob, web } = await setUp();
  await eraseStore(alice.wallet.wallet);
  await refused(web.seal(messageTo(bob, "x")), "storage");
  expect(await Messenger.load(await openStore(alice.wallet.wallet), suite)).toBeNull();
});

test("entries are paged backwards, as in memory", async () => {
  const { web } = await setUp();
  const names = ["h/1", "h/2", "h/3", "h/4", "i/1"];
  await web.keep(names.map((name) => ({ name, value: utf8(name) })));
  const page = async (options: { before?: string; limit?: number }): Promise<string[]> =>
    (await web.kept("h/", options)).map((one) => one.name);
  expect(await page({})).toEqual(["h/1", "h/2", "h/3", "h/4"]);
  expect(await page({ limit: 2 })).toEqual(["h/3", "h/4"]);
  expect(await page({ before: "h/3", limit: 5 })).toEqual(["h/1", "h/2"]);
  expect(await page({ limit: 0 })).toEqual([]);
});

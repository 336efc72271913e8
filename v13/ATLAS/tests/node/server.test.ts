/** The directory, enrolment, contacts and SecureMessageClient against a real server. */
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { equal, toBase64 } from "../../src/security/bytes";
import { type Contact, Contacts } from "../../src/security/contacts";
import { RevocationBody } from "../../src/security/devices";
import { Directory, DirectoryError } from "../../src/security/directory";
import { decodeRequest } from "../../src/security/endorsement";
import {
  answerRequest,
  type Enrolment,
  FurtherDevice,
  keepPrekeysInStock,
  LeftBehindDevice,
  openMessenger,
  resetIdentity,
  rotateIdentity,
} from "../../src/security/enrolment";
import { CryptoError } from "../../src/security/errors";
import type { ChatMessage } from "../../src/security/frame";
import type { Messenger } from "../../src/security/messenger";
import { fresh } from "../../src/security/randomness";
import { SecureMessageClient } from "../../src/security/secureMessageV2";
import { selectSuite } from "../../src/security/select";
import { SessionStore } from "../../src/security/store";
import type { Suite } from "../../src/security/suite";
import { WalletKey } from "../../src/security/wallet";
import { MemoryStorage, MemoryWitness } from "../security/memory";
import { bytes } from "../security/exchange";
import { PythonProcess } from "./python";

let suite: Suite;
let host: PythonProcess;
let url: string;
beforeAll(async () => {
  suite = await selectSuite();
  host = new PythonProcess("host");
  ({ url } = JSON.parse(await host.line()) as { url: string });
});
afterAll(async () => {
  await host.end();
});

/** What the Python side answers to a request. */
async function asked<T>(request: Readonly<Record<string, string>>): Promise<T> {
  return JSON.parse(await host.ask(JSON.stringify(request))) as T;
}

/** A browser of one wallet: what it stores, and what it asks the person. */
class Browser {
  readonly key: WalletKey;
  readonly token: string;
  readonly storage = new MemoryStorage();
  readonly witness = new MemoryWitness();
  asked = 0;

  constructor(key: WalletKey, token: string) {
    this.key = key;
    this.token = token;
  }

  static async of(key: WalletKey): Promise<Browser> {
    const { token } = await asked<{ token: string }>({ op: "token", wallet: key.wallet });
    return new Browser(key, token);
  }

  directory(base = url): Directory {
    return new Directory(() => this.token, base);
  }

  /** Everything anew from what is stored. */
  async enrolment(base = url): Promise<Enrolment> {
    return {
      wallet: this.key.wallet,
      sign: (text) => {
        this.asked++;
        return Promise.resolve(this.key.sign(text));
      },
      directory: this.directory(base),
      store: await SessionStore.open(this.storage, this.witness),
      suite,
    };
  }

  async open(base = url): Promise<Messenger> {
    return openMessenger(await this.enrolment(base));
  }

  async client(peer: string, base = url): Promise<SecureMessageClient> {
    const messenger = await this.open(base);
    const contacts = new Contacts(messenger, this.directory(base), suite);
    return new SecureMessageClient(messenger, contacts, peer);
  }

  post(frame: ChatMessage): Promise<Response> {
    const headers = { authorization: `Bearer ${this.token}`, "content-type": "application/json" };
    const body = JSON.stringify(frame);
    return fetch(`${url}/v1/chat/messages`, { method: "POST", headers, body });
  }
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (error instanceof CryptoError || error instanceof DirectoryError) return error.code;
  throw error instanceof Error ? error : new Error("it was not refused");
}

let alice: Browser;
let bob: Browser;
beforeEach(async () => {
  alice = await Browser.of(WalletKey.generate());
  bob = await Browser.of(WalletKey.generate());
});

test("two wallets enrol and write; the server takes what they sign", async () => {
  const ours = await alice.client(bob.key.wallet);
  const theirs = await bob.client(alice.key.wallet);
  expect([alice.asked, bob.asked]).toEqual([2, 2]);
  const frame = await ours.encrypt("good morning");
  const taken = await alice.post(frame);
  expect(taken.status).toBe(201);
  const opened = await theirs.decrypt(frame);
  expect([opened.text, opened.continuity]).toEqual(["good morning", "first"]);
  const back = await theirs.encrypt("and to you");
  expect((await bob.post(back)).status).toBe(201);
  expect((await ours.decrypt(back)).text).toBe("and to you");
  const next = await theirs.encrypt("and one more");
  const forged = await bob.post({ ...next, ts: next.ts + 1 });
  expect(((await forged.json()) as { code: string }).code).toBe("bad_signature");
  const numbers = await Promise.all(
    [ours, theirs].map(async (client) => {
      const roster = await client.contacts.roster(client.peerWallet);
      return client.contacts.safetyNumber(roster);
    }),
  );
  expect(numbers[0]).toMatch(/^\d{60}$/);
  expect(numbers[1]).toBe(numbers[0]);
});

test("a device that is there opens again without asking, and without the server", async () => {
  const first = await (await alice.client(bob.key.wallet)).contacts.contact(bob.key.wallet);
  expect(first).toBeNull();
  const theirs = await bob.client(alice.key.wallet);
  await (await alice.client(bob.key.wallet)).encrypt("opens the session");
  const asked = alice.asked;
  const nowhere = "http://127.0.0.1:9";
  const offline = await alice.client(bob.key.wallet, nowhere);
  const frame = await offline.encrypt("written while offline");
  expect(alice.asked).toBe(asked);
  expect((await alice.post(frame)).status).toBe(201);
  expect((await theirs.decrypt(frame)).text).toBe("written while offline");
  await expect(bob.directory(nowhere).lookup(alice.key.wallet)).rejects.toMatchObject({ status: 0 });
});

test("prekeys are published when few are left, and not before", async () => {
  const messenger = await alice.open();
  const directory = alice.directory();
  const { device } = messenger;
  expect(await directory.prekeyStock(device)).toEqual({ oneTime: 50, oneTimeKem: 50 });
  const day = 24 * 3600 * 1000;
  await keepPrekeysInStock(messenger, directory, Date.now() + day);
  expect(await directory.prekeyStock(device)).toEqual({ oneTime: 50, oneTimeKem: 50 });
  const roster = await new Contacts(messenger, directory, suite).roster(alice.key.wallet);
  const [before] = await bob.directory().claim(roster.wallet, [device]);
  await keepPrekeysInStock(messenger, directory, Date.now() + 8 * day);
  const [after] = await bob.directory().claim(roster.wallet, [device]);
  if (before === undefined || after === undefined) throw new Error("a bundle each");
  expect(after.signed.id).toBeGreaterThan(before.signed.id);
});

test("a rotation that does not reach the server drops nothing that it still hands out", async () => {
  const messenger = await alice.open();
  const claimed = await bob.client(alice.key.wallet);
  const frame = await claimed.encrypt("by the prekeys of before");
  const week = Date.now() + 8 * 24 * 3600 * 1000;
  const cut = alice.directory();
  cut.publishPrekeys = () => Promise.reject(new DirectoryError(0, "", null));
  for (let attempt = 0; attempt < 3; attempt++) {
    await expect(keepPrekeysInStock(messenger, cut, week)).rejects.toMatchObject({ status: 0 });
  }
  const directory = alice.directory();
  const [before] = await bob.directory().claim(alice.key.wallet, [messenger.device]);
  await keepPrekeysInStock(messenger, directory, week);
  const [after] = await bob.directory().claim(alice.key.wallet, [messenger.device]);
  expect(after?.signed.id).toBeGreaterThan(before?.signed.id ?? 0);
  const theirs = await alice.client(bob.key.wallet);
  expect((await theirs.decrypt(frame)).text).toBe("by the prekeys of before");
});

test("a further device is certified by hand, and reads from then on", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  expect(await codeOf(second.open())).toBe("not_certified");
  const further = await FurtherDevice.begin(await second.enrolment());
  expect(decodeRequest(further.request)).toMatchObject({
    wallet: alice.key.wallet,
    device: further.device,
  });
  const messenger = await further.finish(await answerRequest(first, further.request));
  expect(messenger.device).toBe(further.device);
  expect(second.asked).toBe(1);
  const [there, here] = [await bob.client(alice.key.wallet), await second.client(bob.key.wallet)];
  const frame = await there.encrypt("to both of you");
  expect((await here.decrypt(frame)).text).toBe("to both of you");
  expect((await (await alice.client(bob.key.wallet)).decrypt(frame)).text).toBe("to both of you");
  expect(await codeOf(answerRequest(messenger, further.request))).toBe("refused");
  expect(await codeOf(answerRequest(await bob.open(), further.request))).toBe("not_certified");
});

test("an answer of an identity that has been replaced makes no device, and asks no wallet", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  const further = await FurtherDevice.begin(await second.enrolment());
  const stale = await answerRequest(first, further.request);
  await rotateIdentity(await alice.enrolment(), first);
  expect(await codeOf(further.finish(stale))).toBe("refused");
  expect(second.asked).toBe(0);
  expect(await LeftBehindDevice.find(await second.enrolment())).toBeNull();
  const messenger = await further.finish(await answerRequest(first, further.request));
  expect(messenger.device).toBe(further.device);
});

test("what a further device is given is verified once, signature by signature", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  const { mldsa65 } = suite;
  let verified = 0;
  const counting: typeof mldsa65 = Object.assign(Object.create(mldsa65) as typeof mldsa65, {
    verify: (...given: Parameters<typeof mldsa65.verify>) => {
      verified += 1;
      return mldsa65.verify(...given);
    },
  });
  const enrolment = { ...(await second.enrolment()), suite: { ...suite, mldsa65: counting } };
  const further = await FurtherDevice.begin(enrolment);
  await further.finish(await answerRequest(first, further.request));
  // The identity's own; of the first certificate two, of the second three.
  expect(verified).toBe(6);
});

test("a browser is a further device of an identity made in Python", async () => {
  const secret = fresh(32);
  const browser = await Browser.of(new WalletKey(secret));
  const further = await FurtherDevice.begin(await browser.enrolment());
  const { answer } = await asked<{ answer: string }>({
    op: "endorse",
    secret: toBase64(secret),
    request: toBase64(further.request),
  });
  const messenger = await further.finish(bytes(answer));
  const contacts = new Contacts(messenger, browser.directory(), suite);
  const client = new SecureMessageClient(messenger, contacts, bob.key.wallet);
  const there = await bob.client(browser.key.wallet);
  const frame = await there.encrypt("to Python's and the browser's device");
  expect((await client.decrypt(frame)).text).toBe("to Python's and the browser's device");
});

test("a Python client is a further device of an identity made in a browser", async () => {
  const secret = fresh(32);
  const browser = await Browser.of(new WalletKey(secret));
  const messenger = await browser.open();
  const theirs = await bob.client(browser.key.wallet);
  const given = { secret: toBase64(secret) };
  const { request } = await asked<{ request: string }>({ op: "enrol", ...given });
  const answer = toBase64(await answerRequest(messenger, bytes(request)));
  const text = "sent by Python";
  const { device, position } = await asked<{ device: string; position: number }>({
    op: "finish",
    ...given,
    answer,
    recipient: bob.key.wallet,
    text,
  });
  const history = await fetch(`${url}/v1/chat/threads/${browser.key.wallet}/messages`, {
    headers: { authorization: `Bearer ${bob.token}` },
  });
  const { messages } = (await history.json()) as { messages: { position: number }[] };
  const delivered = messages.find((one) => one.position === position);
  const opened = await theirs.decrypt(delivered);
  expect([opened.text, opened.device]).toEqual([text, device]);
});

test("a revoked device learns it, and is not encrypted to", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  const further = await FurtherDevice.begin(await second.enrolment());
  await further.finish(await answerRequest(first, further.request));
  const roster = await new Contacts(first, alice.directory(), suite).roster(alice.key.wallet);
  const certificate = roster.device(further.device);
  const signature = alice.key.sign(RevocationBody.of(certificate).text);
  await alice.directory().revoke(await first.revoke(certificate, signature));
  expect(await codeOf(second.open())).toBe("device_revoked");
  const there = await bob.client(alice.key.wallet);
  const known = await there.contacts.roster(alice.key.wallet);
  expect(known.active.map((one) => one.device)).toEqual([first.device]);
});

test("a reset identity stops the other side until the new number is compared", async () => {
  const [ours, theirs] = [await alice.client(bob.key.wallet), await bob.client(alice.key.wallet)];
  await theirs.decrypt(await ours.encrypt("before"));
  const lost = await Browser.of(alice.key);
  await resetIdentity(await lost.enrolment());
  expect(await codeOf(alice.open())).toBe("identity_changed");
  const warned = await bob.client(alice.key.wallet);
  expect(await codeOf(warned.encrypt("to whom?"))).toBe("identity_changed");
  const fromLost = await lost.client(bob.key.wallet);
  const frame = await fromLost.encrypt("it is me, really");
  expect(await codeOf(warned.decrypt(frame))).toBe("identity_changed");
  const contact = await warned.contacts.contact(alice.key.wallet);
  if (contact === null) throw new Error("there is an identity");
  expect(contact.succession).toBe("reset");
  const number = await fromLost.contacts.safetyNumber(
    await fromLost.contacts.roster(bob.key.wallet),
  );
  expect(await codeOf(warned.contacts.accept(contact.roster, "0".repeat(60)))).toBe("refused");
  await warned.contacts.accept(contact.roster, number);
  expect((await warned.decrypt(frame)).text).toBe("it is me, really");
  expect((await fromLost.decrypt(await warned.encrypt("welcome back"))).text).toBe("welcome back");
});

/** The peer, as the directory has it now. */
async function contactOf(client: SecureMessageClient): Promise<Contact> {
  const contact = await client.contacts.contact(client.peerWallet);
  if (contact === null) throw new Error("there is an identity");
  return contact;
}

test("a rotated identity goes on, what was sealed before it opens, and the other side is told", async () => {
  const [ours, theirs] = [await alice.client(bob.key.wallet), await bob.client(alice.key.wallet)];
  const frame = await ours.encrypt("hello");
  await theirs.decrypt(frame);
  await ours.decrypt(await theirs.encrypt("hello to you"));
  const messenger = await alice.open();
  const enrolment = await alice.enrolment();
  expect(await codeOf(rotateIdentity(enrolment, messenger))).toBe("refused");
  for (const one of await messenger.outbox()) await messenger.acknowledged(one);
  const late = await theirs.encrypt("sealed before he knows");
  const early = await ours.encrypt("sealed before the rotation");
  for (const one of await messenger.outbox()) await messenger.acknowledged(one);
  const asked = alice.asked;
  await rotateIdentity(enrolment, messenger);
  expect(alice.asked).toBe(asked + 2);
  const before = await contactOf(await bob.client(alice.key.wallet)).catch(() => null);
  expect(before?.rotated).toBe(true);
  const after = await alice.client(bob.key.wallet);
  expect((await after.decrypt(late)).text).toBe("sealed before he knows");
  // His roster of her is fresh and old: what does not open is tried with the new one.
  const next = await after.encrypt("under the new certificate");
  expect((await alice.post(next)).status).toBe(201);
  expect((await theirs.decrypt(early)).text).toBe("sealed before the rotation");
  expect((await theirs.decrypt(next)).text).toBe("under the new certificate");
  expect((await after.decrypt(await theirs.encrypt("got it"))).text).toBe("got it");
  // He is told until he has seen the number, over restarts.
  const again = await bob.client(alice.key.wallet);
  const contact = await contactOf(again);
  expect([contact.succession, contact.rotated]).toEqual(["same", true]);
  const roster = await after.contacts.roster(bob.key.wallet);
  await again.contacts.accept(contact.roster, await after.contacts.safetyNumber(roster));
  expect((await contactOf(again)).rotated).toBe(false);
});

test.each(["putIdentity", "addDevice", "publishPrekeys"] as const)(
  "a rotation whose %s did not reach the server is published at the next start",
  async (step) => {
    const theirs = await bob.client(alice.key.wallet);
    const messenger = await alice.open();
    await theirs.encrypt("before");
    const enrolment = await alice.enrolment();
    const down = (): Promise<never> => Promise.reject(new DirectoryError(503, "down", 1));
    Object.assign(enrolment.directory, { [step]: down });
    expect(await codeOf(rotateIdentity(enrolment, messenger))).toBe("down");
    // Renewed once more by a person who saw it fail: the first of the two comes first.
    await rotateIdentity(await alice.enrolment(), messenger);
    const ours = await alice.client(bob.key.wallet);
    expect((await contactOf(theirs)).rotated).toBe(true);
    expect((await ours.decrypt(await theirs.encrypt("after"))).text).toBe("after");
  },
);

test("a rotation that a person does not sign to its end changes nothing", async () => {
  const messenger = await alice.open();
  const { identity } = await messenger.statements();
  const enrolment = await alice.enrolment();
  for (const signed of [0, 1]) {
    let left = signed;
    const sign = (text: string): Promise<Uint8Array<ArrayBuffer>> =>
      left-- > 0 ? enrolment.sign(text) : Promise.reject(new Error("not signed"));
    await expect(rotateIdentity({ ...enrolment, sign }, messenger)).rejects.toThrow("not signed");
  }
  const after = await (await alice.open()).statements();
  expect(equal(after.identity.id, identity.id)).toBe(true);
});

test("keys renewed since the directory was asked are found when a first message is sealed", async () => {
  const messenger = await alice.open();
  const theirs = await bob.client(alice.key.wallet);
  await theirs.contacts.roster(alice.key.wallet);
  await rotateIdentity(await alice.enrolment(), messenger);
  const frame = await theirs.encrypt("the first message");
  const ours = await alice.client(bob.key.wallet);
  expect((await ours.decrypt(frame)).text).toBe("the first message");
});

test("a device ended since the directory was asked is left out when a first message is sealed", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  const further = await FurtherDevice.begin(await second.enrolment());
  const laptop = await further.finish(await answerRequest(first, further.request));
  const theirs = await bob.client(alice.key.wallet);
  await theirs.contacts.roster(alice.key.wallet);
  const { certificate } = await laptop.statements();
  const signature = alice.key.sign(RevocationBody.of(certificate).text);
  await alice.directory().revoke(await first.revoke(certificate, signature));
  const frame = await theirs.encrypt("the first message");
  const ours = await alice.client(bob.key.wallet);
  expect((await ours.decrypt(frame)).text).toBe("the first message");
});

test("a device added since the directory was asked is believed at its first message", async () => {
  const first = await alice.open();
  const theirs = await bob.client(alice.key.wallet);
  await theirs.contacts.roster(alice.key.wallet);
  const second = await Browser.of(alice.key);
  const further = await FurtherDevice.begin(await second.enrolment());
  await further.finish(await answerRequest(first, further.request));
  const frame = await (await second.client(bob.key.wallet)).encrypt("from the new one");
  expect((await theirs.decrypt(frame)).text).toBe("from the new one");
});

test("a rotation that is heard of while a first message is prepared does not stop it", async () => {
  const messenger = await alice.open();
  const theirs = await bob.open();
  const directory = bob.directory();
  const contacts = new Contacts(theirs, directory, suite);
  const claim = directory.claim.bind(directory);
  directory.claim = async (wallet, devices) => {
    directory.claim = claim;
    const bundles = await claim(wallet, devices);
    await rotateIdentity(await alice.enrolment(), messenger);
    await contacts.contact(alice.key.wallet);
    return bundles;
  };
  const frame = await new SecureMessageClient(theirs, contacts, alice.key.wallet).encrypt("first");
  const ours = await alice.client(bob.key.wallet);
  expect((await ours.decrypt(frame)).text).toBe("first");
});

test("a device that a rotation left behind says so and goes on once it is endorsed again", async () => {
  const first = await alice.open();
  const second = await Browser.of(alice.key);
  const further = await FurtherDevice.begin(await second.enrolment());
  const laptop = await further.finish(await answerRequest(first, further.request));
  const there = await bob.client(alice.key.wallet);
  const here = await second.client(bob.key.wallet);
  await here.decrypt(await there.encrypt("before"));
  // It has just asked who its own devices are, and has no session with the other one yet.
  await here.contacts.roster(alice.key.wallet);
  const stale = await answerRequest(first, further.request);
  expect(await codeOf(rotateIdentity(await second.enrolment(), laptop))).toBe("refused");
  await rotateIdentity(await alice.enrolment(), first);
  expect(await codeOf(second.open())).toBe("identity_changed");
  expect(await codeOf(here.encrypt("under what was asked before"))).toBe("device_revoked");
  const unaware = new SecureMessageClient(
    laptop,
    new Contacts(laptop, second.directory(), suite),
    bob.key.wallet,
  );
  expect(await codeOf(unaware.encrypt("from the one left behind"))).toBe("device_revoked");
  const left = await LeftBehindDevice.find(await second.enrolment());
  if (left === null) throw new Error("there is a device");
  expect(left.request).toEqual(further.request);
  expect(await codeOf(left.finish(stale))).toBe("refused");
  const theirs = await FurtherDevice.begin(await (await Browser.of(bob.key)).enrolment());
  const foreign = await answerRequest(await bob.open(), theirs.request);
  const asked = second.asked;
  expect(await codeOf(left.finish(foreign))).toBe("not_certified");
  expect(second.asked).toBe(asked); // the wallet is not asked for another's sake
  const messenger = await left.finish(await answerRequest(first, left.request));
  expect(messenger.device).toBe(further.device);
  const both = await bob.client(alice.key.wallet);
  const frame = await both.encrypt("on both again");
  for (const browser of [alice, second]) {
    const client = await browser.client(bob.key.wallet);
    expect((await client.decrypt(frame)).text).toBe("on both again");
  }
});

test("a directory that shows another wallet's statements is not believed", async () => {
  const messenger = await alice.open();
  await bob.open();
  const lying = alice.directory();
  lying.lookup = () => bob.directory().lookup(bob.key.wallet);
  const contacts = new Contacts(messenger, lying, suite);
  expect(await codeOf(contacts.roster("0x" + "12".repeat(20)))).toBe("not_certified");
});

test("what was made but not published is published at the next start", async () => {
  const enrolment = await alice.enrolment();
  const { directory } = enrolment;
  directory.addDevice = () => Promise.reject(new DirectoryError(503, "ledger_unavailable", 1));
  expect(await codeOf(openMessenger(enrolment))).toBe("ledger_unavailable");
  const before = await alice.directory().lookup(alice.key.wallet);
  expect([before.identity !== null, before.certificates.length]).toEqual([true, 0]);
  const messenger = await alice.open();
  const after = await alice.directory().lookup(alice.key.wallet);
  const { certificate } = await messenger.statements();
  expect(after.certificates.map((one) => equal(one.id, certificate.id))).toEqual([true]);
});

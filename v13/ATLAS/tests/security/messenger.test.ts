/** The promises of the messenger: SPEC-crypto C8, C12, C15, C18, C20 to C24, C27, C28. */
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";

import { concat, toHex } from "../../src/security/bytes";
import { labelled } from "../../src/security/codec";
import { sha256 } from "../../src/security/digest";
import {
  associatedData,
  encodeWraps,
  Envelope,
  initiationBody,
} from "../../src/security/envelope";
import { describeDevice, RevocationBody } from "../../src/security/devices";
import { CryptoError, type ErrorCode, NoSession } from "../../src/security/errors";
import { Frame, type FrameFields } from "../../src/security/frame";
import { Identity } from "../../src/security/identity";
import { INITIATION } from "../../src/security/labels";
import { MAX_ONE_TIME_KEPT, Messenger } from "../../src/security/messenger";
import { nobleSuite } from "../../src/security/noble";
import { selectSuite } from "../../src/security/select";
import { SessionStore } from "../../src/security/store";
import type { Suite } from "../../src/security/suite";
import { WalletKey } from "../../src/security/wallet";
import { MemoryStorage } from "./memory";
import {
  acquaint,
  connect,
  correspondents,
  pair,
  Person,
  Stock,
  textOf,
  utf8,
  write,
} from "./people";

let suite: Suite;
beforeAll(async () => {
  suite = await selectSuite();
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** Expects a CryptoError with this code. */
async function refused(work: Promise<unknown>, code: ErrorCode): Promise<void> {
  const error: unknown = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CryptoError);
  expect((error as CryptoError).code).toBe(code);
}

function fieldsOf(frame: Frame): FrameFields {
  const { sender, device, recipient, ciphertext, nonce, seq, ts, cids } = frame;
  return { sender, device, recipient, ciphertext, nonce, seq, ts, cids };
}

describe("messages", () => {
  test.each(["platform", "noble"])("go both ways (%s)", async (which) => {
    const { alice, bob } = await pair(which === "noble" ? nobleSuite : suite);
    for (const [index, text] of ["one", "two", "drei 🌍", ""].entries()) {
      const there = await write(alice, "a", bob, text);
      const opened = await bob.on("b").open({ frame: there, roster: alice.roster });
      expect([textOf(opened), opened.openedSession]).toEqual([text, index === 0]);
      expect(opened.continuity).toBe(index === 0 ? "first" : "continuous");
      await connect(bob.on("b"), alice);
      const back = await write(bob, "b", alice, `${text}!`);
      const answer = await alice.on("a").open({ frame: back, roster: bob.roster });
      expect(textOf(answer)).toBe(`${text}!`);
      expect(answer.openedSession).toBe(false);
    }
  });

  test("reach every device of both sides, and come back over JSON", async () => {
    const stock = new Stock();
    const alice = await Person.make(suite, stock, "a1", "a2");
    const bob = await Person.make(suite, stock, "b1", "b2", "b3");
    await acquaint(alice, bob);
    await connect(alice.on("a1"), alice, bob);
    const wire = JSON.stringify((await write(alice, "a1", bob, "to all")).toWire());
    for (const [person, device] of [[alice, "a2"], [bob, "b1"], [bob, "b2"], [bob, "b3"]] as const) {
      const frame = Frame.fromWire(JSON.parse(wire));
      const opened = await person.on(device).open({ frame, roster: alice.roster });
      expect(textOf(opened)).toBe("to all");
    }
    expect(wire).not.toContain("to all");
  });

  test("to a thread reach its members", async () => {
    const stock = new Stock();
    const people = await Promise.all(["a", "b", "c"].map((one) => Person.make(suite, stock, one)));
    const [alice, ...others] = people;
    if (alice === undefined) throw new Error("three people");
    await acquaint(...people);
    await connect(alice.on("a"), ...others);
    const rosters = people.map((one) => one.roster);
    const message = { recipient: "thread:1", rosters, content: utf8("all of you"), ts: 0 };
    const frame = await alice.on("a").seal(message);
    for (const [index, person] of others.entries()) {
      const opened = await person.on(index === 0 ? "b" : "c").open({ frame, roster: alice.roster });
      expect(textOf(opened)).toBe("all of you");
    }
  });

  test("need a session with every device, or its being left out", async () => {
    const stock = new Stock();
    const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
    await bob.add("late");
    await acquaint(alice, bob);
    const error: unknown = await write(alice, "a", bob, "x").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(NoSession);
    const ids = bob.roster.active.map((one) => toHex(one.id)).sort();
    expect((error as NoSession).certificates.map(toHex)).toEqual(ids);
    const late = bob.roster.device("late").id;
    await alice.on("a").establish(bob.roster, stock.claim(bob.roster.device("b").id), 1);
    const message = {
      recipient: bob.wallet.wallet,
      rosters: [bob.roster],
      content: utf8("x"),
      ts: 0,
      without: [late],
    };
    const frame = await alice.on("a").seal(message);
    await refused(bob.on("late").open({ frame, roster: alice.roster }), "not_addressed");
    expect(textOf(await bob.on("b").open({ frame, roster: alice.roster }))).toBe("x");
  });

  test("to a wallet never reach a third one", async () => {
    const stock = new Stock();
    const people = await Promise.all(["a", "b", "c"].map((one) => Person.make(suite, stock, one)));
    await acquaint(...people);
    const [alice, bob, carol] = people;
    if (!alice || !bob || !carol) throw new Error("three people");
    const message = { recipient: bob.wallet.wallet, content: utf8("x"), ts: 0 };
    await refused(alice.on("a").seal({ ...message, rosters: [bob.roster, carol.roster] }), "refused");
    await alice.add("another");
    await connect(alice.on("a"), alice);
    await refused(alice.on("a").seal({ ...message, rosters: [alice.roster] }), "refused");
  });

  test("that are altered anywhere are refused and change nothing", async () => {
    const { alice, bob } = await pair(suite);
    const wire = (await write(alice, "a", bob, "intact")).toWire();
    const frame = Frame.fromWire(wire);
    const before = bob.device("b").storage.backup();
    const { privateKey } = alice.device("a").keys.signing;
    const size = frame.ciphertext.length;
    // One byte of each field of the envelope; the sender signs what was altered.
    for (const at of [0, 2, 5, 40, 68, 69, 3378, 3380, 3396, 3400, 4600, size - 1]) {
      const ciphertext = frame.ciphertext.slice();
      ciphertext[at] = (ciphertext[at] ?? 0) ^ 1;
      const altered = await new Frame({ ...fieldsOf(frame), ciphertext }).signed(suite, privateKey);
      const opening = bob.on("b").open({ frame: altered, roster: alice.roster });
      await expect(opening, `byte ${at}`).rejects.toBeInstanceOf(CryptoError);
    }
    for (const change of [{ seq: 2 }, { ts: 2 }, { nonce: new Uint8Array(12) }, { device: "b" }]) {
      const altered = new Frame({ ...fieldsOf(frame), ...change }, frame.signature);
      await expect(
        bob.on("b").open({ frame: altered, roster: alice.roster }),
      ).rejects.toBeInstanceOf(CryptoError);
    }
    await refused(
      Promise.resolve().then(() => Frame.fromWire({ ...wire, seq: 2 })),
      "frame_hash_mismatch",
    );
    expect(bob.device("b").storage.backup()).toEqual(before);
    expect(textOf(await bob.on("b").open({ frame, roster: alice.roster }))).toBe("intact");
  });

  test("open once: a replay is refused, also after a restart", async () => {
    const { alice, bob } = await pair(suite);
    const frame = await write(alice, "a", bob, "once");
    await bob.on("b").open({ frame, roster: alice.roster });
    await refused(bob.on("b").open({ frame, roster: alice.roster }), "replayed");
    await refused((await bob.restart("b")).open({ frame, roster: alice.roster }), "replayed");
  });

  test("are not taken back by their sender, nor by others they are not for", async () => {
    const stock = new Stock();
    const people = await Promise.all(["a", "b", "c"].map((one) => Person.make(suite, stock, one)));
    const [alice, bob, carol] = people;
    if (!alice || !bob || !carol) throw new Error("three people");
    await acquaint(...people);
    await connect(alice.on("a"), bob);
    const frame = await write(alice, "a", bob, "for bob");
    await refused(alice.on("a").open({ frame, roster: alice.roster }), "reflected");
    await refused(carol.on("c").open({ frame, roster: alice.roster }), "not_addressed");
    await refused(bob.on("b").open({ frame, roster: carol.roster }), "not_certified");
  });

  test("out of order, lost and late show as what they are", async () => {
    const { alice, bob } = await pair(suite);
    const frames = await alice.on("a").sealMany(
      ["1", "2", "3", "4"].map((text) => ({
        recipient: bob.wallet.wallet,
        rosters: [bob.roster],
        content: utf8(text),
        ts: 0,
      })),
    );
    const [one, two, three, four] = frames.map((frame) => ({ frame, roster: alice.roster }));
    if (!one || !two || !three || !four) throw new Error("four frames");
    const how = async (delivered: typeof one): Promise<string> =>
      (await bob.on("b").open(delivered)).continuity;
    expect([await how(one), await how(three), await how(two), await how(four)]).toEqual([
      "first",
      "gap",
      "late",
      "continuous",
    ]);
  });

  test("opened together: one that fails changes nothing for the others", async () => {
    const { alice, bob } = await pair(suite);
    const frames = await Promise.all(["1", "2"].map((text) => write(alice, "a", bob, text)));
    const [one, two] = frames.map((frame) => ({ frame, roster: alice.roster }));
    if (!one || !two) throw new Error("two frames");
    const results = await bob.on("b").openMany([one, one, two]);
    const shown = results.map((result) => (result instanceof CryptoError ? result.code : textOf(result)));
    expect(shown).toEqual(["1", "replayed", "2"]);
  });

  test("opened together: entries go with each that opened and each that failed, up to one without", async () => {
    const { alice, bob } = await pair(suite);
    const frames = await Promise.all(["1", "2", "3"].map((text) => write(alice, "a", bob, text)));
    const [one, two, three] = frames.map((frame) => ({ frame, roster: alice.roster }));
    if (!one || !two || !three) throw new Error("three frames");
    const reader = bob.on("b");
    const seen: string[] = [];
    const results = await reader.openMany([one, one, two, three], async (result, kept, index) => {
      const name = result instanceof CryptoError ? result.code : textOf(result);
      // Each sees what was kept for those before it.
      seen.push(`${index}: ${(await kept("last")) === null ? "nothing" : "something"} before ${name}`);
      return name === "2" ? null : [{ name, value: utf8(name) }, { name: "last", value: utf8(name) }];
    });
    expect(results).toHaveLength(2);
    expect(seen).toEqual([
      "0: nothing before 1",
      "1: something before replayed",
      "2: something before 2",
    ]);
    const names = (await reader.kept("")).map(({ name }) => name);
    expect(names).toEqual(["1", "last", "replayed"]);
    // What it ended at, and what was behind it, are as they were.
    expect(textOf(await reader.open(two))).toBe("2");
    expect(textOf(await reader.open(three))).toBe("3");
  });

  test("crossing handshakes converge on one session", async () => {
    const { alice, bob } = await pair(suite);
    await connect(bob.on("b"), alice);
    const [there, back] = [await write(alice, "a", bob, "x"), await write(bob, "b", alice, "y")];
    await bob.on("b").open({ frame: there, roster: alice.roster });
    await alice.on("a").open({ frame: back, roster: bob.roster });
    const used = new Set<string>();
    for (let round = 0; round < 2; round++) {
      for (const [from, device, to, other] of [[alice, "a", bob, "b"], [bob, "b", alice, "a"]] as const) {
        const frame = await write(from, device, to, "z");
        await to.on(other).open({ frame, roster: from.roster });
        used.add(toHex(Envelope.decode(frame.ciphertext).wraps[0]?.wrapped.session ?? utf8("")));
      }
    }
    expect(used.size).toBe(1);
  });

  test("a lost session is answered by a new one", async () => {
    const { alice, bob } = await correspondents(suite);
    await bob.on("b").beginAgain();
    const lost = await write(alice, "a", bob, "cannot be read");
    await refused(bob.on("b").open({ frame: lost, roster: alice.roster }), "unknown_session");
    bob.stock.publish(await bob.on("b").publishPrekeys({ oneTime: 1, rotate: true }));
    await alice.on("a").establish(bob.roster, bob.stock.claim(bob.roster.device("b").id), 5_000);
    const frame = await write(alice, "a", bob, "again");
    const opened = await bob.on("b").open({ frame, roster: alice.roster });
    expect([textOf(opened), opened.openedSession]).toEqual(["again", true]);
  });
});

describe("who", () => {
  test("a reset identity stops sending and showing until it is accepted", async () => {
    const { alice, bob } = await pair(suite);
    await write(alice, "a", bob, "before");
    await bob.renew(false);
    expect(await alice.on("a").learn(bob.roster)).toBe("reset");
    await refused(write(alice, "a", bob, "to whom?"), "identity_changed");
    await refused(alice.on("a").active(bob.roster), "identity_changed");
    const frame = await write(bob, "b", alice, "x").catch(() => null);
    expect(frame).toBeNull();
    await alice.on("a").accept(bob.roster);
    expect(await alice.on("a").active(bob.roster)).toHaveLength(1);
  });

  test("a rotated identity is pinned, also over several rotations", async () => {
    const { alice, bob } = await pair(suite);
    const first = await bob.renew(true);
    const second = await bob.renew(true);
    expect(await alice.on("a").learn(bob.roster)).toBe("reset");
    expect(await alice.on("a").learn(bob.roster, [first, second])).toBe("rotated");
    expect(await alice.on("a").learn(bob.roster)).toBe("same");
    await bob.on("b").recertify(bob.roster);
    bob.stock.publish(await bob.on("b").publishPrekeys({ oneTime: 1, rotate: true }));
    await connect(alice.on("a"), bob);
    const frame = await write(alice, "a", bob, "still");
    expect(textOf(await bob.on("b").open({ frame, roster: alice.roster }))).toBe("still");
  });

  test("what is kept with the pin of a rotated identity is kept with no other", async () => {
    const { alice, bob } = await pair(suite);
    const notice = [{ name: "rotated", value: utf8("x") }];
    expect(await alice.on("a").learn(bob.roster, [], notice)).toBe("same");
    expect(await alice.on("a").kept("rotated")).toEqual([]);
    const before = await bob.renew(true);
    expect(await alice.on("a").learn(bob.roster, [], notice)).toBe("reset");
    expect(await alice.on("a").kept("rotated")).toEqual([]);
    expect(await alice.on("a").learn(bob.roster, [before], notice)).toBe("rotated");
    expect(await alice.on("a").kept("rotated")).toHaveLength(1);
    const carol = await Person.make(suite, bob.stock, "c", "d");
    expect(await bob.on("b").learn(carol.roster, [], notice)).toBe("first");
    await carol.revoke("d");
    expect(await bob.on("b").learn(carol.roster, [], notice)).toBe("same");
    expect(await bob.on("b").kept("rotated")).toEqual([]);
  });

  test("a history that the wallet did not sign rotates nothing: the old key alone may be stolen", async () => {
    const { alice, bob } = await pair(suite);
    const first = await bob.renew(true);
    const { body, postQuantumSignature, previousSignature } = await bob.renew(true);
    const stolen = WalletKey.generate().sign(body.text);
    const forged = new Identity(body, stolen, postQuantumSignature, previousSignature);
    await refused(alice.on("a").learn(bob.roster, [first, forged]), "bad_wallet_signature");
    expect(await alice.on("a").pinned(bob.roster.wallet)).toEqual(first.id);
  });

  test("a device endorses none of another identity or by another certificate", async () => {
    const { alice, bob } = await pair(suite);
    const { keys } = alice.device("a");
    const [mine] = bob.certificates;
    if (mine === undefined) throw new Error("there is a device");
    const own = describeDevice(bob.identity, "new", keys, mine);
    expect((await bob.on("b").endorse(own)).endorsement).not.toBeNull();
    for (const body of [
      describeDevice(alice.identity, "new", keys, mine),
      describeDevice(bob.identity, "new", keys, alice.roster.device("a")),
      describeDevice(bob.identity, "new", keys),
    ]) {
      await refused(bob.on("b").endorse(body), "refused");
    }
  });

  /** Bob rotates his identity, and his device goes on; nobody knows yet. */
  async function rotate(bob: Person): Promise<void> {
    await bob.renew(true);
    await bob.on("b").recertify(bob.roster);
    bob.stock.publish(await bob.on("b").publishPrekeys({ oneTime: 1, rotate: true }));
  }

  test("what was sealed for a device's certificate before opens, one back and no further", async () => {
    const { alice, bob } = await pair(suite);
    const before = bob.roster;
    const carol = await Person.make(suite, bob.stock, "c");
    await acquaint(carol, bob);
    await connect(carol.on("c"), bob);
    const { wallet: recipient } = before;
    const seal = (from: Person, device: string, text: string): Promise<Frame> =>
      from.on(device).seal({
        recipient,
        rosters: [before, from.roster],
        content: utf8(text),
        ts: 0,
      });
    const frames = [await seal(alice, "a", "1"), await seal(alice, "a", "2")];
    const [first, second] = frames;
    if (first === undefined || second === undefined) throw new Error("two frames");
    await bob.on("b").open({ frame: first, roster: alice.roster });
    const opening = await seal(carol, "c", "a session of its own");
    await rotate(bob);
    const device = await bob.restart("b");
    const missing = async (): Promise<number> =>
      (await device.missingSessions([alice.roster, carol.roster])).length;
    expect(await missing()).toBe(2);
    expect(textOf(await device.open({ frame: second, roster: alice.roster }))).toBe("2");
    expect(textOf(await device.open({ frame: opening, roster: carol.roster }))).toBe(
      "a session of its own",
    );
    await refused(device.open({ frame: opening, roster: carol.roster }), "replayed");
    expect(await missing()).toBe(2);
    const late = await seal(alice, "a", "late");
    await rotate(bob);
    await refused(bob.on("b").open({ frame: late, roster: alice.roster }), "not_addressed");
    const { storage } = bob.device("b");
    expect(await storage.names("former/")).toEqual([]);
  });

  test("an identity rotates when no message waits, and its key has no word after it", async () => {
    const { alice, bob } = await pair(suite);
    await connect(bob.on("b"), alice);
    const frame = await write(bob, "b", alice, "waits");
    await bob.renew(true);
    const { identityKey } = bob;
    await refused(bob.on("b").recertify(bob.roster, { identityKey }), "refused");
    await bob.on("b").acknowledged(frame);
    await bob.on("b").recertify(bob.roster, { identityKey });
    const [certificate] = bob.certificates;
    if (certificate === undefined) throw new Error("there is a device");
    const signature = bob.wallet.sign(RevocationBody.of(certificate).text);
    await bob.on("b").revoke(certificate, signature);
    await bob.renew(true);
    await bob.on("b").recertify(bob.roster);
    await refused(bob.on("b").revoke(certificate, signature), "refused");
  });

  test("what a device sealed under its certificate before opens in the session it had", async () => {
    const { alice, bob } = await correspondents(suite);
    const [early, late] = [await write(bob, "b", alice, "1"), await write(bob, "b", alice, "2")];
    const before = bob.identity;
    await rotate(bob);
    const device = await alice.restart("a");
    expect(await device.learn(bob.roster, [before])).toBe("rotated");
    expect(textOf(await device.open({ frame: early, roster: bob.roster }))).toBe("1");
    await connect(device, bob);
    const reply = await write(alice, "a", bob, "by the new one");
    await bob.on("b").open({ frame: reply, roster: alice.roster });
    expect(textOf(await device.open({ frame: late, roster: bob.roster }))).toBe("2");
  });

  test("a certificate is a device's own, and it goes on under each once", async () => {
    const { alice, bob } = await pair(suite);
    await refused(bob.on("b").prove(alice.roster.device("a").body), "not_certified");
    await refused(bob.on("b").recertify(bob.roster), "refused");
    await refused(bob.on("b").bless(bob.identity.body), "refused");
  });

  test("an accepted identity brings no revoked device back", async () => {
    const stock = new Stock();
    const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
    await bob.add("lost");
    await acquaint(alice, bob);
    await bob.renew(false);
    const whole = bob.roster;
    expect(await alice.on("a").learn(whole)).toBe("reset");
    await bob.on("b").recertify(bob.roster, { identityKey: bob.identityKey });
    await bob.revoke("lost");
    await alice.on("a").accept(bob.roster);
    const devices = async (): Promise<readonly string[]> =>
      (await alice.on("a").active(whole)).map((one) => one.device);
    expect(await devices()).toEqual(["b"]);
    // A directory that forgets the revocation, and a person who accepts what it shows once more.
    await alice.on("a").accept(whole);
    expect(await devices()).toEqual(["b"]);
    await alice.on("a").learn(whole);
    expect(await devices()).toEqual(["b"]);
  });

  test("a revoked device is not encrypted to, shown again or not", async () => {
    const stock = new Stock();
    const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
    await bob.add("lost");
    const before = bob.roster;
    await acquaint(alice, bob);
    await connect(alice.on("a"), bob);
    await bob.revoke("lost");
    await alice.on("a").learn(bob.roster);
    await alice.on("a").learn(before);
    const message = { recipient: bob.wallet.wallet, content: utf8("x"), ts: 0 };
    const frame = await alice.on("a").seal({ ...message, rosters: [before] });
    expect(Envelope.decode(frame.ciphertext).wraps).toHaveLength(1);
    await connect(bob.on("lost"), alice);
    const stolen = await write(bob, "lost", alice, "it is me").catch(() => null);
    expect(stolen).toBeNull();
  });

  test("a message of a revoked device opens only when the ledger holds it before", async () => {
    const stock = new Stock();
    const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
    await bob.add("lost");
    await acquaint(alice, bob);
    await connect(bob.on("lost"), alice);
    const message = { recipient: alice.wallet.wallet, content: utf8("early"), ts: 0 };
    const frame = await bob.on("lost").seal({ ...message, rosters: [alice.roster] });
    const before = bob.roster;
    await bob.revoke("lost");
    await alice.on("a").learn(bob.roster);
    const { roster } = bob;
    await refused(alice.on("a").open({ frame, roster }), "device_revoked");
    // A directory that shows the roster of before does not bring the device back.
    await refused(alice.on("a").open({ frame, roster: before }), "device_revoked");
    expect(textOf(await alice.on("a").open({ frame, roster, revokedToo: true }))).toBe("early");
  });

  test("a bundle without a KEM prekey, or of another device, opens no session", async () => {
    const { alice, bob } = await pair(suite);
    const bundle = bob.stock.claim(bob.roster.device("b").id);
    await refused(
      alice.on("a").establish(bob.roster, Object.assign(bundle, { kem: null }), 1),
      "post_quantum_missing",
    );
    const own = alice.stock.claim(alice.roster.device("a").id);
    await refused(alice.on("a").establish(bob.roster, own, 1), "not_certified");
  });
});

test("a handshake is bound to the session that its wrap names, whatever its sender signs", async () => {
  const { alice, bob } = await pair(suite);
  const frame = await write(alice, "a", bob, "x");
  const { previous, commitment, wraps, payload } = Envelope.decode(frame.ciphertext);
  const named = wraps.map(({ address, wrapped }) => ({
    address,
    wrapped: { ...wrapped, session: new Uint8Array(16) },
  }));
  const { sender, device, recipient, seq } = frame;
  const digest = sha256(associatedData(sender, device, recipient, seq, previous));
  const { signing, postQuantum } = alice.device("a").keys;
  const message = labelled(INITIATION, initiationBody(digest, commitment, encodeWraps(named)));
  const initiation = await suite.mldsa65.sign(postQuantum.privateKey, INITIATION, message);
  const ciphertext = new Envelope(previous, commitment, initiation, named, payload).encode();
  const signed = await new Frame({ ...fieldsOf(frame), ciphertext }).signed(
    suite,
    signing.privateKey,
  );
  await refused(bob.on("b").open({ frame: signed, roster: alice.roster }), "decrypt");
  expect(textOf(await bob.on("b").open({ frame, roster: alice.roster }))).toBe("x");
});

describe("state", () => {
  test("one-time prekeys are gone with the first message that used them", async () => {
    const { alice, bob } = await pair(suite);
    const { storage } = bob.device("b");
    const counted = async (): Promise<number> =>
      (await storage.names("prekey/3/")).length + (await storage.names("prekey/4/")).length;
    expect(await counted()).toBe(4);
    const frame = await write(alice, "a", bob, "first");
    await bob.on("b").open({ frame, roster: alice.roster });
    expect(await counted()).toBe(2);
  });

  test("signed prekeys live for one rotation more, one-time secrets are bounded", async () => {
    const { bob } = await pair(suite);
    const messenger = bob.on("b");
    const { storage } = bob.device("b");
    for (let rotation = 0; rotation < 3; rotation++) {
      await messenger.publishPrekeys({ oneTime: 0, rotate: true });
      expect(await storage.names("prekey/1/")).toHaveLength(2);
      expect(await storage.names("prekey/2/")).toHaveLength(2);
    }
    await refused(messenger.publishPrekeys({ oneTime: 101 }), "refused");
    const store = await SessionStore.open(storage, bob.device("b").witness);
    const kinds = ["prekey/3/", "prekey/4/"];
    await store.transact((records) => {
      for (let number = 0x100; number < 0x100 + MAX_ONE_TIME_KEPT; number++) {
        const id = number.toString(16).padStart(8, "0");
        for (const kind of kinds) records.put(kind + id, new Uint8Array(32));
      }
      return Promise.resolve();
    });
    await messenger.publishPrekeys({ oneTime: 1 });
    for (const kind of kinds) {
      const names = await storage.names(kind);
      expect(names).toHaveLength(MAX_ONE_TIME_KEPT);
      expect(names.at(-1)).toBe(`${kind}${(0x100 + MAX_ONE_TIME_KEPT - 1).toString(16).padStart(8, "0")}`);
    }
  });

  test("nothing is returned of what could not be kept", async () => {
    const { alice, bob } = await pair(suite);
    const full = vi
      .spyOn(alice.device("a").storage, "write")
      .mockRejectedValue(new CryptoError("storage", "the disk is full"));
    await refused(write(alice, "a", bob, "x"), "storage");
    full.mockRestore();
    expect(await alice.on("a").outbox()).toEqual([]);
    const frame = await write(alice, "a", bob, "kept");
    expect(frame.seq).toBe(1);
    const cut = vi
      .spyOn(bob.device("b").storage, "write")
      .mockRejectedValue(new CryptoError("storage", "the disk is full"));
    await refused(bob.on("b").open({ frame, roster: alice.roster }), "storage");
    cut.mockRestore();
    expect(textOf(await bob.on("b").open({ frame, roster: alice.roster }))).toBe("kept");
  });

  test("a crash between state and witness is sound", async () => {
    const { alice, bob } = await pair(suite);
    vi.spyOn(alice.device("a").witness, "advance").mockRejectedValueOnce(new Error("crash"));
    await expect(write(alice, "a", bob, "unseen")).rejects.toThrow("crash");
    const messenger = await alice.restart("a");
    expect(await messenger.rolledBack()).toBe(false);
    const [waiting] = await messenger.outbox();
    if (waiting === undefined) throw new Error("it was kept");
    expect(textOf(await bob.on("b").open({ frame: waiting, roster: alice.roster }))).toBe("unseen");
    expect((await write(alice, "a", bob, "next")).seq).toBe(2);
    // No crash leaves the state further ahead of its witness than one commit.
    alice.device("a").witness.generation -= 2;
    expect(await (await alice.restart("a")).rolledBack()).toBe(true);
  });

  test("a restored state reads but does not send, until it begins again", async () => {
    const { alice, bob } = await pair(suite);
    const { storage } = alice.device("a");
    await bob.on("b").open({ frame: await write(alice, "a", bob, "1"), roster: alice.roster });
    const backup = storage.backup();
    await bob.on("b").open({ frame: await write(alice, "a", bob, "2"), roster: alice.roster });
    storage.restore(backup);
    for (const messenger of [alice.on("a"), await alice.restart("a")]) {
      expect(await messenger.rolledBack()).toBe(true);
      await refused(write(alice, "a", bob, "2 again"), "state_rolled_back");
      await refused(messenger.publishPrekeys({ oneTime: 1 }), "state_rolled_back");
      expect(await messenger.active(bob.roster)).toHaveLength(1);
    }
    const messenger = alice.on("a");
    const { witness } = alice.device("a");
    const newest = witness.generation;
    await messenger.beginAgain();
    expect(witness.generation).toBeGreaterThan(newest);
    expect(await messenger.rolledBack()).toBe(false);
    expect(await messenger.outbox()).toEqual([]);
    alice.stock.publish(await messenger.publishPrekeys({ oneTime: 1, rotate: true }));
    await connect(messenger, bob);
    await messenger.fastForward(bob.wallet.wallet, 2);
    const frame = await write(alice, "a", bob, "3");
    expect(frame.seq).toBe(3);
    const opened = await bob.on("b").open({ frame, roster: alice.roster });
    expect([textOf(opened), opened.continuity]).toEqual(["3", "gap"]);
  });

  test("a state restored together with its witness stops when the server says so", async () => {
    const { alice, bob } = await pair(suite);
    await alice.on("a").distrust();
    await refused(write(alice, "a", bob, "x"), "state_rolled_back");
    await refused((await alice.restart("a")).publishPrekeys(), "state_rolled_back");
    await alice.on("a").beginAgain();
    await connect(alice.on("a"), bob);
    expect((await write(alice, "a", bob, "x")).seq).toBe(1);
  });

  test("a browser that lost its state but not its witness becomes a new device", async () => {
    const { alice } = await pair(suite);
    const { witness } = alice.device("a");
    const store = await SessionStore.open(new MemoryStorage(), witness);
    expect(await Messenger.load(store, suite)).toBeNull();
    await alice.add("fresh");
    const { keys } = alice.device("fresh");
    const again = await Messenger.create(store, suite, keys, alice.roster, "fresh");
    expect(await again.rolledBack()).toBe(false);
    await refused(Messenger.create(store, suite, keys, alice.roster, "fresh"), "refused");
  });

  test("frames wait in the outbox, the same bytes, until they are acknowledged", async () => {
    const { alice, bob } = await pair(suite);
    const frames = [await write(alice, "a", bob, "1"), await write(alice, "a", bob, "2")];
    const messenger = await alice.restart("a");
    const wires = (await messenger.outbox()).map((one) => one.toWire());
    expect(wires).toEqual(frames.map((one) => one.toWire()));
    const [first] = frames;
    if (first === undefined) throw new Error("two frames");
    const entry = { name: "status/1", value: utf8("committed") };
    await messenger.acknowledged(first, () => [entry]);
    expect((await messenger.outbox()).map((one) => one.seq)).toEqual([2]);
    expect(await messenger.kept("status/")).toEqual([entry]);
  });

  test("what belongs to a message is kept with it, or not at all", async () => {
    const { alice, bob } = await pair(suite);
    const recipient = bob.wallet.wallet;
    const message = { recipient, rosters: [bob.roster], content: utf8("hello"), ts: 0 };
    const frame = await alice.on("a").seal(message, ({ seq }) => [
      { name: `sent/${seq}`, value: utf8("hello") },
    ]);
    expect((await alice.on("a").kept("sent/")).map((one) => one.name)).toEqual(["sent/1"]);
    const keep = (): never => {
      throw new Error("the client fails");
    };
    await expect(bob.on("b").open({ frame, roster: alice.roster }, keep)).rejects.toThrow("fails");
    const opened = await bob.on("b").open({ frame, roster: alice.roster }, ({ content }) => [
      { name: "got/1", value: content },
    ]);
    expect(textOf(opened)).toBe("hello");
    const [kept] = await (await bob.restart("b")).kept("got/");
    expect(kept?.value).toEqual(utf8("hello"));
  });

  test("kept entries are paged backwards", async () => {
    const { alice } = await pair(suite);
    const names = ["h/1", "h/2", "h/3", "h/4", "i/1"];
    await alice.on("a").keep(names.map((name) => ({ name, value: utf8(name) })));
    const page = async (options: { before?: string; limit?: number }): Promise<string[]> =>
      (await alice.on("a").kept("h/", options)).map((one) => one.name);
    expect(await page({})).toEqual(["h/1", "h/2", "h/3", "h/4"]);
    expect(await page({ limit: 2 })).toEqual(["h/3", "h/4"]);
    expect(await page({ before: "h/3", limit: 5 })).toEqual(["h/1", "h/2"]);
    await alice.on("a").keep([{ name: "h/4", value: null }]);
    expect(await page({ limit: 1 })).toEqual(["h/3"]);
  });

  test("no secret and no content lies open in the storage", async () => {
    const { alice, bob } = await pair(nobleSuite);
    const canary = utf8("a canary that nobody may read");
    const recipient = bob.wallet.wallet;
    const message = { recipient, rosters: [bob.roster], content: canary, ts: 0 };
    await alice.on("a").seal(message, () => [{ name: "sent/1", value: canary }]);
    const { storage, keys } = alice.device("a");
    const stored = concat(
      ...[...storage.backup().records.values()].map((one) =>
        one instanceof Uint8Array ? one : utf8(""),
      ),
    );
    const hex = toHex(stored);
    for (const { privateKey } of [keys.signing, keys.agreement, keys.postQuantum]) {
      if (!(privateKey instanceof Uint8Array)) throw new Error("noble's keys are seeds");
      expect(hex).not.toContain(toHex(privateKey));
    }
    expect(hex).not.toContain(toHex(canary));
    const record = await storage.read(["out/" + recipient]);
    const altered = record[0];
    if (!(altered instanceof Uint8Array)) throw new Error("a sealed record");
    await storage.write(1e9, new Map([["prekeys", altered]]));
    await refused((await alice.restart("a")).publishPrekeys(), "state_unreadable");
  });

  test("a thousand seals, and one state used twice, meet no key and nonce twice", async () => {
    const { alice, bob } = await correspondents(suite);
    const keys = new WeakMap<CryptoKey, string>();
    const met = new Set<string>();
    let sealed = 0;
    const importKey = crypto.subtle.importKey.bind(crypto.subtle) as (
      ...given: unknown[]
    ) => Promise<CryptoKey>;
    const encrypt = crypto.subtle.encrypt.bind(crypto.subtle);
    vi.spyOn(crypto.subtle, "importKey").mockImplementation(async (...given: unknown[]) => {
      const key = await importKey(...given);
      if (given[0] === "raw") keys.set(key, toHex(given[1] as Uint8Array));
      return key;
    });
    vi.spyOn(crypto.subtle, "encrypt").mockImplementation((parameters, key, data) => {
      const nonce = toHex((parameters as AesGcmParams).iv as Uint8Array);
      met.add(`${keys.get(key) ?? "state"} ${nonce}`);
      sealed++;
      return encrypt(parameters, key, data);
    });
    const messages = Array.from({ length: 250 }, (_, index) => ({
      recipient: bob.wallet.wallet,
      rosters: [bob.roster],
      content: utf8(String(index)),
      ts: 0,
    }));
    const frames = [];
    for (let round = 0; round < 4; round++) {
      frames.push(...(await alice.on("a").sealMany(messages)));
    }
    const { storage, witness } = alice.device("a");
    const [backup, generation] = [storage.backup(), witness.generation];
    frames.push(await write(alice, "a", bob, "one future"));
    storage.restore(backup);
    witness.generation = generation;
    await alice.restart("a");
    frames.push(await write(alice, "a", bob, "another future"));
    expect(new Set(frames.map((one) => toHex(one.nonce))).size).toBe(1002);
    // Each message: its payload, one wrapped key, and the records of the state.
    expect(sealed).toBeGreaterThan(2 * 1002);
    expect(met.size).toBe(sealed);
  });
});

test("whatever the server does with the frames, each opens once and nothing opens wrong", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          from: fc.constantFrom("alice" as const, "bob" as const),
          deliver: fc.array(fc.nat({ max: 7 }), { maxLength: 3 }),
          restart: fc.boolean(),
        }),
        { minLength: 1, maxLength: 12 },
      ),
      async (steps) => {
        const { alice, bob } = await correspondents(suite);
        const sides = { alice: [alice, "a"], bob: [bob, "b"] } as const;
        const sent: { frame: Frame; from: Person; to: Person; device: string; text: string }[] = [];
        const opened = new Set<Frame>();
        for (const [index, step] of steps.entries()) {
          const [from, device] = sides[step.from];
          const [to, other] = sides[step.from === "alice" ? "bob" : "alice"];
          const text = `${step.from} ${index}`;
          const frame = await write(from, device, to, text);
          sent.push({ frame, from, to, device: other, text });
          if (step.restart) await to.restart(other);
          for (const choice of step.deliver) {
            const one = sent[choice % sent.length];
            if (one === undefined) continue;
            const opening = one.to.on(one.device).open({ frame: one.frame, roster: one.from.roster });
            if (opened.has(one.frame)) {
              await refused(opening, "replayed");
            } else {
              expect(textOf(await opening)).toBe(one.text);
              opened.add(one.frame);
            }
          }
        }
      },
    ),
    { numRuns: 25 },
  );
});

test("two messengers on one state take turns and lose nothing", async () => {
  const { alice, bob } = await correspondents(suite);
  const { storage, witness } = alice.device("a");
  const second = await Messenger.load(await SessionStore.open(storage, witness), suite);
  if (second === null) throw new Error("the device is there");
  const message = { recipient: bob.wallet.wallet, rosters: [bob.roster], ts: 0 };
  const tabs = [alice.on("a"), second];
  const frames = await Promise.all(
    Array.from({ length: 40 }, (_, index) =>
      (tabs[index % 2] ?? second).seal({ ...message, content: utf8(String(index)) }),
    ),
  );
  frames.sort((one, other) => one.seq - other.seq);
  expect(frames.map((one) => one.seq)).toEqual(Array.from({ length: 40 }, (_, at) => at + 2));
  const results = await bob.on("b").openMany(frames.map((frame) => ({ frame, roster: alice.roster })));
  const continuities = results.map((one) => (one instanceof CryptoError ? one.code : one.continuity));
  expect(new Set(continuities)).toEqual(new Set(["continuous"]));
});

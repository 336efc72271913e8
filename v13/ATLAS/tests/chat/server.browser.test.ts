/**
 * A session against a server that is played by hand: what comes in what order, what makes
 * no sense, and what lies. Encryption, storage format, locks and tabs are the real ones.
 */
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { type ChatEntry, WAITING } from "../../src/chat/archive";
import { ChatSession } from "../../src/chat/session";
import { CryptoError } from "../../src/security/errors";
import type { Frame } from "../../src/security/frame";
import type { Messenger } from "../../src/security/messenger";
import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import {
  acquaint,
  connect,
  correspondents,
  KeyDirectory,
  type Person,
  utf8,
  write,
} from "../security/people";
import { FarEnd } from "../transport/far-end";

let suite: Suite;
let alice: Person;
let bob: Person;
const open: ChatSession[] = [];
beforeAll(async () => {
  suite = await selectSuite();
});
beforeEach(async () => {
  FarEnd.stand();
  ({ alice, bob } = await correspondents(suite));
  for (const frame of await alice.on("a").outbox()) await alice.on("a").acknowledged(frame);
});
afterEach(() => {
  for (const one of open.splice(0)) one.close();
  FarEnd.leave();
});

/** A tab of Alice's browser, with the conversation open and the server's head at `head`. */
async function tab(
  head = 0,
  given: Messenger | null = null,
  beforeItConnects: (session: ChatSession) => void = () => undefined,
): Promise<{ session: ChatSession; server: FarEnd }> {
  // As after a reload: another messenger on the same state.
  const messenger = given ?? (await alice.restart("a"));
  const sign = (): Promise<never> => Promise.reject(new Error("nobody signs"));
  const parts = { messenger, directory: new KeyDirectory([alice, bob]), suite, sign, url: "/v1/chat/ws", token: "t" };
  const session = await ChatSession.open(parts);
  open.push(session);
  const server = FarEnd.latest;
  await session.enter(peer());
  beforeItConnects(session);
  server.accept();
  server.say({ type: "READY", wallet: session.wallet, position: head });
  await server.hears("RESUME", 1);
  return { session, server };
}

function peer(): string {
  return bob.roster.wallet;
}

function entries(session: ChatSession): readonly ChatEntry[] {
  return session.conversation(peer()).entries;
}

function texts(session: ChatSession): readonly string[] {
  return entries(session).map((one) => one.text);
}

/** Resolves when what is shown fulfils `condition`. */
function until(session: ChatSession, condition: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!condition()) return;
      stop();
      resolve();
    };
    const stop = session.subscribe(look);
    look();
  });
}

/** A frame of Bob's as the server delivers it at a position. */
function delivered(frame: Frame, position: number): object {
  const server = { type: "CHAT_MESSAGE", id: `m${position}`, timestamp: "2026-01-01T00:00:00Z" };
  return { ...frame.toWire(), ...server, position };
}

async function fromBob(text: string, position: number): Promise<object> {
  return delivered(await write(bob, "b", alice, text), position);
}

function ack(message: Readonly<Record<string, unknown>>, position: number): object {
  const { seq, hash, recipient, device } = message;
  const timestamp = "2026-01-01T00:00:00Z";
  return { type: "ACK", seq, hash, recipient, device, position, timestamp, id: "", duplicate: false };
}

/** The message that the server has got as its `number`th, from 1. */
async function sent(server: FarEnd, number: number): Promise<Readonly<Record<string, unknown>>> {
  await server.hears("CHAT_MESSAGE", number);
  const message = server.frames("CHAT_MESSAGE")[number - 1];
  if (message === undefined) throw new Error("it has come");
  return message;
}

/** Resolves when everything that was said before has been dealt with: Bob's next message is shown. */
async function dealtWith(session: ChatSession, server: FarEnd, position: number): Promise<void> {
  const text = `a sign at ${position}`;
  server.say(await fromBob(text, position));
  await until(session, () => texts(session).includes(text));
}

test("what comes while RESUME brings what was missed waits for its place", async () => {
  const { session, server } = await tab(3);
  const [one, two, three, live] = [
    await fromBob("one", 1),
    await fromBob("two", 2),
    await fromBob("three", 3),
    await fromBob("live", 5),
  ];
  for (const frame of [live, one, two, three]) server.say(frame);
  server.say({ type: "RESUMED", position: 3, complete: true });
  await until(session, () => texts(session).length === 4);
  expect(texts(session)).toEqual(["one", "two", "three", "live"]);
  expect(new Set(entries(session).map((entry) => entry.continuity))).toEqual(new Set(["continuous"]));
});

test("a page that is closed while it resumes asks again for all that it has not opened", async () => {
  const first = await tab(3);
  first.server.say(await fromBob("live", 9));
  first.server.say(await fromBob("one", 1));
  await until(first.session, () => texts(first.session).length === 1);
  first.session.close();
  const again = await tab(9);
  expect(again.server.frames("RESUME")).toEqual([{ type: "RESUME", after: 1 }]);
});

/** Bob's messages at positions from `first` on, as the server delivers them. */
async function allFromBob(texts: readonly string[], first: number): Promise<readonly object[]> {
  const frames: object[] = [];
  for (const [at, text] of texts.entries()) frames.push(await fromBob(text, first + at));
  return frames;
}

test("messages that wait together are kept with few commits, and shown in few steps", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await dealtWith(session, server, 1);
  const lines = Array.from({ length: 200 }, (_, at) => `line ${at}`);
  const frames = await allFromBob(lines, 2);
  const { storage } = alice.device("a");
  const before = storage.backup().generation;
  let views = 0;
  session.subscribe(() => (views += 1));
  for (const frame of frames) server.say(frame);
  await until(session, () => entries(session).length === 201);
  expect(storage.backup().generation - before).toBeLessThan(10);
  expect(views).toBeLessThan(10);
  expect(texts(session)).toEqual(["a sign at 1", ...lines]);
  expect(new Set(entries(session).map((one) => one.continuity))).toEqual(new Set(["continuous"]));
  expect(session.summary(peer())).toMatchObject({ unread: 201, preview: "line 199", position: 201 });
  session.close();
  const again = await tab(201);
  expect(again.server.frames("RESUME")).toEqual([{ type: "RESUME", after: 201 }]);
  expect(texts(again.session)).toEqual(lines.slice(-50));
});

test("among many that wait, what does not open, or is one's own, stands in its place", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await session.send(peer(), "my own");
  const own = await sent(server, 1);
  const [one, two, three, four, five] = await allFromBob(["one", "two", "three", "four", "five"], 1);
  const forged = { ...two, nonce: null };
  const mine = { ...own, type: "CHAT_MESSAGE", id: "", timestamp: "2026-01-01T00:00:00Z", position: 6 };
  const another = { ...five, position: 5, recipient: "0".repeat(64) }; // a group's
  const last = { ...five, position: 7 };
  const moved = { ...three, position: 8 };
  for (const frame of [one, forged, three, three, another, four, mine, last]) server.say(frame ?? {});
  for (const frame of [last, four, moved, one]) server.say(frame ?? {});
  await dealtWith(session, server, 9);
  const shown = entries(session).map(({ text, position, problem }) => [position, problem ?? text]);
  expect(shown).toEqual([
    [1, "one"],
    [2, "decode"],
    [3, "three"],
    [4, "four"],
    [6, "my own"],
    [7, "five"],
    [8, "replayed"],
    [9, "a sign at 9"],
  ]);
});

test("what does not open holds back what is behind it until it is kept", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await dealtWith(session, server, 1);
  const [one, two, three] = await allFromBob(["one", "two", "three"], 2);
  session.messenger.keep = () => Promise.reject(new CryptoError("storage", "the disk is full"));
  for (const frame of [one, { ...two, nonce: null }, three]) server.say(frame ?? {});
  await until(session, () => session.view().problem === "storage");
  expect(texts(session)).toEqual(["a sign at 1", "one"]);
  session.close();
  const again = await tab(4);
  expect(again.server.frames("RESUME")).toEqual([{ type: "RESUME", after: 2 }]);
});

test("what comes on a new connection is not taken for what the one before it brought", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  const [one, two, three] = await allFromBob(["one", "two", "three"], 1);
  const { messenger } = session;
  const openMany = messenger.openMany.bind(messenger);
  messenger.openMany = () => {
    messenger.openMany = openMany;
    return Promise.reject(new CryptoError("storage", "the disk was full"));
  };
  for (const frame of [one, two]) server.say(frame ?? {});
  server.say({ type: "READY", wallet: session.wallet, position: 2 });
  server.say(three ?? {});
  await server.hears("RESUME", 2);
  for (const frame of [one, two]) server.say(frame ?? {});
  server.say({ type: "RESUMED", position: 2, complete: true });
  await dealtWith(session, server, 4);
  expect(texts(session)).toEqual(["one", "two", "three", "a sign at 4"]);
});

test("messages that were not for this device are kept together with those that were", async () => {
  await alice.add("later");
  await acquaint(alice, bob);
  await connect(bob.on("b"), alice);
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  const frames: object[] = [];
  const before = { recipient: alice.roster.wallet, rosters: [alice.roster], content: utf8("x"), ts: 0 };
  for (let position = 1; position <= 40; position++) {
    const message = { ...before, without: [alice.roster.device("a").id] };
    const frame = await bob.on("b").seal(position % 10 === 0 ? before : message);
    frames.push(delivered(frame, position));
  }
  const { storage } = alice.device("a");
  const { generation } = storage.backup();
  for (const frame of frames) server.say(frame);
  await until(session, () => entries(session).length === 40);
  expect(storage.backup().generation - generation).toBeLessThan(5);
  expect(entries(session).map(({ problem }) => problem)).toEqual(
    frames.map((_, at) => (at % 10 === 9 ? null : "not_addressed")),
  );
  for (const frame of frames) server.say(frame);
  await dealtWith(session, server, 41);
  expect(entries(session)).toHaveLength(41);
});

test("a position on what does not open is not believed, whether it comes early or late", async () => {
  const { session, server } = await tab(3);
  server.say({ ...(await fromBob("forged", 900)), nonce: null });
  server.say({ type: "RESUMED", position: 3, complete: true });
  server.say({ ...(await fromBob("forged again", 901)), nonce: null });
  await until(session, () => entries(session).length === 2);
  session.close();
  const again = await tab(1000);
  expect(again.server.frames("RESUME")).toEqual([{ type: "RESUME", after: 3 }]);
});

test("the second message of a stream is not sent before the ledger has the first", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  for (const text of ["one", "two", "three"]) await session.send(peer(), text);
  for (const number of [1, 2, 3]) {
    const message = await sent(server, number);
    await dealtWith(session, server, 10 * number + 1);
    expect(server.frames("CHAT_MESSAGE").map((frame) => frame["seq"])).toEqual(
      [2, 3, 4].slice(0, number),
    );
    server.say(ack(message, 10 * number));
  }
  await until(session, () => entries(session).every((one) => one.state === "committed"));
  expect(entries(session).filter((one) => one.direction === "out").map((one) => one.text)).toEqual([
    "one",
    "two",
    "three",
  ]);
});

test("ACKs that are doubled, of what was never sent, or of another device, change nothing", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await session.send(peer(), "one");
  const one = await sent(server, 1);
  for (const lie of [
    ack({ ...one, seq: 77 }, 40),
    ack({ ...one, device: "another" }, 40),
    ack({ ...one, hash: `${"A".repeat(43)}=` }, 40),
    ack({ ...one, recipient: alice.roster.wallet }, 40),
  ]) {
    server.say(lie);
  }
  await dealtWith(session, server, 50);
  expect(entries(session).map(({ text, state, position }) => [text, state, position])).toEqual([
    ["a sign at 50", "committed", 50],
    ["one", "sending", null],
  ]);
  server.say(ack(one, 51));
  server.say(ack(one, 51));
  server.say(ack(one, 60)); // the first answer stands
  await dealtWith(session, server, 70);
  const shown = entries(session).filter((entry) => entry.text === "one");
  expect(shown.map(({ state, position }) => [state, position])).toEqual([["committed", 51]]);
  expect(server.frames("CHAT_MESSAGE")).toHaveLength(1);
});

test("an ACK whose position is taken overwrites nothing", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await dealtWith(session, server, 5);
  await session.send(peer(), "put on another's place");
  server.say(ack(await sent(server, 1), 5));
  await until(session, () => entries(session).every((one) => one.state === "committed"));
  session.close();
  const again = await tab(5);
  expect(texts(again.session)).toEqual(["a sign at 5", "put on another's place"]);
});

test("receipts only go forward, only for one's own messages, and only as their recipient", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await session.send(peer(), "one");
  server.say(ack(await sent(server, 1), 5));
  const receipt = (fields: object): object => ({
    type: "RECEIPT",
    kind: "read",
    position: 5,
    wallet: peer(),
    ...fields,
  });
  server.say(receipt({ wallet: session.wallet }));
  server.say(receipt({ position: 6 }));
  server.say(receipt({ kind: "failed" }));
  server.say(receipt({ kind: "constructor" }));
  await dealtWith(session, server, 7);
  server.say(receipt({ position: 7 })); // Bob's own message
  await dealtWith(session, server, 8);
  expect(entries(session).map((one) => one.state)).toEqual(["committed", "committed", "committed"]);
  server.say(receipt({ kind: "delivered" }));
  server.say(receipt({ kind: "read" }));
  server.say(receipt({ kind: "delivered" }));
  await dealtWith(session, server, 9);
  expect(entries(session)[0]?.state).toBe("read");
});

test("frames of a wrong shape, and huge ones, change nothing that is shown", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await dealtWith(session, server, 1);
  await session.send(peer(), "one");
  const one = await sent(server, 1);
  const message = await fromBob("well-formed", 2);
  const before = entries(session);
  const wrong: readonly (object | string)[] = [
    "",
    "not JSON",
    "null",
    "[]",
    '"CHAT_MESSAGE"',
    { type: "toString" },
    { type: "__proto__" },
    { type: "THREAD", position: 3 },
    { ...message, position: -1 },
    { ...message, position: 1.5 },
    { ...message, position: "2" },
    { ...message, position: 2 ** 53 },
    { ...message, seq: null },
    { ...message, sender: 7 },
    { ...message, sender: "not a wallet" },
    { ...message, recipient: "0".repeat(64) }, // a group's
    { ...ack(one, 5), position: "5" },
    { ...ack(one, 5), hash: ["x"] },
    { ...ack(one, 5), recipient: "__proto__" },
    { type: "RESUMED", position: 9e15, complete: "yes" },
    { type: "RECEIPT", kind: ["read"], position: 1, wallet: peer() },
    { type: "PREKEYS_LOW", device: 1 },
    { type: "ERROR", code: "internal" },
    { type: "ERROR", code: "toString", detail: "", seq: 99, recipient: peer() },
    { type: "ERROR", code: "bad_signature", detail: "", seq: one["seq"], recipient: session.wallet },
    `[${"[".repeat(5_000_000)}`,
    JSON.stringify({ ...ack(one, 5), hash: "A".repeat(8_000_000) }),
  ];
  for (const frame of wrong) server.say(frame);
  await dealtWith(session, server, 3);
  expect(entries(session).filter((entry) => entry.position !== 3)).toEqual(before);
  server.say(ack(one, 5));
  await until(session, () => entries(session).every((entry) => entry.state === "committed"));
  expect(session.view().problem).toBe(null);
});

test("a message that is not what it says it is is shown as such, and then comes as it is", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  const frame = await write(bob, "b", alice, "as it is");
  const wire = delivered(frame, 2);
  const lies: readonly object[] = [
    { ...wire, device: "__proto__" },
    { ...wire, ciphertext: "A".repeat(4_000_000) },
    { ...wire, nonce: null },
    { ...wire, signature: "" },
    { ...wire, ts: 1e300 },
    { ...wire, cids: ["x"] },
    { ...wire, seq: 2 ** 53 - 1 },
  ];
  for (const lie of lies) server.say(lie);
  server.say(wire);
  await until(session, () => texts(session).includes("as it is"));
  for (const { text, problem } of entries(session)) {
    expect(problem === null ? text : "").toBe(problem === null ? "as it is" : "");
  }
  expect(entries(session).filter((one) => one.problem === null)).toHaveLength(1);
});

test("while an identity is in doubt messages are held, and nothing else is, nor with them", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  const frames = [await fromBob("held", 1), await fromBob("held too", 2)];
  await bob.renew(false);
  expect(await session.contact(peer())).toMatchObject({ succession: "reset" });
  const much = "A".repeat(1_000_000);
  for (const frame of frames) server.say({ ...frame, timestamp: much, more: much });
  server.say({ ...frames[0], position: 3, ciphertext: much, hash: much });
  await until(session, () => entries(session).some((one) => one.position === 3));
  const held = await session.messenger.kept("held/");
  expect(held.map(({ value }) => value.length < 20_000)).toEqual([true, true]);
  const sizes = (await session.messenger.kept("chat/")).map(({ value }) => value.length);
  expect(Math.max(...sizes)).toBeLessThan(1_000);
});

test("a stream whose number no device comes to is not followed to its end", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await session.send(peer(), "one");
  const { seq, recipient } = await sent(server, 1);
  const last = Number.MAX_SAFE_INTEGER;
  server.say({ type: "ERROR", code: "replayed_sequence", detail: "", seq, recipient, last_seq: last });
  await until(session, () => session.view().problem === "state_rolled_back");
  await session.beginAgain();
  const again = FarEnd.latest;
  again.accept();
  again.say({ type: "READY", wallet: session.wallet, position: 0 });
  expect(Number((await sent(again, 1))["seq"])).toBeLessThan(100);
});

test("what is refused for good is sent again once, however often one asks", async () => {
  const { session, server } = await tab();
  server.say({ type: "RESUMED", position: 0, complete: true });
  await session.send(peer(), "refused at first");
  const { seq, recipient } = await sent(server, 1);
  server.say({ type: "ERROR", code: "bad_signature", detail: "", seq, recipient });
  await until(session, () => entries(session)[0]?.state === "failed");
  const [failed] = entries(session);
  if (failed === undefined) throw new Error("it is shown");
  await Promise.all([session.retry(peer(), failed), session.retry(peer(), failed)]);
  expect(texts(session)).toEqual(["refused at first"]);
  server.say(ack(await sent(server, 2), 4));
  await dealtWith(session, server, 5);
  expect(server.frames("CHAT_MESSAGE")).toHaveLength(2);
});

test("what is written while a tab looks for what to seal anew is sealed once", async () => {
  const messenger = await alice.restart("a");
  let session: ChatSession | null = null;
  // Between its two looks, at what waits and at what is sealed, the person writes.
  const outbox = messenger.outbox.bind(messenger);
  const kept = messenger.kept.bind(messenger);
  const write = async (): Promise<void> => {
    const writing = session;
    session = null;
    await writing?.send(peer(), "once");
  };
  messenger.outbox = async () => {
    const found = await outbox();
    await write();
    return found;
  };
  messenger.kept = async (prefix, page) => {
    const found = await kept(prefix, page);
    if (prefix === WAITING) await write();
    return found;
  };
  const opened = await tab(0, messenger, (made) => (session = made));
  const { server } = opened;
  server.say({ type: "RESUMED", position: 0, complete: true });
  server.say(ack(await sent(server, 1), 2));
  await dealtWith(opened.session, server, 3);
  expect(texts(opened.session)).toEqual(["once", "a sign at 3"]);
  expect(server.frames("CHAT_MESSAGE")).toHaveLength(1);
  expect(await outbox()).toEqual([]);
});

/** A session with its store and without a server: what of it is in memory, and what other tabs do to it. */
import { afterEach, beforeEach, expect, test } from "vitest";

import { entry, keep, offline, type Offline, waitUntil } from "./offline";

const BOB = `0x${"b".repeat(40)}`;

let opened: Offline;

beforeEach(async () => {
  opened = await offline("nobody");
});
afterEach(() => {
  opened.session.close();
});

function history(from: number, to: number): ReturnType<typeof entry>[] {
  return Array.from({ length: to - from + 1 }, (_, at) => entry({ seq: from + at }));
}

function shown(): readonly number[] {
  return opened.session.conversation(BOB).entries.map(({ seq }) => seq);
}

/** Another tab has kept these, and says so. */
async function comes(entries: readonly ReturnType<typeof entry>[]): Promise<void> {
  await keep(opened, BOB, entries);
  const tab = new BroadcastChannel(`atlas-chat/${opened.session.wallet}`);
  tab.postMessage(BOB);
  tab.close();
}

test("a conversation that nobody shows keeps its line and gives up its entries", async () => {
  const { session } = opened;
  await comes(history(1, 120));
  await waitUntil(() => session.summary(BOB));
  expect(shown()).toEqual([]);
  await session.enter(BOB);
  await session.older(BOB);
  expect(shown()).toEqual(history(21, 120).map(({ seq }) => seq));
  session.leave(BOB);
  expect(shown()).toEqual([]);
  expect(session.view().conversations).toMatchObject([{ peer: BOB, unread: 120, preview: "message 120" }]);
  await comes(history(121, 121));
  await waitUntil(() => session.summary(BOB)?.preview === "message 121");
  expect(shown()).toEqual([]);
  await session.enter(BOB);
  expect(shown()).toEqual(history(72, 121).map(({ seq }) => seq));
});

test("one who leaves while it is read leaves nothing behind", async () => {
  const { session } = opened;
  await keep(opened, BOB, history(1, 10));
  const entering = session.enter(BOB);
  session.leave(BOB);
  await entering;
  expect(session.conversation(BOB)).toEqual({ loaded: false, entries: [], more: false });
});

test("a tab that slept while another took more than a page has no hole", async () => {
  const { session } = opened;
  await keep(opened, BOB, history(1, 60));
  await session.enter(BOB);
  expect(session.conversation(BOB).more).toBe(true);
  await comes(history(61, 240));
  await waitUntil(() => shown().at(-1) === 240);
  expect(shown()).toEqual(history(11, 240).map(({ seq }) => seq));
  expect(session.conversation(BOB).more).toBe(true);
});

test("a rotated identity shows, over reloads, until its number was seen, and stops nothing", async () => {
  const { session, bob, directory } = await offline("everyone");
  const { wallet: peer } = bob.roster;
  directory.history = [await bob.renew(true)];
  const contact = await session.contact(peer);
  if (contact === null) throw new Error("there is an identity");
  expect(session.summary(peer)).toMatchObject({ changed: false, rotated: true });
  expect(await session.contact(peer)).toMatchObject({ succession: "same", rotated: true });
  await session.accept(peer, contact, await session.safetyNumber(contact));
  expect(session.summary(peer)).toMatchObject({ changed: false, rotated: false });
  expect(await session.contact(peer)).toMatchObject({ rotated: false });
  session.close();
});

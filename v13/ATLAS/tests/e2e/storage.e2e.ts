/**
 * A browser that dies, or whose storage fails, at the worst moment: what is shown as sent is sent, once
 * and in its order; what could not be kept is not shown, and the person is told.
 */
import { expect, test } from "vitest";

import { type Between, type Fields, isAck, isMessage, without } from "./between";
import { Cast, type Scene } from "./cast";
import { allow, catchable, catchAt, evict, isCaught, kill } from "./fault";
import type { Person } from "./stage";

const cast = Cast.gather();

const NOT_KEPT = "The browser could not keep a message";

async function scene(): Promise<Scene> {
  return cast.scene(catchable);
}

/** The browser after its tab was killed: a new tab, on the same conversation. */
async function after(killed: Person, bob: string): Promise<Person> {
  const tab = await cast.tab(killed);
  await tab.open(bob);
  await tab.sees("hello Alice");
  return tab;
}

/** Bob gets these next, in this order, and nothing between them. */
async function hears(alice: Person, ...texts: readonly string[]): Promise<void> {
  for (const text of texts) expect(await cast.hear()).toEqual({ from: alice.wallet, text });
}

/** What left the browser under one number was always the same; no nonce served for two. */
function isSound(between: Between): void {
  const bytes = ({ ciphertext, nonce, hash, signature }: Fields): string =>
    JSON.stringify([ciphertext, nonce, hash, signature]);
  const first = new Map<unknown, Fields>();
  for (const frame of between.written()) {
    const sealed = first.get(frame["seq"]) ?? frame;
    expect(bytes(frame)).toBe(bytes(sealed));
    first.set(frame["seq"], sealed);
  }
  expect(new Set([...first.values()].map((one) => one["nonce"])).size).toBe(first.size);
}

test("killed while it keeps a message: nothing has left, and nothing of it is shown", async () => {
  const { alice, between, bob } = await scene();
  const before = between.written().length;
  await catchAt(alice, "state");
  await alice.write("never kept");
  await isCaught(alice);
  expect(await alice.line("never kept").count()).toBe(0);
  expect(await alice.field.inputValue()).toBe("never kept");
  await kill(alice);
  expect(between.written().length).toBe(before);
  const again = await after(alice, bob);
  await again.say("after the crash");
  await hears(again, "after the crash");
  expect(await again.texts()).toEqual(["hello Bob", "hello Alice", "after the crash"]);
  isSound(between);
});

test("killed between the state and its witness: the message is kept, and goes once", async () => {
  const { alice, between, bob } = await scene();
  const before = between.written().length;
  await catchAt(alice, "witness");
  await alice.write("kept in time");
  await isCaught(alice);
  expect(await alice.line("kept in time").count()).toBe(0);
  await kill(alice);
  expect(between.written().length).toBe(before);
  const again = await after(alice, bob);
  await again.line("kept in time", "In the ledger").waitFor();
  await again.say("after the crash");
  await hears(again, "kept in time", "after the crash");
  isSound(between);
});

test("killed before what was kept is sent: all goes in its order, once", async () => {
  const { alice, between, bob } = await scene();
  between.forward = without(isMessage);
  for (const text of ["one", "two", "three"]) {
    await alice.write(text);
    await alice.line(text, "Sending").waitFor();
  }
  await kill(alice);
  between.forward = (frame) => [frame];
  const again = await after(alice, bob);
  await again.line("three", "In the ledger").waitFor();
  await hears(again, "one", "two", "three");
  expect((await again.texts()).slice(2)).toEqual(["one", "two", "three"]);
  isSound(between);
});

test("killed after the server has taken it, before the ACK: it is sent again and stands once", async () => {
  const { alice, between, bob } = await scene();
  between.deliver = without(isAck);
  await alice.write("taken");
  await alice.line("taken", "Sending").waitFor();
  await hears(alice, "taken");
  await alice.write("waits behind it");
  await alice.line("waits behind it", "Sending").waitFor();
  await kill(alice);
  between.deliver = (frame) => [frame];
  const again = await after(alice, bob);
  await again.line("waits behind it", "In the ledger").waitFor();
  await again.line("taken", "In the ledger").waitFor();
  await hears(again, "waits behind it");
  expect((await again.texts()).slice(2)).toEqual(["taken", "waits behind it"]);
  isSound(between);
});

test("killed while it keeps an ACK: the next one says the same", async () => {
  const { alice, between, bob } = await scene();
  const acks: Fields[] = [];
  between.deliver = (frame) => {
    if (!isAck(frame)) return [frame];
    acks.push(frame);
    return [];
  };
  await alice.write("acknowledged");
  await alice.until(() => Promise.resolve(acks.length === 1), "the ACK");
  await catchAt(alice, "state");
  for (const ack of acks) between.show(ack);
  await isCaught(alice);
  expect(await alice.line("acknowledged", "Sending").count()).toBe(1);
  await kill(alice);
  between.deliver = (frame) => [frame];
  const again = await after(alice, bob);
  await again.line("acknowledged", `In the ledger at ${String(acks[0]?.["position"])}`).waitFor();
  await again.say("and once only");
  await hears(again, "acknowledged", "and once only");
  isSound(between);
});

test("an ACK that could not be kept is not shown, and the person is told", async () => {
  const { alice, between } = await scene();
  const acks: Fields[] = [];
  between.deliver = (frame) => {
    if (!isAck(frame)) return [frame];
    acks.push(frame);
    return [];
  };
  await alice.write("acknowledged");
  await alice.until(() => Promise.resolve(acks.length === 1), "the ACK");
  await catchAt(alice, "state", "abort");
  for (const ack of acks) between.show(ack);
  await alice.page.getByText(NOT_KEPT).first().waitFor();
  expect(await alice.line("acknowledged", "Sending").count()).toBe(1);
  await alice.screenshot("the-storage-fails");
  expect(await alice.inaccessible()).toEqual([]);
  between.deliver = (frame) => [frame];
  await alice.page.reload();
  await alice.line("acknowledged", "In the ledger").waitFor();
});

test("a witness that could not be written stops the page; the message is shown and goes once", async () => {
  const { alice, between } = await scene();
  const before = between.written().length;
  await catchAt(alice, "witness", "abort");
  await alice.write("kept all the same");
  await alice.page.getByRole("alert").getByText(NOT_KEPT).first().waitFor();
  // It may have been kept: to write on here would be to write it twice.
  expect(await alice.field.isDisabled()).toBe(true);
  expect(between.written().length).toBe(before);
  await alice.page.reload();
  await alice.line("kept all the same", "In the ledger").waitFor();
  await alice.say("once");
  await hears(alice, "kept all the same", "once");
  isSound(between);
});

test("while nothing can be kept nothing is shown as sent, delivered or read; then all of it comes", async () => {
  const { alice, between } = await scene();
  await alice.page.getByRole("checkbox", { name: "Receipts" }).check();
  await alice.say("with receipts");
  await hears(alice, "with receipts");
  await catchAt(alice, "state", "abort");
  await alice.write("no room for it");
  await alice.page.getByRole("alert").getByText(NOT_KEPT).first().waitFor();
  expect(await alice.line("no room for it").count()).toBe(0);
  await cast.say(alice, "comes meanwhile");
  await alice.until(() => Promise.resolve(between.delivered().length === 2), "Bob's message");
  await alice.page.reload();
  await alice.sees("comes meanwhile");
  const receipts = (): readonly Fields[] => between.sent.filter((one) => one["type"] === "RECEIPT");
  await alice.until(() => Promise.resolve(receipts().length === 2), "two receipts");
  // None was given for what was not kept; and both after RESUME had brought it again.
  const [position] = between.delivered().map((one) => one["position"]).slice(-1);
  expect(receipts().map((one) => [one["kind"], one["position"]])).toEqual([
    ["delivered", position],
    ["read", position],
  ]);
  await alice.say("there is room again");
  await hears(alice, "there is room again");
  isSound(between);
});

test("a quota that is used up: what finds no room is not shown as kept, and nothing is lost", async () => {
  const { alice, between, bob } = await scene();
  await allow(alice, 1);
  const before = between.written().length;
  await alice.write("no room for it");
  await alice.page.getByRole("alert").getByText(NOT_KEPT).first().waitFor();
  expect(await alice.line("no room for it").count()).toBe(0);
  // What the person wrote still stands where it was written.
  expect(await alice.field.inputValue()).toBe("no room for it");
  expect(between.written().length).toBe(before);
  expect(await alice.inaccessible()).toEqual([]);
  await alice.screenshot("the-quota-is-used-up");
  // A message that comes is not kept, and so not shown; nor is it lost.
  await cast.say(alice, "comes meanwhile");
  await alice.until(() => Promise.resolve(between.delivered().length === 2), "Bob's message");
  expect(await alice.texts()).toEqual(["hello Bob", "hello Alice"]);
  await allow(alice, null);
  await alice.page.reload();
  await alice.sees("comes meanwhile");
  await alice.open(bob);
  await alice.say("there is room again");
  await hears(alice, "there is room again");
  expect(await alice.texts()).toEqual([
    "hello Bob",
    "hello Alice",
    "comes meanwhile",
    "there is room again",
  ]);
  isSound(between);
});

test("data that is removed while the page is open: it says so, and after a reload it is no device", async () => {
  const { alice, between } = await scene();
  await evict(alice);
  await cast.say(alice, "nowhere to keep it");
  await alice.page.getByText(NOT_KEPT).first().waitFor();
  expect(await alice.line("nowhere to keep it").count()).toBe(0);
  expect(await alice.field.isDisabled()).toBe(true);
  const before = between.written().length;
  await alice.page.reload();
  await alice.page.getByRole("button", { name: /request/ }).first().waitFor();
  expect(between.written().length).toBe(before);
});

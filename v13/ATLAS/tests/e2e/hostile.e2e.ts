/** A server that lies, seen from the browser: what is wrong shows, and is never shown as right. */
import { expect, test } from "vitest";

import { type Fields, isAck, isMessage, without } from "./between";
import { Cast } from "./cast";
import type { Person } from "./stage";

const cast = Cast.gather();

/** Bob's number is compared and accepted, in this tab. */
async function accept({ page }: Person): Promise<void> {
  await page.getByRole("button", { name: "Compare" }).click();
  await page.getByTestId("safety-number").waitFor();
  await page.getByRole("button", { name: "I have compared it: accept" }).click();
}

const CHANGED = "The safety number has changed: new keys";

test("A4: a message that is dropped shows as missing", async () => {
  const { alice, between } = await cast.scene();
  between.deliver = without(isMessage);
  await cast.say(alice, "dropped");
  await alice.until(() => Promise.resolve(between.delivered().length === 2), "Bob's second message");
  between.deliver = (frame) => [frame];
  await cast.say(alice, "after the dropped one");
  await alice.sees("after the dropped one");
  await alice.page.getByText("messages before this one are missing").waitFor();
  expect(await alice.line("dropped", "AM|PM").count()).toBe(0);
  await alice.screenshot("a-message-is-missing");
});

test("A4: messages that are turned round show as missing and late", async () => {
  const { alice, between } = await cast.scene();
  const held: Fields[] = [];
  between.deliver = (frame) => {
    if (!isMessage(frame)) return [frame];
    held.push(frame);
    return held.length === 2 ? held.reverse() : [];
  };
  await cast.say(alice, "the first of two");
  await cast.say(alice, "the second of two");
  await alice.sees("the first of two");
  await alice.page.getByText("messages before this one are missing").waitFor();
  await alice.page.getByText("This message was missing and came late.").waitFor();
  // They stand in the ledger's order all the same.
  expect((await alice.texts()).slice(-2)).toEqual(["the first of two", "the second of two"]);
});

test("A4: a message in another place than its sender gave it shows as such", async () => {
  const { alice, between } = await cast.scene();
  let at = 1000;
  // The later a message came, the higher up it is put.
  between.deliver = (frame) =>
    isMessage(frame) ? [{ ...frame, position: (at -= 10) }] : [frame];
  await cast.say(alice, "written first");
  await cast.say(alice, "written second");
  await alice.sees("written second");
  expect((await alice.texts()).slice(-2)).toEqual(["written second", "written first"]);
  await alice.page.getByText("in another place than its sender did").waitFor();
  // The false places are beyond the ledger's end: at the next connection all is asked for again.
  between.deliver = (frame) => [frame];
  await alice.context.setOffline(true);
  await alice.page.getByText("There is no connection to the server.").waitFor();
  await cast.say(alice, "while a false place was believed");
  await alice.context.setOffline(false);
  await alice.sees("while a false place was believed");
});

test("the time of a message is the ledger's, and none where the server's makes no sense", async () => {
  const { alice, between } = await cast.scene();
  const [message] = between.delivered();
  const timeOf = (text: string): Promise<string | null> =>
    alice.line(text).locator("time").getAttribute("datetime");
  const ledger = Date.parse(String(message?.["timestamp"]));
  expect(await timeOf("hello Alice")).toBe(new Date(ledger).toISOString());
  for (const [at, timestamp] of ["1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", "soon"].entries()) {
    between.deliver = (frame) => [{ ...frame, ...(isMessage(frame) ? { timestamp } : {}) }];
    await cast.say(alice, `at no time ${at}`);
    await alice.line(`at no time ${at}`, "time unknown").waitFor();
  }
  expect(await alice.messages.textContent()).not.toMatch(/1969|1970|9999/);
});

test("A5: a message that is delivered again is not shown again, and nor is one's own", async () => {
  const { alice, between } = await cast.scene();
  const [message] = between.delivered();
  if (message === undefined) throw new Error("Bob has written");
  between.show(message);
  between.show({ ...message, position: 999_999 });
  await alice.page.getByText("delivered a message a second time").waitFor();
  // Her own message, as if from Bob.
  between.show({ ...message, sender: alice.wallet, recipient: message["sender"] });
  await cast.say(alice, "and on it goes");
  await alice.sees("and on it goes");
  expect((await alice.texts()).filter((text) => text === "hello Alice")).toHaveLength(1);
  await alice.screenshot("a-message-came-twice");
});

test("A3: a message that is altered, or moved to another sender, is not shown", async () => {
  const { alice, between } = await cast.scene();
  const flipped = (text: unknown): string => {
    const [first = "A", ...rest] = String(text);
    return [first === "A" ? "B" : "A", ...rest].join("");
  };
  between.deliver = (frame) =>
    isMessage(frame)
      ? [{ ...frame, ciphertext: flipped(frame["ciphertext"]) }]
      : [frame];
  await cast.say(alice, "altered on its way");
  await alice.page.getByText("could not be verified (frame_hash_mismatch)").waitFor();
  between.deliver = (frame) =>
    isMessage(frame) ? [{ ...frame, seq: Number(frame["seq"]) + 7 }] : [frame];
  await cast.say(alice, "with another number");
  await alice.until(
    async () => (await alice.page.getByText("could not be verified").count()) === 2,
    "a second message that does not verify",
  );
  expect(await alice.line("altered on its way").count()).toBe(0);
  expect(await alice.line("with another number").count()).toBe(0);
  await alice.screenshot("a-message-does-not-verify");
});

test("an ACK for another message is no ACK", async () => {
  const { alice, between } = await cast.scene();
  between.deliver = (frame) =>
    isAck(frame) ? [{ ...frame, hash: `${"A".repeat(43)}=` }] : [frame];
  await alice.write("acknowledged falsely");
  await alice.line("acknowledged falsely", "Sending").waitFor();
  await cast.hear();
  await cast.say(alice, "a sign that the ACK has come");
  await alice.sees("a sign that the ACK has come");
  expect(await alice.line("acknowledged falsely", "Sending").count()).toBe(1);
});

test("A7: a changed identity stops the conversation until the number is compared", async () => {
  const { alice } = await cast.scene();
  await alice.page.getByRole("button", { name: "Safety number" }).click();
  const digits = alice.page.getByTestId("safety-number");
  const before = await digits.textContent();
  await alice.screenshot("safety-number");
  await alice.page.keyboard.press("Escape");
  await cast.bobAnew();
  await cast.say(alice, "from the new keys");
  await alice.page.getByText(CHANGED).waitFor();
  expect(await alice.line("from the new keys").count()).toBe(0);
  expect(await alice.field.isDisabled()).toBe(true);
  await alice.screenshot("the-safety-number-has-changed");
  expect(await alice.inaccessible()).toEqual([]);
  // It outlives a reload: nothing that was held back slips through.
  await alice.page.reload();
  await alice.page.getByText(CHANGED).waitFor();
  expect(await alice.line("from the new keys").count()).toBe(0);
  await alice.page.getByRole("button", { name: "Compare" }).click();
  await digits.waitFor();
  expect(await digits.textContent()).not.toBe(before);
  await alice.page.keyboard.press("Escape");
  await accept(alice);
  await alice.sees("from the new keys");
  await alice.say("I have compared it");
  expect(await cast.hear()).toEqual({ from: alice.wallet, text: "I have compared it" });
});

test("A7: a changed identity stops both tabs, and accepting it in one releases the other", async () => {
  const { alice, between, bob } = await cast.scene();
  const other = await cast.tab(alice);
  await other.open(bob);
  await other.sees("hello Alice");
  const before = between.written().length;
  await cast.bobAnew();
  await cast.say(alice, "from the new keys");
  for (const tab of [alice, other]) {
    await tab.page.getByText(CHANGED).waitFor();
    expect(await tab.field.isDisabled()).toBe(true);
    expect(await tab.line("from the new keys").count()).toBe(0);
  }
  await accept(other);
  for (const tab of [alice, other]) {
    await tab.sees("from the new keys");
    await tab.page.getByText(CHANGED).waitFor({ state: "detached" });
  }
  // Nothing had gone under the new keys before; from now on it does, from either tab.
  expect(between.written().length).toBe(before);
  for (const [tab, text] of [[alice, "from the first tab"], [other, "from the second"]] as const) {
    await tab.say(text);
    expect(await cast.hear()).toEqual({ from: alice.wallet, text });
  }
  expect(await alice.texts()).toEqual(await other.texts());
});

test("A7: a tab that never asked the directory writes under what another tab has accepted", async () => {
  const { alice, bob } = await cast.scene();
  const other = await cast.tab(alice);
  await other.open(bob);
  await cast.bobAnew();
  // One tab comes back to the conversation and asks who Bob is now; the other one hears of it.
  await alice.close();
  await alice.open(bob);
  for (const tab of [alice, other]) await tab.page.getByText(CHANGED).waitFor();
  await accept(alice);
  await other.page.getByText(CHANGED).waitFor({ state: "detached" });
  await other.say("accepted in the other tab");
  const heard = { from: alice.wallet, text: "accepted in the other tab" };
  expect(await cast.hear()).toEqual(heard);
});

test("A7: what was accepted stays so while the directory is away, also over a reload", async () => {
  const { alice, bob } = await cast.scene();
  await cast.bobAnew();
  await cast.say(alice, "from the new keys");
  await alice.page.getByText(CHANGED).waitFor();
  await accept(alice);
  await alice.sees("from the new keys");
  await alice.context.route("**/v1/chat/identities/**", (route) => route.abort());
  await alice.close();
  await alice.open(bob);
  await alice.say("without a directory");
  await alice.page.reload();
  await alice.sees("without a directory");
  await alice.say("nor after a reload");
  expect(await alice.page.getByText(CHANGED).count()).toBe(0);
  for (const text of ["without a directory", "nor after a reload"]) {
    expect(await cast.hear()).toEqual({ from: alice.wallet, text });
  }
});

test("A7, A9: a directory that adds a device, or leaves keys out, gets no message encrypted", async () => {
  const [alice, mallory] = [await cast.person(), await cast.person()];
  const bob = await cast.bobAnew();
  // Mallory's sound statements, as if they were Bob's; then Bob's with a device of Mallory's.
  let lie: (listing: Fields, hers: Fields) => Fields = (_, hers) => ({ ...hers, wallet: bob });
  const hers = await listingOf(mallory);
  await alice.page.route(`**/v1/chat/identities/${bob}`, async (route) => {
    const answer = await route.fetch();
    const listing = (await answer.json()) as Fields;
    await route.fulfill({ response: answer, json: lie(listing, hers) });
  });
  await alice.open(bob);
  await alice.write("for nobody else");
  await alice.page.getByRole("alert").getByText(/nothing can be encrypted/).waitFor();
  lie = (listing) => ({
    ...listing,
    certificates: [...(listing["certificates"] as unknown[]), ...(hers["certificates"] as unknown[])],
  });
  await alice.field.press("Enter");
  await alice.page.getByRole("alert").first().waitFor();
  expect(await alice.lines.count()).toBe(0);
  // Bundles without a post-quantum key.
  await alice.page.unrouteAll();
  await alice.page.route(`**/v1/chat/identities/${bob}/claim`, async (route) => {
    const answer = await route.fetch();
    const { bundles } = (await answer.json()) as { bundles: { device: string; bundle: string }[] };
    const cut = bundles.map((one) => ({ ...one, bundle: withoutKem(one.bundle) }));
    await route.fulfill({ response: answer, json: { bundles: cut } });
  });
  await alice.field.press("Enter");
  await alice.page.getByRole("alert").getByText(/post_quantum_missing/).waitFor();
  expect(await alice.lines.count()).toBe(0);
  await alice.page.unrouteAll();
  await alice.field.press("Enter");
  await alice.line("for nobody else", "In the ledger").waitFor();
  expect(await cast.hear()).toEqual({ from: alice.wallet, text: "for nobody else" });
});

/** What the directory says of a person, by their own login. */
async function listingOf({ page, wallet, stage: { url } }: Person): Promise<Fields> {
  const answer = page.waitForResponse(`${url}/v1/chat/identities/${wallet}`);
  await page.reload();
  return (await (await answer).json()) as Fields;
}

// version, suite, certificate id; the signed prekey: kind, id, X25519, Ed25519, ML-DSA-65.
const BEFORE_KEM = 1 + 2 + 32 + (1 + 4 + 32 + 64 + 3309);
// flag; the KEM prekey: kind, id, ML-KEM-768, Ed25519, ML-DSA-65.
const KEM = 1 + (1 + 4 + 1184 + 64 + 3309);

function withoutKem(bundle: string): string {
  const bytes = Buffer.from(bundle, "base64");
  const cut = [bytes.subarray(0, BEFORE_KEM), Buffer.of(0), bytes.subarray(BEFORE_KEM + KEM)];
  return Buffer.concat(cut).toString("base64");
}

test("A10: an old copy of the browser's state does not send", async () => {
  const { alice, between } = await cast.scene();
  // The server knows a later number than this browser: it was restored with its witness.
  between.deliver = (frame) =>
    isAck(frame)
      ? [
          {
            type: "ERROR",
            code: "replayed_sequence",
            detail: "seq is not above the last committed one",
            seq: frame["seq"],
            recipient: frame["recipient"],
            last_seq: 41,
          },
        ]
      : [frame];
  await alice.write("from an old copy");
  await alice.page.getByText("keys are an old copy").first().waitFor();
  expect(await alice.field.isDisabled()).toBe(true);
  await alice.screenshot("an-old-copy");
  await alice.page.reload();
  await alice.page.getByText("keys are an old copy").first().waitFor();
  expect(await alice.field.isDisabled()).toBe(true);
  between.deliver = (frame) => [frame];
  await alice.page.getByRole("button", { name: "Begin again" }).click();
  // What waited is sealed anew, above what the server knows.
  await alice.line("from an old copy", "In the ledger").waitFor();
  await alice.say("and with new keys");
});

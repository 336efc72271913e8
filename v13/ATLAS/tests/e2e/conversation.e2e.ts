/** Two browsers and a Python client, through everything that a day brings. */
import type { Locator } from "playwright";
import { expect, test } from "vitest";

import { Between, isMessage, without } from "./between";
import { Cast } from "./cast";
import type { Person } from "./stage";

const cast = Cast.gather();

/** What a browser shows that asks to be a device. */
async function requestOf({ page }: Person): Promise<string> {
  await page.getByRole("button", { name: /request/ }).click();
  return (await page.locator("output").textContent()) ?? "";
}

/** Open the list of devices. */
async function devicesOf({ page }: Person): Promise<Locator> {
  await page.getByRole("button", { name: "Devices", exact: true }).click();
  return page.getByRole("dialog", { name: "Devices" });
}

/** What a list of devices gives for a request. */
async function answerTo(request: string, dialog: Locator): Promise<string> {
  await dialog.getByRole("textbox").fill(request);
  await dialog.getByRole("button", { name: "Make the answer" }).click();
  return (await dialog.locator("output").textContent()) ?? "";
}

/** `newcomer`, which has a conversation open, is let in by a device of the same wallet. */
async function letIn(newcomer: Person, by: Person): Promise<void> {
  const request = await requestOf(newcomer);
  const answer = await answerTo(request, await devicesOf(by));
  await by.page.keyboard.press("Escape");
  await newcomer.page.getByRole("textbox").last().fill(answer);
  await newcomer.page.getByRole("button", { name: "Join" }).click();
  await newcomer.field.waitFor();
}

test("two browsers and a Python client read one another in every direction", async () => {
  const [alice, carol] = await cast.pair();
  const bob = await cast.bob();

  await alice.say("from Alice to Carol");
  await carol.sees("from Alice to Carol");
  await carol.say("from Carol to Alice");
  await alice.sees("from Carol to Alice");

  for (const one of [alice, carol]) {
    await one.open(bob);
    await one.say("from a browser to Bob");
    expect(await cast.hear()).toEqual({ from: one.wallet, text: "from a browser to Bob" });
    await cast.say(one, "from Bob to a browser");
    await one.sees("from Bob to a browser");
    expect(await one.texts()).toEqual(["from a browser to Bob", "from Bob to a browser"]);
  }
});

test("a reload in the middle loses nothing, shows nothing twice and goes on", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("before the reload");
  await carol.sees("before the reload");
  await carol.page.reload();
  await carol.sees("before the reload");
  await carol.say("after the reload");
  await alice.sees("after the reload");
  await alice.page.reload();
  await alice.sees("after the reload");
  expect(await alice.texts()).toEqual(["before the reload", "after the reload"]);
  expect(await carol.texts()).toEqual(["before the reload", "after the reload"]);
});

test("what is written offline says so, survives a reload, and goes out in its order", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("online");
  await carol.sees("online");
  await alice.context.setOffline(true);
  await alice.page.getByText("There is no connection to the server.").waitFor();
  await alice.write("offline one");
  await alice.line("offline one", "Sending").waitFor();
  await alice.write("offline two");
  await alice.line("offline two", "Sending").waitFor();
  await alice.screenshot("offline");
  expect(await carol.texts()).toEqual(["online"]);
  await alice.context.setOffline(false);
  await alice.line("offline two", "In the ledger").waitFor();
  await carol.sees("offline two");
  expect(await carol.texts()).toEqual(["online", "offline one", "offline two"]);
  // Carol was away while Alice wrote: she gets it when she is back.
  await carol.context.setOffline(true);
  await alice.say("while Carol is away");
  await carol.context.setOffline(false);
  await carol.sees("while Carol is away");
});

test("a message that was sealed and not acknowledged goes out after a reload", async () => {
  const between = new Between();
  const [alice, carol] = [await cast.person(between.stand), await cast.person()];
  await alice.open(carol.wallet);
  await carol.open(alice.wallet);
  await alice.say("first");
  between.forward = without(isMessage);
  await alice.write("kept over the reload");
  await alice.line("kept over the reload", "Sending").waitFor();
  between.forward = (frame) => [frame];
  await alice.page.reload();
  await alice.line("kept over the reload", "In the ledger").waitFor();
  await carol.sees("kept over the reload");
  expect(await carol.texts()).toEqual(["first", "kept over the reload"]);
});

test("two tabs of one wallet write and read side by side", async () => {
  const [alice, carol] = await cast.pair();
  const other = await cast.tab(alice);
  await other.open(carol.wallet);
  await alice.say("from the first tab");
  await other.sees("from the first tab");
  await other.say("from the second tab");
  await alice.sees("from the second tab");
  await Promise.all([alice.say("at once, one"), other.say("at once, two")]);
  await carol.sees("at once, one");
  await carol.sees("at once, two");
  await carol.say("to both tabs");
  await alice.sees("to both tabs");
  await other.sees("to both tabs");
  await alice.until(async () => (await alice.texts()).length === 5, "five lines");
  await other.until(async () => (await other.texts()).length === 5, "five lines");
  expect(await other.texts()).toEqual(await alice.texts());
  expect((await carol.texts()).length).toBe(5);
});

test("a restart of the server is a pause, and nothing more", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("before the restart");
  await cast.stage.ask({ do: "restart" });
  await alice.write("around the restart");
  await alice.line("around the restart", "In the ledger").waitFor();
  await carol.sees("around the restart");
  await carol.say("after the restart");
  await alice.sees("after the restart");
  const expected = ["before the restart", "around the restart", "after the restart"];
  expect(await alice.texts()).toEqual(expected);
  expect(await carol.texts()).toEqual(expected);
});

test("receipts are given once they are turned on, and never before", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("no receipt for this");
  await carol.sees("no receipt for this");
  await carol.say("Carol has read it");
  await alice.sees("Carol has read it");
  expect(await alice.line("no receipt for this", "In the ledger").count()).toBe(1);
  expect(await alice.line("no receipt for this", "Delivered").count()).toBe(0);
  expect(await alice.line("no receipt for this", "Read").count()).toBe(0);
  await carol.page.getByRole("checkbox", { name: "Receipts" }).check();
  await alice.write("a receipt for this");
  await alice.line("a receipt for this", "Read").waitFor();
});

test("the list counts what is unread, and the conversation's end is where one stands", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("one");
  await carol.sees("one");
  await carol.close();
  await alice.say("two");
  await alice.say("three");
  const row = carol.page.getByRole("button", { name: /2 unread/ });
  await row.waitFor();
  await row.click();
  await carol.sees("three");
  await carol.page.getByRole("button", { name: /unread/ }).waitFor({ state: "detached" });
});

test("two tabs that make the wallet's device at the same time become the same device", async () => {
  const [one, other] = (await cast.stage.twins()).map((twin) => cast.join(twin));
  if (one === undefined || other === undefined) throw new TypeError("twins are two");
  const bob = await cast.person();
  await one.open(bob.wallet);
  await other.open(bob.wallet);
  await bob.open(one.wallet);
  await one.say("from the one");
  await other.sees("from the one");
  await other.say("from the other");
  await bob.sees("from the other");
  expect(await bob.texts()).toEqual(["from the one", "from the other"]);
});

test("a second browser of a wallet joins by request and answer, and both read from then on", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("before the second browser");
  await carol.sees("before the second browser");
  const second = cast.join(await alice.elsewhere());
  const third = cast.join(await alice.elsewhere());
  // The list asks; once there is a window it asks instead, with the same request.
  const request = await requestOf(second);
  await second.page.evaluate((wallet) => {
    location.hash = wallet;
  }, carol.wallet);
  const gate = second.page.getByRole("region", { name: /^Chat with/ });
  await gate.locator("output").waitFor();
  expect(await second.page.locator("output").allTextContents()).toEqual([request]);
  await second.screenshot("a-further-device");
  expect(await second.inaccessible()).toEqual([]);
  await second.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await gate.getByRole("button", { name: "Copy the request" }).click();
  await gate.getByText("Copied.").waitFor();
  expect(await second.page.evaluate(() => navigator.clipboard.readText())).toBe(request);
  // In a low window all of it can be come to.
  await second.page.setViewportSize({ width: 360, height: 480 });
  await gate.getByText("The other device is lost").click();
  await gate.getByText("1. Copy this").hover();
  const last = gate.getByRole("button", { name: "Begin anew" });
  const isInSight = (): Promise<boolean> =>
    last.evaluate((button) => {
      const { bottom } = button.getBoundingClientRect();
      return bottom <= innerHeight;
    });
  expect(await isInSight()).toBe(false);
  await second.page.mouse.wheel(0, 2000);
  await second.until(isInSight, "the last of the gate is in sight");
  await second.page.setViewportSize({ width: 1280, height: 720 });

  const dialog = await devicesOf(alice);
  await dialog.getByRole("textbox").fill("not a request");
  await dialog.getByRole("button", { name: "Make the answer" }).click();
  await dialog.getByText("This is not a device’s request.").waitFor();
  const answer = await answerTo(request, dialog);
  const another = await answerTo(await requestOf(third), dialog);
  await alice.page.keyboard.press("Escape");

  // What is no answer, or one to another request, is said, and the request is still there.
  for (const [wrong, problem] of [
    ["not an answer", "This is not an answer."],
    [another, "This is the answer to another request."],
  ] as const) {
    await gate.getByRole("textbox").fill(wrong);
    await gate.getByRole("button", { name: "Join" }).click();
    await gate.getByRole("alert").getByText(problem).waitFor();
    expect(await gate.locator("output").textContent()).toBe(request);
  }
  await second.screenshot("a-wrong-answer");
  await gate.getByRole("textbox").fill(answer);
  await gate.getByRole("button", { name: "Join" }).click();
  await second.field.waitFor();
  // Whoever writes asks the directory again within a minute; a reload asks at once.
  await carol.page.reload();
  await carol.say("to both browsers");
  await alice.sees("to both browsers");
  await second.sees("to both browsers");
  await second.say("from the second browser");
  await carol.sees("from the second browser");
  await alice.sees("from the second browser");
  // What was written before was not encrypted for it, and says so.
  expect(await second.line("before the second browser").count()).toBe(0);
  expect(await second.line("not encrypted for this device").count()).toBe(1);
});

test("renewed keys: the other side is told, the device left behind says so and is let in again", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("before");
  await carol.sees("before");
  const second = cast.join(await alice.elsewhere());
  await second.page.evaluate((wallet) => {
    location.hash = wallet;
  }, carol.wallet);
  await letIn(second, alice);
  await second.say("from the second browser");
  await carol.sees("from the second browser");

  const dialog = await devicesOf(alice);
  const [mine, other] = ["(this browser)", "web-"].map((text) =>
    dialog.getByRole("listitem").filter({ hasText: text }),
  );
  await other?.nth(2).waitFor(); // two of Alice's, one of Carol's
  await dialog.getByText("Renew your keys").click();
  await dialog.getByRole("button", { name: "Renew", exact: true }).click();
  await dialog.getByText("Your keys are renewed.").waitFor();
  // The list is what is encrypted for from now on.
  await other?.nth(2).waitFor({ state: "detached" });
  expect(await mine?.count()).toBe(1);
  await alice.screenshot("keys-renewed");
  expect(await alice.inaccessible()).toEqual([]);
  await alice.page.keyboard.press("Escape");
  await alice.say("under the new keys");
  await carol.sees("under the new keys");
  await carol.page.getByText("has renewed its keys").waitFor();
  await carol.screenshot("renewed-on-the-other-side");

  // The one left behind is told at once, and what to do; what it writes waits.
  await second.page.getByRole("alert").getByText("This device no longer counts").waitFor();
  await second.write("from the one left behind");
  await second.line("from the one left behind", "Sending").waitFor();
  await second.screenshot("left-behind-and-writing");
  await second.page.reload();
  await second.page.getByText("Your keys were renewed on another device").waitFor();
  expect(await second.inaccessible()).toEqual([]);
  await second.screenshot("left-behind");
  await letIn(second, alice);
  // Whoever writes asks the directory again within a minute; a reload asks at once.
  await carol.page.reload();
  await carol.say("to both again");
  await alice.sees("to both again");
  await second.sees("to both again");
  await second.say("let in again");
  await carol.sees("let in again");
  // What it wrote meanwhile went out then, and once.
  await second.line("from the one left behind", "In the ledger").waitFor();
  await alice.sees("from the one left behind");
  const texts = (await carol.texts()).filter((text) => text === "from the one left behind");
  expect(texts).toHaveLength(1);
});

test("a browser whose wallet began anew elsewhere says that it no longer counts", async () => {
  const [alice, carol] = await cast.pair();
  await alice.say("before");
  await carol.sees("before");
  const other = cast.join(await alice.elsewhere());
  await other.page.getByText("The other device is lost").click();
  await other.page.getByRole("checkbox", { name: "I understand" }).check();
  await other.page.getByRole("button", { name: "Begin anew" }).click();
  await other.open(carol.wallet);
  await other.say("from the new identity");
  await alice.page.getByRole("alert").getByText("This device no longer counts").waitFor();
  expect(await alice.texts()).toEqual(["before"]);
  await alice.screenshot("replaced");
  await alice.page.reload();
  await alice.page.getByText("If you did not renew them, somebody else can sign").waitFor();
});

test("a long history is read page by page, and stays where the reader is", async () => {
  const alice = await cast.person();
  const bob = await cast.bobAnew();
  const count = 1000;
  for (let at = 1; at <= count; at++) {
    await cast.say(alice, `line ${at} of many`);
  }
  await alice.open(bob);
  await alice.sees(`line ${count} of many`);
  await alice.page.reload();
  await alice.sees(`line ${count} of many`);
  const { lines } = alice;
  // What is not asked for is not drawn.
  expect(await lines.count()).toBeLessThan(200);
  while ((await alice.line("line 1 of many").count()) === 0) {
    const before = await lines.count();
    await alice.messages.evaluate(async (list) => {
      await new Promise((resolve) => {
        list.addEventListener("scroll", resolve, { once: true });
        list.scrollTop = 0;
      });
      // The page before may have come by itself already, and have been the last.
      list.querySelector("button")?.click();
    });
    await alice.until(async () => (await lines.count()) > before, "an older page");
    // The reader is not thrown back to the end.
    const fromEnd = await alice.messages.evaluate(
      (list) => list.scrollHeight - list.scrollTop - list.clientHeight,
    );
    expect(fromEnd).toBeGreaterThan(500);
  }
  const texts = await alice.texts();
  expect(texts).toEqual(Array.from({ length: count }, (_, index) => `line ${index + 1} of many`));
});

/** The window and the list around a conversation, on a server that is played by hand. */
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import { waitUntil } from "../chat/offline";
import { fill, inPage, type Page } from "../chat/page";
import { KeyDirectory, pair, type Person } from "../security/people";
import { FarApi } from "../transport/far-api";
import { FarEnd } from "../transport/far-end";

let suite: Suite;
let bob: Person;
let directory: KeyDirectory;
beforeAll(async () => {
  suite = await selectSuite();
});
beforeEach(async () => {
  const people = await pair(suite);
  ({ bob } = people);
  directory = new KeyDirectory([people.alice, bob]);
  FarApi.stand(directory);
});
afterEach(() => {
  FarApi.leave();
  Reflect.deleteProperty(document, "visibilityState");
});

async function begin(page: Page): Promise<FarEnd> {
  page.show();
  const server = await page.online(0);
  await waitUntil(() => page.field);
  return server;
}

function sees(page: Page, text: string): Promise<unknown> {
  return waitUntil(() => page.place.textContent.includes(text));
}

function receipts(page: Page): HTMLInputElement {
  const found = page.place.querySelector<HTMLInputElement>("header input[type='checkbox']");
  if (found === null) throw new Error("one can turn receipts on");
  return found;
}

test("a message is counted until it is seen, and seen only in a page that is in front", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
    server.say(await page.fromBob("while she is away", 1));
    await sees(page, "while she is away");
    expect(page.place.querySelector("nav li")?.textContent).toContain("1 unread");
    Reflect.deleteProperty(document, "visibilityState");
    document.dispatchEvent(new Event("visibilitychange"));
    await waitUntil(() => !page.place.textContent.includes("unread"));
    // None was turned on.
    expect(server.frames("RECEIPT")).toEqual([]);
  });
});

test("receipts are given from when they are turned on, and no more once they are off", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    expect(receipts(page).checked).toBe(false);
    receipts(page).click();
    await waitUntil(() => receipts(page).checked);
    server.say(await page.fromBob("with a receipt", 1));
    await server.hears("RECEIPT", 2);
    expect(server.frames("RECEIPT").map(({ kind, position }) => [kind, position])).toEqual([
      ["delivered", 1],
      ["read", 1],
    ]);
    receipts(page).click();
    await waitUntil(() => !receipts(page).checked);
    server.say(await page.fromBob("without one", 2));
    await sees(page, "without one");
    await waitUntil(() => !page.place.textContent.includes("unread"));
    expect(server.frames("RECEIPT")).toHaveLength(2);
  });
});

test("what came before a window was opened is read when it is, and its sender is told", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    receipts(page).click();
    await waitUntil(() => receipts(page).checked);
    page.show({ peerWallet: `0x${"c3".repeat(20)}` });
    await sees(page, "0xc3c3c3…c3c3c3");
    server.say(await page.fromBob("not looked at yet", 1));
    await sees(page, "1 unread");
    page.show();
    await waitUntil(() => page.place.querySelector("article") && !page.place.textContent.includes("unread"));
    await server.hears("RECEIPT", 2);
    expect(server.frames("RECEIPT").map(({ kind }) => kind)).toEqual(["delivered", "read"]);
  });
});

test("receipts that cannot be turned on stay off, and it says why", async () => {
  await inPage(bob, async (page) => {
    await begin(page);
    // As on a full disk: the browser ends a transaction at its last record.
    const { prototype } = IDBObjectStore;
    const put: unknown = Reflect.get(prototype, "put");
    if (typeof put !== "function") throw new TypeError("one can put");
    Reflect.set(prototype, "put", function (this: IDBObjectStore, value: unknown, key: IDBValidKey) {
      const request: unknown = Reflect.apply(put, this, [value, key]);
      if (key === "generation") this.transaction.abort();
      return request;
    });
    try {
      receipts(page).click();
      await sees(page, "Receipts are as they were. The browser could not keep");
      expect(receipts(page).checked).toBe(false);
    } finally {
      Reflect.set(prototype, "put", put);
    }
  });
});

test("a refused connection says why, as far as the server has said it", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    server.say({ type: "ERROR", code: "unknown_device", detail: "" });
    server.onclose({ code: 1008 });
    await sees(page, "This device no longer counts");
    expect(page.place.textContent).toContain("Logged out");
    page.show();
    await waitUntil(() => server !== FarEnd.latest);
    FarEnd.latest.accept();
    FarEnd.latest.onclose({ code: 4401 });
    await sees(page, "Your login is no longer valid. Log in again.");
  });
});

test("a changed number blocks the field, offers the comparison, and is not told as a renewed one", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    server.say(await page.fromBob("before", 1));
    await sees(page, "before");
    directory.history = [await bob.renew(true)];
    page.press("Safety number");
    await sees(page, "vouch for the new. Messages go on.");
    expect(page.field?.disabled).toBe(false);
    page.press("Close");
    directory.history = [...directory.history, await bob.renew(false)];
    page.press("Safety number");
    await sees(page, "Nothing is sent, and nothing new is shown");
    expect(page.place.textContent).not.toContain("vouch for the new");
    expect(page.place.textContent).toContain("Compare it before you write.");
    expect(page.place.querySelector("nav li")?.textContent).toContain("The safety number has changed");
    expect(page.field?.disabled).toBe(true);
    page.press("Close");
    await waitUntil(() => page.place.querySelector("dialog") === null);
    page.press("Compare");
    await waitUntil(() => page.button("I have compared it: accept"));
    page.press("I have compared it: accept");
    await waitUntil(() => page.field?.disabled === false);
    // The dialog goes with the acceptance.
    await waitUntil(() => page.place.querySelector("dialog") === null);
    expect(page.place.textContent).not.toMatch(/has changed|vouch for the new/);
  });
});

test("the window says how the connection is, and that what waits is kept", async () => {
  await inPage(bob, async (page) => {
    page.show();
    await waitUntil(() => page.place.querySelector("[data-connection='connecting']"));
    await sees(page, "Connecting…");
    const server = await page.online(0);
    await sees(page, "Connected");
    server.onclose({ code: 1006 });
    await sees(page, "There is no connection to the server.");
    expect(page.place.querySelector("[data-connection]")?.textContent).toMatch(/Offline|Connecting/);
    page.write("kept meanwhile");
    await sees(page, "Sending");
  });
});

test("what the server no longer has is told", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    expect(page.place.textContent).not.toContain("no longer on the server");
    server.say({ type: "READY", wallet: page.wallet, position: 4 });
    server.say({ type: "RESUMED", position: 4, complete: false });
    await sees(page, "Some of what you missed is no longer on the server");
  });
});

test("a message that is refused can be sent again, and then stands once", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    page.write("at the second time");
    await server.hears("CHAT_MESSAGE", 1);
    const [{ seq, recipient } = {}] = server.frames("CHAT_MESSAGE");
    server.say({ type: "ERROR", code: "not_a_member", detail: "", seq, recipient });
    await sees(page, "Not sent: the server does not let you write here");
    page.press("Send again");
    await server.hears("CHAT_MESSAGE", 2);
    await sees(page, "Sending");
    const states = [...page.place.querySelectorAll("[data-state]")].map((one) => one.textContent);
    expect(states).toEqual(["Sending"]);
  });
});

test("it closes where the page can close it, and shows the devices of both sides", async () => {
  await inPage(bob, async (page) => {
    await begin(page);
    expect(page.button("Close chat")).toBeNull();
    let closed = 0;
    page.show({ onClose: () => (closed += 1) });
    await waitUntil(() => page.button("Close chat"));
    page.press("Close chat");
    expect(closed).toBe(1);
    page.press("Devices");
    await sees(page, "(this browser)");
    await waitUntil(() => page.place.querySelectorAll("dialog li").length === 2);
    const devices = [...page.place.querySelectorAll("dialog li")].map((one) => one.textContent);
    expect(devices[0]).toMatch(/^web-[0-9a-f]+ \(this browser\)$/);
    expect(devices[1]).toBe("b");
  });
});

test("another peer's window has nothing of the one before", async () => {
  await inPage(bob, async (page) => {
    await begin(page);
    const { field } = page;
    if (field === null) throw new Error("one can write");
    fill(field, "a draft to Bob");
    page.press("Devices");
    await waitUntil(() => page.place.querySelector("dialog"));
    page.show({ peerWallet: `0x${"C3".repeat(20)}` });
    await sees(page, "0xc3c3c3…c3c3c3");
    expect(page.field?.value).toBe("");
    expect(page.place.querySelector("dialog")).toBeNull();
  });
});

test("the list opens wallets, but not one's own, nor what is none", async () => {
  await inPage(bob, async (page) => {
    await begin(page);
    const address = page.place.querySelector<HTMLInputElement>("nav input");
    if (address === null) throw new Error("one can begin a conversation");
    const open = async (text: string): Promise<string> => {
      fill(address, text);
      await waitUntil(() => page.place.querySelector("nav [role='alert']") === null);
      address.form?.requestSubmit();
      await waitUntil(() => page.place.querySelector("nav [role='alert']") ?? address.value === "");
      return page.place.querySelector("nav [role='alert']")?.textContent ?? "";
    };
    expect(await open(page.wallet.toUpperCase().replace("0X", "0x"))).toBe("This is your own wallet.");
    for (const none of ["0x12", "bob", `${bob.roster.wallet}0`, `x${bob.roster.wallet}`]) {
      expect(await open(none)).toBe("A wallet’s address is 0x and 40 hexadecimal digits.");
    }
    expect(page.opened).toEqual([]);
    expect(await open(`  ${bob.roster.wallet.toUpperCase().replace("0X", "0x")} `)).toBe("");
    expect(page.opened).toEqual([bob.roster.wallet]);
  });
});

test("the list marks the open conversation and opens the one that is pressed", async () => {
  await inPage(bob, async (page) => {
    const server = await begin(page);
    expect(page.place.textContent).toContain("No conversations yet.");
    server.say(await page.fromBob("hello", 1));
    const row = await waitUntil(() => page.place.querySelector<HTMLElement>("nav li button"));
    expect(row.ariaCurrent).toBe("true");
    expect(row.textContent).toContain("hello");
    expect(page.place.textContent).not.toContain("No conversations yet.");
    row.click();
    expect(page.opened).toEqual([bob.roster.wallet]);
  });
});

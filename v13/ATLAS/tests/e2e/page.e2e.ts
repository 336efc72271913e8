/** The page itself: what it may load, what leaves it, who can use it, and how it looks. */
import { afterAll, beforeAll, expect, test } from "vitest";

import { type Person, Stage } from "./stage";

let stage: Stage;
let alice: Person;
let carol: Person;

beforeAll(async () => {
  stage = await Stage.set();
  [alice, carol] = [await stage.person(), await stage.person()];
});
afterAll(async () => {
  expect([...alice.complaints, ...carol.complaints]).toEqual([]);
  await stage.strike();
});

test("every state is accessible, in light and dark, wide and narrow", async () => {
  const seen = async (name: string): Promise<void> => {
    for (const colorScheme of ["light", "dark"] as const) {
      await alice.page.emulateMedia({ colorScheme });
      await alice.screenshot(`${name}-${colorScheme}`);
      expect(await alice.inaccessible(), `${name}, ${colorScheme}`).toEqual([]);
    }
  };
  await seen("nothing-yet");
  await alice.open(carol.wallet);
  await alice.page.getByText("No messages yet").waitFor();
  await seen("empty-conversation");
  await alice.say("A first message");
  await carol.open(alice.wallet);
  await carol.say("And its answer, which is long enough to need a second line on a narrow screen.");
  await alice.sees("And its answer");
  await seen("conversation");
  await alice.page.getByRole("button", { name: "Safety number" }).click();
  await alice.page.getByTestId("safety-number").waitFor();
  await seen("safety-number");
  await alice.page.keyboard.press("Escape");
  await alice.page.getByRole("button", { name: "Devices" }).click();
  await alice.page.getByText("(this browser)").waitFor();
  await seen("devices");
  await alice.page.keyboard.press("Escape");
  await alice.page.setViewportSize({ width: 360, height: 640 });
  await alice.sees("And its answer");
  await seen("narrow");
  const wider = await alice.page.evaluate(
    () => document.documentElement.scrollWidth > document.documentElement.clientWidth,
  );
  expect(wider).toBe(false);
  await alice.page.setViewportSize({ width: 1280, height: 720 });
});

test("everything can be done with the keyboard", async () => {
  await alice.page.emulateMedia({ colorScheme: "light" });
  await alice.field.focus();
  await alice.page.keyboard.type("by the keyboard");
  await alice.page.keyboard.press("Shift+Enter");
  await alice.page.keyboard.type("on two lines");
  await alice.page.keyboard.press("Enter");
  await alice.line("on two lines", "In the ledger").waitFor();
  await alice.page.getByRole("button", { name: "Safety number" }).focus();
  await alice.page.keyboard.press("Enter");
  const dialog = alice.page.getByRole("dialog", { name: "Safety number" });
  await dialog.waitFor();
  for (let presses = 0; presses < 5; presses++) {
    await alice.page.keyboard.press("Tab");
    const outside = await alice.page.evaluate(
      () => document.activeElement?.closest("dialog, body")?.tagName,
    );
    expect(["DIALOG", "BODY"]).toContain(outside);
  }
  await alice.page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
});

test("in a narrow window the focus goes where the person goes", async () => {
  const focus = (): Promise<string> =>
    alice.page.evaluate(() => {
      const focused = document.activeElement as HTMLElement;
      if (focused === document.body || focused.offsetParent === null) return "nowhere";
      return focused.querySelector("textarea") === null ? "list" : "chat";
    });
  await alice.page.setViewportSize({ width: 360, height: 640 });
  await alice.page.getByRole("button", { name: "Close chat" }).press("Enter");
  await alice.field.waitFor({ state: "detached" });
  expect(await focus()).toBe("list");
  await alice.page.getByRole("textbox", { name: "New conversation" }).fill(carol.wallet);
  await alice.page.keyboard.press("Enter");
  await alice.field.waitFor();
  expect(await focus()).toBe("chat");
  await alice.page.setViewportSize({ width: 1280, height: 720 });
});

test("nothing moves when a message comes or its state changes", async () => {
  const shift = await alice.page.evaluate(async () => {
    // What an earlier test changed (the window's width) is drawn before counting begins.
    for (let frames = 0; frames < 2; frames++) {
      await new Promise((drawn) => requestAnimationFrame(drawn));
    }
    const shifts = { sum: 0 };
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        shifts.sum += (entry as unknown as { value: number }).value;
      }
    }).observe({ type: "layout-shift", buffered: false });
    Object.assign(window, { shifts });
    return shifts.sum;
  });
  expect(shift).toBe(0);
  await carol.say("a message that comes");
  await alice.sees("a message that comes");
  await alice.say("a message that goes");
  const moved = await alice.page.evaluate(
    () => (window as unknown as { shifts: { sum: number } }).shifts.sum,
  );
  expect(moved).toBeLessThan(0.1); // what the Core Web Vitals call good
});

test("A1: what is written reaches neither the server's disk nor the browser's in the clear", async () => {
  const canary = "canary-that-nobody-else-may-read";
  await alice.say(canary);
  await carol.sees(canary);
  const { hex } = await stage.ask<{ hex: string }>({ do: "kept" });
  const bytes = Buffer.from(hex, "hex");
  expect(bytes.includes(alice.wallet)).toBe(true); // the ledger is in what was searched
  expect(bytes.includes(canary)).toBe(false);
  expect(bytes.includes(Buffer.from(canary).toString("base64").slice(0, 40))).toBe(false);
  // What the page itself keeps is sealed under a key that does not leave the browser.
  const stored = await alice.page.evaluate(async (text) => {
    const databases = await indexedDB.databases();
    const found: string[] = [];
    for (const { name } of databases) {
      const database = await new Promise<IDBDatabase>((resolve, reject) => {
        const opening = indexedDB.open(name ?? "");
        opening.onsuccess = () => {
          resolve(opening.result);
        };
        opening.onerror = () => {
          reject(new Error("it does not open"));
        };
      });
      for (const store of database.objectStoreNames) {
        const all = database.transaction(store).objectStore(store).getAll();
        await new Promise((resolve) => {
          all.onsuccess = resolve;
        });
        for (const value of all.result as unknown[]) {
          if (value instanceof Uint8Array) found.push(new TextDecoder("latin1").decode(value));
          else found.push(JSON.stringify(value));
        }
      }
      database.close();
    }
    return { records: found.length, leaked: found.some((one) => one.includes(text)) };
  }, canary);
  expect(stored.records).toBeGreaterThan(10);
  expect(stored.leaked).toBe(false);
});

test("A15: no URL holds a token, and nobody but the server is asked", () => {
  expect(alice.requested.length).toBeGreaterThan(5);
  const origin = new URL(stage.url).host;
  for (const url of [...alice.requested, ...carol.requested]) {
    expect(new URL(url).host).toBe(origin);
    expect(url).not.toMatch(/token|eyJ/);
  }
});

test("the policy lets no foreign script in, and no string become one", async () => {
  const response = await alice.page.request.get(stage.url);
  const policy = response.headers()["content-security-policy"] ?? "";
  for (const rule of ["default-src 'none'", "script-src 'self'", "trusted-types 'none'"]) {
    expect(policy).toContain(rule);
  }
  const outcome = await alice.page.evaluate(async () => {
    // In a later turn: the debugger's own call is excused from the policy.
    await new Promise((resolve) => setTimeout(resolve, 0));
    const tries: Record<string, string> = {};
    const attempt = (name: string, work: () => void): void => {
      try {
        work();
        tries[name] = "let through";
      } catch (error) {
        tries[name] = (error as Error).name;
      }
    };
    attempt("innerHTML", () => {
      document.createElement("div").innerHTML = "<img src=x onerror=alert(1)>";
    });
    attempt("eval", () => {
      (0, eval)("1");
    });
    return tries;
  });
  expect(outcome).toEqual({ innerHTML: "TypeError", eval: "EvalError" });
});

test("markup in a message is text", async () => {
  const markup = "<img src=x onerror=alert(1)><b>bold</b>";
  await alice.say(markup);
  await carol.sees(markup);
  expect(await carol.messages.locator("img, b").count()).toBe(0);
});

test("a browser whose clock is a day ahead logs in once, like any other", async () => {
  const ahead = await stage.person(async (context) => {
    await context.addInitScript(() => {
      const now = Date.now.bind(Date);
      Date.now = () => now() + 24 * 3_600_000;
    });
  });
  await ahead.open(carol.wallet);
  await ahead.say("from tomorrow");
  expect(ahead.requested.filter((url) => url.endsWith("/v1/auth/challenge"))).toHaveLength(1);
  await ahead.leave();
});

test("a wallet that the person keeps closed is said, and can be tried again", async () => {
  const context = await alice.context.browser()?.newContext();
  if (context === undefined) throw new Error("a browser is open");
  await context.addInitScript(() => {
    // What wallets reject with is no Error (EIP-1193).
    const request = (): Promise<never> =>
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
      Promise.reject({ code: 4001, message: "User rejected the request." });
    Object.assign(window, { ethereum: { request } });
  });
  const page = await context.newPage();
  await page.goto(stage.url);
  await page.getByRole("button", { name: "Connect your wallet" }).click();
  await page.getByRole("alert").getByText("Your wallet did not sign").waitFor();
  await page.getByRole("button", { name: "Use a throw-away wallet" }).click();
  await page.getByRole("textbox", { name: "New conversation" }).waitFor();
  await context.close();
});

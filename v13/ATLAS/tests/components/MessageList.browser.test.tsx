/** The lines of a conversation: what time they show, and what of them is spoken. */
import { act, type ComponentProps } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import type { ChatEntry } from "../../src/chat/archive";
import { MessageList } from "../../src/components/MessageList";
import { CryptoError } from "../../src/security/errors";
import { entry, waitUntil } from "../chat/offline";

let root: Root;
let place: HTMLElement;

beforeEach(() => {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
});
afterEach(() => {
  act(() => {
    root.unmount();
  });
  place.remove();
});

type Props = ComponentProps<typeof MessageList>;

function show(entries: readonly ChatEntry[], props: Partial<Props> = {}): void {
  act(() => {
    root.render(
      <MessageList
        view={{ loaded: true, entries, more: false }}
        own="a"
        onOlder={() => Promise.resolve()}
        onRetry={() => Promise.resolve()}
        {...props}
      />,
    );
  });
}

function shown(selector: string): readonly string[] {
  return [...place.querySelectorAll(selector)].map((one) => one.textContent);
}

const LEDGER = Date.UTC(2026, 5, 1, 12, 0, 0) / 1000;

test.each([0, -1, -1e300, 1e300, 4e12, 253_402_300_800])(
  "a sender's clock that says %d is not shown: the ledger's time is",
  (ts) => {
    show([entry({ ts, committed: LEDGER })]);
    const time = place.querySelector("time");
    expect(time?.dateTime).toBe("2026-06-01T12:00:00.000Z");
    expect(shown("[data-day]")).toEqual([
      new Intl.DateTimeFormat(undefined, { dateStyle: "full" }).format(LEDGER * 1000),
    ]);
  },
);

test.each([0, -1, NaN, 1e300, 4e12])("no date is shown where the ledger's time is %d", (committed) => {
  show([entry({ seq: 1, committed: LEDGER }), entry({ seq: 2, committed })]);
  expect(shown("time")).toHaveLength(1);
  expect(shown("[data-day]")).toHaveLength(1); // it stands under the day before it
  expect(place.textContent).toContain("time unknown");
  expect(place.textContent).not.toMatch(/19[67]\d|Invalid/);
});

test("what waits shows this browser's time; what the ledger has shows the ledger's", () => {
  const written = Date.now() / 1000;
  const waiting = entry({ direction: "out", state: "sending", position: null, ts: written });
  show([waiting]);
  expect(place.querySelector("time")?.dateTime).toBe(new Date(written * 1000).toISOString());
  show([{ ...waiting, state: "committed", position: 7, committed: LEDGER }]);
  expect(place.querySelector("time")?.dateTime).toBe("2026-06-01T12:00:00.000Z");
});

function spoken(): readonly string[] {
  return shown("[aria-live='polite'] p");
}

test("only what is new is read out: no history, nothing of one's own", () => {
  const log = (): Element | null => place.querySelector("[role='log']");
  const page = [entry({ seq: 51 }), entry({ seq: 52 })];
  show(page);
  expect(log()?.getAttribute("aria-live")).toBe("off");
  expect(spoken()).toEqual([]);
  const older = [...Array.from({ length: 50 }, (_, at) => entry({ seq: at + 1 })), ...page];
  show(older);
  expect(shown("article")).toHaveLength(52);
  expect(spoken()).toEqual([]);
  const mine = entry({ direction: "out", seq: 1, position: null, state: "sending" });
  show([...older, mine]);
  expect(spoken()).toEqual([]);
  show([...older, entry({ seq: 53, continuity: "gap" }), mine]);
  expect(spoken()).toHaveLength(1);
  expect(spoken()[0]).toMatch(/missing.*message 53$/);
  show([...older, entry({ seq: 53 }), { ...mine, state: "failed", problem: "not_a_member" }]);
  expect(spoken()[0]).toMatch(/^Not sent: the server does not let you write here/);
});

test("the end stays in sight when the list gets smaller, and where the reader is stays too", async () => {
  const frame = (): Promise<unknown> => new Promise((resolve) => requestAnimationFrame(resolve));
  const list = (): Element => place.firstElementChild ?? place;
  const fromEnd = (): number => list().scrollHeight - list().scrollTop - list().clientHeight;
  Object.assign(place.style, { display: "flex", flexDirection: "column", height: "600px" });
  show(Array.from({ length: 40 }, (_, at) => entry({ seq: at + 1 })));
  await waitUntil(() => fromEnd() < 2);
  place.style.height = "300px";
  await waitUntil(() => list().clientHeight < 310);
  await waitUntil(() => fromEnd() < 2);
  list().scrollTop = 200;
  await frame();
  place.style.height = "500px";
  await frame();
  await frame();
  expect(fromEnd()).toBeGreaterThan(200);
});

test("who is at the end stays there when lines get higher; who goes up does not", async () => {
  const list = (): HTMLElement => place.firstElementChild as HTMLElement;
  const fromEnd = (): number => list().scrollHeight - list().scrollTop - list().clientHeight;
  const scrolled = (): void => {
    list().dispatchEvent(new Event("scroll", { bubbles: true }));
  };
  const frames = async (): Promise<void> => {
    for (let at = 0; at < 3; at++) await new Promise((resolve) => requestAnimationFrame(resolve));
  };
  const grow = (): void => {
    for (const line of place.querySelectorAll("article")) line.style.minBlockSize = "9rem";
  };
  Object.assign(place.style, { display: "flex", flexDirection: "column", height: "400px" });
  show(Array.from({ length: 40 }, (_, at) => entry({ seq: at + 1 })));
  await frames(); // only what has been drawn can grow
  scrolled();
  grow();
  // What the browser does itself is told as if the reader had done it.
  expect(fromEnd()).toBeGreaterThan(200);
  scrolled();
  await frames();
  expect(fromEnd()).toBeLessThan(2);
  list().scrollTop -= 300;
  scrolled();
  place.style.height = "500px";
  await waitUntil(() => list().clientHeight > 450);
  await frames();
  expect(fromEnd()).toBeGreaterThan(100);
});

test("messages that were not for this device stand in one line, with how many they are", () => {
  const day = 24 * 3600;
  const foreign = (seq: number, committed: number): ChatEntry =>
    entry({ seq, committed, text: "", problem: "not_addressed" });
  show([
    foreign(1, LEDGER),
    foreign(2, LEDGER),
    foreign(3, LEDGER + day),
    entry({ seq: 4, committed: LEDGER + day }),
    foreign(5, LEDGER + day),
    entry({ seq: 6, committed: LEDGER + day, text: "", problem: "bad_signature" }),
    entry({ seq: 7, committed: LEDGER + day, text: "", problem: "bad_signature" }),
  ]);
  expect(shown("article > p")).toEqual([
    "3 messages were not encrypted for this device.",
    "message 4",
    "This message was not encrypted for this device.",
    "A message that could not be verified (bad_signature). It is not shown.",
    "A message that could not be verified (bad_signature). It is not shown.",
  ]);
  // The day that begins among them is told with what follows.
  expect(shown("[data-day]")).toHaveLength(2);
});

function button(name: string): HTMLButtonElement {
  const found = [...place.querySelectorAll("button")].find((one) => one.textContent === name);
  if (found === undefined) throw new Error(`there is no button: ${name}`);
  return found;
}

async function press(name: string): Promise<void> {
  await act(async () => {
    button(name).click();
    await Promise.resolve();
  });
}

test("a message that is sent again and fails again says why, and can be tried once more", async () => {
  const failed = entry({ direction: "out", state: "failed", problem: "rate_limited", position: null });
  const outcomes = [
    () => Promise.reject(new CryptoError("identity_changed", "")),
    () => Promise.resolve(),
  ];
  const tried: ChatEntry[] = [];
  const onRetry = (one: ChatEntry): Promise<void> => {
    tried.push(one);
    return outcomes[tried.length - 1]?.() ?? Promise.reject(new Error("once too often"));
  };
  show([failed], { onRetry });
  await press("Send again");
  expect(shown("[role='alert']")[0]).toMatch(/^Still not sent\. The safety number has changed/);
  await press("Send again");
  expect(shown("[role='alert']")).toEqual([]);
  expect(tried).toEqual([failed, failed]);
});

test("history that cannot be read says why", async () => {
  show([entry()], {
    view: { loaded: true, entries: [entry()], more: true },
    onOlder: () => Promise.reject(new CryptoError("state_unreadable", "")),
  });
  await press("Older messages");
  expect(shown("[role='alert']")).toEqual(["What this browser has kept cannot be read."]);
});

test("what is not shown has no state: it is no message of one's own that came so far", () => {
  const own = { direction: "out" as const, device: "phone", state: "committed" as const };
  show([entry({ ...own, seq: 1, text: "", problem: "bad_signature" }), entry({ ...own, seq: 2 })]);
  expect(shown("[data-state]")).toEqual(["In the ledger at 2, from phone"]);
});

/** In a box of `height`, after what the browser draws and observes by itself. */
async function drawn(height: string): Promise<HTMLElement> {
  Object.assign(place.style, { display: "flex", flexDirection: "column", height });
  for (let at = 0; at < 4; at++) await new Promise((resolve) => requestAnimationFrame(resolve));
  return place.firstElementChild as HTMLElement;
}

test("older pages come as one goes up to them, and not to who stands at the end", async () => {
  const entries = [entry({ seq: 51 }), entry({ seq: 52 })];
  let asked = 0;
  const onOlder = (): Promise<void> => {
    asked += 1;
    return Promise.resolve();
  };
  // All of it in sight, the button too: the reader is at the end.
  show(entries, { view: { loaded: true, entries, more: true }, onOlder });
  await drawn("600px");
  expect(asked).toBe(0);
  const many = Array.from({ length: 60 }, (_, at) => entry({ seq: at + 51 }));
  show(many, { view: { loaded: true, entries: many, more: true }, onOlder });
  const list = await drawn("300px");
  expect(asked).toBe(0);
  list.scrollTop = 0;
  await waitUntil(() => asked > 0);
  // The page has come, and the reader is at the top again before the browser has looked.
  const more = Array.from({ length: 50 }, (_, at) => entry({ seq: at + 1 }));
  show([...more, ...many], { view: { loaded: true, entries: [...more, ...many], more: true }, onOlder });
  list.scrollTop = 0;
  await waitUntil(() => asked > 1);
});

test("who writes sees what they write, wherever in the history they are", async () => {
  const entries = Array.from({ length: 40 }, (_, at) => entry({ seq: at + 1 }));
  show(entries);
  const list = await drawn("300px");
  list.scrollTop = 100;
  await drawn("300px");
  const fromEnd = (): number => list.scrollHeight - list.scrollTop - list.clientHeight;
  show([...entries, entry({ seq: 41 })]);
  await drawn("300px");
  expect(fromEnd()).toBeGreaterThan(200);
  show([...entries, entry({ seq: 41 }), entry({ direction: "out", position: null, state: "sending" })]);
  await waitUntil(() => fromEnd() < 2);
});

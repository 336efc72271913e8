/**
 * How a history of a thousand messages feels, in numbers: `npm run measure` prints them. Nothing here
 * fails by being slow; docs/embedding.md has what one machine said.
 */
import type { Page } from "playwright";
import { expect, test } from "vitest";

import { Cast } from "./cast";

const MESSAGES = 1000;
/** Messages that come while all of the history is shown. */
const COMING = 50;
const RELOADS = 7;
/** Pixels a frame: the whole history in about ten seconds. */
const STEP = 120;

const cast = Cast.gather();

function median(numbers: readonly number[]): number {
  return [...numbers].sort((one, other) => one - other)[numbers.length >> 1] ?? NaN;
}

function say(what: string, numbers: Readonly<Record<string, number>>): void {
  const parts = Object.entries(numbers).map(([name, number]) => `${name} ${Math.round(number)}`);
  process.stdout.write(`${what}: ${parts.join(", ")}\n`);
}

/** Milliseconds from the navigation to the frame in which the first message stands. */
async function firstMessage(page: Page): Promise<number> {
  await page.reload();
  const seen = await page.waitForFunction(() => (window as unknown as { seen?: number }).seen);
  return (await seen.jsonValue()) ?? NaN;
}

/** Milliseconds between frames, and of long tasks, while the list is scrolled to one end. */
function scroll(page: Page, step: number): Promise<{ frames: number[]; tasks: number[] }> {
  return page.evaluate(async (by) => {
    const list = document.querySelector("[role='log']");
    if (list === null) throw new Error("no messages are shown");
    const tasks: number[] = [];
    const observer = new PerformanceObserver((all) => {
      tasks.push(...all.getEntries().map((one) => one.duration));
    });
    observer.observe({ type: "longtask" });
    const frames: number[] = [];
    const frame = (): Promise<number> => new Promise((resolve) => requestAnimationFrame(resolve));
    let last = await frame();
    let before = NaN;
    while (list.scrollTop !== before) {
      before = list.scrollTop;
      list.scrollTop += by;
      const now = await frame();
      frames.push(now - last);
      last = now;
    }
    observer.disconnect();
    return { frames, tasks };
  }, step);
}

function sayScroll(what: string, { frames, tasks }: { frames: number[]; tasks: number[] }): void {
  const sorted = [...frames].sort((one, other) => one - other);
  const due = 1000 / 60;
  say(what, {
    frames: frames.length,
    "ms median": median(frames),
    "ms at 99 %": sorted[Math.floor(0.99 * sorted.length)] ?? NaN,
    "ms longest": sorted.at(-1) ?? NaN,
    "frames dropped": frames.reduce((sum, one) => sum + Math.max(0, Math.round(one / due) - 1), 0),
    "long tasks": tasks.length,
  });
}

test("a thousand messages", async () => {
  const alice = await cast.person();
  const bob = await cast.bobAnew();
  await alice.context.setOffline(true);
  for (let at = 1; at <= MESSAGES; at++) await cast.say(alice, `line ${at}, of about the usual length`);
  await alice.context.setOffline(false);
  const back = Date.now();
  await alice.open(bob);
  await alice.sees(`line ${MESSAGES},`);
  say("all that waited while she was away", { ms: Date.now() - back });
  const { page } = alice;
  await page.addInitScript(() => {
    const observer = new MutationObserver(() => {
      if (document.querySelector("article") === null) return;
      observer.disconnect();
      requestAnimationFrame(() => Object.assign(window, { seen: performance.now() }));
    });
    observer.observe(document, { childList: true, subtree: true });
  });
  const first: number[] = [];
  for (let round = 0; round < RELOADS; round++) first.push(await firstMessage(page));
  say("first message", { "ms median": median(first), "ms longest": Math.max(...first) });

  const { lines } = alice;
  const pages: number[] = [];
  for (let shown = await lines.count(); shown < MESSAGES; shown = await lines.count()) {
    const began = Date.now();
    await alice.messages.evaluate((list) => {
      list.scrollTop = 0;
    });
    await alice.until(async () => (await lines.count()) > shown, "an older page");
    pages.push(Date.now() - began);
  }
  say("an older page of 50", { "ms median": median(pages), "ms longest": Math.max(...pages) });

  await alice.messages.evaluate((list) => {
    list.scrollTop = list.scrollHeight;
  });
  sayScroll("scrolling up, never drawn before", await scroll(page, -STEP));
  sayScroll("scrolling down", await scroll(page, STEP));
  sayScroll("scrolling up", await scroll(page, -STEP));
  await scroll(page, STEP);

  const longTasks = page.evaluateHandle(() => {
    const tasks: number[] = [];
    const observer = new PerformanceObserver((all) => {
      tasks.push(...all.getEntries().map((one) => one.duration));
    });
    observer.observe({ type: "longtask" });
    return tasks;
  });
  const tasks = await longTasks;
  const began = Date.now();
  for (let at = 1; at <= COMING; at++) await cast.say(alice, `then ${at}`);
  await alice.sees(`then ${COMING}`);
  const took = (Date.now() - began) / COMING;
  const found = await tasks.jsonValue();
  say("a message to a list of a thousand", {
    "ms from Bob's writing": took,
    "long tasks": found.length,
    "ms longest": Math.max(0, ...found),
  });
  expect(await lines.count()).toBe(MESSAGES + COMING);
});

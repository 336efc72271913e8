/** Where one writes: what sends, what does not, and what is never lost. */
import { act } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import { Composer } from "../../src/components/Composer";
import { CryptoError } from "../../src/security/errors";
import { fill } from "../chat/page";

let root: Root;
let place: HTMLElement;
let sent: string[];
let outcome: () => Promise<void>;

beforeEach(() => {
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
  sent = [];
  outcome = () => Promise.resolve();
  show(null);
});
afterEach(() => {
  act(() => {
    root.unmount();
  });
  place.remove();
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: false });
});

function show(blocked: string | null): void {
  const onSend = (text: string): Promise<void> => {
    sent.push(text);
    return outcome();
  };
  act(() => {
    root.render(<Composer onSend={onSend} blocked={blocked} />);
  });
}

function field(): HTMLTextAreaElement {
  const found = place.querySelector("textarea");
  if (found === null) throw new Error("there is a field");
  return found;
}

function write(text: string): void {
  act(() => {
    fill(field(), text);
  });
}

/** Press Enter; whether the field keeps it, as a new line. */
async function enter(options: KeyboardEventInit = {}): Promise<boolean> {
  const event = new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true, ...options });
  await act(async () => {
    field().dispatchEvent(event);
    await Promise.resolve();
  });
  return !event.defaultPrevented;
}

test("Enter sends; with Shift, or while a word is being composed, it does not", async () => {
  write("日本");
  expect(await enter({ isComposing: true })).toBe(true);
  expect(await enter({ shiftKey: true })).toBe(true);
  expect(sent).toEqual([]);
  expect(await enter()).toBe(false);
  expect(sent).toEqual(["日本"]);
  expect(field().value).toBe("");
});

test("nothing, and blanks, are not sent", async () => {
  for (const text of ["", " ", "\n\t\u00a0"]) {
    write(text);
    await enter();
  }
  expect(sent).toEqual([]);
});

test("a text that could not be kept stays, with why; another text is told nothing of it", async () => {
  outcome = () => Promise.reject(new CryptoError("content_too_large", ""));
  write("much too long");
  await enter();
  expect(field().value).toBe("much too long");
  expect(place.querySelector("[role='alert']")?.textContent).toMatch(/^The message is too long/);
  write("shorter");
  expect(place.querySelector("[role='alert']")).toBeNull();
  outcome = () => Promise.resolve();
  await enter();
  expect(sent).toEqual(["much too long", "shorter"]);
});

test("a text is sent once, however often one presses while it is being kept", async () => {
  let kept: () => void = () => undefined;
  outcome = () => new Promise((resolve) => (kept = resolve));
  write("once");
  await enter();
  await enter();
  expect(field().value).toBe("once");
  await act(async () => {
    kept();
    await Promise.resolve();
  });
  expect([sent, field().value]).toEqual([["once"], ""]);
});

test("where one may not write the draft stays, and it says why", async () => {
  write("a draft");
  show("The safety number has changed.");
  expect([field().disabled, field().value]).toEqual([true, "a draft"]);
  expect(place.querySelector("[role='status']")?.textContent).toBe("The safety number has changed.");
  await act(async () => {
    place.querySelector("form")?.requestSubmit();
    await Promise.resolve();
  });
  expect(sent).toEqual([]);
});

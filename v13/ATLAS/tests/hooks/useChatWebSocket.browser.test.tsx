/** The hook under the host's name: one socket for its life, whatever renders. */
import { act, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import {
  type ChatWebSocket,
  type ChatWebSocketOptions,
  useChatWebSocket,
} from "../../src/hooks/useChatWebSocket";
import { FarEnd } from "../transport/far-end";

const READY = { type: "READY", wallet: "0xa", position: 3 };
let root: Root;
let seen: ChatWebSocket;

function Probe(props: ChatWebSocketOptions): ReactNode {
  const socket = useChatWebSocket(props);
  seen = socket;
  return null;
}

async function render(options: ChatWebSocketOptions): Promise<void> {
  await act(async () => {
    root.render(<Probe {...options} />);
    await Promise.resolve();
  });
}

beforeEach(() => {
  FarEnd.stand();
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  root = createRoot(document.createElement("div"));
});
afterEach(() => {
  act(() => {
    root.unmount();
  });
  FarEnd.leave();
});

test("it connects once; the token goes in the first frame and never in the URL", async () => {
  const frames: string[] = [];
  const onMessage = (frame: { type: string }): void => void frames.push(frame.type);
  await render({ token: "secret", onMessage });
  expect(seen).toMatchObject({ isConnected: false, error: null });
  expect(seen.sendMessage({ type: "PING" })).toBe(false);
  act(() => {
    FarEnd.latest.accept();
    FarEnd.latest.say(READY);
  });
  expect(seen).toMatchObject({ isConnected: true, error: null });
  expect(FarEnd.latest.sent).toEqual([JSON.stringify({ type: "AUTH", token: "secret" })]);
  expect(FarEnd.latest.url).not.toContain("secret");
  expect(seen.sendMessage({ type: "PING" })).toBe(true);
  expect(frames).toEqual(["READY"]);

  // Another render, another listener: the same socket, and the newest listener hears.
  const later: string[] = [];
  await render({ token: "secret", onMessage: (frame) => void later.push(frame.type) });
  act(() => {
    FarEnd.latest.say({ type: "PREKEYS_LOW", device: "phone" });
  });
  expect([frames, later]).toEqual([["READY"], ["PREKEYS_LOW"]]);
  expect(FarEnd.opened).toHaveLength(1);
});

test("a fresh token goes over the open socket", async () => {
  const onMessage = (): void => undefined;
  await render({ token: "first", onMessage });
  act(() => {
    FarEnd.latest.accept();
    FarEnd.latest.say(READY);
  });
  await render({ token: "second", onMessage });
  expect(FarEnd.latest.sent.at(-1)).toBe(JSON.stringify({ type: "AUTH", token: "second" }));
  expect(FarEnd.opened).toHaveLength(1);
});

test("a refusal is told with its code, and a fresh token tries again", async () => {
  const onMessage = (): void => undefined;
  await render({ token: "old", onMessage });
  act(() => {
    FarEnd.latest.accept();
    FarEnd.latest.say({ type: "ERROR", code: "unauthorized", detail: "" });
    FarEnd.latest.onclose({ code: 4401 });
  });
  expect(seen).toMatchObject({ isConnected: false, error: "unauthorized" });
  await render({ token: "new", onMessage });
  expect(FarEnd.opened).toHaveLength(2);
  expect(seen.error).toBe(null);
  act(() => {
    FarEnd.latest.onclose({ code: 1008 });
  });
  expect(seen.error).toBe("the server refused");
});

test("it ends with the component", async () => {
  await render({ token: "t", onMessage: () => undefined });
  const far = FarEnd.latest;
  act(() => {
    far.accept();
    far.say(READY);
    root.render(null);
  });
  expect(far.readyState).toBe(3);
  expect(seen.sendMessage({ type: "PING" })).toBe(false);
});

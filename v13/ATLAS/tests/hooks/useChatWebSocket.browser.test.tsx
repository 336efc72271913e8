/** The hook under the host's name: one socket for its life, whatever renders. */
import { act, type ReactNode } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import {
  type ChatWebSocket,
  type ChatWebSocketOptions,
  useChatWebSocket,
} from "../../src/hooks/useChatWebSocket";

/** The far end of the browser's sockets, played by hand. */
class FarEnd {
  static opened: FarEnd[] = [];
  readonly url: string;
  readyState: number = WebSocket.CONNECTING;
  readonly sent: string[] = [];
  onopen: () => void = () => undefined;
  onmessage: (event: { data: string }) => void = () => undefined;
  onclose: (event: { code: number }) => void = () => undefined;

  constructor(url: URL) {
    this.url = url.href;
    FarEnd.opened.push(this);
  }

  send(text: string): void {
    this.sent.push(text);
  }

  close(): void {
    this.readyState = WebSocket.CLOSED;
  }

  accept(): void {
    this.readyState = WebSocket.OPEN;
    this.onopen();
  }

  say(frame: object): void {
    this.onmessage({ data: JSON.stringify(frame) });
  }
}

const real = globalThis.WebSocket;
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

function latest(): FarEnd {
  const one = FarEnd.opened.at(-1);
  if (one === undefined) throw new Error("no socket was opened");
  return one;
}

beforeEach(() => {
  Object.assign(globalThis, { WebSocket: Object.assign(FarEnd, { OPEN: 1, CONNECTING: 0, CLOSED: 3 }) });
  Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });
  FarEnd.opened = [];
  root = createRoot(document.createElement("div"));
});
afterEach(() => {
  act(() => {
    root.unmount();
  });
  globalThis.WebSocket = real;
});

test("it connects once; the token goes in the first frame and never in the URL", async () => {
  const frames: string[] = [];
  const onMessage = (frame: { type: string }): void => void frames.push(frame.type);
  await render({ token: "secret", onMessage });
  expect(seen).toMatchObject({ isConnected: false, error: null });
  expect(seen.sendMessage({ type: "PING" })).toBe(false);
  act(() => {
    latest().accept();
    latest().say(READY);
  });
  expect(seen).toMatchObject({ isConnected: true, error: null });
  expect(latest().sent).toEqual([JSON.stringify({ type: "AUTH", token: "secret" })]);
  expect(latest().url).not.toContain("secret");
  expect(seen.sendMessage({ type: "PING" })).toBe(true);
  expect(frames).toEqual(["READY"]);

  // Another render, another listener: the same socket, and the newest listener hears.
  const later: string[] = [];
  await render({ token: "secret", onMessage: (frame) => void later.push(frame.type) });
  act(() => {
    latest().say({ type: "PREKEYS_LOW", device: "phone" });
  });
  expect([frames, later]).toEqual([["READY"], ["PREKEYS_LOW"]]);
  expect(FarEnd.opened).toHaveLength(1);
});

test("a fresh token goes over the open socket", async () => {
  const onMessage = (): void => undefined;
  await render({ token: "first", onMessage });
  act(() => {
    latest().accept();
    latest().say(READY);
  });
  await render({ token: "second", onMessage });
  expect(latest().sent.at(-1)).toBe(JSON.stringify({ type: "AUTH", token: "second" }));
  expect(FarEnd.opened).toHaveLength(1);
});

test("a refusal is told with its code, and a fresh token tries again", async () => {
  const onMessage = (): void => undefined;
  await render({ token: "old", onMessage });
  act(() => {
    latest().accept();
    latest().say({ type: "ERROR", code: "unauthorized", detail: "" });
    latest().onclose({ code: 4401 });
  });
  expect(seen).toMatchObject({ isConnected: false, error: "unauthorized" });
  await render({ token: "new", onMessage });
  expect(FarEnd.opened).toHaveLength(2);
  expect(seen.error).toBe(null);
});

test("it ends with the component", async () => {
  await render({ token: "t", onMessage: () => undefined });
  const far = latest();
  act(() => {
    far.accept();
    far.say(READY);
    root.render(null);
  });
  expect(far.readyState).toBe(3);
  expect(seen.sendMessage({ type: "PING" })).toBe(false);
});

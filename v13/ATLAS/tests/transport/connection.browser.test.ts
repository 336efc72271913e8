/** The connection: when it is made again, with what wait, and what of a socket that was given up counts. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Connection, type ConnectionOptions } from "../../src/transport/connection";
import { FarEnd } from "./far-end";

const READY = { type: "READY", wallet: "0xa", position: 3 };
let connection: Connection;
let frames: string[];
let states: string[];

function connect(options: Partial<ConnectionOptions> = {}): void {
  connection = new Connection({
    url: "/v1/chat/ws",
    token: "secret",
    onFrame: ({ type }) => void frames.push(type),
    onState: (state, code) => void states.push(code === "" ? state : `${state} ${code}`),
    random: () => 0.5,
    ...options,
  });
  connection.open();
}

function fall(code = 1006): void {
  FarEnd.latest.onclose({ code });
}

beforeEach(() => {
  vi.useFakeTimers();
  FarEnd.stand();
  [frames, states] = [[], []];
});
afterEach(() => {
  connection.close();
  FarEnd.leave();
  vi.useRealTimers();
});

test("it says which device it is for, where there is one", () => {
  connect({ device: "web-1" });
  expect(new URL(FarEnd.latest.url).searchParams.get("device")).toBe("web-1");
  connection.close();
  connect();
  expect(new URL(FarEnd.latest.url).searchParams.has("device")).toBe(false);
});

test("each wait may be twice the one before, up to half a minute, and is a random part of it", () => {
  connect();
  for (const longest of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
    const before = FarEnd.opened.length;
    fall();
    vi.advanceTimersByTime(longest / 2 - 1);
    expect(FarEnd.opened, `${longest}`).toHaveLength(before);
    vi.advanceTimersByTime(1);
    expect(FarEnd.opened, `${longest}`).toHaveLength(before + 1);
  }
  // Once the server was ready it begins from the shortest again.
  FarEnd.latest.accept();
  FarEnd.latest.say(READY);
  const before = FarEnd.opened.length;
  fall();
  vi.advanceTimersByTime(250);
  expect(FarEnd.opened).toHaveLength(before + 1);
});

test("what a socket says after it was given up is not heard, and its end ends nothing", () => {
  connect();
  const first = FarEnd.latest;
  first.accept();
  first.say(READY);
  connection.restart();
  first.say({ type: "PREKEYS_LOW", device: "phone" });
  vi.advanceTimersByTime(250);
  FarEnd.latest.accept();
  FarEnd.latest.say(READY);
  first.say({ type: "PREKEYS_LOW", device: "phone" });
  first.onclose({ code: 1008 });
  expect(frames).toEqual(["READY", "READY"]);
  expect(connection.state).toBe("online");
});

test.each([1008, 4401])("after %d only a fresh token tries again", (code) => {
  connect();
  FarEnd.latest.accept();
  FarEnd.latest.say({ type: "ERROR", code: "unknown_device", detail: "" });
  fall(code);
  expect(states.at(-1)).toBe("refused unknown_device");
  connection.restart();
  connection.renew("secret");
  vi.advanceTimersByTime(600_000);
  expect(FarEnd.opened).toHaveLength(1);
  connection.renew("fresh");
  expect(FarEnd.opened).toHaveLength(2);
});

test("a silent server is asked, and given up when it does not answer", () => {
  connect();
  const first = FarEnd.latest;
  first.accept();
  first.say(READY);
  vi.advanceTimersByTime(30_000);
  expect(first.frames("PING")).toHaveLength(1);
  first.say({ type: "PONG" });
  vi.advanceTimersByTime(30_000);
  expect(first.frames("PING")).toHaveLength(2);
  expect(connection.state).toBe("online");
  vi.advanceTimersByTime(30_000);
  expect(connection.state).toBe("offline");
});

test("a frame whose numbers count nothing is none", () => {
  connect();
  FarEnd.latest.accept();
  for (const position of [-1, 1.5, "3", null, 2 ** 53]) FarEnd.latest.say({ ...READY, position });
  expect(frames).toEqual([]);
  FarEnd.latest.say(READY);
  expect(frames).toEqual(["READY"]);
});

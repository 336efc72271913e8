/** What a conversation and its line in the list say, whatever the order in which things come. */
import { describe, expect, test } from "vitest";

import { type ChatEntry, misplaced, newsBetween, timeOf, unheard, withEntry } from "../../src/chat/archive";

function entry(fields: Partial<ChatEntry>): ChatEntry {
  return {
    id: fields.text ?? "",
    direction: "in",
    text: "",
    device: "phone",
    seq: 1,
    ts: 1,
    committed: 1,
    position: 1,
    state: "committed",
    continuity: null,
    problem: null,
    ...fields,
  };
}

function lineAfter(...entries: readonly ChatEntry[]): ReturnType<typeof unheard> {
  return entries.reduce(withEntry, unheard("0xbob"));
}

describe("the line of the list", () => {
  test("two messages that waited leave the second one's text", () => {
    const [one, two] = [
      entry({ text: "one", direction: "out", position: null }),
      entry({ text: "two", direction: "out", position: null }),
    ];
    const line = lineAfter(one, two, { ...one, position: 7 }, { ...two, position: 8 });
    expect(line).toMatchObject({ preview: "two", position: 8, unread: 0 });
  });

  test("what comes late is unread, and not the newest", () => {
    const line = lineAfter(entry({ text: "new", position: 9 }), entry({ text: "old", position: 4 }));
    expect(line).toMatchObject({ preview: "new", position: 9, unread: 2 });
  });

  test("what is not shown is counted and leaves the text as it was", () => {
    const line = lineAfter(entry({ text: "hello" }), entry({ position: 2, problem: "replayed" }));
    expect(line).toMatchObject({ preview: "hello", unread: 2 });
  });
});

describe("a place that the sender did not give", () => {
  test("messages in their sender's order are where they belong", () => {
    const entries = [
      entry({ id: "a", seq: 1, position: 1 }),
      entry({ id: "b", seq: 5, position: 2, device: "laptop" }),
      entry({ id: "c", seq: 2, position: 3 }),
      entry({ id: "d", seq: 1, position: 4, direction: "out" }),
      entry({ id: "e", seq: 9, position: null, direction: "out" }),
    ];
    expect(misplaced(entries).size).toBe(0);
  });

  test("one behind a later one of its device is not", () => {
    const entries = [
      entry({ id: "a", seq: 1, position: 1 }),
      entry({ id: "c", seq: 3, position: 2 }),
      entry({ id: "b", seq: 2, position: 3 }),
    ];
    expect([...misplaced(entries)]).toEqual(["b"]);
  });
});

describe("the time that is shown", () => {
  const now = 1_790_000_000;
  test("is the ledger's, whatever the sender's clock said", () => {
    expect(timeOf({ ts: -1, committed: now - 5 }, now)).toBe(now - 5);
    expect(timeOf({ ts: now, committed: now - 5 }, now)).toBe(now - 5);
  });

  test("is this browser's as long as the ledger has none", () => {
    expect(timeOf({ ts: now - 3, committed: null }, now)).toBe(now - 3);
  });

  test.each([0, -1, 1e300, NaN, now + 90_000, 1_500_000_000])("is none for %d", (time) => {
    expect(timeOf({ ts: now, committed: time }, now)).toBe(null);
    expect(timeOf({ ts: time, committed: null }, now)).toBe(null);
  });
});

describe("news", () => {
  test("is what came after what was shown, and what was refused", () => {
    const [a, b] = [entry({ id: "a", position: 5 }), entry({ id: "b", position: 6 })];
    const mine = entry({ id: "c", direction: "out", position: null, state: "sending" });
    expect(newsBetween([], [a])).toEqual([a]);
    expect(newsBetween([b], [a, b])).toEqual([]);
    expect(newsBetween([a], [a, b, mine])).toEqual([b]);
    const refused: ChatEntry = { ...mine, state: "failed" };
    expect(newsBetween([a, b, mine], [a, b, refused])).toEqual([refused]);
    expect(newsBetween([a, b, refused], [a, b, refused])).toEqual([]);
    expect(newsBetween([b], [refused, b])).toEqual([]);
  });
});

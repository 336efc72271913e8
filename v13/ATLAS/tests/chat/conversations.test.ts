/** What is in memory of conversations: only what somebody shows, each entry in its place. */
import { describe, expect, test } from "vitest";

import type { ChatEntry } from "../../src/chat/archive";
import { ShownConversations, withChanges } from "../../src/chat/conversations";
import { entry } from "./offline";

function waiting(seq: number): ChatEntry {
  return entry({ direction: "out", seq, position: null, state: "sending" });
}

const ids = (entries: readonly ChatEntry[]): readonly string[] => entries.map(({ id }) => id);

describe("the order", () => {
  test("whatever order things come in, they stand as in the ledger, and what waits stands last", () => {
    const all = [...Array.from({ length: 40 }, (_, at) => entry({ seq: at + 1 })), waiting(1), waiting(2)];
    let seed = 7;
    const next = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below;
    for (let round = 0; round < 20; round++) {
      const left = [...all];
      let shown: readonly ChatEntry[] = [];
      while (left.length > 0) shown = withChanges(shown, left.splice(next(left.length), 1 + next(3)));
      expect(ids(shown)).toEqual(ids(all));
    }
  });

  test("what waited takes its place when the ledger has it, and stands once", () => {
    const mine = waiting(1);
    const committed: ChatEntry = { ...mine, position: 2, state: "committed" };
    const before = [entry({ seq: 1 }), entry({ seq: 3 }), mine, waiting(2)];
    const shown = withChanges(before, [committed]);
    expect(ids(shown)).toEqual(["in/1", "out/1", "in/3", "out/2"]);
    expect(shown[1]).toBe(committed);
  });

  test("what is removed goes, and what was shown before is not touched", () => {
    const before = [entry({ seq: 1 }), waiting(1)];
    expect(ids(withChanges(before, [waiting(2)], ["out/1"]))).toEqual(["in/1", "out/2"]);
    expect(ids(before)).toEqual(["in/1", "out/1"]);
  });

  test("of two in one place the second one stands second", () => {
    const lie = entry({ id: "lie", seq: 9, position: 1 });
    expect(ids(withChanges([entry({ seq: 1 }), entry({ seq: 2 })], [lie]))).toEqual([
      "in/1",
      "lie",
      "in/2",
    ]);
  });
});

describe("what nobody shows", () => {
  test("goes with the last who showed it, and nothing of it comes back by itself", () => {
    const shown = new ShownConversations();
    shown.enter("bob");
    shown.enter("bob");
    shown.change("bob", { entries: [entry()], loaded: true });
    shown.leave("bob");
    expect(shown.view("bob")).toMatchObject({ loaded: true, entries: [{ seq: 1 }] });
    shown.leave("bob");
    expect(shown.view("bob")).toEqual({ loaded: false, entries: [], more: false });
    shown.change("bob", { entries: [entry()], loaded: true });
    expect(shown.view("bob").entries).toEqual([]);
  });

  test("what comes before the first page is read is shown with it", () => {
    const shown = new ShownConversations();
    shown.enter("bob");
    shown.change("bob", { entries: [entry({ seq: 2 })] });
    expect(shown.view("bob").loaded).toBe(false);
    shown.change("bob", { entries: [entry({ seq: 1 })], loaded: true, more: true });
    expect(ids(shown.view("bob").entries)).toEqual(["in/1", "in/2"]);
  });
});

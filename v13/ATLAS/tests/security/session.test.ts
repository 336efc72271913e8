/** Which session is sent on: SPEC-crypto C20. */
import fc from "fast-check";
import { expect, test } from "vitest";

import { compare, toHex } from "../../src/security/bytes";
import { MAX_OPENED } from "../../src/security/pqxdh";
import { fresh } from "../../src/security/randomness";
import { Ratchet } from "../../src/security/ratchet";
import { MAX_SESSIONS, Session, Sessions } from "../../src/security/session";

function opened(at: number): Session {
  return new Session(fresh(32), at, Ratchet.initiator(fresh(32), fresh(32)), null);
}

const names = (sessions: Sessions): string[] => sessions.ranked.map((one) => toHex(one.id));

test("both sides rank the same, in whatever order they learn of them, and keep the first four", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 7 }).map((all) => all.map(opened)),
      fc.nat(),
      (all, turn) => {
        const other = all.map((_, at) => all[(at + turn) % all.length] ?? opened(0));
        const collect = (them: readonly Session[]): Sessions =>
          them.reduce((sessions, one) => sessions.with(one), new Sessions());
        const expected = [...all]
          .sort((one, two) => two.opened - one.opened || compare(one.id, two.id))
          .slice(0, MAX_SESSIONS);
        expect(names(collect(all))).toEqual(expected.map((one) => toHex(one.id)));
        expect(names(collect(other))).toEqual(names(collect(all)));
        expect(names(Sessions.decode(collect(all).encode()))).toEqual(names(collect(all)));
      },
    ),
  );
});

test("a session opened now is later than all that are known, whatever the clock says", () => {
  expect(new Sessions().nextOpened(5)).toBe(5);
  const sessions = new Sessions().with(opened(10));
  expect([sessions.nextOpened(5), sessions.nextOpened(10), sessions.nextOpened(50)]).toEqual([
    11, 11, 50,
  ]);
  expect(new Sessions().with(opened(MAX_OPENED)).nextOpened(5)).toBe(MAX_OPENED);
});

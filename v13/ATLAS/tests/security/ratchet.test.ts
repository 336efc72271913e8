/** The Double Ratchet: SPEC-crypto C18 and C19. */
import fc from "fast-check";
import { expect, test } from "vitest";

import { toHex } from "../../src/security/bytes";
import { Reader } from "../../src/security/codec";
import { nobleSuite as suite } from "../../src/security/noble";
import { fresh } from "../../src/security/randomness";
import { type Header, MAX_SKIP, MAX_SKIPPED_KEPT, Ratchet } from "../../src/security/ratchet";
import { utf8 } from "./people";

const DATA = utf8("associated data");

interface Sent {
  readonly header: Header;
  readonly sealed: Uint8Array<ArrayBuffer>;
}

async function pair(): Promise<{ initiator: Ratchet; responder: Ratchet }> {
  const [root, signed] = [fresh(32), fresh(32)];
  const initiator = Ratchet.initiator(root, await suite.x25519.publicOf(signed));
  return { initiator, responder: Ratchet.responder(root, signed) };
}

/** `count` messages in one chain. */
async function chain(from: Ratchet, count: number): Promise<{ sent: Sent[]; next: Ratchet }> {
  const sent: Sent[] = [];
  let next = from;
  for (let number = 0; number < count; number++) {
    const message = await next.encrypt(suite, utf8(String(number)), DATA, fresh);
    sent.push(message);
    next = message.next;
  }
  return { sent, next };
}

function nth(sent: readonly Sent[], number: number): Sent {
  const found = sent[number];
  if (found === undefined) throw new RangeError("no such message");
  return found;
}

const open = (state: Ratchet, { header, sealed }: Sent): ReturnType<Ratchet["decrypt"]> =>
  state.decrypt(suite, header, sealed, DATA);

test("a skipped key opens its message once", async () => {
  const { initiator, responder } = await pair();
  const { sent } = await chain(initiator, 3);
  let state = (await open(responder, nth(sent, 2))).next;
  state = (await open(state, nth(sent, 0))).next;
  await expect(open(state, nth(sent, 0))).rejects.toMatchObject({ code: "replayed" });
  await expect(open(state, nth(sent, 2))).rejects.toMatchObject({ code: "replayed" });
  expect((await open(state, nth(sent, 1))).plaintext).toEqual(utf8("1"));
});

test("what does not authenticate leaves the state as it was", async () => {
  const { initiator, responder } = await pair();
  const { sent } = await chain(initiator, 2);
  const before = toHex(responder.encode());
  const { header, sealed } = nth(sent, 1);
  const altered = sealed.slice();
  altered[0] = (altered[0] ?? 0) ^ 1;
  await expect(open(responder, { header, sealed: altered })).rejects.toMatchObject({
    code: "decrypt",
  });
  expect(toHex(responder.encode())).toBe(before);
  expect((await open(responder, { header, sealed })).plaintext).toEqual(utf8("1"));
});

test("as many as the cap may be passed over, and not one more", async () => {
  const { initiator, responder } = await pair();
  const { sent } = await chain(initiator, MAX_SKIP + 2);
  await expect(open(responder, nth(sent, MAX_SKIP + 1))).rejects.toMatchObject({
    code: "too_many_skipped",
  });
  const { plaintext, next } = await open(responder, nth(sent, MAX_SKIP));
  expect(plaintext).toEqual(utf8(String(MAX_SKIP)));
  // Of those passed over the newest are kept, the oldest are given up.
  expect((await open(next, nth(sent, MAX_SKIP - MAX_SKIPPED_KEPT))).plaintext).toHaveLength(4);
  await expect(open(next, nth(sent, MAX_SKIP - MAX_SKIPPED_KEPT - 1))).rejects.toMatchObject({
    code: "replayed",
  });
});

test("a responder does not send before it has received", async () => {
  const { responder } = await pair();
  await expect(responder.encrypt(suite, DATA, DATA, fresh)).rejects.toMatchObject({
    code: "refused",
  });
});

test("a state is what it was after being stored", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ forth: fc.boolean(), drop: fc.boolean() }), { maxLength: 12 }),
      async (steps) => {
        let { initiator, responder } = await pair();
        let heard = false;
        for (const { forth, drop } of steps) {
          if (!forth && !heard) continue;
          const from = forth ? initiator : responder;
          const message = await from.encrypt(suite, utf8("x"), DATA, fresh);
          if (forth) initiator = message.next;
          else responder = message.next;
          if (drop) continue;
          const { plaintext, next } = await open(forth ? responder : initiator, message);
          expect(plaintext).toEqual(utf8("x"));
          const stored = Ratchet.read(new Reader(next.encode()));
          expect(toHex(stored.encode())).toBe(toHex(next.encode()));
          if (forth) responder = stored;
          else initiator = stored;
          heard ||= forth;
        }
      },
    ),
    { numRuns: 30 },
  );
});

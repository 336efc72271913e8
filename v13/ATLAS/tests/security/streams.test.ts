/** What was seen of a sender's messages: each is taken once, and what is missing is known. */
import { expect, test } from "vitest";
import { type Bytes, concat } from "../../src/security/bytes";
import { u64 } from "../../src/security/codec";
import { type CryptoError } from "../../src/security/errors";
import { Incoming, MAX_MISSING } from "../../src/security/streams";

/** Of the message with this number; zeros before the first. */
function digest(seq: number): Bytes {
  return concat(u64(seq), new Uint8Array(24));
}

/** With these messages of an honest sender taken, in this order. */
function after(...numbers: readonly number[]): Incoming {
  return numbers.reduce(
    (stream, seq) => stream.take(seq, digest(seq - 1), digest(seq)).next,
    new Incoming(),
  );
}

function takes(stream: Incoming, seq: number): boolean {
  try {
    stream.take(seq, digest(seq - 1), digest(seq));
  } catch (error) {
    expect((error as CryptoError).code).toBe("replayed");
    return false;
  }
  return true;
}

test("each message is taken once, whatever the order", () => {
  const order = [2, 5, 1, 4, 9, 3, 7];
  for (let count = 0; count <= order.length; count++) {
    const taken = order.slice(0, count);
    const stream = Incoming.decode(after(...taken).encode());
    for (let seq = 1; seq <= 10; seq++) expect(takes(stream, seq)).toBe(!taken.includes(seq));
  }
});

test("of too many missing ranges the oldest is given up, also when a late message splits one", () => {
  const last = 2 * MAX_MISSING + 2;
  const every = Array.from({ length: MAX_MISSING + 1 }, (_, index) => 2 * index + 2);
  const stream = Incoming.decode(after(...every).encode());
  expect(stream.missing.length).toBe(MAX_MISSING);
  expect([1, 3, last - 1].map((seq) => takes(stream, seq))).toEqual([false, true, true]);
  const split = after(...every.slice(0, -2), last + 4, last + 2);
  expect(split.missing.length).toBe(MAX_MISSING);
  expect([1, last + 1, last + 2, last + 3].map((seq) => takes(split, seq))).toEqual([
    false,
    true,
    false,
    true,
  ]);
});

test("a message that names another before it is a gap, though its number is the next", () => {
  expect(after(1).take(2, digest(9), digest(2)).continuity).toBe("gap");
  expect(after(1).take(2, digest(1), digest(2)).continuity).toBe("continuous");
});

import fc from "fast-check";
import { expect, test } from "vitest";

import { compare, concat, equal, fromBase64, fromHex, toBase64, toHex } from "../../src/security/bytes";

const bytes = fc.uint8Array({ maxLength: 300 }).map((data) => new Uint8Array(data));

test("hexadecimal and base64 give back what went in", () => {
  fc.assert(
    fc.property(bytes, (data) => {
      expect(fromHex(toHex(data))).toEqual(data);
      expect(fromBase64(toBase64(data))).toEqual(data);
    }),
  );
});

test("base64 longer than one piece is whole", () => {
  const data = Uint8Array.from({ length: 100_001 }, (_, at) => at % 251);
  expect(fromBase64(toBase64(data))).toEqual(data);
});

test.each(["A", "AA", "AA=", "AB==", "AA==\n", " AA==", "AA-_", "AA==AA==", "é", "AAA", "====", "="])(
  "base64 that is not canonical is refused: %j",
  (text) => {
    expect(fromBase64(text)).toBeNull();
  },
);

test.each(["0", "0g", "0x00", " 00"])("what is not hexadecimal is refused: %j", (text) => {
  expect(() => fromHex(text)).toThrow(RangeError);
});

test("equal and compare agree with the order of the bytes", () => {
  fc.assert(
    fc.property(bytes, bytes, (one, other) => {
      expect(equal(one, other)).toBe(toHex(one) === toHex(other));
      expect(equal(one, concat(one))).toBe(true);
      const [left, right] = [toHex(one), toHex(other)];
      expect(Math.sign(compare(one, other))).toBe(left < right ? -1 : left > right ? 1 : 0);
    }),
  );
});

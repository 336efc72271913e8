/**
 * Which encoded Ed25519 points are read at all (SPEC-crypto C32). Engines and libraries differ in the
 * odd keys and signatures that RFC 8032 leaves open; what is taken here is what all of them take.
 */
import type { Bytes } from "./bytes";
import { KEY } from "./suite";

const FIELD = (1n << 255n) - 19n;
const WITHOUT_SIGN = (1n << 255n) - 1n;
// y of the points whose order divides 8, of both signs of x.
const ORDER_8 = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n;
const SMALL_ORDER = new Set([0n, 1n, FIELD - 1n, ORDER_8, FIELD - ORDER_8]);

/** The number that `bytes` are, the lowest byte first. */
export function littleEndian(bytes: Bytes): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

function isWeak(point: Bytes): boolean {
  const y = littleEndian(point) & WITHOUT_SIGN;
  return y >= FIELD || SMALL_ORDER.has(y);
}

/** Whether neither the key nor the signature's R is out of canonical form or of small order. */
export function isReadable(publicKey: Bytes, signature: Bytes): boolean {
  return !isWeak(publicKey) && !isWeak(signature.slice(0, KEY));
}

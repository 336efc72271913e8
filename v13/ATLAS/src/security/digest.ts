/**
 * SHA-256, SHA-512, Keccak-256, HMAC-SHA-256 and HKDF-SHA-256.
 *
 * Always computed here, never by WebCrypto: a ratchet takes four of them in a row, each over a few
 * dozen bytes, and a hash in JavaScript branches on nothing secret.
 */
import { expand, extract } from "@noble/hashes/hkdf.js";
import { hmac as nobleHmac } from "@noble/hashes/hmac.js";
import { sha256 as nobleSha256, sha512 as nobleSha512 } from "@noble/hashes/sha2.js";
import { keccak_256 } from "@noble/hashes/sha3.js";

import { type Bytes, concat } from "./bytes";

/** SHA-256 of the parts one after the other. */
export function sha256(...parts: readonly Uint8Array[]): Bytes {
  return nobleSha256(concat(...parts));
}

export function sha512(...parts: readonly Uint8Array[]): Bytes {
  return nobleSha512(concat(...parts));
}

/** Keccak-256 with the padding of Ethereum, not of SHA-3. */
export function keccak256(...parts: readonly Uint8Array[]): Bytes {
  return keccak_256(concat(...parts));
}

export function hmac(key: Uint8Array, data: Uint8Array): Bytes {
  return nobleHmac(nobleSha256, key, data);
}

/** HKDF (RFC 5869): extract with `salt`, expand with `label` to `size` bytes. */
export function hkdf(salt: Uint8Array, secret: Uint8Array, label: Uint8Array, size: number): Bytes {
  return expand(nobleSha256, extract(nobleSha256, secret, salt), label, size);
}

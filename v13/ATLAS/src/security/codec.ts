/**
 * The binary encoding: big-endian integers, length-prefixed bytes, and a strict reader.
 *
 * Every value has exactly one encoding. Reading refuses whatever writing would not have produced.
 * What the fields mean is not known here.
 */
import { type Bytes, concat, fromHex, toHex } from "./bytes";
import { CryptoError } from "./errors";

export const VERSION = 2;
export const SUITE = 0x0001; // X25519 + ML-KEM-768, HKDF-SHA-256, AES-256-GCM, Ed25519 + ML-DSA-65
export const WALLET_SIZE = 20;

const CODE = /^[a-z][a-z0-9_]{0,63}$/;
const IDENTIFIER = /^[A-Za-z0-9_.:-]{1,128}$/;
const WALLET = /^0x[0-9a-f]{40}$/;
const encoder = new TextEncoder();

function integer(value: number, size: number): Bytes {
  if (!Number.isSafeInteger(value) || value < 0 || value >= 256 ** size) {
    throw new RangeError("an integer does not fit its field");
  }
  const data = new Uint8Array(size);
  let left = value;
  for (let at = size - 1; at >= 0; at--) {
    data[at] = left % 256;
    left = Math.floor(left / 256);
  }
  return data;
}

export const u8 = (value: number): Bytes => integer(value, 1);
export const u16 = (value: number): Bytes => integer(value, 2);
export const u32 = (value: number): Bytes => integer(value, 4);
/** Eight bytes of an integer up to 2^53-1. */
export const u64 = (value: number): Bytes => integer(value, 8);

/** Eight bytes of an IEEE-754 double, minus zero as zero. */
export function f64(value: number): Bytes {
  const data = new Uint8Array(8);
  new DataView(data.buffer).setFloat64(0, value + 0);
  return data;
}

export function flag(value: boolean): Bytes {
  return u8(value ? 1 : 0);
}

/** `data` (up to 255 bytes) behind its length in one byte. */
export function b8(data: Uint8Array): Bytes {
  return concat(u8(data.length), data);
}

/** `data` behind its length in four bytes. */
export function b32(data: Uint8Array): Bytes {
  return concat(u32(data.length), data);
}

/** What is hashed or signed under `label`: its length in one byte, the label, the body. */
export function labelled(label: Uint8Array, ...body: readonly Uint8Array[]): Bytes {
  return concat(u8(label.length), label, ...body);
}

/** Whether `value` is a code of SPEC.md, known here or not: whatever else a server says is no code. */
export function isCode(value: unknown): value is string {
  return typeof value === "string" && CODE.test(value);
}

/** Whether `text` may name a wallet, a device or a thread. */
export function isIdentifier(text: string): boolean {
  return IDENTIFIER.test(text);
}

/** A wallet, device or thread id as it stands on the wire. Throws `decode`. */
export function identifier(text: string): Bytes {
  if (!isIdentifier(text)) {
    throw new CryptoError("decode", "an identifier must match [A-Za-z0-9_.:-]{1,128}");
  }
  return b8(encoder.encode(text));
}

/** Whether `text` is a wallet in its one form: 0x and 40 lower-case hex digits. */
export function isWallet(text: string): boolean {
  return WALLET.test(text);
}

/** The 20 bytes of a wallet's address. Throws `decode`. */
export function walletBytes(text: string): Bytes {
  if (!isWallet(text)) throw new CryptoError("decode", "a wallet is 0x and 40 lower-case hex digits");
  return fromHex(text.slice(2));
}

/** The one text form of a wallet's 20 bytes. */
export function walletOf(address: Uint8Array): string {
  return `0x${toHex(address)}`;
}

/** Takes fields off the front of `data`. Every method throws `decode` when it cannot. */
export class Reader {
  readonly #data: Bytes;
  #at = 0;

  constructor(data: Bytes) {
    this.#data = data;
  }

  take(size: number): Bytes {
    const end = this.#at + size;
    if (end > this.#data.length) throw new CryptoError("decode", "the bytes end too early");
    const piece = this.#data.slice(this.#at, end);
    this.#at = end;
    return piece;
  }

  #integer(size: number): number {
    return this.take(size).reduce((value, byte) => value * 256 + byte, 0);
  }

  u8(): number {
    return this.#integer(1);
  }

  u16(): number {
    return this.#integer(2);
  }

  u32(): number {
    return this.#integer(4);
  }

  /** Exact up to 2^53-1; a larger number stays larger than that, and is no more than near. */
  u64(): number {
    return this.#integer(8);
  }

  flag(): boolean {
    const value = this.u8();
    if (value > 1) throw new CryptoError("decode", "a flag is neither 0 nor 1");
    return value === 1;
  }

  /** What `b32` wrote, at most `cap` bytes. */
  b32(cap: number): Bytes {
    const size = this.u32();
    if (size > cap) throw new CryptoError("decode", "a length is over its cap");
    return this.take(size);
  }

  identifier(): string {
    const text = String.fromCharCode(...this.take(this.u8()));
    if (!isIdentifier(text)) {
      throw new CryptoError("decode", "an identifier must match [A-Za-z0-9_.:-]{1,128}");
    }
    return text;
  }

  wallet(): string {
    return walletOf(this.take(WALLET_SIZE));
  }

  /** Take the version byte; anything but 2 is `unsupported_suite`, there is nothing to negotiate. */
  version(): void {
    if (this.u8() !== VERSION) throw new CryptoError("unsupported_suite", "not version 2");
  }

  suite(): void {
    if (this.u16() !== SUITE) {
      throw new CryptoError("unsupported_suite", "not a suite of this protocol");
    }
  }

  rest(): Bytes {
    return this.take(this.#data.length - this.#at);
  }

  end(): void {
    if (this.#at !== this.#data.length) throw new CryptoError("decode", "bytes are left over");
  }
}

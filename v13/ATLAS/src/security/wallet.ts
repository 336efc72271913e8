/**
 * The wallet's signature: EIP-191 personal_sign over a text that a person can read.
 *
 * The text names its use, the wallet and the digest of the statement, so a wallet shows what it
 * signs and a signature made for one use fits no other.
 */
import { secp256k1 } from "@noble/curves/secp256k1.js";

import { type Bytes, concat, toHex } from "./bytes";
import { walletOf } from "./codec";
import { keccak256 } from "./digest";
import { CryptoError } from "./errors";

export const WALLET_SIGNATURE = 65; // r (32), s (32), v (1)

/** Signs a text by personal_sign; 65 bytes. A person may be asked, and may refuse (it rejects). */
export type SignText = (text: string) => Promise<Bytes>;

// SEC 2: half the order of secp256k1; a larger s is the same signature malleated (EIP-2).
const HALF_ORDER = secp256k1.Point.Fn.ORDER >> 1n;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The text that `wallet` signs for a statement with this label and SHA-256 digest. */
export function statementText(
  label: Bytes,
  wallet: string,
  digest: Bytes,
  device?: string,
): string {
  return [
    "ATLAS secure chat v2",
    `Use: ${decoder.decode(label)}`,
    `Wallet: ${wallet}`,
    ...(device === undefined || device === "" ? [] : [`Device: ${device}`]),
    `Digest: ${toHex(digest)}`,
  ].join("\n");
}

/** Keccak-256 of the prefixed text (EIP-191, version 0x45). */
export function eip191Hash(text: string): Bytes {
  const message = encoder.encode(text);
  return keccak256(encoder.encode(`\x19Ethereum Signed Message:\n${message.length}`), message);
}

/**
 * The wallet that signed `text`. Throws `bad_wallet_signature`.
 *
 * Accepted: 65 bytes, v in {0, 1, 27, 28}, s in the lower half (libraries recover malleated
 * signatures too). A signature is never an identifier.
 */
export function recoverWallet(text: string, signature: Bytes): string {
  if (signature.length !== WALLET_SIGNATURE) {
    throw new CryptoError("bad_wallet_signature", "a wallet signature has 65 bytes");
  }
  const v = signature[64] ?? 0;
  const recovery = v >= 27 ? v - 27 : v;
  if (recovery > 1) throw new CryptoError("bad_wallet_signature", "v must be 0, 1, 27 or 28");
  let point: Bytes;
  try {
    const parsed = secp256k1.Signature.fromBytes(signature.subarray(0, 64), "compact");
    if (parsed.s > HALF_ORDER) {
      throw new CryptoError("bad_wallet_signature", "s is in the upper half");
    }
    point = parsed.addRecoveryBit(recovery).recoverPublicKey(eip191Hash(text)).toBytes(false);
  } catch (error) {
    if (error instanceof CryptoError) throw error;
    throw new CryptoError("bad_wallet_signature", "no key fits the signature");
  }
  return addressOf(point);
}

/** Throws `bad_wallet_signature` unless `wallet` signed `text`. */
export function verifyWallet(wallet: string, text: string, signature: Bytes): void {
  if (recoverWallet(text, signature) !== wallet) {
    throw new CryptoError("bad_wallet_signature", "another wallet signed");
  }
}

/** The wallet of an uncompressed public key (65 bytes, 04 first). */
function addressOf(point: Bytes): string {
  return walletOf(keccak256(point.subarray(1)).subarray(12));
}

/**
 * A wallet's private key held in memory: for tests, and for the throw-away wallet of a demo.
 * People's keys stay in their wallets.
 */
export class WalletKey {
  readonly #secret: Bytes;
  readonly wallet: string;

  constructor(secret: Bytes) {
    this.#secret = secret;
    this.wallet = addressOf(secp256k1.getPublicKey(secret, false));
  }

  static generate(): WalletKey {
    return new WalletKey(secp256k1.utils.randomSecretKey());
  }

  /** r, s (low) and v (27 or 28) over the EIP-191 hash; deterministic (RFC 6979). */
  sign(text: string): Bytes {
    const options = { prehash: false, format: "recovered" } as const;
    const signature = secp256k1.sign(eip191Hash(text), this.#secret, options);
    // The library puts the recovery bit first.
    return concat(signature.subarray(1), Uint8Array.of(27 + (signature[0] ?? 0)));
  }
}

/**
 * The public-key algorithms of suite 0x0001 behind one interface: `webcrypto.ts` has them where the
 * platform does, `noble.ts` everywhere, and `select.ts` chooses for each algorithm.
 *
 * What is signed, derived or encapsulated for is decided by the callers.
 */
import type { Bytes } from "./bytes";

export const KEY = 32; // X25519 and Ed25519 keys, seeds, symmetric keys, SHA-256 digests
export const ED25519_SIGNATURE = 64;
export const MLDSA_KEY = 1952; // FIPS 204, table 2
export const MLDSA_SIGNATURE = 3309;
export const MLKEM_SEED = 64; // d || z, FIPS 203
export const MLKEM_KEY = 1184;
export const MLKEM_CIPHERTEXT = 1088;

/**
 * A private key: where the platform has the algorithm, a handle that signs or agrees but cannot be
 * read; else its 32-byte seed.
 */
export type PrivateKey = Bytes | CryptoKey;

export interface KeyPair {
  readonly privateKey: PrivateKey;
  readonly publicKey: Bytes;
}

/** X25519 (RFC 7748). */
export interface Agreement {
  generate(): Promise<KeyPair>;
  publicOf(privateKey: Bytes): Promise<Bytes>;
  /** The shared secret. Throws `decrypt` when the public key is of low order. */
  agree(privateKey: PrivateKey, publicKey: Bytes): Promise<Bytes>;
}

/** Ed25519 (RFC 8032). */
export interface ClassicalSigning {
  generate(): Promise<KeyPair>;
  publicOf(seed: Bytes): Promise<Bytes>;
  sign(privateKey: PrivateKey, message: Bytes): Promise<Bytes>;
  /** Throws `bad_classical_signature`. */
  verify(publicKey: Bytes, signature: Bytes, message: Bytes): Promise<void>;
}

/** ML-DSA-65 (FIPS 204), pure and hedged, with the label as context string. */
export interface PostQuantumSigning {
  generate(): Promise<KeyPair>;
  publicOf(seed: Bytes): Promise<Bytes>;
  sign(privateKey: PrivateKey, label: Bytes, message: Bytes): Promise<Bytes>;
  /** Throws `bad_post_quantum_signature`. */
  verify(publicKey: Bytes, signature: Bytes, label: Bytes, message: Bytes): Promise<void>;
}

/** A fresh shared secret (32 bytes) and its ciphertext (1,088 bytes). */
export interface Encapsulated {
  readonly secret: Bytes;
  readonly ciphertext: Bytes;
}

/** ML-KEM-768 (FIPS 203). Secrets are seeds of 64 bytes: they belong to prekeys, which are many. */
export interface KeyEncapsulation {
  publicOf(seed: Bytes): Promise<Bytes>;
  /** Throws `decode` when `publicKey` is not a key. */
  encapsulate(publicKey: Bytes): Promise<Encapsulated>;
  /** A forged ciphertext gives another secret (implicit rejection). */
  decapsulate(seed: Bytes, ciphertext: Bytes): Promise<Bytes>;
}

export interface Suite {
  readonly x25519: Agreement;
  readonly ed25519: ClassicalSigning;
  readonly mldsa65: PostQuantumSigning;
  readonly mlkem768: KeyEncapsulation;
}

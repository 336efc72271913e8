/** Suite 0x0001 in JavaScript alone, by the @noble packages. Its private keys are seeds. */
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { sha512 } from "@noble/hashes/sha2.js";
import { ml_dsa65 } from "@noble/post-quantum/ml-dsa.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";

import { type Bytes, concat } from "./bytes";
import { isReadable, littleEndian } from "./ed25519";
import { CryptoError } from "./errors";
import { fresh } from "./randomness";
import { KEY, type KeyPair, type PrivateKey, type Suite } from "./suite";

/** A key that WebCrypto made cannot be used without it, nor can it be read. */
function seedOf(key: PrivateKey): Bytes {
  if (key instanceof Uint8Array) return key;
  throw new CryptoError("state_unreadable", "this browser no longer has the key's algorithm");
}

async function generate(publicOf: (seed: Bytes) => Promise<Bytes>): Promise<KeyPair> {
  const seed = fresh(KEY);
  return { privateKey: seed, publicKey: await publicOf(seed) };
}

/** The result of `work` as a promise, which rejects when it throws. */
function promised<T>(work: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(work());
  });
}

/** What a verification returns, or throws where the bytes are no key or no signature at all. */
async function holds(work: () => boolean): Promise<boolean> {
  try {
    return await promised(work);
  } catch {
    return false;
  }
}

/** Noble multiplies by the cofactor before it compares; without it, fewer signatures are sound. */
function isSigned(publicKey: Bytes, signature: Bytes, message: Bytes): boolean {
  if (!isReadable(publicKey, signature)) return false;
  // zip215 would take encodings that RFC 8032 refuses.
  if (!ed25519.verify(signature, message, publicKey, { zip215: false })) return false;
  const { Point } = ed25519;
  const [point, scalar] = [signature.slice(0, KEY), signature.slice(KEY)];
  const challenge = Point.Fn.create(littleEndian(sha512(concat(point, publicKey, message))));
  const expected = Point.fromBytes(point).add(Point.fromBytes(publicKey).multiplyUnsafe(challenge));
  return Point.BASE.multiplyUnsafe(littleEndian(scalar)).equals(expected);
}

const x25519Public = (key: Bytes): Promise<Bytes> => promised(() => x25519.getPublicKey(key));
const ed25519Public = (seed: Bytes): Promise<Bytes> => promised(() => ed25519.getPublicKey(seed));
const mldsaPublic = (seed: Bytes): Promise<Bytes> => promised(() => ml_dsa65.keygen(seed).publicKey);

/** Expanding an ML-DSA-65 seed costs as much as a signature: it is done once while the seed lives. */
const expandedKeys = new WeakMap<Bytes, Bytes>();

function expanded(seed: Bytes): Bytes {
  const known = expandedKeys.get(seed);
  if (known !== undefined) return known;
  const { secretKey } = ml_dsa65.keygen(seed);
  expandedKeys.set(seed, secretKey);
  return secretKey;
}

export const nobleSuite: Suite = {
  x25519: {
    generate: () => generate(x25519Public),
    publicOf: x25519Public,
    async agree(privateKey, publicKey) {
      try {
        return await promised(() => x25519.getSharedSecret(seedOf(privateKey), publicKey));
      } catch (error) {
        if (error instanceof CryptoError) throw error;
        throw new CryptoError("decrypt", "an X25519 key of low order");
      }
    },
  },
  ed25519: {
    generate: () => generate(ed25519Public),
    publicOf: ed25519Public,
    sign: (privateKey, message) => promised(() => ed25519.sign(message, seedOf(privateKey))),
    async verify(publicKey, signature, message) {
      if (!(await holds(() => isSigned(publicKey, signature, message)))) {
        throw new CryptoError("bad_classical_signature", "an Ed25519 signature does not verify");
      }
    },
  },
  mldsa65: {
    generate: () => generate(mldsaPublic),
    publicOf: mldsaPublic,
    sign: (privateKey, label, message) =>
      promised(() => {
        return ml_dsa65.sign(message, expanded(seedOf(privateKey)), { context: label });
      }),
    async verify(publicKey, signature, label, message) {
      const options = { context: label };
      if (!(await holds(() => ml_dsa65.verify(signature, message, publicKey, options)))) {
        throw new CryptoError("bad_post_quantum_signature", "an ML-DSA-65 signature does not verify");
      }
    },
  },
  mlkem768: {
    publicOf: (seed) => promised(() => ml_kem768.keygen(seed).publicKey),
    async encapsulate(publicKey) {
      try {
        const { sharedSecret, cipherText } = await promised(() => ml_kem768.encapsulate(publicKey));
        return { secret: sharedSecret, ciphertext: cipherText };
      } catch {
        throw new CryptoError("decode", "not an ML-KEM-768 key");
      }
    },
    decapsulate: (seed, ciphertext) =>
      promised(() => ml_kem768.decapsulate(ciphertext, ml_kem768.keygen(seed).secretKey)),
  },
};

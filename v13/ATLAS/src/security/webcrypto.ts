/**
 * The algorithms of suite 0x0001 by WebCrypto. Private keys that it generates are handles that
 * cannot be read. Whether a browser has an algorithm is found out in `select.ts`.
 */
import { type Bytes, concat, fromBase64, fromHex } from "./bytes";
import { isReadable } from "./ed25519";
import { CryptoError } from "./errors";
import type {
  Agreement,
  ClassicalSigning,
  KeyEncapsulation,
  KeyPair,
  PostQuantumSigning,
  PrivateKey,
} from "./suite";

/** What WebCrypto has gained since TypeScript's own declarations of it. */
interface Subtle extends Omit<SubtleCrypto, "importKey" | "exportKey"> {
  importKey(
    format: "raw" | "raw-public" | "raw-seed" | "pkcs8",
    data: Bytes,
    algorithm: { name: string },
    extractable: boolean,
    usages: readonly string[],
  ): Promise<CryptoKey>;
  exportKey(format: "raw" | "raw-public", key: CryptoKey): Promise<ArrayBuffer>;
  exportKey(format: "jwk", key: CryptoKey): Promise<{ readonly x?: string; readonly pub?: string }>;
  encapsulateBits(
    algorithm: { name: string },
    key: CryptoKey,
  ): Promise<{ sharedKey: ArrayBuffer; ciphertext: ArrayBuffer }>;
  decapsulateBits(
    algorithm: { name: string },
    key: CryptoKey,
    ciphertext: Bytes,
  ): Promise<ArrayBuffer>;
}

const subtle = crypto.subtle as unknown as Subtle;

const X25519 = { name: "X25519" };
const ED25519 = { name: "Ed25519" };
const MLDSA = { name: "ML-DSA-65" };
const MLKEM = { name: "ML-KEM-768" };

// RFC 8410: what comes before the 32 bytes of a private key, and the base point of RFC 7748.
const X25519_PKCS8 = fromHex("302e020100300506032b656e04220420");
const ED25519_PKCS8 = fromHex("302e020100300506032b657004220420");
const BASE_POINT = concat(Uint8Array.of(9), new Uint8Array(31));

async function generate(
  algorithm: { name: string },
  usages: readonly KeyUsage[],
  format: "raw" | "raw-public",
): Promise<KeyPair> {
  const made = await subtle.generateKey(algorithm, false, usages);
  if (!("publicKey" in made)) throw new TypeError("not a key pair");
  const publicKey = new Uint8Array(await subtle.exportKey(format, made.publicKey));
  return { privateKey: made.privateKey, publicKey };
}

/** A field of an exported key, which is base64url without padding. */
function fromJwk(field: string | undefined): Bytes {
  const text = (field ?? "").replaceAll("-", "+").replaceAll("_", "/");
  const data = fromBase64(text.padEnd(Math.ceil(text.length / 4) * 4, "="));
  if (data === null || data.length === 0) throw new TypeError("no public key in an exported key");
  return data;
}

async function agreementKey(key: PrivateKey): Promise<CryptoKey> {
  if (!(key instanceof Uint8Array)) return key;
  return subtle.importKey("pkcs8", concat(X25519_PKCS8, key), X25519, false, ["deriveBits"]);
}

async function agree(privateKey: PrivateKey, publicKey: Bytes): Promise<Bytes> {
  const [own, peer] = await Promise.all([
    agreementKey(privateKey),
    subtle.importKey("raw", publicKey, X25519, false, []),
  ]);
  return new Uint8Array(await subtle.deriveBits({ name: "X25519", public: peer }, own, 256));
}

export const webX25519: Agreement = {
  generate: () => generate(X25519, ["deriveBits"], "raw"),
  publicOf: (privateKey) => agree(privateKey, BASE_POINT),
  async agree(privateKey, publicKey) {
    let shared: Bytes;
    try {
      shared = await agree(privateKey, publicKey);
    } catch {
      throw new CryptoError("decrypt", "an X25519 key of low order");
    }
    // RFC 7748, section 6.1; not every engine refuses it by itself.
    if (shared.every((byte) => byte === 0)) {
      throw new CryptoError("decrypt", "an X25519 key of low order");
    }
    return shared;
  },
};

async function signingKey(key: PrivateKey, extractable = false): Promise<CryptoKey> {
  if (!(key instanceof Uint8Array)) return key;
  return subtle.importKey("pkcs8", concat(ED25519_PKCS8, key), ED25519, extractable, ["sign"]);
}

/** Whether a signature holds; false too where the bytes are no key or no signature at all. */
async function holds(work: () => Promise<boolean>): Promise<boolean> {
  try {
    return await work();
  } catch {
    return false;
  }
}

export const webEd25519: ClassicalSigning = {
  generate: () => generate(ED25519, ["sign", "verify"], "raw"),
  async publicOf(seed) {
    return fromJwk((await subtle.exportKey("jwk", await signingKey(seed, true))).x);
  },
  async sign(privateKey, message) {
    return new Uint8Array(await subtle.sign(ED25519, await signingKey(privateKey), message));
  },
  async verify(publicKey, signature, message) {
    const sound = await holds(async () => {
      if (!isReadable(publicKey, signature)) return false;
      const key = await subtle.importKey("raw", publicKey, ED25519, false, ["verify"]);
      return subtle.verify(ED25519, key, signature, message);
    });
    if (!sound) {
      throw new CryptoError("bad_classical_signature", "an Ed25519 signature does not verify");
    }
  },
};

async function postQuantumKey(key: PrivateKey, extractable = false): Promise<CryptoKey> {
  if (!(key instanceof Uint8Array)) return key;
  return subtle.importKey("raw-seed", key, MLDSA, extractable, ["sign"]);
}

export const webMldsa65: PostQuantumSigning = {
  generate: () => generate(MLDSA, ["sign", "verify"], "raw-public"),
  async publicOf(seed) {
    return fromJwk((await subtle.exportKey("jwk", await postQuantumKey(seed, true))).pub);
  },
  async sign(privateKey, label, message) {
    const parameters = { ...MLDSA, context: label };
    return new Uint8Array(await subtle.sign(parameters, await postQuantumKey(privateKey), message));
  },
  async verify(publicKey, signature, label, message) {
    const sound = await holds(async () => {
      const key = await subtle.importKey("raw-public", publicKey, MLDSA, false, ["verify"]);
      return subtle.verify({ ...MLDSA, context: label } as Algorithm, key, signature, message);
    });
    if (!sound) {
      throw new CryptoError("bad_post_quantum_signature", "an ML-DSA-65 signature does not verify");
    }
  },
};

async function encapsulationKey(seed: Bytes, extractable = false): Promise<CryptoKey> {
  return subtle.importKey("raw-seed", seed, MLKEM, extractable, ["decapsulateBits"]);
}

export const webMlkem768: KeyEncapsulation = {
  async publicOf(seed) {
    return fromJwk((await subtle.exportKey("jwk", await encapsulationKey(seed, true))).pub);
  },
  async encapsulate(publicKey) {
    let key: CryptoKey;
    try {
      key = await subtle.importKey("raw-public", publicKey, MLKEM, false, ["encapsulateBits"]);
    } catch {
      throw new CryptoError("decode", "not an ML-KEM-768 key");
    }
    const { sharedKey, ciphertext } = await subtle.encapsulateBits(MLKEM, key);
    return { secret: new Uint8Array(sharedKey), ciphertext: new Uint8Array(ciphertext) };
  },
  async decapsulate(seed, ciphertext) {
    const key = await encapsulationKey(seed);
    return new Uint8Array(await subtle.decapsulateBits(MLKEM, key, ciphertext));
  },
};

/**
 * AES-256-GCM, by WebCrypto alone: every secure context has it, and AES in JavaScript looks up
 * tables by secret bytes.
 */
import { type Bytes } from "./bytes";
import { CryptoError } from "./errors";

export const NONCE = 12;
export const TAG = 16;

/** A raw key of 32 bytes, or a handle to one. */
export type AeadKey = Bytes | CryptoKey;

async function handle(key: AeadKey, usage: "encrypt" | "decrypt"): Promise<CryptoKey> {
  if (!(key instanceof Uint8Array)) return key;
  return crypto.subtle.importKey("raw", key, "AES-GCM", false, [usage]);
}

/** Ciphertext and its 16-byte tag. A pair of key and nonce must be used only once. */
export async function seal(key: AeadKey, nonce: Bytes, plaintext: Bytes, data: Bytes): Promise<Bytes> {
  const parameters = { name: "AES-GCM", iv: nonce, additionalData: data };
  const sealed = await crypto.subtle.encrypt(parameters, await handle(key, "encrypt"), plaintext);
  return new Uint8Array(sealed);
}

/** Undo `seal`. Throws `decrypt` when key, nonce, bytes or associated data differ. */
export async function unseal(key: AeadKey, nonce: Bytes, sealed: Bytes, data: Bytes): Promise<Bytes> {
  const parameters = { name: "AES-GCM", iv: nonce, additionalData: data };
  try {
    const opened = await crypto.subtle.decrypt(parameters, await handle(key, "decrypt"), sealed);
    return new Uint8Array(opened);
  } catch {
    throw new CryptoError("decrypt", "authentication failed");
  }
}

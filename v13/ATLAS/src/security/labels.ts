/**
 * One label for each use of a key or a hash (SPEC-crypto, "Labels"). Nothing else lives here.
 *
 * A label is never reused and none is a prefix of another. In signed and hashed input a label is
 * always preceded by its length (`labelled`).
 */
import type { Bytes } from "./bytes";

const encoder = new TextEncoder();

function label(use: string): Bytes {
  return encoder.encode(`atlas/secure-chat/v2/${use}`);
}

export const IDENTITY = label("identity");
export const DEVICE_CERTIFICATE = label("device-certificate");
export const DEVICE_REVOCATION = label("device-revocation");
export const SAFETY_NUMBER = label("safety-number");

export const SIGNED_PREKEY = label("signed-prekey");
export const LAST_RESORT_KEM_PREKEY = label("last-resort-kem-prekey");
export const ONE_TIME_PREKEY = label("one-time-prekey");
export const ONE_TIME_KEM_PREKEY = label("one-time-kem-prekey");

export const HANDSHAKE_TRANSCRIPT = label("handshake-transcript");
export const HANDSHAKE_ROOT = label("handshake-root");
export const INITIATION = label("initiation-signature");
export const RATCHET_ROOT = label("ratchet-root");
export const RATCHET_MESSAGE = label("ratchet-message");

export const CONVERSATION = label("conversation");
export const MESSAGE = label("message");
export const CONTENT_KEY = label("content-key");
export const KEY_WRAP = label("key-wrap");
export const FRAME = label("frame-signature");

export const ATTACHMENT_KEY = label("attachment-key");
export const ATTACHMENT_BLOCK = label("attachment-block");
export const STATE = label("state");

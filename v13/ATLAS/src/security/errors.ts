/**
 * Every error of the protocol library is a `CryptoError` with a code of SPEC-crypto, "Errors".
 *
 * Texts never hold data. What a peer left out or delivered late is no error but a value
 * (`Continuity`).
 */

export type ErrorCode =
  | "decode" // not the canonical bytes of anything
  | "unsupported_suite" // another version or suite
  | "verification" // who it claims to be is not shown
  | "bad_wallet_signature"
  | "bad_classical_signature"
  | "bad_post_quantum_signature"
  | "post_quantum_missing" // a key or signature was left out
  | "not_certified" // a device without a sound certificate
  | "device_revoked"
  | "identity_changed" // not the identity that was pinned
  | "decrypt" // authentication failed
  | "commitment_mismatch" // the key opens another message too
  | "frame_hash_mismatch" // the frame's hash is not its own
  | "not_addressed" // nothing in it for this device
  | "unknown_session" // establish again; the peer must re-send
  | "unknown_prekey" // used up, rotated out, or never ours
  | "too_many_skipped" // establish again
  | "replayed" // this message was taken before
  | "reflected" // our own message, back to us
  | "storage"
  | "state_unreadable" // wrong key, torn or altered
  | "state_rolled_back" // an old backup: it may not send
  | "refused" // the caller asks for what is unsafe
  | "no_session" // establish first: see NoSession
  | "content_too_large";

export class CryptoError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, text: string) {
    super(text);
    this.name = "CryptoError";
    this.code = code;
  }
}

/** `seal` needs sessions that are not there. */
export class NoSession extends CryptoError {
  /** Ids of the certificates whose prekey bundle must be claimed first, in ascending order. */
  readonly certificates: readonly Uint8Array[];

  constructor(certificates: readonly Uint8Array[]) {
    super("no_session", `${certificates.length} devices have no session with this one`);
    this.certificates = certificates;
  }
}

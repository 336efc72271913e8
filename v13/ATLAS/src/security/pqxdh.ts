/**
 * The handshake: X25519 three or four times and ML-KEM-768 once, all bound in one transcript
 * (SPEC-crypto, "Handshake").
 *
 * There is one suite and no way to ask for less. What follows from the root key is in `ratchet.ts`.
 */
import { type Bytes, concat } from "./bytes";
import { labelled, Reader, SUITE, u16, u32, u64, u8, walletBytes } from "./codec";
import type { Certificate, CertificateBody, DeviceKeys } from "./devices";
import { hkdf, sha256 } from "./digest";
import { CryptoError } from "./errors";
import { HANDSHAKE_ROOT, HANDSHAKE_TRANSCRIPT } from "./labels";
import {
  type Bundle,
  isKemKind,
  type KemKind,
  ONE_TIME,
  type PrekeyKind,
  type PrekeySecret,
  SIGNED,
} from "./prekeys";
import type { Randomness } from "./randomness";
import { KEY, MLKEM_CIPHERTEXT, type Suite } from "./suite";

export const MAX_OPENED = Number.MAX_SAFE_INTEGER; // 2^53-1
export const SESSION_ID = 16;
export const HANDSHAKE = 8 + 32 + 4 + 1 + 4 + 4 + MLKEM_CIPHERTEXT;

export interface HandshakeFields {
  /** The initiator's clock in milliseconds, or more: it ranks sessions. */
  readonly opened: number;
  readonly ephemeral: Bytes;
  readonly signed: number;
  readonly kemKind: KemKind;
  readonly kem: number;
  /** 0 when none was used. */
  readonly oneTime: number;
  readonly kemCiphertext: Bytes;
}

/** What the initiator sends until it is answered. */
export class Handshake implements HandshakeFields {
  readonly opened: number;
  readonly ephemeral: Bytes;
  readonly signed: number;
  readonly kemKind: KemKind;
  readonly kem: number;
  readonly oneTime: number;
  readonly kemCiphertext: Bytes;

  constructor(fields: HandshakeFields) {
    this.opened = fields.opened;
    this.ephemeral = fields.ephemeral;
    this.signed = fields.signed;
    this.kemKind = fields.kemKind;
    this.kem = fields.kem;
    this.oneTime = fields.oneTime;
    this.kemCiphertext = fields.kemCiphertext;
  }

  encode(): Bytes {
    return concat(
      u64(this.opened),
      this.ephemeral,
      u32(this.signed),
      u8(this.kemKind),
      u32(this.kem),
      u32(this.oneTime),
      this.kemCiphertext,
    );
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Handshake {
    const reader = new Reader(data);
    const opened = reader.u64();
    const ephemeral = reader.take(KEY);
    const signed = reader.u32();
    const kemKind = reader.u8();
    const kem = reader.u32();
    const oneTime = reader.u32();
    const kemCiphertext = reader.take(MLKEM_CIPHERTEXT);
    reader.end();
    if (opened > MAX_OPENED || !isKemKind(kemKind) || signed === 0 || kem === 0) {
      throw new CryptoError("decode", "a handshake's field is out of its range");
    }
    return new Handshake({ opened, ephemeral, signed, kemKind, kem, oneTime, kemCiphertext });
  }
}

/** What both sides hold after the handshake. */
export interface KeyAgreement {
  /** Public; its first 16 bytes are the session's id. */
  readonly transcript: Bytes;
  /** Secret. */
  readonly root: Bytes;
}

/** The session's id: the first 16 bytes of the transcript. */
export function sessionId(transcript: Bytes): Bytes {
  return transcript.slice(0, SESSION_ID);
}

/** SHA-256 over everything the handshake stands on. `oneTime` is empty when none was used. */
export function handshakeTranscript(
  initiator: CertificateBody,
  responder: CertificateBody,
  handshake: Handshake,
  signed: Bytes,
  kem: Bytes,
  oneTime: Bytes,
): Bytes {
  const sides = [initiator, responder];
  return sha256(
    labelled(HANDSHAKE_TRANSCRIPT, u16(SUITE)),
    u64(handshake.opened),
    ...sides.map((side) => walletBytes(side.wallet)),
    ...sides.map((side) => side.identity),
    ...sides.map((side) => side.id),
    ...sides.map((side) => side.agreement),
    handshake.ephemeral,
    u32(handshake.signed),
    signed,
    u8(handshake.kemKind),
    u32(handshake.kem),
    kem,
    u32(handshake.oneTime),
    oneTime,
    handshake.kemCiphertext,
  );
}

/** The root key from the transcript and DH1, DH2, DH3, [DH4,] KEM secret, in this order. */
function rootKey(transcript: Bytes, secrets: readonly Bytes[]): Bytes {
  return hkdf(transcript, concat(...secrets), HANDSHAKE_ROOT, 32);
}

/**
 * Open a session with the verified device `peer`. Verifies `bundle` first; throws what
 * `Bundle.verify` throws, or `decrypt` on a key of low order.
 */
export async function initiate(
  suite: Suite,
  keys: DeviceKeys,
  certificate: CertificateBody,
  peer: Certificate,
  bundle: Bundle,
  opened: number,
  randomness: Randomness,
): Promise<{ agreement: KeyAgreement; handshake: Handshake }> {
  const kem = await bundle.verify(suite, peer);
  if (!isKemKind(kem.kind)) throw new CryptoError("post_quantum_missing", "not a KEM prekey");
  const { secret, ciphertext } = await suite.mlkem768.encapsulate(kem.key);
  const ephemeral = randomness(KEY);
  const handshake = new Handshake({
    opened,
    ephemeral: await suite.x25519.publicOf(ephemeral),
    signed: bundle.signed.id,
    kemKind: kem.kind,
    kem: kem.id,
    oneTime: bundle.oneTime?.id ?? 0,
    kemCiphertext: ciphertext,
  });
  const transcript = handshakeTranscript(
    certificate,
    peer.body,
    handshake,
    bundle.signed.key,
    kem.key,
    bundle.oneTime?.key ?? new Uint8Array(),
  );
  const secrets = [
    await suite.x25519.agree(keys.agreement.privateKey, bundle.signed.key),
    await suite.x25519.agree(ephemeral, peer.body.agreement),
    await suite.x25519.agree(ephemeral, bundle.signed.key),
  ];
  if (bundle.oneTime !== null) {
    secrets.push(await suite.x25519.agree(ephemeral, bundle.oneTime.key));
  }
  return { agreement: { transcript, root: rootKey(transcript, [...secrets, secret]) }, handshake };
}

/** What the responder's side of a handshake gives. */
export interface Response {
  readonly agreement: KeyAgreement;
  /** The own signed prekey that took part. */
  readonly signed: PrekeySecret;
  /** All prekeys that took part. The caller deletes the one-time ones with the first message. */
  readonly used: readonly PrekeySecret[];
}

/**
 * The other side: `peer` is the initiator's verified certificate, `find` looks up secrets (null when
 * there is none). Throws `unknown_prekey` or `decrypt`.
 */
export async function respond(
  suite: Suite,
  keys: DeviceKeys,
  certificate: CertificateBody,
  peer: Certificate,
  handshake: Handshake,
  find: (kind: PrekeyKind, id: number) => Promise<PrekeySecret | null>,
): Promise<Response> {
  const known = async (kind: PrekeyKind, id: number): Promise<PrekeySecret> => {
    const secret = await find(kind, id);
    if (secret === null) {
      throw new CryptoError("unknown_prekey", "the handshake uses a prekey that is not there");
    }
    return secret;
  };
  const signed = await known(SIGNED, handshake.signed);
  const kem = await known(handshake.kemKind, handshake.kem);
  const oneTime = handshake.oneTime === 0 ? null : await known(ONE_TIME, handshake.oneTime);
  const secrets = [
    await suite.x25519.agree(signed.secret, peer.body.agreement),
    await suite.x25519.agree(keys.agreement.privateKey, handshake.ephemeral),
    await suite.x25519.agree(signed.secret, handshake.ephemeral),
  ];
  if (oneTime !== null) {
    secrets.push(await suite.x25519.agree(oneTime.secret, handshake.ephemeral));
  }
  const transcript = handshakeTranscript(
    peer.body,
    certificate,
    handshake,
    await signed.publicKey(suite),
    await kem.publicKey(suite),
    oneTime === null ? new Uint8Array() : await oneTime.publicKey(suite),
  );
  secrets.push(await suite.mlkem768.decapsulate(kem.secret, handshake.kemCiphertext));
  return {
    agreement: { transcript, root: rootKey(transcript, secrets) },
    signed,
    used: oneTime === null ? [signed, kem] : [signed, kem, oneTime],
  };
}

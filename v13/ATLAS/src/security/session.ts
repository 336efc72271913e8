/**
 * Sessions: the ratchets that this device shares with one other device, and which of them counts.
 *
 * Both sides may open a session at the same time, and either may open a new one to reset. All are
 * kept for receiving, up to a cap; both sides send on the one opened last, and on a tie on the one
 * with the smaller id, so they converge as soon as both know both.
 */
import { type Bytes, compare, concat, equal } from "./bytes";
import { flag, labelled, Reader, u16, u64 } from "./codec";
import { KEY_WRAP } from "./labels";
import { Handshake, HANDSHAKE, type KeyAgreement, MAX_OPENED, sessionId } from "./pqxdh";
import type { Randomness } from "./randomness";
import { type Header, Ratchet } from "./ratchet";
import { KEY, type Suite } from "./suite";

/** Two from a concurrent opening, and two for a reset while old messages are still under way. */
export const MAX_SESSIONS = 4;

/** A content key sealed for one device. */
export interface Wrapped {
  readonly session: Bytes;
  /** There until the peer has answered, else null. */
  readonly handshake: Handshake | null;
  readonly header: Header;
  readonly sealed: Bytes;
}

/** What a wrapped key authenticates: session, message and the key's own commitment. */
export function wrapData(transcript: Bytes, messageDigest: Bytes, commitment: Bytes): Bytes {
  return labelled(KEY_WRAP, transcript, messageDigest, commitment);
}

/** One ratchet with one device. A value: wrapping and unwrapping return the next one. */
export class Session {
  readonly transcript: Bytes;
  readonly opened: number;
  readonly ratchet: Ratchet;
  readonly unanswered: Handshake | null;
  readonly id: Bytes;

  constructor(transcript: Bytes, opened: number, ratchet: Ratchet, unanswered: Handshake | null) {
    this.transcript = transcript;
    this.opened = opened;
    this.ratchet = ratchet;
    this.unanswered = unanswered;
    this.id = sessionId(transcript);
  }

  /** The initiator's side; `signed` is the responder's public signed prekey. */
  static initiated(agreement: KeyAgreement, handshake: Handshake, signed: Bytes): Session {
    const ratchet = Ratchet.initiator(agreement.root, signed);
    return new Session(agreement.transcript, handshake.opened, ratchet, handshake);
  }

  /** The responder's side; `signed` is its own signed prekey's secret. */
  static responded(agreement: KeyAgreement, handshake: Handshake, signed: Bytes): Session {
    const ratchet = Ratchet.responder(agreement.root, signed);
    return new Session(agreement.transcript, handshake.opened, ratchet, null);
  }

  /** Seal a content key. Save the next session before the wrap leaves. */
  async wrap(
    suite: Suite,
    key: Bytes,
    messageDigest: Bytes,
    commitment: Bytes,
    randomness: Randomness,
  ): Promise<{ wrapped: Wrapped; next: Session }> {
    const data = wrapData(this.transcript, messageDigest, commitment);
    const { header, sealed, next } = await this.ratchet.encrypt(suite, key, data, randomness);
    return {
      wrapped: { session: this.id, handshake: this.unanswered, header, sealed },
      next: new Session(this.transcript, this.opened, next, this.unanswered),
    };
  }

  /** The content key and the next session. Throws `decrypt`, `too_many_skipped` or `replayed`. */
  async unwrap(
    suite: Suite,
    wrapped: Wrapped,
    messageDigest: Bytes,
    commitment: Bytes,
  ): Promise<{ key: Bytes; next: Session }> {
    const data = wrapData(this.transcript, messageDigest, commitment);
    const { header, sealed } = wrapped;
    const { plaintext, next } = await this.ratchet.decrypt(suite, header, sealed, data);
    return { key: plaintext, next: new Session(this.transcript, this.opened, next, null) };
  }

  /** For the store: secret. */
  encode(): Bytes {
    const { unanswered } = this;
    return concat(
      this.transcript,
      u64(this.opened),
      flag(unanswered !== null),
      unanswered?.encode() ?? new Uint8Array(),
      this.ratchet.encode(),
    );
  }

  /** Throws `decode`. */
  static read(reader: Reader): Session {
    const transcript = reader.take(KEY);
    const opened = reader.u64();
    const unanswered = reader.flag() ? Handshake.decode(reader.take(HANDSHAKE)) : null;
    return new Session(transcript, opened, Ratchet.read(reader), unanswered);
  }
}

/** All sessions with one device (one certificate), the one to send on first. */
export class Sessions {
  readonly ranked: readonly Session[];

  constructor(ranked: readonly Session[] = []) {
    this.ranked = ranked;
  }

  /** Null when there is no such session. */
  find(id: Bytes): Session | null {
    return this.ranked.find((one) => equal(one.id, id)) ?? null;
  }

  /** With `session` in its new state, or added; beyond the cap the lowest rank goes. */
  with(session: Session): Sessions {
    const others = this.ranked.filter((one) => !equal(one.id, session.id));
    const ranked = [...others, session].sort(
      (one, other) => other.opened - one.opened || compare(one.id, other.id),
    );
    return new Sessions(ranked.slice(0, MAX_SESSIONS));
  }

  /** When a session opened now must say it was: later than all that are known. */
  nextOpened(now: number): number {
    const last = this.ranked[0]?.opened;
    return Math.min(last === undefined ? now : Math.max(now, last + 1), MAX_OPENED);
  }

  encode(): Bytes {
    return concat(u16(this.ranked.length), ...this.ranked.map((one) => one.encode()));
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Sessions {
    const reader = new Reader(data);
    const ranked = Array.from({ length: reader.u16() }, () => Session.read(reader));
    reader.end();
    return new Sessions(ranked);
  }
}

/**
 * Prekeys: what a device leaves with the server so that others can write to it while it is away.
 *
 * Four kinds, each under its own label. What is published (`Publication`), what is claimed for one
 * handshake (`Bundle`), and the secrets behind them. Handing out and counting is the server's.
 */
import { type Bytes, concat, equal } from "./bytes";
import { flag, labelled, Reader, SUITE, u16, u32, u8, VERSION } from "./codec";
import { type Certificate, type DeviceKeys, signAsDevice } from "./devices";
import { CryptoError } from "./errors";
import {
  LAST_RESORT_KEM_PREKEY,
  ONE_TIME_KEM_PREKEY,
  ONE_TIME_PREKEY,
  SIGNED_PREKEY,
} from "./labels";
import type { Randomness } from "./randomness";
import {
  ED25519_SIGNATURE,
  KEY,
  MLDSA_SIGNATURE,
  MLKEM_KEY,
  MLKEM_SEED,
  type Suite,
} from "./suite";

export const MAX_ONE_TIME = 100; // of each kind in one publication

/** The kind's number on the wire. */
export const SIGNED = 1;
export const LAST_RESORT_KEM = 2;
export const ONE_TIME = 3;
export const ONE_TIME_KEM = 4;

export type KemKind = typeof LAST_RESORT_KEM | typeof ONE_TIME_KEM;
export type PrekeyKind = typeof SIGNED | typeof ONE_TIME | KemKind;

const LABELS: Readonly<Record<PrekeyKind, Bytes>> = {
  [SIGNED]: SIGNED_PREKEY,
  [LAST_RESORT_KEM]: LAST_RESORT_KEM_PREKEY,
  [ONE_TIME]: ONE_TIME_PREKEY,
  [ONE_TIME_KEM]: ONE_TIME_KEM_PREKEY,
};

export function isKemKind(kind: number): kind is KemKind {
  return kind === LAST_RESORT_KEM || kind === ONE_TIME_KEM;
}

/** A prekey's secret: an X25519 private key (32 bytes) or an ML-KEM-768 seed (64 bytes). */
export class PrekeySecret {
  readonly kind: PrekeyKind;
  readonly id: number;
  readonly secret: Bytes;

  constructor(kind: PrekeyKind, id: number, secret: Bytes) {
    this.kind = kind;
    this.id = id;
    this.secret = secret;
  }

  static generate(kind: PrekeyKind, id: number, randomness: Randomness): PrekeySecret {
    return new PrekeySecret(kind, id, randomness(isKemKind(kind) ? MLKEM_SEED : KEY));
  }

  publicKey(suite: Suite): Promise<Bytes> {
    const algorithm = isKemKind(this.kind) ? suite.mlkem768 : suite.x25519;
    return algorithm.publicOf(this.secret);
  }

  /** The signed public half, tied to the device's certificate (its id). */
  async publish(suite: Suite, keys: DeviceKeys, certificate: Bytes): Promise<Prekey> {
    const { kind, id } = this;
    const label = LABELS[kind];
    const key = await this.publicKey(suite);
    const body = concat(certificate, u32(id), key);
    if (kind === ONE_TIME) {
      const message = labelled(label, body);
      const signature = await suite.ed25519.sign(keys.signing.privateKey, message);
      return new Prekey(kind, id, key, signature, null);
    }
    const { classical, postQuantum } = await signAsDevice(suite, keys, label, body);
    return new Prekey(kind, id, key, classical, postQuantum);
  }
}

/**
 * A public prekey and its signatures. A one-time X25519 prekey has no ML-DSA-65 signature: it adds
 * secrecy to a handshake that is post-quantum authenticated without it.
 */
export class Prekey {
  readonly kind: PrekeyKind;
  readonly id: number;
  readonly key: Bytes;
  readonly signature: Bytes;
  /** Null exactly for one-time X25519 prekeys. */
  readonly postQuantumSignature: Bytes | null;

  constructor(
    kind: PrekeyKind,
    id: number,
    key: Bytes,
    signature: Bytes,
    postQuantumSignature: Bytes | null,
  ) {
    this.kind = kind;
    this.id = id;
    this.key = key;
    this.signature = signature;
    this.postQuantumSignature = postQuantumSignature;
  }

  encode(): Bytes {
    const postQuantum = this.postQuantumSignature ?? new Uint8Array();
    return concat(u8(this.kind), u32(this.id), this.key, this.signature, postQuantum);
  }

  /** Take one prekey of one of `kinds`. Throws `decode`. */
  static read(reader: Reader, ...kinds: readonly PrekeyKind[]): Prekey {
    const number = reader.u8();
    const kind = kinds.find((one) => one === number);
    if (kind === undefined) {
      throw new CryptoError("decode", "not the kind of prekey that belongs here");
    }
    const id = reader.u32();
    if (id === 0) throw new CryptoError("decode", "prekeys are numbered from 1");
    return new Prekey(
      kind,
      id,
      reader.take(isKemKind(kind) ? MLKEM_KEY : KEY),
      reader.take(ED25519_SIGNATURE),
      kind === ONE_TIME ? null : reader.take(MLDSA_SIGNATURE),
    );
  }

  /** Throws `bad_classical_signature` or `bad_post_quantum_signature`. */
  async verify(suite: Suite, certificate: Certificate): Promise<void> {
    const label = LABELS[this.kind];
    const message = labelled(label, certificate.id, u32(this.id), this.key);
    const { signing, postQuantum } = certificate.body;
    await suite.ed25519.verify(signing, this.signature, message);
    if (this.postQuantumSignature !== null) {
      await suite.mldsa65.verify(postQuantum, this.postQuantumSignature, label, message);
    }
  }
}

/** What a device uploads: a signed prekey, a last-resort KEM prekey, and one-time prekeys. */
export class Publication {
  readonly certificate: Bytes;
  readonly signed: Prekey;
  readonly lastResort: Prekey;
  readonly oneTime: readonly Prekey[];
  readonly oneTimeKem: readonly Prekey[];

  constructor(
    certificate: Bytes,
    signed: Prekey,
    lastResort: Prekey,
    oneTime: readonly Prekey[],
    oneTimeKem: readonly Prekey[],
  ) {
    this.certificate = certificate;
    this.signed = signed;
    this.lastResort = lastResort;
    this.oneTime = oneTime;
    this.oneTimeKem = oneTimeKem;
  }

  encode(): Bytes {
    const several = [this.oneTime, this.oneTimeKem].flatMap((prekeys) => [
      u16(prekeys.length),
      ...prekeys.map((one) => one.encode()),
    ]);
    return concat(
      u8(VERSION),
      u16(SUITE),
      this.certificate,
      this.signed.encode(),
      this.lastResort.encode(),
      ...several,
    );
  }

  /** Throws `decode`. Nothing is verified yet. */
  static decode(data: Bytes): Publication {
    const reader = new Reader(data);
    reader.version();
    reader.suite();
    const publication = new Publication(
      reader.take(32),
      Prekey.read(reader, SIGNED),
      Prekey.read(reader, LAST_RESORT_KEM),
      readSeveral(reader, ONE_TIME),
      readSeveral(reader, ONE_TIME_KEM),
    );
    reader.end();
    return publication;
  }

  /**
   * Check every signature: the proof that the device itself publishes these keys. Throws
   * `not_certified`, `bad_classical_signature` or `bad_post_quantum_signature`.
   */
  async verify(suite: Suite, certificate: Certificate): Promise<void> {
    if (!equal(this.certificate, certificate.id)) {
      throw new CryptoError("not_certified", "the prekeys are of another certificate");
    }
    for (const one of [this.signed, this.lastResort, ...this.oneTime, ...this.oneTimeKem]) {
      await one.verify(suite, certificate);
    }
  }
}

function readSeveral(reader: Reader, kind: PrekeyKind): readonly Prekey[] {
  const count = reader.u16();
  if (count > MAX_ONE_TIME) {
    throw new CryptoError("decode", `more than ${MAX_ONE_TIME} one-time prekeys of a kind`);
  }
  const prekeys: Prekey[] = [];
  let last = 0;
  for (let index = 0; index < count; index++) {
    const prekey = Prekey.read(reader, kind);
    if (prekey.id <= last) {
      throw new CryptoError("decode", "one-time prekeys are not in ascending order of their ids");
    }
    last = prekey.id;
    prekeys.push(prekey);
  }
  return prekeys;
}

/**
 * What is claimed for one handshake: the signed prekey, one KEM prekey (one-time while the stock
 * lasts, else the last resort), and a one-time X25519 prekey if there is one left.
 */
export class Bundle {
  readonly certificate: Bytes;
  readonly signed: Prekey;
  readonly kem: Prekey | null;
  readonly oneTime: Prekey | null;

  constructor(certificate: Bytes, signed: Prekey, kem: Prekey | null, oneTime: Prekey | null) {
    this.certificate = certificate;
    this.signed = signed;
    this.kem = kem;
    this.oneTime = oneTime;
  }

  encode(): Bytes {
    const optional = [this.kem, this.oneTime].flatMap((one) =>
      one === null ? [flag(false)] : [flag(true), one.encode()],
    );
    return concat(u8(VERSION), u16(SUITE), this.certificate, this.signed.encode(), ...optional);
  }

  /** Throws `decode`. Nothing is verified yet; a missing KEM prekey shows in `verify`. */
  static decode(data: Bytes): Bundle {
    const reader = new Reader(data);
    reader.version();
    reader.suite();
    const bundle = new Bundle(
      reader.take(32),
      Prekey.read(reader, SIGNED),
      reader.flag() ? Prekey.read(reader, LAST_RESORT_KEM, ONE_TIME_KEM) : null,
      reader.flag() ? Prekey.read(reader, ONE_TIME) : null,
    );
    reader.end();
    return bundle;
  }

  /**
   * Check the bundle against the (verified) certificate; return its KEM prekey. Throws
   * `not_certified`, `post_quantum_missing`, `bad_classical_signature` or
   * `bad_post_quantum_signature`.
   */
  async verify(suite: Suite, certificate: Certificate): Promise<Prekey> {
    if (!equal(this.certificate, certificate.id)) {
      throw new CryptoError("not_certified", "the bundle is of another certificate");
    }
    if (this.kem === null) {
      throw new CryptoError("post_quantum_missing", "the bundle has no KEM prekey");
    }
    await this.signed.verify(suite, certificate);
    await this.kem.verify(suite, certificate);
    await this.oneTime?.verify(suite, certificate);
    return this.kem;
  }
}

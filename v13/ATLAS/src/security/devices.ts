/**
 * Devices: their keys, the certificate that ties them to an identity, and its revocation.
 *
 * A certificate stands on four legs, two of each kind: the wallet and the device's Ed25519 key, the
 * identity's and the device's ML-DSA-65 keys. Every device but an identity's first is also endorsed
 * by one that was registered before. Which certificates count together is in `roster.ts`.
 */
import { type Bytes, concat, equal, toHex } from "./bytes";
import { identifier, labelled, Reader, u8, VERSION, walletBytes } from "./codec";
import { sha256 } from "./digest";
import { CryptoError } from "./errors";
import type { Identity } from "./identity";
import { DEVICE_CERTIFICATE, DEVICE_REVOCATION } from "./labels";
import type { Randomness } from "./randomness";
import { ED25519_SIGNATURE, KEY, type KeyPair, MLDSA_KEY, MLDSA_SIGNATURE, type Suite } from "./suite";
import { statementText, verifyWallet, WALLET_SIGNATURE } from "./wallet";

export const NO_ENDORSER: Bytes = new Uint8Array(32);

/** A device's key pairs: Ed25519, X25519, ML-DSA-65. */
export interface DeviceKeys {
  readonly signing: KeyPair;
  readonly agreement: KeyPair;
  readonly postQuantum: KeyPair;
}

/** An Ed25519 and an ML-DSA-65 signature over the same message. */
export interface DualSignature {
  readonly classical: Bytes;
  readonly postQuantum: Bytes;
}

export async function generateDeviceKeys(suite: Suite): Promise<DeviceKeys> {
  const [signing, agreement, postQuantum] = await Promise.all([
    suite.ed25519.generate(),
    suite.x25519.generate(),
    suite.mldsa65.generate(),
  ]);
  return { signing, agreement, postQuantum };
}

/** A device id that was never used: streams are counted by it (SPEC-crypto C28). */
export function freshDeviceId(randomness: Randomness): string {
  return `web-${toHex(randomness(8))}`;
}

/** Ed25519 and ML-DSA-65 signatures over the labelled body. */
export async function signAsDevice(
  suite: Suite,
  keys: DeviceKeys,
  label: Bytes,
  body: Bytes,
): Promise<DualSignature> {
  const message = labelled(label, body);
  const [classical, postQuantum] = await Promise.all([
    suite.ed25519.sign(keys.signing.privateKey, message),
    suite.mldsa65.sign(keys.postQuantum.privateKey, label, message),
  ]);
  return { classical, postQuantum };
}

export interface CertificateFields {
  readonly wallet: string;
  /** Id of the identity statement. */
  readonly identity: Bytes;
  readonly device: string;
  /** Ed25519. */
  readonly signing: Bytes;
  /** X25519. */
  readonly agreement: Bytes;
  /** ML-DSA-65. */
  readonly postQuantum: Bytes;
  /** Id of the endorsing device's certificate, or zeros. */
  readonly endorser: Bytes;
}

/** A device's public keys: Ed25519, X25519, ML-DSA-65. */
export type PublicKeys = Pick<CertificateFields, "signing" | "agreement" | "postQuantum">;

export function publicKeys(keys: DeviceKeys): PublicKeys {
  return {
    signing: keys.signing.publicKey,
    agreement: keys.agreement.publicKey,
    postQuantum: keys.postQuantum.publicKey,
  };
}

/** What a certificate says. */
export class CertificateBody implements CertificateFields {
  readonly wallet: string;
  readonly identity: Bytes;
  readonly device: string;
  readonly signing: Bytes;
  readonly agreement: Bytes;
  readonly postQuantum: Bytes;
  readonly endorser: Bytes;
  readonly encoded: Bytes;
  /** SHA-256 of the labelled body: names the device's keys everywhere else. */
  readonly id: Bytes;

  constructor(fields: CertificateFields) {
    this.wallet = fields.wallet;
    this.identity = fields.identity;
    this.device = fields.device;
    this.signing = fields.signing;
    this.agreement = fields.agreement;
    this.postQuantum = fields.postQuantum;
    this.endorser = fields.endorser;
    this.encoded = concat(
      u8(VERSION),
      walletBytes(this.wallet),
      this.identity,
      identifier(this.device),
      this.signing,
      this.agreement,
      this.postQuantum,
      this.endorser,
    );
    this.id = sha256(labelled(DEVICE_CERTIFICATE, this.encoded));
  }

  /** What the wallet signs. */
  get text(): string {
    return statementText(DEVICE_CERTIFICATE, this.wallet, this.id, this.device);
  }

  /** Throws `decode`. */
  static read(reader: Reader): CertificateBody {
    reader.version();
    return new CertificateBody({
      wallet: reader.wallet(),
      identity: reader.take(32),
      device: reader.identifier(),
      signing: reader.take(KEY),
      agreement: reader.take(KEY),
      postQuantum: reader.take(MLDSA_KEY),
      endorser: reader.take(32),
    });
  }
}

export interface CertificateSignatures {
  readonly wallet: Bytes;
  /** By the identity's ML-DSA-65 key. */
  readonly identity: Bytes;
  readonly device: DualSignature;
  /** Null exactly when the body names no endorser. */
  readonly endorsement: DualSignature | null;
}

/** A published device certificate. */
export class Certificate {
  readonly body: CertificateBody;
  readonly signatures: CertificateSignatures;

  constructor(body: CertificateBody, signatures: CertificateSignatures) {
    this.body = body;
    this.signatures = signatures;
  }

  get id(): Bytes {
    return this.body.id;
  }

  get wallet(): string {
    return this.body.wallet;
  }

  get device(): string {
    return this.body.device;
  }

  encode(): Bytes {
    const { wallet, identity, device, endorsement } = this.signatures;
    const dual = endorsement === null ? [] : [endorsement.classical, endorsement.postQuantum];
    return concat(
      this.body.encoded,
      wallet,
      identity,
      device.classical,
      device.postQuantum,
      ...dual,
    );
  }

  /** Throws `decode`. Nothing is verified yet. */
  static decode(data: Bytes): Certificate {
    const reader = new Reader(data);
    const body = CertificateBody.read(reader);
    const signatures = {
      wallet: reader.take(WALLET_SIGNATURE),
      identity: reader.take(MLDSA_SIGNATURE),
      device: readDual(reader),
      endorsement: equal(body.endorser, NO_ENDORSER) ? null : readDual(reader),
    };
    reader.end();
    return new Certificate(body, signatures);
  }

  /**
   * Check every signature; `endorser` is the verified certificate that the body names, or null.
   *
   * Throws `not_certified`, `bad_wallet_signature`, `bad_classical_signature` or
   * `bad_post_quantum_signature`. The caller must still see that the device is not revoked.
   */
  async verify(suite: Suite, identity: Identity, endorser: Certificate | null): Promise<void> {
    const { body, signatures } = this;
    const label = DEVICE_CERTIFICATE;
    // (1) it is about this identity, (2) the wallet, (3) the identity's post-quantum key, (4) and
    // (5) the device itself has its keys, (6) the endorser where one is named.
    if (body.wallet !== identity.wallet || !equal(body.identity, identity.id)) {
      throw new CryptoError("not_certified", "the certificate is of another identity");
    }
    verifyWallet(body.wallet, body.text, signatures.wallet);
    const message = labelled(label, body.encoded);
    await suite.mldsa65.verify(identity.body.postQuantum, signatures.identity, label, message);
    await suite.ed25519.verify(body.signing, signatures.device.classical, message);
    await suite.mldsa65.verify(body.postQuantum, signatures.device.postQuantum, label, message);
    if (!equal(endorser?.id ?? NO_ENDORSER, body.endorser)) {
      throw new CryptoError("not_certified", "the certificate names another endorser");
    }
    if (endorser !== null) {
      const { endorsement } = signatures;
      if (endorsement === null || !equal(endorser.body.identity, identity.id)) {
        throw new CryptoError("not_certified", "no device of this identity endorses it");
      }
      await suite.ed25519.verify(endorser.body.signing, endorsement.classical, message);
      const key = endorser.body.postQuantum;
      await suite.mldsa65.verify(key, endorsement.postQuantum, label, message);
    }
  }
}

function readDual(reader: Reader): DualSignature {
  return { classical: reader.take(ED25519_SIGNATURE), postQuantum: reader.take(MLDSA_SIGNATURE) };
}

/** The body of a certificate for `keys`; the wallet signs its `text`. */
export function describeDevice(
  identity: Identity,
  device: string,
  keys: DeviceKeys,
  endorser: Certificate | null = null,
): CertificateBody {
  return new CertificateBody({
    wallet: identity.wallet,
    identity: identity.id,
    device,
    ...publicKeys(keys),
    endorser: endorser?.id ?? NO_ENDORSER,
  });
}

/**
 * Put every signature under `body`. When the keys lie on several devices, each signs its own part
 * and the Certificate is put together by hand.
 */
export async function certify(
  suite: Suite,
  body: CertificateBody,
  walletSignature: Bytes,
  identityKey: KeyPair,
  keys: DeviceKeys,
  endorser: DeviceKeys | null = null,
): Promise<Certificate> {
  const label = DEVICE_CERTIFICATE;
  const message = labelled(label, body.encoded);
  return new Certificate(body, {
    wallet: walletSignature,
    identity: await suite.mldsa65.sign(identityKey.privateKey, label, message),
    device: await signAsDevice(suite, keys, label, body.encoded),
    endorsement: endorser && (await signAsDevice(suite, endorser, label, body.encoded)),
  });
}

export interface RevocationFields {
  readonly wallet: string;
  readonly identity: Bytes;
  readonly device: string;
  /** Id of the revoked certificate. */
  readonly certificate: Bytes;
}

/** Says that a certificate no longer counts. Final: the device comes back under another id. */
export class RevocationBody implements RevocationFields {
  readonly wallet: string;
  readonly identity: Bytes;
  readonly device: string;
  readonly certificate: Bytes;
  readonly encoded: Bytes;
  readonly id: Bytes;

  constructor(fields: RevocationFields) {
    this.wallet = fields.wallet;
    this.identity = fields.identity;
    this.device = fields.device;
    this.certificate = fields.certificate;
    this.encoded = concat(
      u8(VERSION),
      walletBytes(this.wallet),
      this.identity,
      identifier(this.device),
      this.certificate,
    );
    this.id = sha256(labelled(DEVICE_REVOCATION, this.encoded));
  }

  /** What revoking `certificate` says. */
  static of(certificate: Certificate): RevocationBody {
    const { wallet, identity, device, id } = certificate.body;
    return new RevocationBody({ wallet, identity, device, certificate: id });
  }

  /** What the wallet signs. */
  get text(): string {
    return statementText(DEVICE_REVOCATION, this.wallet, this.id, this.device);
  }
}

/** A published revocation: signed by the wallet and by the identity's post-quantum key. */
export class Revocation {
  readonly body: RevocationBody;
  readonly walletSignature: Bytes;
  readonly identitySignature: Bytes;

  constructor(body: RevocationBody, walletSignature: Bytes, identitySignature: Bytes) {
    this.body = body;
    this.walletSignature = walletSignature;
    this.identitySignature = identitySignature;
  }

  get id(): Bytes {
    return this.body.id;
  }

  encode(): Bytes {
    return concat(this.body.encoded, this.walletSignature, this.identitySignature);
  }

  /** Throws `decode`. Nothing is verified yet. */
  static decode(data: Bytes): Revocation {
    const reader = new Reader(data);
    reader.version();
    const body = new RevocationBody({
      wallet: reader.wallet(),
      identity: reader.take(32),
      device: reader.identifier(),
      certificate: reader.take(32),
    });
    const walletSignature = reader.take(WALLET_SIGNATURE);
    const identitySignature = reader.take(MLDSA_SIGNATURE);
    reader.end();
    return new Revocation(body, walletSignature, identitySignature);
  }

  /** Throws `not_certified`, `bad_wallet_signature` or `bad_post_quantum_signature`. */
  async verify(suite: Suite, identity: Identity): Promise<void> {
    const { body } = this;
    if (body.wallet !== identity.wallet || !equal(body.identity, identity.id)) {
      throw new CryptoError("not_certified", "the revocation is of another identity");
    }
    verifyWallet(body.wallet, body.text, this.walletSignature);
    const label = DEVICE_REVOCATION;
    const message = labelled(label, body.encoded);
    await suite.mldsa65.verify(identity.body.postQuantum, this.identitySignature, label, message);
  }
}

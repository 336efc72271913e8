/**
 * Endorsement: the two messages by which a further device comes to an identity (SPEC-crypto,
 * "Enrolling a further device").
 *
 * The new device makes a request, the one that has the identity's key an answer; what the two make
 * whole is a certificate. Carrying them, asking the wallet and keeping the keys: see `enrolment.ts`.
 */
import { type Bytes, concat } from "./bytes";
import { b32, identifier, Reader, u8, VERSION, walletBytes } from "./codec";
import { Certificate, CertificateBody, type DualSignature, type PublicKeys } from "./devices";
import { CryptoError } from "./errors";
import { Identity } from "./identity";
import { type Roster, verifyRoster } from "./roster";
import { KEY, MLDSA_KEY, type Suite } from "./suite";

/** Of each value in an answer; a certificate has 12 kB. */
const MAX_PART = 16_384;

/** What a new device tells of itself: nothing secret, and nothing that proves anything yet. */
export interface EnrolmentRequest {
  readonly wallet: string;
  readonly device: string;
  readonly keys: PublicKeys;
}

export function encodeRequest({ wallet, device, keys }: EnrolmentRequest): Bytes {
  return concat(
    u8(VERSION),
    walletBytes(wallet),
    identifier(device),
    keys.signing,
    keys.agreement,
    keys.postQuantum,
  );
}

/** Throws `decode`. */
export function decodeRequest(request: Bytes): EnrolmentRequest {
  const reader = new Reader(request);
  reader.version();
  const wallet = reader.wallet();
  const device = reader.identifier();
  const keys = {
    signing: reader.take(KEY),
    agreement: reader.take(KEY),
    postQuantum: reader.take(MLDSA_KEY),
  };
  reader.end();
  return { wallet, device, keys };
}

/** What is certified. Throws `not_certified` when the identity is another wallet's. */
export function bodyOf(
  { wallet, device, keys }: EnrolmentRequest,
  identity: Identity,
  endorser: Certificate,
): CertificateBody {
  if (wallet !== identity.wallet) {
    throw new CryptoError("not_certified", "the request and the identity are of two wallets");
  }
  const { signing, agreement, postQuantum } = keys;
  return new CertificateBody({
    ...{ wallet, identity: identity.id, device },
    ...{ signing, agreement, postQuantum },
    endorser: endorser.id,
  });
}

/** An identity's and one of its devices' word for another device. */
export interface Answer {
  readonly identity: Identity;
  readonly endorser: Certificate;
  readonly identitySignature: Bytes;
  readonly endorsement: DualSignature;
}

export function encodeAnswer({ identity, endorser, identitySignature, endorsement }: Answer): Bytes {
  const { classical, postQuantum } = endorsement;
  const parts = [identity.encode(), endorser.encode(), identitySignature, classical, postQuantum];
  return concat(u8(VERSION), ...parts.map(b32));
}

/** Throws `decode`. Nothing is verified yet. */
export function decodeAnswer(answer: Bytes): Answer {
  const reader = new Reader(answer);
  reader.version();
  const part = (): Bytes => reader.b32(MAX_PART);
  const [identity, endorser, identitySignature] = [part(), part(), part()];
  const endorsement = { classical: part(), postQuantum: part() };
  reader.end();
  return {
    identity: Identity.decode(identity),
    endorser: Certificate.decode(endorser),
    identitySignature,
    endorsement,
  };
}

/**
 * The certificate of `body`, and the roster of the two devices, verified. `device`: the new device's
 * own signatures. Throws `not_certified` or the code of the signature that does not verify.
 */
export async function certified(
  suite: Suite,
  { identity, endorser, identitySignature, endorsement }: Answer,
  body: CertificateBody,
  wallet: Bytes,
  device: DualSignature,
): Promise<{ certificate: Certificate; roster: Roster }> {
  const signatures = { wallet, identity: identitySignature, device, endorsement };
  const certificate = new Certificate(body, signatures);
  return { certificate, roster: await verifyRoster(suite, identity, [endorser, certificate]) };
}

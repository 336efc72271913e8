/**
 * The roster: one wallet's identity and its devices, all verified together.
 *
 * Whoever is encrypted to is in a roster, so an uncertified device never is. One unsound certificate
 * refuses the whole roster: it means that someone tries something.
 */
import { equal, toHex } from "./bytes";
import { type Certificate, NO_ENDORSER, type Revocation } from "./devices";
import { CryptoError } from "./errors";
import type { Identity } from "./identity";
import type { Suite } from "./suite";

export const MAX_CERTIFICATES = 64; // of one identity, revoked ones included

/** Made by `verifyRoster` alone. */
export class Roster {
  readonly identity: Identity;
  readonly certificates: readonly Certificate[];
  /** Ids of certificates, in hexadecimal. */
  readonly revoked: ReadonlySet<string>;

  constructor(
    identity: Identity,
    certificates: readonly Certificate[],
    revoked: ReadonlySet<string>,
  ) {
    this.identity = identity;
    this.certificates = certificates;
    this.revoked = revoked;
  }

  get wallet(): string {
    return this.identity.wallet;
  }

  /** The devices that are encrypted to. */
  get active(): readonly Certificate[] {
    return this.certificates.filter((one) => !this.revoked.has(toHex(one.id)));
  }

  /**
   * The certificate of `device`. Throws `not_certified` or `device_revoked`; `revokedToo` is for
   * messages that the ledger holds before the revocation.
   */
  device(device: string, revokedToo = false): Certificate {
    const found = this.certificates.find((one) => one.device === device);
    if (found === undefined) throw new CryptoError("not_certified", "the wallet has no such device");
    if (this.revoked.has(toHex(found.id)) && !revokedToo) {
      throw new CryptoError("device_revoked", "the device has been revoked");
    }
    return found;
  }
}

function endorsed(certificate: Certificate): boolean {
  return !equal(certificate.body.endorser, NO_ENDORSER);
}

/**
 * Verify everything that a directory says about one wallet.
 *
 * Steps: (1) the identity vouches for itself; (2) at most one certificate has no endorser; (3) each
 * other one is endorsed by one already verified; (4) no device id twice; (5) revocations. The caller
 * must still compare the identity with the one it pinned (`Messenger.learn`). Throws
 * `not_certified` or the code of the signature that does not verify.
 */
export async function verifyRoster(
  suite: Suite,
  identity: Identity,
  certificates: readonly Certificate[],
  revocations: readonly Revocation[] = [],
): Promise<Roster> {
  await identity.verify(suite);
  if (certificates.length > MAX_CERTIFICATES) {
    throw new CryptoError("not_certified", `an identity has at most ${MAX_CERTIFICATES} certificates`);
  }
  if (revocations.length > MAX_CERTIFICATES) {
    throw new CryptoError("not_certified", "there are more revocations than certificates");
  }
  if (certificates.filter((one) => !endorsed(one)).length > 1) {
    throw new CryptoError("not_certified", "more than one device has no endorser");
  }
  if (new Set(certificates.map((one) => one.device)).size !== certificates.length) {
    throw new CryptoError("not_certified", "two certificates name the same device");
  }
  const verified = new Map<string, Certificate>();
  const endorserOf = (one: Certificate): Certificate | null =>
    verified.get(toHex(one.body.endorser)) ?? null;
  const isReady = (one: Certificate): boolean => !endorsed(one) || endorserOf(one) !== null;
  let waiting = certificates;
  for (let ready = waiting.filter(isReady); ready.length > 0; ready = waiting.filter(isReady)) {
    for (const one of ready) {
      await one.verify(suite, identity, endorserOf(one));
      verified.set(toHex(one.id), one);
    }
    waiting = waiting.filter((one) => !verified.has(toHex(one.id)));
  }
  if (waiting.length > 0) {
    throw new CryptoError("not_certified", "a certificate's endorser is not among the devices");
  }
  const revoked = new Set<string>();
  for (const revocation of revocations) {
    await revocation.verify(suite, identity);
    revoked.add(toHex(revocation.body.certificate));
  }
  return new Roster(identity, [...verified.values()], revoked);
}

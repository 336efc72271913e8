/**
 * Enrolment: how a browser becomes a device of a wallet.
 *
 * The first device of a wallet makes its identity, and keeps the identity's key. A further one is
 * certified by hand between two own devices: it shows a request, the device with the identity's key
 * answers (SPEC-crypto, "Enrolling a further device"). A wallet whose identity's key is lost can only
 * begin anew: everyone it writes with is then asked to compare the safety number again.
 *
 * The device with the identity's key can replace that key by another (`rotateIdentity`). The others are
 * left behind, and join again as they did first (`LeftBehindDevice`).
 *
 * What is made is stored before it is published, and published again at every start until the
 * directory has it.
 */
import { type Bytes, equal } from "./bytes";
import { labelled, Reader, u64, u8 } from "./codec";
import {
  Certificate,
  CertificateBody,
  certify,
  describeDevice,
  type DeviceKeys,
  freshDeviceId,
  generateDeviceKeys,
  NO_ENDORSER,
  publicKeys,
  signAsDevice,
} from "./devices";
import { type Directory, DirectoryError, type Listing } from "./directory";
import {
  bodyOf,
  certified,
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  type EnrolmentRequest,
} from "./endorsement";
import { CryptoError } from "./errors";
import { Identity, IdentityBody, NO_PREVIOUS_IDENTITY, vouch } from "./identity";
import { DEVICE_CERTIFICATE } from "./labels";
import { type ArchiveEntry, Messenger } from "./messenger";
import { fresh } from "./randomness";
import { verifyRoster } from "./roster";
import type { SessionStore } from "./store";
import type { Suite } from "./suite";
import type { SignText } from "./wallet";

/** Below this stock of one-time prekeys, of either kind, new ones are published. */
const LOW_STOCK = 20;
/** How many of each kind are published at a time. */
const PUBLISHED = 50;
/** Signed prekeys are in force for a week. */
const ROTATION = 7 * 24 * 3600 * 1000;
const ROTATED_AT = "prekeys/rotated-at";
/** There from a rotation until the directory has it. */
const UNPUBLISHED = "prekeys/unpublished";
/** New prekeys of every kind are due: those that are published are another certificate's. */
const NO_PREKEYS: readonly ArchiveEntry[] = [
  { name: ROTATED_AT, value: null },
  { name: UNPUBLISHED, value: null },
];

/** What a browser needs to be a device of a wallet. */
export interface Enrolment {
  /** 0x and 40 lower-case hex digits. */
  readonly wallet: string;
  /** Asks the person's wallet; twice when an identity is made, once for a further device. */
  readonly sign: SignText;
  readonly directory: Directory;
  readonly store: SessionStore;
  readonly suite: Suite;
}

/**
 * The messenger of this browser's device, its statements published and its prekeys in stock. When
 * there is no device, and the wallet has no identity, both are made.
 *
 * Throws `not_certified` when the wallet has an identity but this browser no device: `FurtherDevice`
 * adds it, `resetIdentity` begins anew. Throws `identity_changed` when the wallet's identity was
 * replaced elsewhere: `LeftBehindDevice` goes on. Throws `device_revoked` when this device was revoked; then `eraseStore` comes first.
 * Throws DirectoryError, but only where the directory is needed: a device that is there opens
 * without it.
 */
export async function openMessenger(enrolment: Enrolment): Promise<Messenger> {
  const { store, suite, directory, wallet } = enrolment;
  const known = await Messenger.load(store, suite);
  if (known !== null) {
    try {
      await publishStatements(directory, known, await directory.lookup(wallet));
    } catch (error) {
      if (!(error instanceof DirectoryError && error.unreachable)) throw error;
    }
    return known;
  }
  const listing = await directory.lookup(wallet);
  if (listing.identity !== null) {
    throw new CryptoError("not_certified", "the wallet has an identity; this browser is no device");
  }
  return makeIdentity(enrolment, null, listing);
}

/**
 * Begin anew: a new identity for the wallet, with this browser as its only device. Everyone the
 * wallet writes with must compare the new safety number. Throws `refused` when this browser is a
 * device already.
 */
export async function resetIdentity(enrolment: Enrolment): Promise<Messenger> {
  const listing = await enrolment.directory.lookup(enrolment.wallet);
  return makeIdentity(enrolment, listing.identity, listing);
}

async function makeIdentity(
  enrolment: Enrolment,
  previous: Identity | null,
  listing: Listing,
): Promise<Messenger> {
  const { wallet, sign, store, suite } = enrolment;
  const identityKey = await suite.mldsa65.generate();
  const body = new IdentityBody({
    wallet,
    generation: previous === null ? 0 : previous.body.generation + 1,
    previous: previous?.id ?? NO_PREVIOUS_IDENTITY,
    postQuantum: identityKey.publicKey,
  });
  const identity = await vouch(suite, body, await sign(body.text), identityKey);
  const keys = await generateDeviceKeys(suite);
  const device = freshDeviceId(fresh);
  const described = describeDevice(identity, device, keys);
  const signature = await sign(described.text);
  const certificate = await certify(suite, described, signature, identityKey, keys);
  const roster = await verifyRoster(suite, identity, [certificate]);
  const messenger = await Messenger.create(store, suite, keys, roster, device, { identityKey });
  await publishStatements(enrolment.directory, messenger, listing);
  return messenger;
}

/**
 * Give the wallet a new identity key, which the old one vouches for; this device stays, its other
 * devices are left behind until they are endorsed again, and everyone the wallet writes with is shown
 * that the safety number is another one.
 *
 * The wallet is asked to sign twice, and then all changes with one commit: before it the old identity
 * is in use, after it the new one, and the next `openMessenger` publishes that when this does not come
 * to it. Throws `refused` where the identity's key is on another device, or while a sealed message
 * waits for the server; DirectoryError when it is made and could not be published.
 */
export async function rotateIdentity(
  enrolment: Omit<Enrolment, "store">,
  messenger: Messenger,
): Promise<void> {
  const { suite, sign, directory, wallet } = enrolment;
  // One that was made before and did not get there is first: each is judged by the one before it.
  await publishStatements(directory, messenger, await directory.lookup(wallet));
  const { identity: before, certificate } = await messenger.statements();
  const identityKey = await suite.mldsa65.generate();
  const successor = new IdentityBody({
    wallet,
    generation: before.body.generation + 1,
    previous: before.id,
    postQuantum: identityKey.publicKey,
  });
  const blessing = await messenger.bless(successor);
  const alone = await vouch(suite, successor, await sign(successor.text), identityKey);
  const identity = new Identity(
    successor,
    alone.walletSignature,
    alone.postQuantumSignature,
    blessing,
  );
  const body = renewed(certificate.body, identity, NO_ENDORSER);
  const message = labelled(DEVICE_CERTIFICATE, body.encoded);
  const next = new Certificate(body, {
    wallet: await sign(body.text),
    identity: await suite.mldsa65.sign(identityKey.privateKey, DEVICE_CERTIFICATE, message),
    device: await messenger.prove(body),
    endorsement: null,
  });
  const roster = await verifyRoster(suite, identity, [next]);
  await messenger.recertify(roster, { identityKey, keep: NO_PREKEYS });
  // crash point: of the new identity, and not published; the next start goes on there
  await publishStatements(directory, messenger, await directory.lookup(wallet));
}

/** The same device and keys, under another identity of its wallet. */
function renewed(body: CertificateBody, identity: Identity, endorser: Bytes): CertificateBody {
  const { wallet, device, signing, agreement, postQuantum } = body;
  const keys = { signing, agreement, postQuantum };
  return new CertificateBody({ wallet, identity: identity.id, device, ...keys, endorser });
}

/** Whether `identity` is the one of `listing`, or comes right after it. */
function isNewest(identity: Identity, { identity: listed }: Listing): boolean {
  return listed === null || [identity.id, identity.body.previous].some((id) => equal(id, listed.id));
}

/** Publish whatever of this device's statements `listing` lacks, then see to the prekeys. */
async function publishStatements(
  directory: Directory,
  messenger: Messenger,
  listing: Listing,
): Promise<void> {
  const { identity, certificate } = await messenger.statements();
  if (!isNewest(identity, listing)) {
    throw new CryptoError("identity_changed", "the wallet's identity was changed elsewhere");
  }
  if (listing.identity === null || !equal(listing.identity.id, identity.id)) {
    await directory.putIdentity(identity);
  }
  if (listing.revocations.some((one) => equal(one.body.certificate, certificate.id))) {
    throw new CryptoError("device_revoked", "this device was revoked");
  }
  if (!listing.certificates.some((one) => equal(one.id, certificate.id))) {
    await directory.addDevice(certificate);
  }
  await keepPrekeysInStock(messenger, directory, Date.now());
}

/**
 * Publish one-time prekeys where few are left, and new signed ones each week. To be called at
 * PREKEYS_LOW too; `now` in milliseconds.
 */
export async function keepPrekeysInStock(
  messenger: Messenger,
  directory: Directory,
  now: number,
): Promise<void> {
  const [rotated] = await messenger.kept(ROTATED_AT);
  const [unpublished] = await messenger.kept(UNPUBLISHED);
  const at = rotated === undefined ? null : new Reader(rotated.value).u64();
  const rotate = at === null || now - at > ROTATION;
  const { oneTime, oneTimeKem } = await directory.prekeyStock(messenger.device);
  const stocked = Math.min(oneTime, oneTimeKem) >= LOW_STOCK;
  if (stocked && !rotate && unpublished === undefined) return;
  await publishPrekeys(messenger, directory, rotate ? now : null);
}

/** Publish one-time prekeys; where `rotatedAt` (milliseconds) is given, new signed ones too. */
export async function publishPrekeys(
  messenger: Messenger,
  directory: Directory,
  rotatedAt: number | null,
): Promise<void> {
  // A rotation that did not reach the directory is published again, not done again: a second one
  // would drop the keys that the directory still hands out.
  const keep =
    rotatedAt === null
      ? []
      : [
          { name: ROTATED_AT, value: u64(rotatedAt) },
          { name: UNPUBLISHED, value: u8(1) },
        ];
  const rotate = rotatedAt !== null;
  const publication = await messenger.publishPrekeys({ oneTime: PUBLISHED, rotate, keep });
  await directory.publishPrekeys(messenger.device, publication);
  await messenger.keep([{ name: UNPUBLISHED, value: null }]);
}

/**
 * A further device of a wallet, being enrolled. Its keys live in this object until `finish`: when the
 * page is left before, one begins again.
 */
export class FurtherDevice {
  readonly #enrolment: Enrolment;
  readonly #keys: DeviceKeys;
  readonly device: string;
  /** To be carried to the device that has the identity's key, by the person's own hand. */
  readonly request: Bytes;

  private constructor(enrolment: Enrolment, keys: DeviceKeys, device: string) {
    this.#enrolment = enrolment;
    this.#keys = keys;
    this.device = device;
    this.request = encodeRequest(this.#asked);
  }

  get #asked(): EnrolmentRequest {
    const { wallet } = this.#enrolment;
    return { wallet, device: this.device, keys: publicKeys(this.#keys) };
  }

  static async begin(enrolment: Enrolment): Promise<FurtherDevice> {
    const keys = await generateDeviceKeys(enrolment.suite);
    return new FurtherDevice(enrolment, keys, freshDeviceId(fresh));
  }

  /**
   * Take the other device's answer; the wallet is asked to sign. Throws `decode`, `not_certified`, or
   * `refused` when the keys were renewed after the answer was made; then nothing has changed.
   */
  async finish(answer: Bytes): Promise<Messenger> {
    const { wallet, sign, directory, store, suite } = this.#enrolment;
    const word = decodeAnswer(answer);
    const body = bodyOf(this.#asked, word.identity, word.endorser);
    const listing = await directory.lookup(wallet);
    if (!isNewest(word.identity, listing)) {
      throw new CryptoError("refused", "the answer is of an identity that has been replaced");
    }
    const proof = await signAsDevice(suite, this.#keys, DEVICE_CERTIFICATE, body.encoded);
    const { roster } = await certified(suite, word, body, await sign(body.text), proof);
    const messenger = await Messenger.create(store, suite, this.#keys, roster, this.device);
    await publishStatements(directory, messenger, listing);
    return messenger;
  }
}

/**
 * This browser's device after the wallet's identity was replaced on another one: it goes on, with the
 * same id and keys, once that one has answered its request.
 */
export class LeftBehindDevice {
  readonly #enrolment: Enrolment;
  readonly #messenger: Messenger;
  /** To be carried to the device that has the identity's key, by the person's own hand. */
  readonly request: Bytes;

  private constructor(enrolment: Enrolment, messenger: Messenger, request: Bytes) {
    this.#enrolment = enrolment;
    this.#messenger = messenger;
    this.request = request;
  }

  /** Null when there is no device in this browser. */
  static async find(enrolment: Enrolment): Promise<LeftBehindDevice | null> {
    const messenger = await Messenger.load(enrolment.store, enrolment.suite);
    if (messenger === null) return null;
    const { certificate } = await messenger.statements();
    const { wallet, device } = certificate;
    const request = encodeRequest({ wallet, device, keys: certificate.body });
    return new LeftBehindDevice(enrolment, messenger, request);
  }

  /**
   * Take the other device's answer; the wallet is asked to sign. Throws `decode`, `not_certified`, or
   * `refused` for the identity that this device is of; then nothing has changed.
   */
  async finish(answer: Bytes): Promise<Messenger> {
    const { wallet, sign, directory, suite } = this.#enrolment;
    const messenger = this.#messenger;
    const word = decodeAnswer(answer);
    if (word.identity.wallet !== wallet) {
      throw new CryptoError("not_certified", "the answer is for another wallet");
    }
    const { identity: known, certificate: before } = await messenger.statements();
    if (equal(word.identity.id, known.id)) {
      throw new CryptoError("refused", "the device is of this identity already");
    }
    const body = renewed(before.body, word.identity, word.endorser.id);
    const proof = await messenger.prove(body);
    const { roster } = await certified(suite, word, body, await sign(body.text), proof);
    await messenger.recertify(roster, { keep: NO_PREKEYS });
    // crash point: as in `rotateIdentity`
    await publishStatements(directory, messenger, await directory.lookup(wallet));
    return messenger;
  }
}

/**
 * Answer a request on the device that has the identity's key. The caller must have seen the person
 * bring the request from their own device. Throws `decode`, `not_certified` when it is of another
 * wallet, or `refused` where the identity's key is not.
 */
export async function answerRequest(messenger: Messenger, request: Bytes): Promise<Bytes> {
  const { identity, certificate: endorser } = await messenger.statements();
  const body = bodyOf(decodeRequest(request), identity, endorser);
  const { identity: identitySignature, endorsement } = await messenger.endorse(body);
  if (endorsement === null) throw new TypeError("an endorsement was made");
  return encodeAnswer({ identity, endorser, identitySignature, endorsement });
}

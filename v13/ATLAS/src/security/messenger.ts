/**
 * The messenger: one device of one wallet, all it remembers, and what it does with messages.
 *
 * Whatever changes is committed to the store before a ciphertext or a content is returned, so a crash
 * at any point uses no key twice. Talking to the server, and showing things to people, is the
 * client's. What the caller must still do is said at each method. Any number of tabs may each have a
 * Messenger on the same state: their operations wait for one another.
 */
import { NONCE } from "./aead";
import { type Bytes, compare, concat, equal, fromHex, toHex } from "./bytes";
import { identifier, isWallet, labelled, Reader, u16, u32 } from "./codec";
import {
  Certificate,
  type CertificateBody,
  type CertificateSignatures,
  type DeviceKeys,
  Revocation,
  RevocationBody,
  signAsDevice,
} from "./devices";
import { sha256 } from "./digest";
import {
  ADDRESS,
  type AddressedWrap,
  associatedData,
  contentKeys,
  encodeWraps,
  Envelope,
  initiationBody,
  inOrder,
  MAX_CIPHERTEXT,
  MAX_WRAPS,
  openPayload,
  sealPayload,
} from "./envelope";
import { CryptoError, NoSession } from "./errors";
import { Frame, MAX_SEQ } from "./frame";
import { Identity, type IdentityBody, type Succession, succession } from "./identity";
import { DEVICE_CERTIFICATE, DEVICE_REVOCATION, IDENTITY, INITIATION } from "./labels";
import { initiate, respond, sessionId } from "./pqxdh";
import {
  type Bundle,
  LAST_RESORT_KEM,
  MAX_ONE_TIME,
  ONE_TIME,
  ONE_TIME_KEM,
  type Prekey,
  type PrekeyKind,
  PrekeySecret,
  Publication,
  SIGNED,
} from "./prekeys";
import { fresh, type Randomness } from "./randomness";
import { MAX_CERTIFICATES, type Roster } from "./roster";
import { Session, Sessions, type Wrapped } from "./session";
import { Changes, type Page, type Records, type SessionStore, type Stored } from "./store";
import { type Continuity, Incoming, Outgoing } from "./streams";
import { KEY, type KeyPair, type PrivateKey, type Suite } from "./suite";
import { turn } from "./turn";

/** Secrets of one-time prekeys kept, of each kind: five full publications. The oldest go first. */
export const MAX_ONE_TIME_KEPT = 5 * MAX_ONE_TIME;
/** More prekeys than a device makes between two backups. */
const NUMBERS_PASSED = 2 ** 20;
/** No device sends so many messages to one recipient; as many numbers are left above it. */
const FURTHEST = 2 ** 52;

/** One message to be sealed. */
export interface Message {
  /** A wallet, or a thread's id. */
  readonly recipient: string;
  /** Those of the recipient (a wallet) or of a thread's members, and one's own. */
  readonly rosters: readonly Roster[];
  readonly content: Bytes;
  /** Seconds; for people. Nothing is ordered by it. */
  readonly ts: number;
  /** Of attachments' blocks. */
  readonly cids?: readonly string[];
  /** Ids of certificates to leave out: of devices that have no prekeys to claim. */
  readonly without?: readonly Bytes[];
}

/** A message that passed every check. `continuity` must be shown when it is *gap*. */
export interface Opened {
  readonly content: Bytes;
  readonly sender: string;
  readonly device: string;
  readonly recipient: string;
  readonly seq: number;
  readonly ts: number;
  readonly cids: readonly string[];
  readonly continuity: Continuity;
  readonly openedSession: boolean;
}

/** A frame that came, and the roster of its sender. */
export interface Delivered {
  readonly frame: Frame;
  readonly roster: Roster;
  /** Only for a message that the ledger holds before its device's revocation. */
  readonly revokedToo?: boolean;
}

/**
 * A record of the client's own, sealed like the rest and committed with what it belongs to: ratchet
 * keys are used once, so what is not kept with the opening of a message is lost. Null deletes.
 */
export interface ArchiveEntry {
  readonly name: string;
  readonly value: Bytes | null;
}

/** Reads what the client keeps under a name, as the transaction sees it; null when there is nothing. */
export type Kept = (name: string) => Promise<Bytes | null>;

/**
 * The entries that go with a value, in the same transaction. What depends on an entry that another tab
 * may have changed is read by `kept`, never from memory.
 */
export type Keep<T> = (value: T, kept: Kept) => MaybePromise<readonly ArchiveEntry[]>;

type MaybePromise<T> = T | Promise<T>;

/** What the store holds of the device itself. */
interface Self {
  readonly keys: DeviceKeys;
  readonly identity: Identity;
  readonly certificate: Certificate;
}

/** The identity that a wallet is known by, and its certificates (hexadecimal) known to be revoked. */
interface Pin {
  readonly identity: Bytes;
  readonly revoked: ReadonlySet<string>;
}

/** Ids of the prekeys in force, of those before them (0 when there are none), and the next one. */
interface Counters {
  readonly signed: number;
  readonly lastResort: number;
  readonly oldSigned: number;
  readonly oldLastResort: number;
  readonly next: number;
}

const SELF = "self/certificate";
const SELF_IDENTITY = "self/identity";
const SELF_KEYS = ["self/signing", "self/agreement", "self/post-quantum"] as const;
/** The identity's ML-DSA-65 key, on the device that made it. */
const IDENTITY_KEY = "self/identity-key";
const COUNTERS = "prekeys";
/** The own certificate before this one, and its sessions, in which nothing is sealed. */
const FORMER = "self/former";
const FORMER_SESSIONS = "former/";
const SESSIONS = "session/";
const OUTBOX = "outbox/";
const ARCHIVE = "archive/";

export class Messenger {
  readonly #store: SessionStore;
  readonly #suite: Suite;
  readonly #randomness: Randomness;
  readonly wallet: string;
  readonly device: string;

  private constructor(
    store: SessionStore,
    suite: Suite,
    randomness: Randomness,
    certificate: Certificate,
  ) {
    this.#store = store;
    this.#suite = suite;
    this.#randomness = randomness;
    this.wallet = certificate.wallet;
    this.device = certificate.device;
  }

  /** The device whose state is in `store`; null when there is none (see `create`). */
  static async load(
    store: SessionStore,
    suite: Suite,
    randomness: Randomness = fresh,
  ): Promise<Messenger | null> {
    const self = await store.transact(readSelf);
    return self && new Messenger(store, suite, randomness, self.certificate);
  }

  /**
   * A new device: `keys` must be those of `device` in its own wallet's `roster`, and `device` an id
   * that was never used. `identityKey` where this device made the identity: only it can then certify
   * and revoke others. Throws `refused` when the store holds a device already.
   */
  static async create(
    store: SessionStore,
    suite: Suite,
    keys: DeviceKeys,
    roster: Roster,
    device: string,
    options: { readonly identityKey?: KeyPair; readonly randomness?: Randomness } = {},
  ): Promise<Messenger> {
    const certificate = ownCertificate(roster, device, keys);
    // Where a browser has removed the state but not its witness the state counts as rolled back; a
    // new device has nothing that could be used twice.
    await store.beginAgain(async (records) => {
      if ((await records.get(SELF)) !== null) {
        throw new CryptoError("refused", "the store holds a device already");
      }
      putSelf(records, { keys, identity: roster.identity, certificate }, roster);
      if (options.identityKey !== undefined) {
        records.put(IDENTITY_KEY, options.identityKey.privateKey);
      }
    });
    return new Messenger(store, suite, options.randomness ?? fresh, certificate);
  }

  /**
   * Go on under a new certificate of the same device and keys: the own identity has rotated.
   *
   * Nothing is sealed any more in the sessions of the certificate before, and those of the one before
   * that are gone; they open what others sealed before they knew (C34). `identityKey` where this
   * device made the new identity: then no sealed message may wait for the server. `keep`: entries that
   * change with it. The caller must then publish prekeys with `rotate`. Throws `not_certified`, or
   * `refused`.
   */
  async recertify(
    roster: Roster,
    options: { readonly identityKey?: KeyPair; readonly keep?: readonly ArchiveEntry[] } = {},
  ): Promise<void> {
    const { identityKey, keep = [] } = options;
    if (roster.wallet !== this.wallet) {
      throw new CryptoError("not_certified", "the roster is of another wallet");
    }
    await this.#store.transact(async (records) => {
      const { keys, certificate: before } = await this.#self(records);
      const certificate = ownCertificate(roster, this.device, keys);
      if (equal(certificate.id, before.id)) {
        throw new CryptoError("refused", "the device goes by this certificate already");
      }
      if (identityKey !== undefined && (await records.names(OUTBOX)).length > 0) {
        throw new CryptoError("refused", "messages wait for the server: rotate when it has them");
      }
      for (const name of await records.names(FORMER_SESSIONS)) records.put(name, null);
      for (const name of await records.names(SESSIONS)) {
        records.put(FORMER_SESSIONS + name.slice(SESSIONS.length), await records.get(name));
        records.put(name, null);
      }
      records.put(FORMER, before.encode());
      // The key of an identity that is no longer the wallet's has nothing to say.
      records.put(IDENTITY_KEY, identityKey?.privateKey ?? null);
      putSelf(records, { keys, identity: roster.identity, certificate }, roster);
      putEntries(records, keep);
    });
  }

  /**
   * The word of this identity's key for its successor. Throws `refused` where the key is not on this
   * device, or `body` is of no successor.
   */
  bless(body: IdentityBody): Promise<Bytes> {
    return this.#store.transact(async (records) => {
      const { identity } = await this.#self(records);
      if (body.wallet !== this.wallet || !equal(body.previous, identity.id)) {
        throw new CryptoError("refused", "an identity blesses what comes after it");
      }
      return this.#signAsIdentity(records, IDENTITY, body.encoded);
    });
  }

  /** That this device has the keys of `body`, one of its own. Throws `not_certified`. */
  prove(body: CertificateBody): Promise<CertificateSignatures["device"]> {
    return this.#store.transact(async (records) => {
      const { keys } = await this.#self(records);
      if (!hasKeys(keys, body)) {
        throw new CryptoError("not_certified", "the certificate is of other keys");
      }
      return signAsDevice(this.#suite, keys, DEVICE_CERTIFICATE, body.encoded);
    });
  }

  /** The statements that this device goes by: its identity's and its own. */
  statements(): Promise<{ readonly identity: Identity; readonly certificate: Certificate }> {
    return this.#store.transact((records) => this.#self(records));
  }

  /**
   * The word of this device, and of its identity, for a further device of the wallet. `body` must
   * name this device as endorser, and the caller must know that its keys are the person's own.
   * Throws `refused` where the identity's key is not on this device.
   */
  endorse(body: CertificateBody): Promise<Pick<CertificateSignatures, "identity" | "endorsement">> {
    return this.#store.transact(async (records) => {
      const { keys, identity, certificate } = await this.#self(records);
      const ours = body.wallet === this.wallet && equal(body.identity, identity.id);
      if (!ours || !equal(body.endorser, certificate.id)) {
        throw new CryptoError("refused", "a device endorses devices of its own identity");
      }
      const label = DEVICE_CERTIFICATE;
      return {
        identity: await this.#signAsIdentity(records, label, body.encoded),
        endorsement: await signAsDevice(this.#suite, keys, label, body.encoded),
      };
    });
  }

  /**
   * The revocation of `certificate`, a device of this wallet; the wallet has signed the text of
   * `RevocationBody.of(certificate)`. Throws `refused` where the identity's key is not on this device.
   */
  revoke(certificate: Certificate, walletSignature: Bytes): Promise<Revocation> {
    return this.#store.transact(async (records) => {
      const body = RevocationBody.of(certificate);
      const signature = await this.#signAsIdentity(records, DEVICE_REVOCATION, body.encoded);
      return new Revocation(body, walletSignature, signature);
    });
  }

  async #signAsIdentity(records: Records, label: Bytes, body: Bytes): Promise<Bytes> {
    const key = await records.get(IDENTITY_KEY);
    if (key === null) {
      throw new CryptoError("refused", "the identity's key is on another device");
    }
    return this.#suite.mldsa65.sign(key, label, labelled(label, body));
  }

  async #self(records: Records): Promise<Self> {
    const self = await readSelf(records);
    if (self === null) throw new CryptoError("state_unreadable", "the state holds no device");
    return self;
  }

  // Who: identities are pinned at first sight, and a reset one must be accepted by a person.

  /**
   * Compare a verified roster with what is pinned, and pin it unless it is a *reset*.
   *
   * `history`: the statements between the pinned identity and this one, both included, when there
   * were rotations meanwhile. On *reset* nothing is sent to the wallet, nor shown of what it sends,
   * until `accept`: the caller must show the new safety number. It must show that of a *rotated* one
   * too, once: `rotated` are entries that are kept with such a pin.
   */
  learn(
    roster: Roster,
    history: readonly Identity[] = [],
    rotated: readonly ArchiveEntry[] = [],
  ): Promise<Succession> {
    return this.#store.transact(async (records) => {
      const pin = await readPin(records, roster.wallet);
      let how: Succession = "first";
      if (pin !== null) {
        how = equal(pin.identity, roster.identity.id)
          ? "same"
          : await this.#follow(pin.identity, [...history, roster.identity]);
      }
      if (how !== "reset") {
        const before = how === "same" ? (pin?.revoked ?? []) : [];
        const revoked = new Set([...roster.revoked, ...before]);
        if (how !== "same" || revoked.size !== pin?.revoked.size) {
          putPin(records, roster.wallet, { identity: roster.identity.id, revoked });
          if (how === "rotated") putEntries(records, rotated);
        }
      }
      return how;
    });
  }

  /** Walk from the pinned identity through `statements`, each verified, each a rotation. */
  async #follow(pinned: Bytes, statements: readonly Identity[]): Promise<Succession> {
    let known: Identity | null = null;
    for (const statement of statements.slice(-MAX_CERTIFICATES)) {
      if (known === null) {
        known = equal(statement.id, pinned) ? statement : null;
        continue;
      }
      await statement.verify(this.#suite);
      if ((await succession(this.#suite, known, statement)) === "reset") return "reset";
      known = statement;
    }
    return known !== null && known === statements.at(-1) ? "rotated" : "reset";
  }

  /** Pin `roster` because a person has compared its safety number; `keep` is kept with it. */
  accept(roster: Roster, keep: readonly ArchiveEntry[] = []): Promise<void> {
    return this.#store.transact(async (records) => {
      const pin = await readPin(records, roster.wallet);
      const known = pin !== null && equal(pin.identity, roster.identity.id) ? pin.revoked : [];
      const revoked = new Set([...known, ...roster.revoked]);
      putPin(records, roster.wallet, { identity: roster.identity.id, revoked });
      putEntries(records, keep);
    });
  }

  /** The id of the identity that `wallet` is known by here; null when it is not known. */
  pinned(wallet: string): Promise<Bytes | null> {
    return this.#store.transact(async (records) => {
      return (await readPin(records, wallet))?.identity ?? null;
    });
  }

  /** The devices that would be encrypted to. Throws `identity_changed` when not pinned so. */
  active(roster: Roster): Promise<readonly Certificate[]> {
    return this.#store.transact((records) => activeDevices(records, roster));
  }

  // Prekeys: what others need to open a session with this device while it is away.

  /**
   * New one-time prekeys (`oneTime` of each kind, at most 100) and the signed ones, new when
   * `rotate`.
   *
   * The secrets are kept before this resolves. The signed and last-resort prekeys before the current
   * ones stay valid until the next rotation; the caller should rotate weekly. `keep`: entries that are
   * kept with the secrets.
   */
  async publishPrekeys(
    options: {
      readonly oneTime?: number;
      readonly rotate?: boolean;
      readonly keep?: readonly ArchiveEntry[];
    } = {},
  ): Promise<Publication> {
    const { oneTime = MAX_ONE_TIME, rotate = false, keep = [] } = options;
    if (!Number.isInteger(oneTime) || oneTime < 0 || oneTime > MAX_ONE_TIME) {
      throw new CryptoError("refused", `at most ${MAX_ONE_TIME} one-time prekeys of a kind`);
    }
    const { self, signed, lastResort, made } = await this.#store.transact(async (records) => {
      const known = await readCounters(records);
      let counters = known ?? { signed: 0, lastResort: 0, oldSigned: 0, oldLastResort: 0, next: 1 };
      const first = counters.next;
      const kinds: PrekeyKind[] = [];
      if (rotate || known === null) {
        kinds.push(SIGNED, LAST_RESORT_KEM);
        records.put(prekeyName(SIGNED, counters.oldSigned), null);
        records.put(prekeyName(LAST_RESORT_KEM, counters.oldLastResort), null);
        counters = {
          signed: first,
          lastResort: first + 1,
          oldSigned: counters.signed,
          oldLastResort: counters.lastResort,
          next: first,
        };
      }
      for (let count = 0; count < oneTime; count++) kinds.push(ONE_TIME, ONE_TIME_KEM);
      const secrets = kinds.map((kind, index) =>
        PrekeySecret.generate(kind, first + index, this.#randomness),
      );
      for (const one of secrets) records.put(prekeyName(one.kind, one.id), one.secret);
      putCounters(records, { ...counters, next: first + kinds.length });
      putEntries(records, keep);
      for (const kind of [ONE_TIME, ONE_TIME_KEM] as const) {
        const kept = await records.names(prekeyPrefix(kind));
        const surplus = kept.length + oneTime - MAX_ONE_TIME_KEPT;
        for (const name of kept.slice(0, Math.max(0, surplus))) records.put(name, null);
      }
      return {
        self: await this.#self(records),
        signed: await secretInForce(records, SIGNED, counters.signed),
        lastResort: await secretInForce(records, LAST_RESORT_KEM, counters.lastResort),
        made: secrets,
      };
    });
    const { keys, certificate } = self;
    const publish = async (kind: PrekeyKind): Promise<readonly Prekey[]> => {
      const published: Prekey[] = [];
      for (const one of made.filter((secret) => secret.kind === kind)) {
        published.push(await one.publish(this.#suite, keys, certificate.id));
        await turn();
      }
      return published;
    };
    return new Publication(
      certificate.id,
      await signed.publish(this.#suite, keys, certificate.id),
      await lastResort.publish(this.#suite, keys, certificate.id),
      await publish(ONE_TIME),
      await publish(ONE_TIME_KEM),
    );
  }

  // Sessions.

  /** The devices of `rosters` whose bundle must be claimed before `seal`. */
  missingSessions(rosters: readonly Roster[]): Promise<readonly Certificate[]> {
    return this.#store.transact(async (records) => {
      const devices = await this.#addressees(records, rosters);
      const sessions = await readSessions(records, devices);
      return devices.filter((_, index) => (sessions[index]?.ranked.length ?? 0) === 0);
    });
  }

  /**
   * Open a session with the device that `bundle` belongs to; `now` in milliseconds.
   *
   * Called again it resets: the new session is sent on, the old ones still receive. Throws
   * `identity_changed` when the roster is not the pinned one, or what `Bundle.verify` throws.
   */
  establish(roster: Roster, bundle: Bundle, now: number): Promise<void> {
    return this.#store.transact(async (records) => {
      const active = await activeDevices(records, roster);
      const peer = active.find((one) => equal(one.id, bundle.certificate));
      if (peer === undefined) {
        throw new CryptoError("not_certified", "the bundle is of no active device of the roster");
      }
      const { keys, certificate } = await this.#self(records);
      const [sessions = new Sessions()] = await readSessions(records, [peer]);
      const { agreement, handshake } = await initiate(
        this.#suite,
        keys,
        certificate.body,
        peer,
        bundle,
        sessions.nextOpened(now),
        this.#randomness,
      );
      const session = Session.initiated(agreement, handshake, bundle.signed.key);
      records.put(sessionsName(peer), sessions.with(session).encode());
      await noteCertificate(records, peer);
    });
  }

  async #addressees(
    records: Records,
    rosters: readonly Roster[],
  ): Promise<readonly Certificate[]> {
    const own = toHex((await this.#self(records)).certificate.id);
    const found = new Map<string, Certificate>();
    for (const roster of rosters) {
      for (const one of await activeDevices(records, roster)) found.set(toHex(one.id), one);
    }
    found.delete(own);
    return [...found.values()];
  }

  // Messages.

  /**
   * One signed frame for every active device of the message's rosters but this one.
   *
   * The frame is in the outbox until `acknowledged`: the caller must send it, the same one every
   * time. Throws NoSession, `identity_changed`, `content_too_large`, `state_rolled_back`.
   */
  async seal(message: Message, keep?: Keep<Frame>): Promise<Frame> {
    const [frame] = await this.sealMany([message], keep);
    if (frame === undefined) throw new TypeError("a message gives a frame");
    return frame;
  }

  /** Seal all or none, in order, with one commit. */
  sealMany(messages: readonly Message[], keep?: Keep<Frame>): Promise<readonly Frame[]> {
    return this.#store.transact(async (records) => {
      const frames: Frame[] = [];
      for (const message of messages) {
        const frame = await this.#seal(records, message);
        records.put(outboxName(frame), encoder.encode(JSON.stringify(frame.toWire())));
        putEntries(records, (await keep?.(frame, keptIn(records))) ?? []);
        frames.push(frame);
      }
      return frames;
    });
  }

  async #seal(records: Records, message: Message): Promise<Frame> {
    const { recipient, rosters, content, ts, cids = [] } = message;
    const leftOut = new Set(message.without?.map(toHex));
    const wallets = new Set(rosters.map((one) => one.wallet));
    if (isWallet(recipient)) {
      const others = [...wallets].filter((one) => one !== recipient && one !== this.wallet);
      if (!wallets.has(recipient) || others.length > 0) {
        throw new CryptoError("refused", "a message to a wallet is for its devices and one's own");
      }
    }
    const all = await this.#addressees(records, rosters);
    const addressees = all.filter((one) => !leftOut.has(toHex(one.id)));
    if (addressees.length < 1 || addressees.length > MAX_WRAPS) {
      throw new CryptoError("refused", `a message is for 1 to ${MAX_WRAPS} other devices`);
    }
    const known = await readSessions(records, addressees);
    const ready = addressees.map((certificate, index) => {
      const sessions = known[index] ?? new Sessions();
      return { certificate, sessions, session: sessions.ranked[0] };
    });
    const without = ready.filter((one) => one.session === undefined);
    if (without.length > 0) {
      throw new NoSession(without.map((one) => one.certificate.id).sort(compare));
    }
    const { keys } = await this.#self(records);
    const stored = bytesOf(await records.get(outgoingName(recipient)));
    const stream = stored === null ? new Outgoing() : Outgoing.decode(stored);
    const seq = stream.seq + 1;
    if (seq > MAX_SEQ) throw new CryptoError("refused", "the stream's numbers are used up");
    const data = associatedData(this.wallet, this.device, recipient, seq, stream.hash);
    const digest = sha256(data);
    const contentKey = this.#randomness(KEY);
    const nonce = this.#randomness(NONCE);
    const { payloadKey, commitment } = contentKeys(contentKey, digest);
    const wraps = await Promise.all(
      ready.map(async ({ certificate, sessions, session }): Promise<AddressedWrap> => {
        if (session === undefined) throw new NoSession([certificate.id]);
        const { wrapped, next } = await session.wrap(
          this.#suite,
          contentKey,
          digest,
          commitment,
          this.#randomness,
        );
        records.put(sessionsName(certificate), sessions.with(next).encode());
        return { address: certificate.id.slice(0, ADDRESS), wrapped };
      }),
    );
    const ordered = inOrder(wraps);
    if (new Set(ordered.map((one) => toHex(one.address))).size !== ordered.length) {
      throw new CryptoError("refused", "two devices have one address");
    }
    let initiation: Bytes | null = null;
    if (ordered.some((one) => one.wrapped.handshake !== null)) {
      const body = initiationBody(digest, commitment, encodeWraps(ordered));
      const label = INITIATION;
      const key = keys.postQuantum.privateKey;
      initiation = await this.#suite.mldsa65.sign(key, label, labelled(label, body));
    }
    const payload = await sealPayload(payloadKey, nonce, data, content);
    const ciphertext = new Envelope(stream.hash, commitment, initiation, ordered, payload).encode();
    if (ciphertext.length > MAX_CIPHERTEXT) {
      throw new CryptoError("content_too_large", "the ciphertext would be over 1 MiB");
    }
    const { wallet: sender, device } = this;
    const frame = new Frame({ sender, device, recipient, ciphertext, nonce, seq, ts, cids });
    records.put(outgoingName(recipient), new Outgoing(seq, frame.hash).encode());
    return frame.signed(this.#suite, keys.signing.privateKey);
  }

  /**
   * The content of a delivered frame; `roster` is its sender's.
   *
   * The caller must still check that the sender is a member of the thread, and show a *gap*. Throws a
   * CryptoError; then nothing has changed.
   */
  open(delivered: Delivered, keep?: Keep<Opened>): Promise<Opened> {
    return this.#store.transact(async (records) => {
      const opened = await this.#open(records, delivered);
      putEntries(records, (await keep?.(opened, keptIn(records))) ?? []);
      return opened;
    });
  }

  /**
   * Open in order with one commit. A frame that fails gives its error, and changes nothing but what
   * `keep` gives for it. Where `keep` gives null it ends: that frame and those behind it were not opened.
   */
  openMany(
    delivered: readonly Delivered[],
    keep: (
      result: Opened | CryptoError,
      kept: Kept,
      index: number,
    ) => MaybePromise<readonly ArchiveEntry[] | null> = () => [],
  ): Promise<readonly (Opened | CryptoError)[]> {
    return this.#store.transact(async (records) => {
      const results: (Opened | CryptoError)[] = [];
      for (const [index, one] of delivered.entries()) {
        let changes = new Changes(records);
        const result = await this.#open(changes, one).catch((error: unknown) => {
          if (!(error instanceof CryptoError)) throw error;
          changes = new Changes(records);
          return error;
        });
        const entries = await keep(result, keptIn(changes), index);
        if (entries === null) break;
        putEntries(changes, entries);
        changes.applyTo(records);
        results.push(result);
      }
      return results;
    });
  }

  async #open(records: Records, { frame, roster, revokedToo = false }: Delivered): Promise<Opened> {
    const self = await this.#self(records);
    const own = self.certificate.id;
    // (1) The sender is who is pinned, and one of its devices signed this very frame.
    if (frame.sender !== roster.wallet) {
      throw new CryptoError("not_certified", "the roster is of another wallet");
    }
    const pin = await pinned(records, roster);
    const peer = roster.device(frame.device, revokedToo);
    if (pin.revoked.has(toHex(peer.id)) && !revokedToo) {
      throw new CryptoError("device_revoked", "the device has been revoked");
    }
    await frame.verify(this.#suite, peer.body.signing);
    // (2) It is for us, not from us, and not a repeat.
    if (equal(peer.id, own)) {
      throw new CryptoError("reflected", "this device's own message");
    }
    const { recipient } = frame;
    if (isWallet(recipient) && this.wallet !== frame.sender && this.wallet !== recipient) {
      throw new CryptoError("not_addressed", "the conversation is between other wallets");
    }
    const streamName = incomingName(frame);
    const stored = bytesOf(await records.get(streamName));
    const stream = stored === null ? new Incoming() : Incoming.decode(stored);
    stream.check(frame.seq);
    // (3) A wrap is addressed to this device, if only by the certificate it had before.
    const sealed = Envelope.decode(frame.ciphertext);
    let [mine, prefix] = [self.certificate, SESSIONS];
    let wrapped = sealed.wrapFor(own.slice(0, ADDRESS));
    const former = wrapped === null ? bytesOf(await records.get(FORMER)) : null;
    if (former !== null) {
      [mine, prefix] = [Certificate.decode(former), FORMER_SESSIONS];
      wrapped = sealed.wrapFor(mine.id.slice(0, ADDRESS));
    }
    if (wrapped === null) {
      throw new CryptoError("not_addressed", "the sender did not encrypt to this device");
    }
    // (4) The session, known or opened by this message; (5) the content key.
    const { sender, device, seq, ts, cids } = frame;
    const data = associatedData(sender, device, recipient, seq, sealed.previous);
    const digest = sha256(data);
    let name = prefix + toHex(peer.id);
    let sessions = await sessionsIn(records, name);
    let known = sessions.find(wrapped.session);
    const before = known === null ? await certificateBefore(records, peer) : null;
    if (before !== null) {
      // The peer has a new certificate and may have sealed this under the one before.
      const earlier = await sessionsIn(records, prefix + toHex(before));
      known = earlier.find(wrapped.session);
      if (known !== null) [name, sessions] = [prefix + toHex(before), earlier];
    }
    const accepted =
      known === null
        ? await this.#accept(records, { ...self, certificate: mine }, peer, wrapped, sealed, digest)
        : null;
    const session = known ?? accepted?.session;
    if (session === undefined) throw new TypeError("a session is known or accepted");
    const { key, next } = await session.unwrap(this.#suite, wrapped, digest, sealed.commitment);
    // (6) Commitment, then content.
    const content = await openPayload(key, frame.nonce, data, sealed);
    // (7) All is authentic: only now does anything change.
    const taken = stream.take(seq, sealed.previous, frame.hash);
    records.put(streamName, taken.next.encode());
    records.put(name, sessions.with(next).encode());
    await noteCertificate(records, peer);
    for (const used of accepted?.oneTime ?? []) records.put(prekeyName(used.kind, used.id), null);
    const { continuity } = taken;
    const openedSession = accepted !== null;
    return { content, sender, device, recipient, seq, ts, cids, continuity, openedSession };
  }

  /** The session that `wrapped` opens, and the one-time prekeys that are used up by it. */
  async #accept(
    records: Records,
    self: Self,
    peer: Certificate,
    wrapped: Wrapped,
    sealed: Envelope,
    digest: Bytes,
  ): Promise<{ session: Session; oneTime: readonly PrekeySecret[] }> {
    const { handshake } = wrapped;
    if (handshake === null) {
      throw new CryptoError("unknown_session", "no such session; establish a new one");
    }
    if (sealed.initiation === null) {
      throw new CryptoError("post_quantum_missing", "a session is opened without ML-DSA-65");
    }
    const label = INITIATION;
    const message = labelled(label, initiationBody(digest, sealed.commitment, sealed.wrapSection));
    await this.#suite.mldsa65.verify(peer.body.postQuantum, sealed.initiation, label, message);
    const { agreement, signed, used } = await respond(
      this.#suite,
      self.keys,
      self.certificate.body,
      peer,
      handshake,
      (kind, id) => findSecret(records, kind, id),
    );
    if (!equal(sessionId(agreement.transcript), wrapped.session)) {
      throw new CryptoError("decrypt", "the wrap names another session than it opens");
    }
    return {
      session: Session.responded(agreement, handshake, signed.secret),
      oneTime: used.filter(({ kind }) => kind === ONE_TIME || kind === ONE_TIME_KEM),
    };
  }

  // What waits to be acknowledged, and what the client keeps.

  /** The frames that were sealed and not yet acknowledged, each stream in its order. */
  outbox(): Promise<readonly Frame[]> {
    return this.#store.transact(async (records) => {
      const kept = await records.getAll(await records.names(OUTBOX));
      return kept.flatMap((one) => {
        const data = bytesOf(one);
        return data === null ? [] : [Frame.fromWire(JSON.parse(decoder.decode(data)))];
      });
    });
  }

  /** The server has `frame` for good: it leaves the outbox, and `entries` are kept. */
  acknowledged<F extends Pick<Frame, "recipient" | "seq">>(
    frame: F,
    keep?: Keep<F>,
  ): Promise<void> {
    return this.#store.transact(async (records) => {
      records.put(outboxName(frame), null);
      putEntries(records, (await keep?.(frame, keptIn(records))) ?? []);
    });
  }

  /** Keep entries that belong to no message's sealing or opening. */
  keep(entries: readonly ArchiveEntry[] | Keep<void>): Promise<void> {
    return this.#store.transact(async (records) => {
      const all = typeof entries === "function" ? await entries(undefined, keptIn(records)) : entries;
      putEntries(records, all);
    });
  }

  /** The entries whose name has this prefix, in ascending order of their names. */
  kept(
    prefix: string,
    page: Page = {},
  ): Promise<readonly { readonly name: string; readonly value: Bytes }[]> {
    return this.#store.transact(async (records) => {
      const { before, ...rest } = page;
      const below = before === undefined ? rest : { ...rest, before: ARCHIVE + before };
      const names = await records.names(ARCHIVE + prefix, below);
      const values = await records.getAll(names);
      return names.flatMap((name, index) => {
        const value = bytesOf(values[index] ?? null);
        return value === null ? [] : [{ name: name.slice(ARCHIVE.length), value }];
      });
    });
  }

  // After an old backup was restored.

  /** Whether this state is an old one, with which nothing may be sent. */
  rolledBack(): Promise<boolean> {
    return this.#store.transact((records) => Promise.resolve(records.rolledBack));
  }

  /**
   * The server has refused a frame of the outbox as replayed, or knows another under its number: this
   * state was restored together with its witness. Nothing is sent until `beginAgain`.
   */
  distrust(): Promise<void> {
    return this.#store.distrust();
  }

  /**
   * Make a rolled-back state usable: drop every session, every prekey secret, and the outbox.
   *
   * The caller must then publish prekeys with `rotate`, establish sessions anew, and `fastForward`
   * each stream that the server knows better. What was in the outbox must be sealed again.
   */
  beginAgain(): Promise<void> {
    return this.#store.beginAgain(async (records) => {
      for (const prefix of [SESSIONS, FORMER_SESSIONS, "prekey/", OUTBOX]) {
        for (const name of await records.names(prefix)) records.put(name, null);
      }
      const counters = await readCounters(records);
      if (counters !== null) {
        // The numbers given out since the backup must not be given to other keys.
        putCounters(records, { ...counters, next: counters.next + NUMBERS_PASSED });
      }
    });
  }

  /**
   * Continue the stream to `recipient` above `lastSeq` (the server's). Recipients see a gap there,
   * which is the truth: this device no longer knows what it sent. A number that no device comes to is
   * not followed: a server could end the stream by it.
   */
  fastForward(recipient: string, lastSeq: number): Promise<void> {
    return this.#store.transact(async (records) => {
      if (lastSeq > FURTHEST) return;
      const stored = bytesOf(await records.get(outgoingName(recipient)));
      if (stored !== null && Outgoing.decode(stored).seq >= lastSeq) return;
      records.put(outgoingName(recipient), new Outgoing(lastSeq).encode());
    });
  }
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Null where a name has no record. Records that are read here are never handles. */
function bytesOf(stored: Stored | null): Bytes | null {
  if (stored === null || stored instanceof Uint8Array) return stored;
  throw new CryptoError("state_unreadable", "a record is of the wrong kind");
}

function ownCertificate(roster: Roster, device: string, keys: DeviceKeys): Certificate {
  const certificate = roster.device(device);
  if (!hasKeys(keys, certificate.body)) {
    throw new CryptoError("not_certified", "the certificate is of other keys");
  }
  return certificate;
}

function hasKeys(keys: DeviceKeys, body: CertificateBody): boolean {
  return (
    equal(keys.signing.publicKey, body.signing) &&
    equal(keys.agreement.publicKey, body.agreement) &&
    equal(keys.postQuantum.publicKey, body.postQuantum)
  );
}

/** What the store holds of the device itself, and the pin of its own wallet. */
function putSelf(records: Records, { keys, identity, certificate }: Self, roster: Roster): void {
  records.put(SELF, certificate.encode());
  records.put(SELF_IDENTITY, identity.encode());
  records.put(SELF_KEYS[0], keys.signing.privateKey);
  records.put(SELF_KEYS[1], keys.agreement.privateKey);
  records.put(SELF_KEYS[2], keys.postQuantum.privateKey);
  putPin(records, roster.wallet, { identity: roster.identity.id, revoked: roster.revoked });
}

/** Null when there is no device yet. */
async function readSelf(records: Records): Promise<Self | null> {
  const names = [SELF, SELF_IDENTITY, ...SELF_KEYS];
  const [stored = null, statement = null, ...keys] = await records.getAll(names);
  const [data, identity] = [bytesOf(stored), bytesOf(statement)];
  if (data === null) return null;
  const [signing, agreement, postQuantum] = keys.map(privateKey);
  if (!identity || !signing || !agreement || !postQuantum) {
    throw new CryptoError("state_unreadable", "a record of the device is missing");
  }
  const certificate = Certificate.decode(data);
  const { body } = certificate;
  return {
    certificate,
    identity: Identity.decode(identity),
    keys: {
      signing: { privateKey: signing, publicKey: body.signing },
      agreement: { privateKey: agreement, publicKey: body.agreement },
      postQuantum: { privateKey: postQuantum, publicKey: body.postQuantum },
    },
  };
}

function privateKey(stored: Stored | null): PrivateKey {
  if (stored === null) throw new CryptoError("state_unreadable", "a key of the device is missing");
  return stored;
}

function pinName(wallet: string): string {
  return `pin/${wallet}`;
}

async function readPin(records: Records, wallet: string): Promise<Pin | null> {
  const data = bytesOf(await records.get(pinName(wallet)));
  if (data === null) return null;
  const reader = new Reader(data);
  const identity = reader.take(32);
  const revoked = Array.from({ length: reader.u16() }, () => toHex(reader.take(32)));
  reader.end();
  return { identity, revoked: new Set(revoked) };
}

function putPin(records: Records, wallet: string, { identity, revoked }: Pin): void {
  const certificates = [...revoked].map(fromHex);
  records.put(pinName(wallet), concat(identity, u16(certificates.length), ...certificates));
}

/** The pin of a roster's wallet. Throws `identity_changed` unless it is this roster's identity. */
async function pinned(records: Records, roster: Roster): Promise<Pin> {
  const pin = await readPin(records, roster.wallet);
  if (pin === null || !equal(pin.identity, roster.identity.id)) {
    throw new CryptoError("identity_changed", "the wallet is not known by this identity");
  }
  return pin;
}

async function activeDevices(records: Records, roster: Roster): Promise<readonly Certificate[]> {
  const pin = await pinned(records, roster);
  return roster.active.filter((one) => !pin.revoked.has(toHex(one.id)));
}

async function readCounters(records: Records): Promise<Counters | null> {
  const data = bytesOf(await records.get(COUNTERS));
  if (data === null) return null;
  const reader = new Reader(data);
  const counters = {
    signed: reader.u32(),
    lastResort: reader.u32(),
    oldSigned: reader.u32(),
    oldLastResort: reader.u32(),
    next: reader.u32(),
  };
  reader.end();
  return counters;
}

function putCounters(records: Records, counters: Counters): void {
  const { signed, lastResort, oldSigned, oldLastResort, next } = counters;
  const fields = [signed, lastResort, oldSigned, oldLastResort, next];
  records.put(COUNTERS, concat(...fields.map(u32)));
}

function prekeyPrefix(kind: PrekeyKind): string {
  return `prekey/${kind}/`;
}

/** Names sort as the numbers do, so that the oldest come first. */
function prekeyName(kind: PrekeyKind, id: number): string {
  return prekeyPrefix(kind) + toHex(u32(id));
}

async function findSecret(
  records: Records,
  kind: PrekeyKind,
  id: number,
): Promise<PrekeySecret | null> {
  const secret = bytesOf(await records.get(prekeyName(kind, id)));
  return secret && new PrekeySecret(kind, id, secret);
}

async function secretInForce(
  records: Records,
  kind: PrekeyKind,
  id: number,
): Promise<PrekeySecret> {
  const secret = await findSecret(records, kind, id);
  if (secret === null) {
    throw new CryptoError("state_unreadable", "a prekey in force is not in the state");
  }
  return secret;
}

function sessionsName(certificate: Certificate): string {
  return SESSIONS + toHex(certificate.id);
}

async function sessionsIn(records: Records, name: string): Promise<Sessions> {
  const data = bytesOf(await records.get(name));
  return data === null ? new Sessions() : Sessions.decode(data);
}

function peerName({ wallet, device }: Certificate): string {
  return `peer/${wallet}/${device}`;
}

/** Remember which certificate a peer's device has now, and which one it had before. */
async function noteCertificate(records: Records, peer: Certificate): Promise<void> {
  const known = bytesOf(await records.get(peerName(peer))) ?? new Uint8Array();
  const last = known.slice(0, peer.id.length);
  if (!equal(last, peer.id)) records.put(peerName(peer), concat(peer.id, last));
}

/** The id of the last other certificate that a peer's device had; null when none is known. */
async function certificateBefore(records: Records, peer: Certificate): Promise<Bytes | null> {
  const known = bytesOf(await records.get(peerName(peer))) ?? new Uint8Array();
  const last = known.slice(0, peer.id.length);
  const found = equal(last, peer.id) ? known.slice(peer.id.length) : last;
  return found.length === 0 ? null : found;
}

/** The sessions with each of these devices. */
async function readSessions(
  records: Records,
  certificates: readonly Certificate[],
): Promise<readonly Sessions[]> {
  const stored = await records.getAll(certificates.map(sessionsName));
  return stored.map((one) => {
    const data = bytesOf(one);
    return data === null ? new Sessions() : Sessions.decode(data);
  });
}

function outgoingName(recipient: string): string {
  return `out/${recipient}`;
}

function incomingName({ sender, device, recipient }: Frame): string {
  return `in/${toHex(sha256(...[sender, device, recipient].map(identifier)))}`;
}

function outboxName({ recipient, seq }: Pick<Frame, "recipient" | "seq">): string {
  return `${OUTBOX}${recipient}/${String(seq).padStart(16, "0")}`;
}

function keptIn(records: Records): Kept {
  return async (name) => bytesOf(await records.get(ARCHIVE + name));
}

function putEntries(records: Records, entries: readonly ArchiveEntry[]): void {
  for (const { name, value } of entries) records.put(ARCHIVE + name, value);
}

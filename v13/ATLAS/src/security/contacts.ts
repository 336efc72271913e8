/**
 * Contacts: the verified rosters of the wallets one writes with, fetched, learnt and kept.
 *
 * Between the directory, which may lie, and the messenger, which encrypts to what it is given. The
 * last verified listing of each wallet is kept, so that one can write while the server is away.
 */
import { type Bytes, equal, fromBase64, toBase64 } from "./bytes";
import { Certificate, Revocation } from "./devices";
import { type Directory, DirectoryError, type Listing } from "./directory";
import { CryptoError } from "./errors";
import { Identity, type Succession } from "./identity";
import type { ArchiveEntry, Messenger } from "./messenger";
import { type Roster, verifyRoster } from "./roster";
import { safetyNumber } from "./safety";
import type { Suite } from "./suite";

/** How long a roster is used before it is asked for again, in milliseconds. */
const FRESH_FOR = 60_000;
const KEPT = "contacts/";
/** There from a rotation until a person has seen the new safety number. */
const ROTATED = "rotated/";

/** A wallet that one writes with, as the directory shows it. */
export interface Contact {
  readonly roster: Roster;
  /**
   * What its identity is to the one known before. On *reset* a person must compare the new safety
   * number and `accept` it before anything is sent to the wallet, or shown of what it sends.
   */
  readonly succession: Succession;
  /**
   * Whether it has a new identity that the old one vouches for, and nobody has said yet (`accept`) that
   * the new safety number was seen. Messages go on.
   */
  readonly rotated: boolean;
  /** False when the directory could not be reached: this is what it said last. */
  readonly current: boolean;
}

/** What the directory said last of a wallet, and when, in milliseconds. */
interface Known {
  readonly contact: Contact;
  readonly listing: Listing;
  readonly at: number;
}

export class Contacts {
  readonly #messenger: Messenger;
  readonly #directory: Directory;
  readonly #suite: Suite;
  readonly #now: () => number;
  readonly #known = new Map<string, Known>();
  #replaced = false;

  /** `now`: a clock in milliseconds. */
  constructor(messenger: Messenger, directory: Directory, suite: Suite, now = Date.now) {
    this.#messenger = messenger;
    this.#directory = directory;
    this.#suite = suite;
    this.#now = now;
  }

  /**
   * What the directory says of `wallet` now, verified and compared with what is known; the last
   * answer when the directory cannot be reached. Null when the wallet has no identity. Throws
   * DirectoryError, or a CryptoError when what it says is not sound.
   */
  async contact(wallet: string): Promise<Contact | null> {
    try {
      const listing = await this.#directory.lookup(wallet);
      return await this.#learn(wallet, listing, true);
    } catch (error) {
      if (!(error instanceof DirectoryError && error.unreachable)) throw error;
      // What is kept is what is pinned, by any tab; beside it only a reset that waits here.
      const known = this.#known.get(wallet);
      const waits = known?.contact.succession === "reset";
      const listing = waits ? known.listing : await this.#kept(wallet);
      if (listing === null) throw error;
      return this.#learn(wallet, listing, false);
    }
  }

  /**
   * The roster of `wallet`, asked for when it is not fresh or lacks `device`. Throws
   * `identity_changed` until a reset identity is accepted, `not_certified` when there is none, and
   * what `contact` throws.
   */
  async roster(wallet: string, device?: string): Promise<Roster> {
    const known = this.#known.get(wallet);
    const fresh =
      known !== undefined &&
      this.#now() - known.at < FRESH_FOR &&
      (device === undefined ||
        known.contact.roster.certificates.some((one) => one.device === device));
    let contact = fresh ? known.contact : await this.contact(wallet);
    // Another tab may have accepted an identity that this one has not seen.
    if (fresh && !(await this.#isPinned(known.contact.roster))) contact = await this.contact(wallet);
    if (contact === null) {
      throw new CryptoError("not_certified", "the wallet has published no identity");
    }
    if (!(await this.#isPinned(contact.roster))) {
      throw new CryptoError("identity_changed", "the wallet is not known by this identity");
    }
    return contact.roster;
  }

  async #isPinned({ wallet, identity }: Roster): Promise<boolean> {
    const pinned = await this.#messenger.pinned(wallet);
    return pinned !== null && equal(pinned, identity.id);
  }

  /**
   * The roster that has come in the place of `before`, asked for now; null when there is none. Throws as
   * `roster` does.
   */
  async renewed(before: Roster): Promise<Roster | null> {
    await this.contact(before.wallet);
    const now = await this.roster(before.wallet);
    return equal(now.identity.id, before.identity.id) ? null : now;
  }

  /** Whether the directory has shown an identity of this wallet that was made elsewhere, in place of ours. */
  get replaced(): boolean {
    return this.#replaced;
  }

  /** Whether a new identity of `wallet` waits to be seen, as far as it was asked for here. */
  isRotated(wallet: string): boolean {
    return this.#known.get(wallet)?.contact.rotated ?? false;
  }

  /** 60 digits to compare with the person behind `roster`; see `grouped`. */
  async safetyNumber(roster: Roster): Promise<string> {
    return safetyNumber((await this.#messenger.statements()).identity, roster.identity);
  }

  /** A person has compared `number`, the safety number with `roster`. Throws `refused` if it differs. */
  async accept(roster: Roster, number: string): Promise<void> {
    if ((await this.safetyNumber(roster)) !== number) {
      throw new CryptoError("refused", "this is not the safety number that was compared");
    }
    const known = this.#known.get(roster.wallet);
    const listing = known?.contact.roster === roster ? known.listing : null;
    const entries = listing === null ? [] : [keptListing(roster.wallet, listing)];
    const seen = { name: ROTATED + roster.wallet, value: null };
    await this.#messenger.accept(roster, [...entries, seen]);
    this.#known.delete(roster.wallet);
  }

  /**
   * Open a session with every device of `rosters` that has none. Returns the ids of certificates to
   * leave out of a message: of devices that have published no prekeys.
   */
  async reach(rosters: readonly Roster[]): Promise<readonly Bytes[]> {
    const missing = await this.#messenger.missingSessions(rosters);
    if (missing.length === 0) return [];
    for (const roster of rosters) {
      const devices = missing.filter((one) => one.wallet === roster.wallet).map((one) => one.device);
      if (devices.length > 0) await this.#establish(roster, devices);
    }
    return (await this.#messenger.missingSessions(rosters)).map((one) => one.id);
  }

  /** Open a new session with a device, beside one that does not open its messages any more. */
  async reset(wallet: string, device: string): Promise<void> {
    await this.#establish(await this.roster(wallet, device), [device]);
  }

  async #establish(roster: Roster, devices: readonly string[]): Promise<void> {
    for (const bundle of await this.#directory.claim(roster.wallet, devices)) {
      await this.#messenger.establish(roster, bundle, this.#now());
    }
  }

  async #learn(wallet: string, listing: Listing, answered: boolean): Promise<Contact | null> {
    const { identity, history, certificates, revocations } = listing;
    if (identity === null) return null;
    const roster = await verifyRoster(this.#suite, identity, certificates, revocations);
    if (roster.wallet !== wallet) {
      throw new CryptoError("not_certified", "the directory answered about another wallet");
    }
    if (wallet === this.#messenger.wallet) await this.#isOurs(identity);
    const notice = { name: ROTATED + wallet, value: identity.id };
    const succession = await this.#messenger.learn(roster, history, [notice]);
    const noticed = await this.#messenger.kept(notice.name);
    const rotated = succession !== "reset" && noticed.length > 0;
    if (answered && succession !== "reset") {
      await this.#messenger.keep([keptListing(wallet, listing)]);
    }
    const contact = { roster, succession, rotated, current: answered };
    this.#known.set(wallet, { contact, listing, at: answered ? this.#now() : 0 });
    return contact;
  }

  /** The wallet's identity is this device's. Throws `device_revoked`: a new one ends the devices before. */
  async #isOurs(identity: Identity): Promise<void> {
    const own = await this.#messenger.statements();
    if (!equal(own.identity.id, identity.id)) {
      // An older one is shown while one of ours is being published.
      this.#replaced = identity.body.generation >= own.identity.body.generation;
      throw new CryptoError("device_revoked", "the wallet has a new identity, made elsewhere");
    }
  }

  async #kept(wallet: string): Promise<Listing | null> {
    const kept = await this.#messenger.kept(KEPT + wallet);
    const value = kept.find((one) => one.name === KEPT + wallet)?.value;
    return value === undefined ? null : decodeListing(value);
  }
}

/** A listing as it is kept: base64 in JSON. */
interface KeptListing {
  readonly identity: string | null;
  readonly history: readonly string[];
  readonly certificates: readonly string[];
  readonly revocations: readonly string[];
  readonly position: number;
}

function keptListing(wallet: string, listing: Listing): ArchiveEntry {
  return { name: KEPT + wallet, value: encodeListing(listing) };
}

function encodeListing(listing: Listing): Bytes {
  const encoded = (one: { encode(): Bytes }): string => toBase64(one.encode());
  const kept: KeptListing = {
    identity: listing.identity && encoded(listing.identity),
    history: listing.history.map(encoded),
    certificates: listing.certificates.map(encoded),
    revocations: listing.revocations.map(encoded),
    position: listing.position,
  };
  return new TextEncoder().encode(JSON.stringify(kept));
}

function decodeListing(data: Bytes): Listing {
  // Sealed by this device: what is in it was written by encodeListing.
  const kept = JSON.parse(new TextDecoder().decode(data)) as KeptListing;
  const bytes = (text: string): Bytes => {
    const decoded = fromBase64(text);
    if (decoded === null) throw new CryptoError("state_unreadable", "a kept listing is not sound");
    return decoded;
  };
  return {
    identity: kept.identity === null ? null : Identity.decode(bytes(kept.identity)),
    history: kept.history.map((one) => Identity.decode(bytes(one))),
    certificates: kept.certificates.map((one) => Certificate.decode(bytes(one))),
    revocations: kept.revocations.map((one) => Revocation.decode(bytes(one))),
    position: kept.position,
  };
}

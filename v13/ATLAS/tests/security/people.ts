/** People with wallets and devices, and a directory in memory that hands out their prekeys. */
import { type Bytes, toHex } from "../../src/security/bytes";
import {
  type Certificate,
  certify,
  describeDevice,
  type DeviceKeys,
  generateDeviceKeys,
  type Revocation,
  RevocationBody,
} from "../../src/security/devices";
import { Directory, DirectoryError, type Listing, type Stock as Left } from "../../src/security/directory";
import { type Identity, IdentityBody, NO_PREVIOUS_IDENTITY, vouch } from "../../src/security/identity";
import { Messenger, type Opened } from "../../src/security/messenger";
import { Bundle, type Prekey, type Publication } from "../../src/security/prekeys";
import { type Roster, verifyRoster } from "../../src/security/roster";
import { SessionStore } from "../../src/security/store";
import type { KeyPair, Suite } from "../../src/security/suite";
import { WalletKey } from "../../src/security/wallet";
import type { Frame } from "../../src/security/frame";
import { MemoryStorage, MemoryWitness } from "./memory";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const utf8 = (text: string): Bytes => encoder.encode(text);
export const textOf = ({ content }: Pick<Opened, "content">): string => decoder.decode(content);

/** Hands out prekeys as a server should: one-time keys once, then the last resort. */
export class Stock {
  readonly #published = new Map<string, Publication>();
  readonly #oneTime = new Map<string, Prekey[]>();
  readonly #kem = new Map<string, Prekey[]>();

  publish(publication: Publication): void {
    const name = toHex(publication.certificate);
    this.#published.set(name, publication);
    this.#oneTime.set(name, [...publication.oneTime]);
    this.#kem.set(name, [...publication.oneTimeKem]);
  }

  claim(certificate: Bytes): Bundle {
    const name = toHex(certificate);
    const published = this.#published.get(name);
    if (published === undefined) throw new Error("nothing was published");
    return new Bundle(
      certificate,
      published.signed,
      this.#kem.get(name)?.shift() ?? published.lastResort,
      this.#oneTime.get(name)?.shift() ?? null,
    );
  }
}

/** A key directory in memory: it shows what people have made, and hands out their prekeys. */
export class KeyDirectory extends Directory {
  /** The HTTP status with which it refuses everything, 0 for no answer; null while it is well. */
  down: number | null = null;
  /** What is left of a device's one-time prekeys, as it says. */
  left: Left = { oneTime: 50, oneTimeKem: 50 };
  /** Statements before the one in force. */
  history: readonly Identity[] = [];
  published = 0;
  readonly #people: readonly Person[];

  constructor(people: readonly Person[]) {
    super(() => "");
    this.#people = people;
  }

  #find(wallet: string): Person | undefined {
    if (this.down !== null) throw new DirectoryError(this.down, "internal", null);
    return this.#people.find((one) => one.roster.wallet === wallet);
  }

  override async lookup(wallet: string): Promise<Listing> {
    await Promise.resolve();
    const { identity = null, certificates = [], revocations = [] } = this.#find(wallet) ?? {};
    const { history } = this;
    return { identity, history, certificates, revocations, position: 1 };
  }

  override async claim(wallet: string, devices: readonly string[]): Promise<readonly Bundle[]> {
    await Promise.resolve();
    const found = this.#find(wallet);
    if (found === undefined) return [];
    return devices.map((one) => found.stock.claim(found.roster.device(one).id));
  }

  override async publishPrekeys(_device: string, publication: Publication): Promise<Left> {
    await Promise.resolve();
    this.#find("");
    this.published += 1;
    const { oneTime, oneTimeKem } = publication;
    return { oneTime: oneTime.length, oneTimeKem: oneTimeKem.length };
  }

  override async prekeyStock(): Promise<Left> {
    await Promise.resolve();
    this.#find("");
    return this.left;
  }
}

/** A device's messenger, and what survives its process. */
export interface Device {
  readonly storage: MemoryStorage;
  readonly witness: MemoryWitness;
  readonly keys: DeviceKeys;
  messenger: Messenger;
}

/** A wallet, an identity, and devices that publish to a stock. */
export class Person {
  readonly suite: Suite;
  readonly stock: Stock;
  readonly wallet: WalletKey;
  readonly devices = new Map<string, Device>();
  identity: Identity;
  identityKey: KeyPair;
  certificates: Certificate[] = [];
  revocations: Revocation[] = [];
  roster: Roster;

  private constructor(stock: Stock, wallet: WalletKey, suite: Suite, key: KeyPair, roster: Roster) {
    this.suite = suite;
    this.stock = stock;
    this.wallet = wallet;
    this.identity = roster.identity;
    this.identityKey = key;
    this.roster = roster;
  }

  static async make(suite: Suite, stock: Stock, ...devices: readonly string[]): Promise<Person> {
    const key = await suite.mldsa65.generate();
    const wallet = WalletKey.generate();
    const identity = await statement(suite, wallet, null, key, null);
    const roster = await verifyRoster(suite, identity, []);
    const person = new Person(stock, wallet, suite, key, roster);
    for (const device of devices) await person.add(device);
    return person;
  }

  /** The messenger of a device. */
  on(device: string): Messenger {
    return this.device(device).messenger;
  }

  device(device: string): Device {
    const found = this.devices.get(device);
    if (found === undefined) throw new Error("no such device");
    return found;
  }

  async add(device: string, keys?: DeviceKeys): Promise<void> {
    const made = keys ?? (await generateDeviceKeys(this.suite));
    await this.#certify(device, made);
    const [storage, witness] = [new MemoryStorage(), new MemoryWitness()];
    const store = await SessionStore.open(storage, witness);
    const { suite, roster, identityKey } = this;
    const messenger = await Messenger.create(store, suite, made, roster, device, { identityKey });
    this.devices.set(device, { storage, witness, keys: made, messenger });
    this.stock.publish(await messenger.publishPrekeys({ oneTime: 2 }));
  }

  /** A new process on what is stored. */
  async restart(device: string): Promise<Messenger> {
    const found = this.device(device);
    const store = await SessionStore.open(found.storage, found.witness);
    const messenger = await Messenger.load(store, this.suite);
    if (messenger === null) throw new Error("no device is stored");
    found.messenger = messenger;
    return messenger;
  }

  async revoke(device: string): Promise<void> {
    const certificate = this.roster.device(device);
    const signature = this.wallet.sign(RevocationBody.of(certificate).text);
    const [first] = this.devices.values();
    if (first === undefined) throw new Error("no device");
    this.revocations.push(await first.messenger.revoke(certificate, signature));
    await this.#verify();
  }

  /** A new identity key, and new certificates for all devices; `blessed` by the old key or not. */
  async renew(blessed: boolean): Promise<Identity> {
    const before = this.identity;
    const key = await this.suite.mldsa65.generate();
    const blessing = blessed ? this.identityKey : null;
    this.identity = await statement(this.suite, this.wallet, before, key, blessing);
    this.identityKey = key;
    this.certificates = [];
    this.revocations = [];
    for (const [device, { keys }] of this.devices) await this.#certify(device, keys);
    return before;
  }

  async #certify(device: string, keys: DeviceKeys): Promise<void> {
    const first = this.certificates[0] ?? null;
    const endorser = first && this.device(first.device).keys;
    const body = describeDevice(this.identity, device, keys, first);
    const signature = this.wallet.sign(body.text);
    const { suite, identityKey } = this;
    this.certificates.push(await certify(suite, body, signature, identityKey, keys, endorser));
    await this.#verify();
  }

  async #verify(): Promise<void> {
    const { suite, identity, certificates, revocations } = this;
    this.roster = await verifyRoster(suite, identity, certificates, revocations);
  }
}

async function statement(
  suite: Suite,
  wallet: WalletKey,
  before: Identity | null,
  key: KeyPair,
  blessing: KeyPair | null,
): Promise<Identity> {
  const body = new IdentityBody({
    wallet: wallet.wallet,
    generation: before === null ? 0 : before.body.generation + 1,
    previous: before?.id ?? NO_PREVIOUS_IDENTITY,
    postQuantum: key.publicKey,
  });
  return vouch(suite, body, wallet.sign(body.text), key, blessing);
}

/** Everyone learns everyone's roster. */
export async function acquaint(...people: readonly Person[]): Promise<void> {
  for (const { devices } of people) {
    for (const { messenger } of devices.values()) {
      for (const other of people) await messenger.learn(other.roster);
    }
  }
}

/** Establish whatever session `sender` lacks. */
export async function connect(sender: Messenger, ...people: readonly Person[]): Promise<void> {
  for (const { roster, stock } of people) {
    for (const { id } of await sender.missingSessions([roster])) {
      await sender.establish(roster, stock.claim(id), 1_000);
    }
  }
}

/** Seal `text` for another person's devices and the sender's own. */
export function write(
  from: Person,
  device: string,
  to: Person,
  text: string,
): Promise<Frame> {
  const { wallet: recipient } = to.roster;
  const rosters = [to.roster, from.roster];
  return from.on(device).seal({ recipient, rosters, content: utf8(text), ts: 1.5 });
}

/** Two people with one device each, who know each other and have a session. */
export async function pair(suite: Suite): Promise<{ alice: Person; bob: Person }> {
  const stock = new Stock();
  const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
  await acquaint(alice, bob);
  await connect(alice.on("a"), bob);
  return { alice, bob };
}

/** As `pair`, and both have heard from the other: no handshake travels any more. */
export async function correspondents(suite: Suite): Promise<{ alice: Person; bob: Person }> {
  const { alice, bob } = await pair(suite);
  const there = await write(alice, "a", bob, "hello");
  await bob.on("b").open({ frame: there, roster: alice.roster });
  const back = await write(bob, "b", alice, "hello yourself");
  await alice.on("a").open({ frame: back, roster: bob.roster });
  return { alice, bob };
}

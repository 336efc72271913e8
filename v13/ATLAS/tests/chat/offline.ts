/** A chat session as a page has it, on real keys in memory: no server answers, a directory may. */
import { vi } from "vitest";

import { chatName, type ChatEntry, conversationName, kept, waitingName } from "../../src/chat/archive";
import { ChatSession } from "../../src/chat/session";
import { Directory, type Listing, type Stock } from "../../src/security/directory";
import type { Identity } from "../../src/security/identity";
import type { Publication } from "../../src/security/prekeys";
import { selectSuite } from "../../src/security/select";
import { type Device, pair, type Person } from "../security/people";

/** No page may ask this port, so nothing ever answers. */
const NOWHERE = "http://127.0.0.1:9";

/** Milliseconds that only a failing test waits. */
const PATIENCE = 60_000;

/** Shows what people have made; takes what is published once it `answers`. */
class Shown extends Directory {
  answers = false;
  /** Statements before the one in force. */
  history: readonly Identity[] = [];
  readonly #people: readonly Person[];

  constructor(people: readonly Person[]) {
    super(() => "", NOWHERE);
    this.#people = people;
  }

  override lookup(wallet: string): Promise<Listing> {
    const person = this.#people.find((one) => one.roster.wallet === wallet);
    if (person === undefined) return super.lookup(wallet);
    const { identity, certificates, revocations } = person;
    const { history } = this;
    return Promise.resolve({ identity, history, certificates, revocations, position: 1 });
  }

  override publishPrekeys(device: string, publication: Publication): Promise<Stock> {
    if (!this.answers) return super.publishPrekeys(device, publication);
    const { oneTime, oneTimeKem } = publication;
    return Promise.resolve({ oneTime: oneTime.length, oneTimeKem: oneTimeKem.length });
  }
}

export interface Offline {
  readonly session: ChatSession;
  readonly alice: Person;
  readonly bob: Person;
  /** Alice's, whose session it is. */
  readonly device: Device;
  readonly directory: Shown;
}

/** Alice's session. She has a session with Bob; what the directory knows is what `shown` says. */
export async function offline(shown: "everyone" | "nobody"): Promise<Offline> {
  const suite = await selectSuite();
  const { alice, bob } = await pair(suite);
  const device = alice.device("a");
  const directory = new Shown(shown === "everyone" ? [alice, bob] : []);
  const session = await ChatSession.open({
    messenger: device.messenger,
    directory,
    suite,
    sign: () => Promise.reject(new Error("nobody signs")),
    url: `${NOWHERE}/v1/chat/ws`,
    token: "",
  });
  return { session, alice, bob, device, directory };
}

/** A message that came, or as `fields` say. */
export function entry(fields: Partial<ChatEntry> = {}): ChatEntry {
  const { seq = 1, position = seq } = fields;
  return {
    id: `${fields.direction ?? "in"}/${seq}`,
    direction: "in",
    text: `message ${seq}`,
    device: "phone",
    seq,
    ts: 1_790_000_000 + seq,
    committed: position === null ? null : 1_790_000_000 + seq,
    position,
    state: "committed",
    continuity: null,
    problem: null,
    ...fields,
  };
}

/** Keep `entries` as if they had come. */
export async function keep(
  { device: { messenger } }: Offline,
  peer: string,
  entries: readonly ChatEntry[],
): Promise<void> {
  const unread = entries.filter((one) => one.direction === "in").length;
  const { text = "", ts = 0, position = 0 } = entries.at(-1) ?? {};
  const summary = { peer, unread, preview: text, ts, position: position ?? 0, changed: false };
  await messenger.keep([
    ...entries.map((one) =>
      kept(
        one.position === null ? waitingName(peer, one.seq) : chatName(peer, one.position),
        one,
      ),
    ),
    kept(conversationName(peer), summary),
  ]);
}

/** Resolves to what `condition` gives, once it gives something. */
export function waitUntil<T>(condition: () => T): Promise<NonNullable<T>> {
  return vi.waitUntil(condition, { timeout: PATIENCE }) as Promise<NonNullable<T>>;
}

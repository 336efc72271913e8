/** A chat session as a page has it, on real keys in memory: a directory in memory, and no socket. */
import { vi } from "vitest";

import { chatName, type ChatEntry, conversationName, kept, waitingName } from "../../src/chat/archive";
import { ChatSession } from "../../src/chat/session";
import { selectSuite } from "../../src/security/select";
import { type Device, KeyDirectory, pair, type Person } from "../security/people";

/** No page may ask this port, so nothing ever answers. */
const NOWHERE = "http://127.0.0.1:9";

/** Milliseconds that only a failing test waits. */
const PATIENCE = 60_000;

export interface Offline {
  readonly session: ChatSession;
  readonly alice: Person;
  readonly bob: Person;
  /** Alice's, whose session it is. */
  readonly device: Device;
  readonly directory: KeyDirectory;
}

/** Alice's session. She has a session with Bob; the directory shows everyone, or does not answer. */
export async function offline(shown: "everyone" | "nobody"): Promise<Offline> {
  const suite = await selectSuite();
  const { alice, bob } = await pair(suite);
  const device = alice.device("a");
  const directory = new KeyDirectory([alice, bob]);
  directory.down = shown === "everyone" ? null : 0;
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

/**
 * What this browser keeps of its conversations: entries of the sealed store, their names and forms.
 *
 * Names sort as the ledger does: `chat/<peer>/<position, 16 digits>`. What is not in the ledger yet is
 * under `waiting/<peer>/<seq>`; what may not be opened yet under `held/<peer>/<position>`.
 */
import type { Bytes } from "../security/bytes";
import { CryptoError } from "../security/errors";
import type { ArchiveEntry } from "../security/messenger";
import type { Continuity } from "../security/streams";

/**
 * How far a message of one's own has come. *sending*: kept here, to be sent until it is
 * acknowledged. *committed*: durably in the ledger. *delivered* and *read*: as the recipient's client
 * says. *failed*: the server refused it for good, and nothing was sent.
 */
export type SendState = "sending" | "committed" | "delivered" | "read" | "failed";

/** A line of a conversation. */
export interface ChatEntry {
  /** Unique in its conversation, and the same over reloads. */
  readonly id: string;
  readonly direction: "out" | "in";
  /** Empty where `problem` says why there is none to show. */
  readonly text: string;
  readonly device: string;
  readonly seq: number;
  /** Seconds, by the sender's clock, which may say anything; see `timeOf`. Nothing is ordered by it. */
  readonly ts: number;
  /** Seconds, by the ledger: the server's word. Null until the ledger has it; 0 where it gave no time. */
  readonly committed: number | null;
  /** Null until the ledger has it. */
  readonly position: number | null;
  /** Of one's own messages; *committed* for the others. */
  readonly state: SendState;
  /** How it follows the one before: *gap* and *late* must be shown. */
  readonly continuity: Continuity | null;
  /** A code: why it failed, or why it is not shown. */
  readonly problem: string | null;
}

/** A conversation in the list. */
export interface ConversationSummary {
  readonly peer: string;
  readonly unread: number;
  /** The newest message: its text, and its time in seconds, by the ledger once it has it. */
  readonly preview: string;
  readonly ts: number;
  /** Of the newest message, for the order of the list; messages that wait come first. */
  readonly position: number;
  /** The peer's identity has changed and nobody has accepted it. */
  readonly changed: boolean;
  /** It has a new identity that the old one vouches for; nobody has seen its safety number yet. */
  readonly rotated: boolean;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const DIGITS = 16;
/** Characters of a message that the list of conversations shows. */
const PREVIEW = 120;
/** Of a line whose newest message waits: above every position. */
const WAITS = Number.MAX_SAFE_INTEGER;

/** Seconds. No ledger is older, and no clock that one may go by is further ahead. */
const EARLIEST = Date.UTC(2020) / 1000;
const AHEAD = 24 * 3600;

export const CURSOR = "cursor";
export const SETTINGS = "settings";
export const CONVERSATIONS = "conversation/";
export const WAITING = "waiting/";
export const HELD = "held/";

function numbered(prefix: string, number: number): string {
  return prefix + String(number).padStart(DIGITS, "0");
}

export function conversationName(peer: string): string {
  return CONVERSATIONS + peer;
}

export function chatPrefix(peer: string): string {
  return `chat/${peer}/`;
}

export function chatName(peer: string, position: number): string {
  return numbered(chatPrefix(peer), position);
}

export function waitingPrefix(peer: string): string {
  return `${WAITING}${peer}/`;
}

export function waitingName(peer: string, seq: number): string {
  return numbered(waitingPrefix(peer), seq);
}

export function heldPrefix(peer: string): string {
  return `${HELD}${peer}/`;
}

export function heldName(peer: string, position: number): string {
  return numbered(heldPrefix(peer), position);
}

/** An entry that keeps `value`, which must be JSON. */
export function kept(name: string, value: unknown): ArchiveEntry {
  return { name, value: encoder.encode(JSON.stringify(value)) };
}

/** An entry that removes what is kept. */
export function gone(name: string): ArchiveEntry {
  return { name, value: null };
}

/**
 * What `kept` was given; the caller names its type. The store has authenticated the bytes: they are
 * this client's own.
 */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- a named cast
export function read<T>(value: Bytes): T {
  try {
    return JSON.parse(decoder.decode(value)) as T;
  } catch {
    throw new CryptoError("state_unreadable", "an entry of the archive is not JSON");
  }
}

/** The line of a conversation in which nothing has been said. */
export function unheard(peer: string): ConversationSummary {
  return { peer, unread: 0, preview: "", ts: 0, position: 0, changed: false, rotated: false };
}

/** The line after `entry` came, was written, or got its position. What came late is not the newest. */
export function withEntry(before: ConversationSummary, entry: ChatEntry): ConversationSummary {
  const unread = entry.direction === "in" ? before.unread + 1 : before.unread;
  const position = entry.position ?? WAITS;
  if (entry.problem !== null) return { ...before, unread };
  if (position < before.position && before.position !== WAITS) return { ...before, unread };
  const preview = entry.text.slice(0, PREVIEW);
  return { ...before, unread, preview, ts: entry.committed ?? entry.ts, position };
}

/** The ledger's time of a frame, in seconds; 0 where it is no time. */
export function ledgerTime({ timestamp }: { readonly timestamp: string }): number {
  return Date.parse(timestamp) / 1000 || 0;
}

/**
 * The time to show for an entry, in seconds: the ledger's; until the ledger has it, that of this
 * browser's own clock. Null where that cannot be, before 2020 or more than a day ahead of `now`:
 * then no time is shown.
 */
export function timeOf(
  { committed, ts }: Pick<ChatEntry, "committed" | "ts">,
  now = Date.now() / 1000,
): number | null {
  const time = committed ?? ts;
  return time >= EARLIEST && time <= now + AHEAD ? time : null;
}

/**
 * What a listener is told between two views of a conversation: what came in, and what was refused.
 * History that came above what was shown is no news. Both in the order in which they are shown.
 */
export function newsBetween(
  before: readonly ChatEntry[],
  after: readonly ChatEntry[],
): readonly ChatEntry[] {
  const known = new Map(before.map((one) => [one.id, one.state]));
  const first = after.findIndex(({ id }) => known.has(id));
  return after.filter(({ id, direction, state }, index) => {
    if (state === "failed") return known.get(id) === "sending";
    return direction === "in" && index > first && !known.has(id);
  });
}

/**
 * Entries that stand where their sender did not put them: behind one of the same device that was
 * written later. A sound ledger takes a stream's messages in their order, so a server that gives such
 * positions lies. `entries`: of one conversation, in the order in which they are shown; their ids.
 */
export function misplaced(entries: readonly ChatEntry[]): ReadonlySet<string> {
  const found = new Set<string>();
  const last = new Map<string, number>();
  for (const { id, direction, device, seq, position, problem } of entries) {
    if (problem !== null || position === null) continue;
    const stream = `${direction}/${device}`;
    const before = last.get(stream) ?? 0;
    if (seq < before) found.add(id);
    else last.set(stream, seq);
  }
  return found;
}

/**
 * The conversations that somebody shows, as far as they are loaded. What nobody shows is not in
 * memory: only on the disk, and its line in the list.
 */
import type { ChatEntry } from "./archive";

/** What a window may show of one conversation. Every change gives a new object. */
export interface ConversationView {
  readonly loaded: boolean;
  /** In ledger order; then those that wait, in the order in which they were written. */
  readonly entries: readonly ChatEntry[];
  /** Whether there is more history before the first entry. */
  readonly more: boolean;
}

/** What becomes of a conversation that is shown. */
export interface ViewChange {
  readonly entries: readonly ChatEntry[];
  /** Ids of entries that are no more. */
  readonly removed?: readonly string[];
  readonly loaded?: boolean;
  readonly more?: boolean;
}

const EMPTY: ConversationView = { loaded: false, entries: [], more: false };

export class ShownConversations {
  readonly #shown = new Map<string, { readonly viewers: number; readonly view: ConversationView }>();

  /** Somebody begins to show it. */
  enter(peer: string): void {
    const { viewers = 0, view = EMPTY } = this.#shown.get(peer) ?? {};
    this.#shown.set(peer, { viewers: viewers + 1, view });
  }

  /** Somebody who began to show it ends. */
  leave(peer: string): void {
    const shown = this.#shown.get(peer);
    if (shown === undefined) return;
    if (shown.viewers > 1) this.#shown.set(peer, { ...shown, viewers: shown.viewers - 1 });
    else this.#shown.delete(peer);
  }

  view(peer: string): ConversationView {
    return this.#shown.get(peer)?.view ?? EMPTY;
  }

  /** The peers of those that have been read. */
  loaded(): readonly string[] {
    return [...this.#shown].flatMap(([peer, { view }]) => (view.loaded ? [peer] : []));
  }

  /** Nothing happens to a conversation that nobody shows. */
  change(peer: string, { entries, removed = [], ...state }: ViewChange): void {
    const shown = this.#shown.get(peer);
    if (shown === undefined) return;
    const merged = withChanges(shown.view.entries, entries, removed);
    this.#shown.set(peer, { ...shown, view: { ...shown.view, ...state, entries: merged } });
  }
}

/** `before` with each of `entries` in its place, instead of the one with its id. */
export function withChanges(
  before: readonly ChatEntry[],
  entries: readonly ChatEntry[],
  removed: readonly string[] = [],
): readonly ChatEntry[] {
  const after = [...before];
  for (const id of removed) take(after, id);
  for (const entry of entries) {
    take(after, entry.id);
    after.splice(placeOf(after, entry), 0, entry);
  }
  return after;
}

// What changes is mostly near the end.
function take(entries: ChatEntry[], id: string): void {
  const at = entries.findLastIndex((one) => one.id === id);
  if (at >= 0) entries.splice(at, 1);
}

/** Where `entry` goes, behind those of the same place. */
function placeOf(entries: readonly ChatEntry[], entry: ChatEntry): number {
  let [low, high] = [0, entries.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const one = entries[middle];
    if (one !== undefined && inLedgerOrder(one, entry) <= 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** By position, never by a clock; what waits comes last, as it was written. */
function inLedgerOrder(one: ChatEntry, other: ChatEntry): number {
  if (one.position === null || other.position === null) {
    if (one.position !== other.position) return one.position === null ? 1 : -1;
    return one.seq - other.seq;
  }
  return one.position - other.position;
}

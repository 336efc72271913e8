/**
 * The chat of one wallet in one page: what comes over the socket is opened and kept, what is written
 * is sealed, kept and sent until the ledger has it. Here is no user interface.
 *
 * Frames are dealt with one after the other. Whatever one of them changes is committed to the store
 * before anything of it is shown, so a page that is closed at any moment loses nothing and shows
 * nothing twice. Several tabs of one wallet share the store; each tells the others what it changed.
 */
import type { Contact } from "../security/contacts";
import { type Directory, DirectoryError } from "../security/directory";
import { keepPrekeysInStock } from "../security/enrolment";
import { CryptoError } from "../security/errors";
import type { ChatMessage, Frame } from "../security/frame";
import type { ArchiveEntry, Messenger } from "../security/messenger";
import { type DecryptedMessage, SecureMessageClient } from "../security/secureMessageV2";
import type { Suite } from "../security/suite";
import { Connection, type ConnectionState } from "../transport/connection";
import type { MessageFrame, ServerFrame } from "../transport/frames";
import {
  chatName,
  chatPrefix,
  type ChatEntry,
  CONVERSATIONS,
  conversationName,
  type ConversationSummary,
  CURSOR,
  gone,
  heldName,
  heldPrefix,
  kept,
  read,
  type SendState,
  SETTINGS,
  waitingName,
  waitingPrefix,
} from "./archive";

/** Messages that are read from the store at a time. */
const PAGE = 50;
/** Characters of a message that the list of conversations shows. */
const PREVIEW = 120;
/** At most one new session a device in so many milliseconds: a peer cannot make us claim for ever. */
const HEAL_EVERY = 60_000;
/** Seconds before a message is sent again that the server could not take. */
const RESEND_AFTER = 5;
/** What a new session mends; the message itself stays unreadable unless its sender sends it again. */
const HEALED_BY_A_SESSION = new Set(["unknown_session", "unknown_prekey", "too_many_skipped"]);
/** Refusals that pass: the message is sent again. */
const PASSING = new Set(["rate_limited", "ledger_unavailable", "internal"]);
/** The server knows this device's numbers better: the state here is an old copy. */
const OLD_STATE = new Set(["replayed_sequence", "sequence_conflict"]);
/** Nothing more can be opened or kept. */
const FATAL = new Set(["storage", "state_unreadable", "state_rolled_back"]);
const HOW_FAR: readonly SendState[] = ["committed", "delivered", "read"];

/** What a whole page may show of the chat. Every change gives a new object. */
export interface SessionView {
  readonly connection: ConnectionState;
  /** Why the connection is refused: a code of SPEC.md, or empty. */
  readonly refusal: string;
  /** A code when this browser's state cannot be used: `state_rolled_back` can be mended. */
  readonly problem: string | null;
  /** False when the server no longer had all that was missed. */
  readonly complete: boolean;
  /** Whether receipts are given: off until the person turns them on. */
  readonly receipts: boolean;
  /** The newest first. */
  readonly conversations: readonly ConversationSummary[];
}

/** What a window may show of one conversation. Every change gives a new object. */
export interface ConversationView {
  readonly loaded: boolean;
  /** In ledger order; then those that wait, in the order in which they were written. */
  readonly entries: readonly ChatEntry[];
  /** Whether there is more history before the first entry. */
  readonly more: boolean;
}

export interface SessionParts {
  readonly messenger: Messenger;
  readonly directory: Directory;
  readonly suite: Suite;
  readonly url: string;
  readonly token: string;
}

const EMPTY: ConversationView = { loaded: false, entries: [], more: false };

export class ChatSession {
  readonly messenger: Messenger;
  readonly #directory: Directory;
  readonly #suite: Suite;
  readonly #connection: Connection;
  readonly #tabs: BroadcastChannel;
  readonly #listeners = new Set<() => void>();
  readonly #clients = new Map<string, SecureMessageClient>();
  readonly #summaries = new Map<string, ConversationSummary>();
  readonly #conversations = new Map<string, ConversationView>();
  readonly #healed = new Map<string, number>();
  /** Delivered ahead of what RESUME still brings. */
  #early: MessageFrame[] = [];
  #resumingTo: number | null = null;
  /** After a failure nothing is dealt with before the next READY. */
  #stalled = false;
  #cursor = 0;
  #queue: Promise<void> = Promise.resolve();
  #view: SessionView = {
    connection: "offline",
    refusal: "",
    problem: null,
    complete: true,
    receipts: false,
    conversations: [],
  };

  private constructor(parts: SessionParts) {
    this.messenger = parts.messenger;
    this.#directory = parts.directory;
    this.#suite = parts.suite;
    this.#connection = new Connection({
      url: parts.url,
      token: parts.token,
      device: parts.messenger.device,
      onFrame: (frame) => {
        this.#enqueue(() => this.#take(frame));
      },
      onState: (connection, refusal) => {
        this.#show({ connection, refusal });
      },
    });
    this.#tabs = new BroadcastChannel(`atlas-chat/${parts.messenger.wallet}`);
    this.#tabs.onmessage = ({ data }) => {
      if (typeof data === "string") this.#enqueue(() => this.#reload(data));
    };
  }

  /** Read what is kept, and connect. */
  static async open(parts: SessionParts): Promise<ChatSession> {
    const session = new ChatSession(parts);
    await session.#load();
    session.#connection.open();
    return session;
  }

  close(): void {
    this.#connection.close();
    this.#tabs.close();
    this.#listeners.clear();
  }

  get wallet(): string {
    return this.messenger.wallet;
  }

  // What is shown.

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  readonly view = (): SessionView => this.#view;

  conversation(peer: string): ConversationView {
    return this.#conversations.get(peer) ?? EMPTY;
  }

  summary(peer: string): ConversationSummary | null {
    return this.#summaries.get(peer) ?? null;
  }

  /** A fresh token of the same wallet. */
  renew(token: string): void {
    this.#connection.renew(token);
  }

  // What a person does.

  /** Show a conversation from its newest messages on; ask the directory who the peer is now. */
  async enter(peer: string): Promise<void> {
    if (!this.conversation(peer).loaded) await this.#enter(peer);
    try {
      await this.contact(peer);
    } catch (error) {
      // What a directory says that is not sound, or does not say, shows when something is sent.
      if (error instanceof CryptoError && FATAL.has(error.code)) this.#show({ problem: error.code });
      else if (!(error instanceof CryptoError || error instanceof DirectoryError)) throw error;
    }
  }

  /** Show one more page of history. */
  async older(peer: string): Promise<void> {
    const { entries, more } = this.conversation(peer);
    const first = entries.find((one) => one.position !== null);
    if (!more || first === undefined) return;
    const before = chatName(peer, first.position ?? 0);
    const page = await this.messenger.kept(chatPrefix(peer), { before, limit: PAGE });
    this.#merge(peer, page.map(({ value }) => read<ChatEntry>(value)), page.length === PAGE);
  }

  /**
   * Seal, keep and send `text`. Resolves when it is kept: from then on it is sent until the ledger has
   * it, over reloads too. Throws a CryptoError (`identity_changed`, `not_certified`, `refused`,
   * `content_too_large`, `state_rolled_back`) or DirectoryError; then nothing was kept.
   */
  async send(peer: string, text: string): Promise<void> {
    const entries: ChatEntry[] = [];
    const message = await this.#client(peer).encrypt(text, (frame) => {
      const entry = outgoing(frame, text);
      entries.push(entry);
      return text === "" ? [] : [kept(waitingName(peer, frame.seq), entry), this.#noted(peer, entry)];
    });
    if (text !== "") this.#changed(peer, entries);
    this.#connection.send(message);
  }

  /** Send again, as a new message, what the server refused for good. */
  async retry(peer: string, entry: ChatEntry): Promise<void> {
    await this.send(peer, entry.text);
    await this.messenger.keep([gone(waitingName(peer, entry.seq))]);
    this.#changed(peer, [], [entry.id]);
  }

  /** The person has seen the conversation to its end. */
  async seen(peer: string): Promise<void> {
    const summary = this.summary(peer);
    if (summary === null || summary.unread === 0 || this.#view.problem !== null) return;
    const unread = this.conversation(peer)
      .entries.filter((one) => one.direction === "in" && one.problem === null)
      .slice(-summary.unread);
    await this.#note({ ...summary, unread: 0 });
    if (!this.#view.receipts) return;
    for (const { position } of unread) {
      if (position !== null) this.#connection.send({ type: "RECEIPT", kind: "read", position });
    }
  }

  /** Whether delivered and read receipts are given from now on. */
  async giveReceipts(receipts: boolean): Promise<void> {
    await this.messenger.keep([kept(SETTINGS, { receipts })]);
    this.#show({ receipts });
    this.#tabs.postMessage("");
  }

  /** Who the peer is, as the directory says now; null when it has no identity. */
  async contact(peer: string): Promise<Contact | null> {
    const contact = await this.#client(peer).contacts.contact(peer);
    const changed = contact?.succession === "reset";
    const summary = this.summary(peer);
    if (changed !== (summary?.changed ?? false)) {
      await this.#note({ ...(summary ?? unheard(peer)), changed });
    }
    return contact;
  }

  /** 60 digits, to be compared with the person; see `grouped`. */
  safetyNumber(peer: string, contact: Contact): Promise<string> {
    return this.#client(peer).contacts.safetyNumber(contact.roster);
  }

  /** The person has compared `number`: what was held back is opened, and one may write again. */
  async accept(peer: string, contact: Contact, number: string): Promise<void> {
    await this.#client(peer).contacts.accept(contact.roster, number);
    await this.#note({ ...(this.summary(peer) ?? unheard(peer)), changed: false });
    this.#enqueue(() => this.#release(peer));
  }

  /** Go on with a state that was found to be an old copy: new keys, and all that waits sealed anew. */
  async beginAgain(): Promise<void> {
    await this.messenger.beginAgain();
    const publication = await this.messenger.publishPrekeys({ oneTime: PAGE, rotate: true });
    await this.#directory.publishPrekeys(this.messenger.device, publication);
    this.#show({ problem: null });
    for (const { peer } of this.#view.conversations) {
      const waiting = await this.messenger.kept(waitingPrefix(peer));
      for (const { value } of waiting) await this.retry(peer, read<ChatEntry>(value));
    }
    this.#connection.restart();
  }

  // What the server says.

  #enqueue(work: () => Promise<void>): void {
    this.#queue = this.#queue.then(work).catch((error: unknown) => {
      if (error instanceof CryptoError && FATAL.has(error.code)) {
        this.#show({ problem: error.code });
        return;
      }
      // The directory is away, or a defect of ours: nothing was taken, and RESUME brings it again.
      this.#stalled = true;
      this.#connection.restart();
      if (!(error instanceof DirectoryError)) reportError(error);
    });
  }

  async #take(frame: ServerFrame): Promise<void> {
    if (frame.type === "READY") {
      await this.#begin(frame.position);
      return;
    }
    if (this.#stalled) return;
    switch (frame.type) {
      case "CHAT_MESSAGE":
        // What is past the head of READY may come ahead of the replay; it waits for its place.
        if (this.#resumingTo !== null && frame.position > this.#resumingTo) this.#early.push(frame);
        else await this.#receive(frame);
        return;
      case "RESUMED":
        await this.#resumed(frame.complete);
        return;
      case "ACK":
        await this.#settle(frame);
        return;
      case "ERROR":
        await this.#refused(frame);
        return;
      case "RECEIPT":
        await this.#receipt(frame);
        return;
      case "PREKEYS_LOW":
        if (frame.device === this.messenger.device) {
          await keepPrekeysInStock(this.messenger, this.#directory, Date.now());
        }
    }
  }

  /** A new connection: ask for what was missed, then send what still waits. */
  async #begin(head: number): Promise<void> {
    this.#stalled = false;
    this.#early = [];
    this.#resumingTo = head;
    this.#connection.send({ type: "RESUME", after: this.#cursor });
    for (const frame of await this.messenger.outbox()) this.#connection.send(frame.toWire());
  }

  async #resumed(complete: boolean): Promise<void> {
    const early = this.#early.sort((one, other) => one.position - other.position);
    this.#early = [];
    this.#resumingTo = null;
    for (const frame of early) await this.#receive(frame);
    if (complete !== this.#view.complete) this.#show({ complete });
  }

  /** A message: one of our own that another tab sent or whose ACK was lost, or one to be opened. */
  async #receive(message: MessageFrame): Promise<void> {
    const { sender, recipient, device, position } = message;
    if (sender === this.wallet && device === this.messenger.device) {
      await this.#settle(message);
      await this.#advance(position);
      return;
    }
    const peer = sender === this.wallet ? recipient : sender;
    if (sender !== this.wallet && recipient !== this.wallet) {
      // A group's: this client shows conversations of two.
      await this.#advance(position);
      return;
    }
    try {
      await this.#open(peer, message);
    } catch (error) {
      if (!(error instanceof CryptoError) || FATAL.has(error.code)) throw error;
      await this.#unopened(peer, message, error.code);
    }
  }

  async #open(peer: string, message: MessageFrame): Promise<void> {
    const { position } = message;
    const name = await this.#place(peer, position, message.hash);
    const shown: ChatEntry[] = [];
    await this.#client(peer).decrypt(message, (opened) => {
      const cursor = kept(CURSOR, Math.max(this.#cursor, position));
      if (opened.text === "") return [cursor];
      const entry = incoming(message, opened, this.wallet);
      shown.push(entry);
      return [kept(name, entry), this.#noted(peer, entry), cursor];
    });
    this.#cursor = Math.max(this.#cursor, position);
    this.#changed(peer, shown);
    const [entry] = shown;
    if (this.#view.receipts && entry?.direction === "in") {
      this.#connection.send({ type: "RECEIPT", kind: "delivered", position });
    }
  }

  /** A message that must not be shown; what it means is decided here, and nothing is hidden. */
  async #unopened(peer: string, message: MessageFrame, code: string): Promise<void> {
    const { sender, device, position, hash } = message;
    const cursor = kept(CURSOR, Math.max(this.#cursor, position));
    if (code === "identity_changed") {
      const summary = { ...(this.summary(peer) ?? unheard(peer)), changed: true };
      await this.messenger.keep([kept(heldName(peer, position), message), cursor]);
      await this.#note(summary);
    } else if (code === "replayed" && (await this.#isKept(peer, message))) {
      // Another tab opened it, or RESUME brought it once more.
      await this.#advance(position);
      await this.#reload(peer);
    } else {
      const name = await this.#place(peer, position, `${hash}/${code}`);
      const entry = unreadable(message, code, this.wallet);
      await this.messenger.keep([kept(name, entry), this.#noted(peer, entry), cursor]);
      this.#changed(peer, [entry]);
      if (HEALED_BY_A_SESSION.has(code)) await this.#heal(peer, sender, device);
    }
    this.#cursor = Math.max(this.#cursor, position);
  }

  /** Open a new session with a device whose messages do not open, and tell it so (SPEC-crypto C31). */
  async #heal(peer: string, sender: string, device: string): Promise<void> {
    const last = this.#healed.get(sender + device) ?? -Infinity;
    if (Date.now() - last < HEAL_EVERY) return;
    this.#healed.set(sender + device, Date.now());
    try {
      await this.#client(peer).contacts.reset(sender, device);
      await this.send(peer, "");
    } catch (error) {
      if (!(error instanceof CryptoError) || FATAL.has(error.code)) throw error;
    }
  }

  /** What was held back while the peer's identity was in doubt. */
  async #release(peer: string): Promise<void> {
    for (const { name, value } of await this.messenger.kept(heldPrefix(peer))) {
      await this.#receive(read<MessageFrame>(value));
      await this.messenger.keep([gone(name)]);
    }
  }

  /** The ledger has a message of this device: by its ACK, or because it came back. */
  async #settle(
    ack: Pick<MessageFrame, "recipient" | "device" | "seq" | "hash" | "position">,
  ): Promise<void> {
    const { recipient: peer, seq, hash, position } = ack;
    if (ack.device !== this.messenger.device) return;
    const name = waitingName(peer, seq);
    const entry = await this.#entry(name);
    if (entry === null) {
      // One without text opens a session; nothing of it is shown.
      if ((await this.#waits(peer, seq, hash)) !== null) {
        await this.messenger.acknowledged({ recipient: peer, seq });
      }
      return;
    }
    if (entry.id !== hash) return; // an answer about a message that is not ours
    const committed: ChatEntry = { ...entry, state: "committed", position, problem: null };
    await this.messenger.acknowledged({ recipient: peer, seq }, [
      gone(name),
      kept(await this.#place(peer, position, hash), committed),
      this.#noted(peer, committed),
    ]);
    this.#changed(peer, [committed]);
  }

  async #waits(peer: string, seq: number, hash: string): Promise<Frame | null> {
    const outbox = await this.messenger.outbox();
    const found = outbox.find((one) => one.recipient === peer && one.seq === seq);
    return found?.toWire().hash === hash ? found : null;
  }

  async #refused(error: Extract<ServerFrame, { type: "ERROR" }>): Promise<void> {
    const { code, seq, recipient: peer, retryAfter } = error;
    if (seq === null || peer === null) return;
    const outbox = await this.messenger.outbox();
    const frame = outbox.find((one) => one.recipient === peer && one.seq === seq);
    if (frame === undefined) return;
    if (PASSING.has(code)) {
      setTimeout(
        () => this.#connection.send(frame.toWire()),
        1000 * (retryAfter ?? RESEND_AFTER),
      );
      return;
    }
    if (OLD_STATE.has(code)) {
      await this.messenger.distrust();
      if (error.lastSeq !== null) await this.messenger.fastForward(peer, error.lastSeq);
      this.#show({ problem: "state_rolled_back" });
      return;
    }
    const entry = await this.#entry(waitingName(peer, seq));
    const failed = entry && { ...entry, state: "failed" as const, problem: code };
    const entries = failed === null ? [] : [kept(waitingName(peer, seq), failed)];
    await this.messenger.acknowledged(frame, entries);
    if (failed !== null) this.#changed(peer, [failed]);
  }

  async #receipt(receipt: Extract<ServerFrame, { type: "RECEIPT" }>): Promise<void> {
    const { wallet: peer, position, kind } = receipt;
    const entry = await this.#entry(chatName(peer, position));
    if (entry?.direction !== "out") return;
    if (HOW_FAR.indexOf(kind) <= HOW_FAR.indexOf(entry.state)) return;
    const further: ChatEntry = { ...entry, state: kind };
    await this.messenger.keep([kept(chatName(peer, position), further)]);
    this.#changed(peer, [further]);
  }

  // What is kept.

  async #load(): Promise<void> {
    const [cursor] = await this.messenger.kept(CURSOR);
    this.#cursor = cursor === undefined ? 0 : read<number>(cursor.value);
    const [settings] = await this.messenger.kept(SETTINGS);
    const receipts = settings !== undefined && read<{ receipts: boolean }>(settings.value).receipts;
    for (const { value } of await this.messenger.kept(CONVERSATIONS)) {
      const summary = read<ConversationSummary>(value);
      this.#summaries.set(summary.peer, summary);
    }
    const problem = (await this.messenger.rolledBack()) ? "state_rolled_back" : null;
    this.#show({ receipts, problem });
  }

  /** Another tab has changed something of `peer` (empty: of the settings). */
  async #reload(peer: string): Promise<void> {
    await this.#load();
    if (peer !== "" && this.conversation(peer).loaded) await this.#enter(peer);
  }

  async #enter(peer: string): Promise<void> {
    const page = await this.messenger.kept(chatPrefix(peer), { limit: PAGE });
    const waiting = await this.messenger.kept(waitingPrefix(peer));
    const entries = [...page, ...waiting].map(({ value }) => read<ChatEntry>(value));
    const before = this.conversation(peer);
    // What waited and no longer does has come as a committed one, or was given up.
    const present = new Set(entries.map((one) => one.id));
    const left = before.entries.filter((one) => one.position === null && !present.has(one.id));
    const more = before.loaded ? before.more : page.length === PAGE;
    this.#merge(peer, entries, more, new Set(left.map((one) => one.id)));
  }

  async #entry(name: string): Promise<ChatEntry | null> {
    const found = (await this.messenger.kept(name)).find((one) => one.name === name);
    return found === undefined ? null : read<ChatEntry>(found.value);
  }

  /** The name for an entry at `position`: nothing that is kept is ever written over by another. */
  async #place(peer: string, position: number, id: string): Promise<string> {
    const name = chatName(peer, position);
    const taken = await this.#entry(name);
    return taken === null || taken.id === id ? name : `${name}~${id}`;
  }

  /** Whether this very message is shown already. */
  async #isKept(peer: string, { position, hash }: MessageFrame): Promise<boolean> {
    const found = await this.messenger.kept(chatName(peer, position));
    return found.some(({ value }) => read<ChatEntry>(value).id === hash);
  }

  async #advance(position: number): Promise<void> {
    if (position <= this.#cursor) return;
    this.#cursor = position;
    await this.messenger.keep([kept(CURSOR, position)]);
  }

  /** The list's line after `entry`, kept with it. */
  #noted(peer: string, entry: ChatEntry): ArchiveEntry {
    const before = this.summary(peer) ?? unheard(peer);
    const unread = entry.direction === "in" ? before.unread + 1 : before.unread;
    const position = entry.position ?? Number.MAX_SAFE_INTEGER;
    const settled = entry.direction === "out" && entry.position !== null;
    const summary: ConversationSummary =
      settled && before.position !== Number.MAX_SAFE_INTEGER
        ? before
        : { ...before, unread, preview: entry.text.slice(0, PREVIEW), ts: entry.ts, position };
    this.#summaries.set(peer, summary);
    return kept(conversationName(peer), summary);
  }

  async #note(summary: ConversationSummary): Promise<void> {
    await this.messenger.keep([kept(conversationName(summary.peer), summary)]);
    this.#summaries.set(summary.peer, summary);
    this.#changed(summary.peer, []);
  }

  #client(peer: string): SecureMessageClient {
    let client = this.#clients.get(peer);
    if (client === undefined) {
      client = new SecureMessageClient(this.messenger, this.#directory, this.#suite, peer);
      this.#clients.set(peer, client);
    }
    return client;
  }

  // Telling.

  /** `entries` were kept, `removed` ids no longer are: show it here, and tell the other tabs. */
  #changed(peer: string, entries: readonly ChatEntry[], removed: readonly string[] = []): void {
    const { loaded, more } = this.conversation(peer);
    if (loaded) this.#merge(peer, entries, more, new Set(removed));
    else this.#show({});
    this.#tabs.postMessage(peer);
  }

  #merge(
    peer: string,
    entries: readonly ChatEntry[],
    more: boolean,
    removed: ReadonlySet<string> = new Set(),
  ): void {
    const byId = new Map(this.conversation(peer).entries.map((one) => [one.id, one]));
    for (const entry of entries) byId.set(entry.id, entry);
    for (const id of removed) byId.delete(id);
    const ordered = [...byId.values()].sort(inLedgerOrder);
    this.#conversations.set(peer, { loaded: true, entries: ordered, more });
    this.#show({});
  }

  #show(change: Partial<SessionView>): void {
    const conversations = [...this.#summaries.values()].sort(
      (one, other) => other.position - one.position || other.ts - one.ts,
    );
    this.#view = { ...this.#view, ...change, conversations };
    for (const listener of this.#listeners) listener();
  }
}

/** By position, never by a clock; what waits comes last, as it was written. */
function inLedgerOrder(one: ChatEntry, other: ChatEntry): number {
  if (one.position === null || other.position === null) {
    if (one.position !== other.position) return one.position === null ? 1 : -1;
    return one.seq - other.seq;
  }
  return one.position - other.position;
}

function unheard(peer: string): ConversationSummary {
  return { peer, unread: 0, preview: "", ts: 0, position: 0, changed: false };
}

function outgoing(frame: Frame, text: string): ChatEntry {
  const { hash }: ChatMessage = frame.toWire();
  const { device, seq, ts } = frame;
  return {
    id: hash,
    direction: "out",
    text,
    device,
    seq,
    ts,
    position: null,
    state: "sending",
    continuity: null,
    problem: null,
  };
}

function incoming(message: MessageFrame, opened: DecryptedMessage, wallet: string): ChatEntry {
  const { text, device, seq, ts, continuity } = opened;
  return {
    id: message.hash,
    direction: opened.sender === wallet ? "out" : "in",
    text,
    device,
    seq,
    ts,
    position: message.position,
    state: "committed",
    continuity,
    problem: null,
  };
}

/** What cannot be shown, with the reason. The time is the server's word, as is all of it. */
function unreadable(message: MessageFrame, code: string, wallet: string): ChatEntry {
  return {
    id: `${message.hash}/${code}`,
    direction: message.sender === wallet ? "out" : "in",
    text: "",
    device: message.device,
    seq: message.seq,
    ts: Date.parse(message.timestamp) / 1000 || 0,
    position: message.position,
    state: "committed",
    continuity: null,
    problem: code,
  };
}

/**
 * The chat of one wallet in one page: what comes over the socket is opened and kept, what is written
 * is sealed, kept and sent until the ledger has it. Here is no user interface.
 *
 * Frames are dealt with one after the other. Whatever one of them changes is committed to the store
 * before anything of it is shown, so a page that is closed at any moment loses nothing and shows
 * nothing twice. Several tabs of one wallet share the store; each tells the others what it changed.
 */
import type { Bytes } from "../security/bytes";
import { type Contact, Contacts } from "../security/contacts";
import { type Directory, DirectoryError } from "../security/directory";
import { keepPrekeysInStock, publishPrekeys, rotateIdentity } from "../security/enrolment";
import { isWallet } from "../security/codec";
import { CryptoError } from "../security/errors";
import { type ChatMessage, Frame } from "../security/frame";
import type { ArchiveEntry, Kept, Messenger } from "../security/messenger";
import { decryptMany, type DecryptedMessage, SecureMessageClient } from "../security/secureMessageV2";
import type { Suite } from "../security/suite";
import type { SignText } from "../security/wallet";
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
  HELD,
  heldName,
  heldPrefix,
  kept,
  ledgerTime,
  read,
  type SendState,
  SETTINGS,
  unheard,
  WAITING,
  waitingName,
  waitingPrefix,
  withEntry,
} from "./archive";
import { type ConversationView, ShownConversations } from "./conversations";
import { Sending } from "./sending";

/** Messages that are read from the store at a time. */
const PAGE = 50;
/** At most one new session a device in so many milliseconds: a peer cannot make us claim for ever. */
const HEAL_EVERY = 60_000;
/** Prekeys are looked after at most once in so many milliseconds, however often the server asks. */
const RESTOCK_EVERY = 60_000;
/** Messages that are opened with one commit at most: the disk, and other tabs, are waited for once. */
const AT_ONCE = 64;
/** Messages that may come ahead of what RESUME brings; beyond, the connection begins anew. */
const MAX_EARLY = 4096;
/** Seconds before a message is sent again that the server could not take. */
const RESEND_AFTER = 5;
/** And at most, whatever the server says. */
const RESEND_WITHIN = 300;
/** What a new session mends; the message itself stays unreadable unless its sender sends it again. */
const HEALED_BY_A_SESSION = new Set(["unknown_session", "unknown_prekey", "too_many_skipped"]);
/** What is not for this device, or came again, is kept as such: nothing else is to be done about it. */
const ONLY_TOLD = new Set(["not_addressed", "replayed"]);
/** Refusals that pass: the message is sent again. */
const PASSING = new Set(["rate_limited", "ledger_unavailable", "internal"]);
/** The server knows this device's numbers better: the state here is an old copy. */
const OLD_STATE = new Set(["replayed_sequence", "sequence_conflict"]);
/** Nothing more can be opened or kept. */
const FATAL = new Set(["storage", "state_unreadable", "state_rolled_back"]);
/** Characters of a hash and of an identifier: more of what does not open is not kept. */
const HASH = 44;
const IDENTIFIER = 128;
const HOW_FAR: readonly SendState[] = ["committed", "delivered", "read"];

/** What a whole page may show of the chat. Every change gives a new object. */
export interface SessionView {
  readonly connection: ConnectionState;
  /** Why the connection is refused: a code of SPEC.md, or empty. */
  readonly refusal: string;
  /** A code when this browser cannot go on: `state_rolled_back` can be mended, `device_revoked` by a reload. */
  readonly problem: string | null;
  /** False when the server no longer had all that was missed. */
  readonly complete: boolean;
  /** Whether receipts are given: off until the person turns them on. */
  readonly receipts: boolean;
  /** The newest first. */
  readonly conversations: readonly ConversationSummary[];
}

export interface SessionParts {
  readonly messenger: Messenger;
  readonly directory: Directory;
  readonly suite: Suite;
  /** Asks the person's wallet. */
  readonly sign: SignText;
  readonly url: string;
  readonly token: string;
}

/** What one transaction changes of a conversation; it is shown once it is kept. */
class Change {
  readonly entries: ChatEntry[] = [];
  readonly removed: string[] = [];
  summary: ConversationSummary | null = null;

  /** The list's line after this change, to be kept with it. Read anew: other tabs write it too. */
  async sum(
    peer: string,
    stored: Kept,
    after: (before: ConversationSummary) => ConversationSummary,
  ): Promise<ArchiveEntry> {
    const value = await stored(conversationName(peer));
    this.summary = after(value === null ? unheard(peer) : read<ConversationSummary>(value));
    return kept(conversationName(peer), this.summary);
  }
}

/** Ends a transaction: another tab, or a second click, has sealed it anew, or the ledger has it. */
class NotThere extends Error {}

export class ChatSession {
  readonly messenger: Messenger;
  readonly #directory: Directory;
  readonly #contacts: Contacts;
  /** Gives the wallet a new identity key. */
  readonly #rotate: () => Promise<void>;
  readonly #connection: Connection;
  readonly #sending: Sending;
  readonly #tabs: BroadcastChannel;
  readonly #listeners = new Set<() => void>();
  readonly #summaries = new Map<string, ConversationSummary>();
  /** A line has changed since the list was last put in order. */
  #linesChanged = false;
  readonly #conversations = new ShownConversations();
  readonly #healed = new Map<string, number>();
  /** Peers of whom something is held back. */
  readonly #held = new Set<string>();
  #restocked = -Infinity;
  /** Whether `beginAgain` was called: the server's numbers are followed from then on. */
  #begunAgain = false;
  /** Peers to whom that has been done: once is enough for a server that tells the truth. */
  readonly #followed = new Set<string>();
  /** Messages that came one behind the other and are not looked at yet. */
  #arrived: MessageFrame[] | null = null;
  /** Delivered ahead of what RESUME still brings. */
  #early: MessageFrame[] = [];
  #resumingTo: number | null = null;
  /** After a failure nothing is dealt with before the next READY. */
  #stalled = false;
  #closed = false;
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
    this.#contacts = new Contacts(parts.messenger, parts.directory, parts.suite);
    const { directory, suite, sign } = parts;
    this.#rotate = () =>
      rotateIdentity({ wallet: this.wallet, directory, suite, sign }, parts.messenger);
    this.#connection = new Connection({
      url: parts.url,
      token: parts.token,
      device: parts.messenger.device,
      onFrame: (frame) => {
        this.#arrive(frame);
      },
      onState: (connection, refusal) => {
        if (connection !== "online") this.#sending.end();
        this.#show({ connection, refusal });
      },
    });
    this.#sending = new Sending({
      lock: `atlas-chat-sending/${parts.messenger.wallet}`,
      outbox: () => this.messenger.outbox(),
      send: (frame) => this.#connection.send(frame),
      onTurn: (first) => {
        this.#enqueue(async () => {
          if (this.#stalled) return;
          if (first) await this.#sealAnew();
          await this.#sending.pump();
        });
      },
      onSilence: () => {
        this.#connection.restart();
      },
    });
    this.#tabs = new BroadcastChannel(`atlas-chat/${parts.messenger.wallet}`);
    this.#tabs.onmessage = ({ data }) => {
      if (typeof data !== "string") return;
      this.#enqueue(async () => {
        const before = this.#view.problem;
        await this.#reload(data);
        // Another tab has begun again: what was not taken here comes with a new connection.
        if (before !== null && this.#view.problem === null) this.#connection.restart();
        if (!this.#stalled) await this.#sending.pump();
      });
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
    this.#closed = true;
    this.#connection.close();
    this.#sending.end();
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
    return this.#conversations.view(peer);
  }

  summary(peer: string): ConversationSummary | null {
    return this.#summaries.get(peer) ?? null;
  }

  /** A fresh token of the same wallet. */
  renew(token: string): void {
    this.#connection.renew(token);
  }

  // What a person does.

  /**
   * Show a conversation from its newest messages on, until `leave`; ask the directory who the peer is
   * now.
   */
  async enter(peer: string): Promise<void> {
    this.#conversations.enter(peer);
    try {
      if (!this.conversation(peer).loaded) await this.#read(peer);
      await this.contact(peer);
    } catch (error) {
      // What a directory says that is not sound, or does not say, shows when something is sent.
      if (this.#isTold(error)) return;
      if (!(error instanceof CryptoError || error instanceof DirectoryError)) throw error;
    }
  }

  /** To be called once for each `enter`. What nobody shows any more goes from memory. */
  leave(peer: string): void {
    this.#conversations.leave(peer);
  }

  /** Show one more page of history. */
  async older(peer: string): Promise<void> {
    const view = this.conversation(peer);
    const first = view.entries.find((one) => one.position !== null);
    if (!view.more || first === undefined) return;
    const before = chatName(peer, first.position ?? 0);
    const page = await this.messenger.kept(chatPrefix(peer), { before, limit: PAGE });
    const entries = page.map(({ value }) => read<ChatEntry>(value));
    this.#conversations.change(peer, { entries, more: page.length === PAGE });
    this.#show({});
  }

  /**
   * Seal, keep and send `text`. Resolves when it is kept: from then on it is sent until the ledger has
   * it, over reloads too. Throws a CryptoError (`identity_changed`, `not_certified`, `refused`,
   * `content_too_large`, `state_rolled_back`) or DirectoryError; then nothing was kept.
   */
  async send(peer: string, text: string): Promise<void> {
    await this.#seal(peer, text, null);
  }

  /** Send again, as a new message, what the server refused for good. */
  async retry(peer: string, entry: ChatEntry): Promise<void> {
    await this.#seal(peer, entry.text, entry);
  }

  /** The person has seen the conversation to its end. */
  async seen(peer: string): Promise<void> {
    const summary = this.summary(peer);
    if (summary === null || summary.unread === 0 || this.#view.problem !== null) return;
    const unread = this.conversation(peer)
      .entries.filter((one) => one.direction === "in")
      .slice(-summary.unread)
      .filter((one) => one.problem === null);
    await this.#note(peer, (before) => ({ ...before, unread: 0 }));
    if (!this.#view.receipts) return;
    for (const { position } of unread) {
      if (position !== null) this.#connection.send({ type: "RECEIPT", kind: "read", position });
    }
  }

  /** Whether delivered and read receipts are given from now on. */
  async giveReceipts(receipts: boolean): Promise<void> {
    const before = this.#view.receipts;
    this.#show({ receipts });
    try {
      await this.messenger.keep([kept(SETTINGS, { receipts })]);
    } catch (error) {
      this.#show({ receipts: before });
      throw error;
    }
    this.#tell("");
  }

  /** Who the peer is, as the directory says now; null when it has no identity. */
  async contact(peer: string): Promise<Contact | null> {
    const contact = await this.#contacts.contact(peer);
    const changed = contact?.succession === "reset";
    // A directory that does not answer says nothing new: the banner stays as it is.
    const answered = contact?.current ?? true;
    if (answered && changed !== (this.summary(peer)?.changed ?? false)) {
      await this.#note(peer, (before) => ({ ...before, changed }));
    }
    await this.#noteRotation(peer);
    return contact;
  }

  /** What was found out of the peer, in passing: the person is told, and goes on. */
  async #noteRotation(peer: string): Promise<void> {
    if (!this.#contacts.isRotated(peer) || this.summary(peer)?.rotated === true) return;
    await this.#note(peer, (before) => ({ ...before, rotated: true }));
  }

  /** 60 digits, to be compared with the person; see `grouped`. */
  safetyNumber(contact: Contact): Promise<string> {
    return this.#contacts.safetyNumber(contact.roster);
  }

  /**
   * The person has compared `number`: what was held back is opened, and one may write again. Of a
   * rotated identity: they have seen it.
   */
  async accept(peer: string, contact: Contact, number: string): Promise<void> {
    await this.#contacts.accept(contact.roster, number);
    await this.#note(peer, (before) => ({ ...before, changed: false, rotated: false }));
    this.#enqueue(async () => {
      await this.#release(peer);
    });
  }

  /**
   * Give the wallet a new identity key: see `rotateIdentity`, and what it throws. Nothing is sent from
   * here while it is published.
   */
  rotate(): Promise<void> {
    const done = this.#queue.then(this.#rotate);
    this.#queue = done.catch(() => undefined);
    return done;
  }

  /** Go on with a state that was found to be an old copy: new keys, and all that waits sealed anew. */
  async beginAgain(): Promise<void> {
    await this.messenger.beginAgain();
    // crash point: the next start publishes what was not published
    await publishPrekeys(this.messenger, this.#directory, Date.now());
    this.#begunAgain = true;
    this.#show({ problem: null });
    this.#tell("");
    this.#connection.restart();
  }

  // What the server says.

  #enqueue(work: () => Promise<void>): void {
    this.#queue = this.#queue.then(work).catch((error: unknown) => {
      if (this.#isTold(error)) {
        // Nothing is passed over: what could not be kept comes again when it can be.
        this.#stalled = true;
        return;
      }
      // The directory is away, or a defect of ours: nothing was taken, and RESUME brings it again.
      this.#stalled = true;
      this.#connection.restart();
      if (!(error instanceof DirectoryError)) reportError(error);
    });
  }

  /** Whether nothing more can be opened or kept. */
  #isFatal({ code }: CryptoError): boolean {
    return FATAL.has(code) || (code === "device_revoked" && this.#contacts.replaced);
  }

  /** As `#isFatal`; then the whole page says so. */
  #isTold(error: unknown): boolean {
    if (!(error instanceof CryptoError) || !this.#isFatal(error)) return false;
    this.#show({ problem: error.code });
    return true;
  }

  /** Frames are taken in their order; messages that come while others are dealt with, together. */
  #arrive(frame: ServerFrame): void {
    if (frame.type !== "CHAT_MESSAGE") {
      this.#arrived = null;
      this.#enqueue(() => this.#take(frame));
    } else if (this.#arrived === null) {
      const arrived = [frame];
      this.#arrived = arrived;
      this.#enqueue(async () => {
        if (this.#arrived === arrived) this.#arrived = null;
        await this.#takeMessages(arrived);
      });
    } else {
      this.#arrived.push(frame);
    }
  }

  async #takeMessages(messages: readonly MessageFrame[]): Promise<void> {
    if (this.#stalled) return;
    // What is past the head of READY may come ahead of the replay; it waits for its place.
    const head = this.#resumingTo ?? Infinity;
    this.#early.push(...messages.filter(({ position }) => position > head));
    if (this.#early.length > MAX_EARLY) {
      this.#stalled = true;
      this.#connection.restart();
      return;
    }
    await this.#receive(messages.filter(({ position }) => position <= head));
  }

  async #take(frame: Exclude<ServerFrame, MessageFrame>): Promise<void> {
    if (frame.type === "READY") {
      await this.#begin(frame.position);
      return;
    }
    if (this.#stalled) return;
    switch (frame.type) {
      case "RESUMED":
        await this.#resumed(frame);
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
        if (frame.device === this.messenger.device && Date.now() - this.#restocked > RESTOCK_EVERY) {
          this.#restocked = Date.now();
          await keepPrekeysInStock(this.messenger, this.#directory, Date.now());
        }
    }
  }

  /** A new connection: ask for what was missed, then send what still waits. */
  async #begin(head: number): Promise<void> {
    // With an old copy nothing is opened, and nothing of it is sent.
    const { problem } = this.#view;
    this.#stalled = problem !== null && problem !== "storage";
    if (this.#stalled) return;
    if (problem !== null) {
      this.#show({ problem: null });
      // What was kept though the storage failed is shown now.
      for (const peer of this.#conversations.loaded()) await this.#read(peer);
    }
    this.#early = [];
    this.#resumingTo = head;
    // A cursor beyond the ledger's end was moved by a lie: ask for everything, take nothing twice.
    if (this.#cursor > head) await this.#move(0);
    for (const peer of [...this.#held]) await this.#release(peer);
    this.#connection.send({ type: "RESUME", after: this.#cursor });
    this.#sending.begin();
  }

  async #resumed({ complete, position }: Extract<ServerFrame, { type: "RESUMED" }>): Promise<void> {
    if (this.#resumingTo === null) return;
    const early = this.#early.sort((one, other) => one.position - other.position);
    const all = Math.min(position, this.#resumingTo);
    this.#early = [];
    this.#resumingTo = null;
    if (all > this.#cursor) await this.#move(all);
    await this.#receive(early);
    if (complete !== this.#view.complete) this.#show({ complete });
  }

  /** Take messages in their order: as many together as can be, the others one by one. */
  async #receive(messages: readonly MessageFrame[]): Promise<void> {
    let [at, size] = [0, AT_ONCE];
    while (at < messages.length) {
      const together = messages.slice(at, at + size);
      const opened = await this.#openTogether(together);
      at += opened;
      size = Math.min(2 * size, AT_ONCE);
      const next = together[opened];
      if (next === undefined) continue;
      await this.#receiveOne(next);
      at += 1;
      size = 2; // where one is of no use, others are: what is tried in vain is little
    }
  }

  /** The peer of a message that may be opened here; null for one of our own, or of another's. */
  #peerOf({ sender, recipient, device }: MessageFrame): string | null {
    if (sender === this.wallet && device === this.messenger.device) return null;
    // A group's: this client shows conversations of two.
    if (sender !== this.wallet && recipient !== this.wallet) return null;
    const peer = sender === this.wallet ? recipient : sender;
    return isWallet(peer) && isWallet(sender) ? peer : null;
  }

  /** A message: one of our own that another tab sent or whose ACK was lost, or one to be opened. */
  async #receiveOne(message: MessageFrame): Promise<void> {
    const { sender, device } = message;
    if (sender === this.wallet && device === this.messenger.device) {
      await this.#settle(message);
      return;
    }
    const peer = this.#peerOf(message);
    if (peer === null) return;
    // What is held back was first.
    const held = this.#held.has(peer) && !(await this.#release(peer));
    if (!held || sender !== peer) {
      await this.#tryToOpen(peer, message);
      return;
    }
    try {
      await this.#hold(peer, message);
    } catch (error) {
      if (!(error instanceof CryptoError) || this.#isFatal(error)) throw error;
      await this.#unopened(peer, message, error.code);
    }
  }

  /**
   * Open messages from the first on with one commit, up to one that something must be done about, or
   * that is not opened here. Returns how many; they are shown.
   */
  async #openTogether(messages: readonly MessageFrame[]): Promise<number> {
    const run: { readonly peer: string; readonly message: MessageFrame }[] = [];
    for (const message of messages) {
      const peer = this.#peerOf(message);
      if (peer === null || this.#held.has(peer)) break;
      run.push({ peer, message });
    }
    if (run.length < 2) return 0;
    const changes = new Map<string, Change>();
    const known = new Set<string>();
    let cursor = this.#cursor;
    const delivered = run.map(({ message }) => message);
    const taken = await decryptMany(
      this.messenger,
      this.#contacts,
      delivered,
      async (result, stored, index) => {
        const one = run[index];
        if (one === undefined) throw new TypeError("what is opened is of the run");
        const { peer, message } = one;
        if (result instanceof CryptoError && !ONLY_TOLD.has(result.code)) return null;
        const change = changes.get(peer) ?? new Change();
        if (result instanceof CryptoError) {
          const entries = await this.#keepUnopened(peer, message, result.code, stored, change);
          if (entries.length === 0) known.add(peer);
          else changes.set(peer, change);
          return entries;
        }
        changes.set(peer, change);
        cursor = Math.max(cursor, message.position);
        return this.#keepOpened(peer, message, result, cursor, stored, change);
      },
    );
    this.#cursor = cursor;
    for (const [peer, change] of changes) await this.#opened(peer, change);
    for (const peer of known) await this.#reload(peer);
    return taken;
  }

  /** False when the message is held back: its sender's identity is in doubt. */
  async #tryToOpen(peer: string, message: MessageFrame): Promise<boolean> {
    try {
      await this.#open(peer, message);
      return true;
    } catch (error) {
      if (!(error instanceof CryptoError) || this.#isFatal(error)) throw error;
      if (error.code === "identity_changed") {
        await this.#hold(peer, message);
        return false;
      }
      await this.#unopened(peer, message, error.code);
      return true;
    }
  }

  async #open(peer: string, message: MessageFrame): Promise<void> {
    const change = new Change();
    const cursor = Math.max(this.#cursor, message.position);
    await this.#client(peer).decrypt(message, (opened, stored) =>
      this.#keepOpened(peer, message, opened, cursor, stored, change),
    );
    this.#cursor = cursor;
    await this.#opened(peer, change);
  }

  /** The entries that go with a message that was opened; what is shown of it goes to `change`. */
  async #keepOpened(
    peer: string,
    message: MessageFrame,
    opened: DecryptedMessage,
    cursor: number,
    stored: Kept,
    change: Change,
  ): Promise<readonly ArchiveEntry[]> {
    if (opened.text === "") return [kept(CURSOR, cursor)];
    const entry = incoming(message, opened, this.wallet);
    const name = await placeFor(peer, message.position, entry.id, stored);
    const line = await change.sum(peer, stored, (before) => withEntry(before, entry));
    change.entries.push(entry);
    return [kept(name, entry), line, kept(CURSOR, cursor)];
  }

  /** `change` is kept, with messages that were opened. */
  async #opened(peer: string, change: Change): Promise<void> {
    this.#changed(peer, change);
    await this.#noteRotation(peer);
    if (!this.#view.receipts) return;
    for (const { direction, problem, position } of change.entries) {
      if (direction !== "in" || problem !== null) continue;
      this.#connection.send({ type: "RECEIPT", kind: "delivered", position });
    }
  }

  /**
   * Keep what may not be opened before a person has accepted the new identity. Throws what
   * `Frame.fromWire` does: what is no message is not kept, nor what else comes with one.
   */
  async #hold(peer: string, message: MessageFrame): Promise<void> {
    const { position, timestamp } = message;
    const time = ledgerTime(message) === 0 ? "" : timestamp;
    const held = { ...Frame.fromWire(message).toWire(), position, timestamp: time };
    const change = new Change();
    await this.messenger.keep(async (_, stored) => [
      kept(heldName(peer, position), held),
      await change.sum(peer, stored, (before) => ({ ...before, changed: true })),
    ]);
    this.#held.add(peer);
    this.#changed(peer, change);
  }

  /**
   * A message that must not be shown; what it means is decided here, and nothing is hidden. It does not
   * move the cursor: anyone can put a position on what is not authentic.
   */
  async #unopened(peer: string, message: MessageFrame, code: string): Promise<void> {
    const { sender, device } = message;
    const change = new Change();
    await this.messenger.keep((_, stored) =>
      this.#keepUnopened(peer, message, code, stored, change),
    );
    if (change.entries.length > 0) this.#changed(peer, change);
    else if (code === "replayed") await this.#reload(peer);
    if (HEALED_BY_A_SESSION.has(code)) await this.#heal(peer, sender, device);
  }

  /**
   * The entries for a message that must not be shown; what is shown of it goes to `change`. None where it
   * is kept already: another tab took it, or RESUME brought it once more.
   */
  async #keepUnopened(
    peer: string,
    message: MessageFrame,
    code: string,
    stored: Kept,
    change: Change,
  ): Promise<readonly ArchiveEntry[]> {
    const isKept = async (id: string): Promise<boolean> =>
      (await stored(await placeFor(peer, message.position, id, stored))) !== null;
    const entry = unreadable(message, code, this.wallet);
    if ((await isKept(entry.id)) || (code === "replayed" && (await isKept(message.hash)))) return [];
    const name = await placeFor(peer, message.position, entry.id, stored);
    const line = await change.sum(peer, stored, (before) => withEntry(before, entry));
    change.entries.push(entry);
    return [kept(name, entry), line];
  }

  /** Open a new session with a device whose messages do not open, and tell it so (SPEC-crypto C31). */
  async #heal(peer: string, sender: string, device: string): Promise<void> {
    const last = this.#healed.get(sender + device) ?? -Infinity;
    if (Date.now() - last < HEAL_EVERY) return;
    this.#healed.set(sender + device, Date.now());
    try {
      await this.#contacts.reset(sender, device);
      await this.send(peer, "");
    } catch (error) {
      if (!(error instanceof CryptoError) || this.#isFatal(error)) throw error;
    }
  }

  /**
   * Open what was held back while the peer's identity was in doubt, in its order. False when it still
   * is; then the rest stays held.
   */
  async #release(peer: string): Promise<boolean> {
    if (this.summary(peer)?.changed === true) return false;
    for (const { name, value } of await this.messenger.kept(heldPrefix(peer))) {
      if (!(await this.#tryToOpen(peer, read<MessageFrame>(value)))) return false;
      // crash point: opened and still held; it is found to be kept, and goes
      await this.messenger.keep([gone(name)]);
    }
    this.#held.delete(peer);
    return true;
  }

  /** The ledger has a message of this device: by its ACK, or because it came back. */
  async #settle(
    ack: Pick<MessageFrame, "recipient" | "device" | "seq" | "hash" | "position" | "timestamp">,
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
      this.#sending.answered(peer, seq);
      return;
    }
    if (entry.id !== hash) return; // an answer about a message that is not ours
    const time = { position, committed: ledgerTime(ack) };
    const committed: ChatEntry = { ...entry, ...time, state: "committed", problem: null };
    const change = new Change();
    change.entries.push(committed);
    await this.messenger.acknowledged({ recipient: peer, seq }, async (_, stored) => [
      gone(name),
      kept(await placeFor(peer, position, hash, stored), committed),
      await change.sum(peer, stored, (before) => withEntry(before, committed)),
    ]);
    this.#changed(peer, change);
    this.#sending.answered(peer, seq);
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
      this.#sending.again(peer, seq, 1000 * Math.min(retryAfter ?? RESEND_AFTER, RESEND_WITHIN));
      return;
    }
    const entry = await this.#entry(waitingName(peer, seq));
    if (OLD_STATE.has(code)) {
      if (error.lastSeq !== null) await this.messenger.fastForward(peer, error.lastSeq);
      if (this.#begunAgain && !this.#followed.has(peer)) {
        this.#followed.add(peer);
        // The first message of a stream that the server knows better: again, above its number.
        await this.messenger.acknowledged(frame);
        if (entry !== null) await this.#seal(peer, entry.text, entry);
        this.#sending.answered(peer, seq);
        return;
      }
      await this.messenger.distrust();
      this.#stalled = true;
      this.#sending.end();
      this.#show({ problem: "state_rolled_back" });
      this.#tell("");
      return;
    }
    await this.#fail(peer, seq, entry, code);
    this.#sending.answered(peer, seq);
  }

  /** It was not sent, and is not sent again unless the person says so. */
  async #fail(peer: string, seq: number, entry: ChatEntry | null, code: string): Promise<void> {
    const change = new Change();
    if (entry !== null) change.entries.push({ ...entry, state: "failed", problem: code });
    await this.messenger.acknowledged({ recipient: peer, seq }, () =>
      change.entries.map((one) => kept(waitingName(peer, seq), one)),
    );
    this.#changed(peer, change);
  }

  /** Seal `text`, in the place of `instead` when there is one, with one commit; then it is sent. */
  async #seal(peer: string, text: string, instead: ChatEntry | null): Promise<void> {
    const change = new Change();
    try {
      await this.#client(peer).encrypt(text, async (frame, stored) => {
        const before = instead === null ? null : waitingName(peer, instead.seq);
        if (before !== null && (await stored(before)) === null) throw new NotThere();
        const removed = before === null ? [] : [gone(before)];
        if (text === "") return removed;
        const entry = outgoing(frame, text);
        change.entries.push(entry);
        const line = await change.sum(peer, stored, (summary) => withEntry(summary, entry));
        return [...removed, kept(waitingName(peer, frame.seq), entry), line];
      });
    } catch (error) {
      if (error instanceof NotThere) return;
      // It may have been kept all the same: to write it again here would be to write it twice.
      this.#isTold(error);
      throw error;
    }
    if (instead !== null) change.removed.push(instead.id);
    this.#changed(peer, change);
    await this.#noteRotation(peer);
    this.#enqueue(() => this.#sending.pump());
  }

  /** What waits and is in no outbox: its frame went with the keys of an old copy. */
  async #sealAnew(): Promise<void> {
    // In this order: what is sealed between the two readings is in both or in the second.
    const waiting = await this.messenger.kept(WAITING);
    const outbox = await this.messenger.outbox();
    const sealed = new Set(outbox.map((one) => waitingName(one.recipient, one.seq)));
    for (const { name, value } of waiting) {
      const entry = read<ChatEntry>(value);
      if (entry.state !== "sending" || sealed.has(name)) continue;
      const [, peer = ""] = name.split("/");
      try {
        await this.#seal(peer, entry.text, entry);
      } catch (error) {
        if (!(error instanceof CryptoError) || this.#isFatal(error)) throw error;
        await this.#fail(peer, entry.seq, entry, error.code);
      }
    }
  }

  async #receipt(receipt: Extract<ServerFrame, { type: "RECEIPT" }>): Promise<void> {
    const { wallet: peer, position, kind } = receipt;
    const entry = await this.#entry(chatName(peer, position));
    if (entry?.direction !== "out") return;
    if (HOW_FAR.indexOf(kind) <= HOW_FAR.indexOf(entry.state)) return;
    const further: ChatEntry = { ...entry, state: kind };
    await this.messenger.keep([kept(chatName(peer, position), further)]);
    const change = new Change();
    change.entries.push(further);
    this.#changed(peer, change);
  }

  // What is kept.

  async #load(): Promise<void> {
    const [cursor] = await this.messenger.kept(CURSOR);
    this.#cursor = cursor === undefined ? 0 : read<number>(cursor.value);
    const [settings] = await this.messenger.kept(SETTINGS);
    const receipts = settings !== undefined && read<{ receipts: boolean }>(settings.value).receipts;
    for (const { name } of await this.messenger.kept(HELD)) this.#held.add(name.split("/")[1] ?? "");
    for (const { value } of await this.messenger.kept(CONVERSATIONS)) {
      this.#line(read<ConversationSummary>(value));
    }
    const before = this.#view.problem === "state_rolled_back" ? null : this.#view.problem;
    const problem = (await this.messenger.rolledBack()) ? "state_rolled_back" : before;
    this.#show({ receipts, problem });
  }

  /** Another tab has changed something of `peer` (empty: of the settings). */
  async #reload(peer: string): Promise<void> {
    await this.#load();
    if (peer !== "" && this.conversation(peer).loaded) await this.#read(peer);
  }

  /** Show what is kept: the newest page, or all that is newer than what is shown. */
  async #read(peer: string): Promise<void> {
    const view = this.conversation(peer);
    const before = new Map(view.entries.map((one) => [one.id, one]));
    const started = view.entries.some((one) => one.position !== null);
    let entries: ChatEntry[] = [];
    let page: readonly { readonly name: string; readonly value: Bytes }[];
    let reached: boolean;
    do {
      // Another tab may have taken any number of them while this one slept.
      const [first] = entries;
      const range = first === undefined ? {} : { before: chatName(peer, first.position ?? 0) };
      page = await this.messenger.kept(chatPrefix(peer), { ...range, limit: PAGE });
      const found = page.map(({ value }) => read<ChatEntry>(value));
      entries = [...found, ...entries];
      reached = !started || found.some(({ id }) => before.has(id));
    } while (!reached && page.length === PAGE);
    const waiting = await this.messenger.kept(waitingPrefix(peer));
    entries.push(...waiting.map(({ value }) => read<ChatEntry>(value)));
    // What has changed while this was read is newer than what was read.
    const now = new Map(this.conversation(peer).entries.map((one) => [one.id, one]));
    const present = new Set(entries.map(({ id }) => id));
    this.#conversations.change(peer, {
      entries: entries.filter(({ id }) => now.get(id) === before.get(id)),
      // What waited and no longer does has come as a committed one, or was given up.
      removed: view.entries
        .filter(({ id, position }) => position === null && !present.has(id))
        .map(({ id }) => id),
      loaded: true,
      more: started ? view.more : page.length === PAGE,
    });
    this.#show({});
  }

  async #entry(name: string): Promise<ChatEntry | null> {
    const found = (await this.messenger.kept(name)).find((one) => one.name === name);
    return found === undefined ? null : read<ChatEntry>(found.value);
  }

  async #move(cursor: number): Promise<void> {
    this.#cursor = cursor;
    await this.messenger.keep([kept(CURSOR, cursor)]);
  }

  /** Change the list's line of `peer`. */
  async #note(
    peer: string,
    after: (before: ConversationSummary) => ConversationSummary,
  ): Promise<void> {
    const change = new Change();
    await this.messenger.keep(async (_, stored) => [await change.sum(peer, stored, after)]);
    this.#changed(peer, change);
  }

  #client(peer: string): SecureMessageClient {
    return new SecureMessageClient(this.messenger, this.#contacts, peer);
  }

  // Telling.

  /** `change` is kept: show it here, and tell the other tabs. */
  #changed(peer: string, { entries, removed, summary }: Change): void {
    if (summary !== null) this.#line(summary);
    this.#conversations.change(peer, { entries, removed });
    this.#show({});
    this.#tell(peer);
  }

  #line(summary: ConversationSummary): void {
    this.#summaries.set(summary.peer, summary);
    this.#linesChanged = true;
  }

  /** `peer`: whose conversation has changed; empty: the settings have. */
  #tell(peer: string): void {
    if (!this.#closed) this.#tabs.postMessage(peer);
  }

  #show(change: Partial<SessionView>): void {
    let { conversations } = this.#view;
    if (this.#linesChanged) {
      conversations = [...this.#summaries.values()].sort(
        (one, other) => other.position - one.position || other.ts - one.ts,
      );
      this.#linesChanged = false;
    }
    this.#view = { ...this.#view, ...change, conversations };
    for (const listener of this.#listeners) listener();
  }
}

/** The name for an entry at `position`: nothing that is kept is ever written over by another. */
async function placeFor(peer: string, position: number, id: string, stored: Kept): Promise<string> {
  const name = chatName(peer, position);
  const taken = await stored(name);
  return taken === null || read<ChatEntry>(taken).id === id ? name : `${name}~${id}`;
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
    committed: null,
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
    committed: ledgerTime(message),
    position: message.position,
    state: "committed",
    continuity,
    problem: null,
  };
}

/** What cannot be shown, with the reason. All of it is the server's word. */
function unreadable(message: MessageFrame, code: string, wallet: string): ChatEntry {
  const time = ledgerTime(message);
  const { hash, device } = message;
  return {
    id: `${hash.slice(0, HASH)}/${code}`,
    direction: message.sender === wallet ? "out" : "in",
    text: "",
    device: device.slice(0, IDENTIFIER),
    seq: message.seq,
    ts: time,
    committed: time,
    position: message.position,
    state: "committed",
    continuity: null,
    problem: code,
  };
}

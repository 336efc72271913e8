/**
 * SecureMessageV2 for one conversation, under the host's names: text in, the frame's fields out, and
 * back. What is behind it is the whole protocol: see `messenger.ts` and `contacts.ts`.
 */
import type { Contacts } from "./contacts";
import { DirectoryError } from "./directory";
import { CryptoError } from "./errors";
import { type ChatMessage, Frame } from "./frame";
import type { ArchiveEntry, Delivered, Keep, Kept, Messenger, Opened } from "./messenger";
import type { Roster } from "./roster";

/** What a message gives that was sealed under a certificate which is not known here yet. */
const MAY_BE_RENEWED = new Set(["decrypt", "unknown_session"]);

/**
 * Whether the rosters are older than what the server goes by: keys were renewed, so a bundle, or what is
 * pinned by now, is of another certificate; or a device has been ended.
 */
function isStale(error: unknown): boolean {
  if (error instanceof DirectoryError) return error.code === "unknown_device";
  if (!(error instanceof CryptoError)) return false;
  return error.code === "not_certified" || error.code === "identity_changed";
}

/** The fields of a message as they are on the wire; bytes in standard base64. */
export interface SecureMessageV2Payload {
  readonly ciphertext: string;
  readonly nonce: string;
  readonly seq: number;
  readonly ts: number;
  readonly hash: string;
  readonly sender?: string;
  readonly recipient?: string;
}

/** A message of the conversation. A *gap* in its continuity must be shown to the person. */
export interface DecryptedMessage extends Opened {
  /** Empty for a message that only opens a session: it is not shown. */
  readonly text: string;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Encrypts to one peer, and decrypts what came in that conversation. It holds no state of its own. */
export class SecureMessageClient {
  readonly #messenger: Messenger;
  readonly contacts: Contacts;
  readonly peerWallet: string;

  /** `contacts`: of this messenger; one for all its conversations. */
  constructor(messenger: Messenger, contacts: Contacts, peerWallet: string) {
    this.#messenger = messenger;
    this.contacts = contacts;
    this.peerWallet = peerWallet;
  }

  /**
   * The frame to send, the same one until it is acknowledged; it is in the messenger's outbox, and
   * `keep`'s entries are kept with it. Sessions that are missing are opened first.
   *
   * Throws `identity_changed` while a new safety number of the peer is not accepted, `refused` when
   * the peer has no device to encrypt to, and what the contacts and `Messenger.seal` throw.
   */
  async encrypt(text: string, keep?: Keep<Frame>): Promise<ChatMessage> {
    const wallets = [...new Set([this.peerWallet, this.#messenger.wallet])];
    const ask = (): Promise<readonly Roster[]> =>
      Promise.all(wallets.map((one) => this.contacts.roster(one)));
    const known = await ask();
    try {
      return await this.#sealed(text, known, keep);
    } catch (error) {
      if (!isStale(error)) throw error;
      await Promise.all(wallets.map((one) => this.contacts.contact(one)));
      return this.#sealed(text, await ask(), keep);
    }
  }

  async #sealed(text: string, rosters: readonly Roster[], keep?: Keep<Frame>): Promise<ChatMessage> {
    const recipient = this.peerWallet;
    const without = await this.contacts.reach(rosters);
    const content = encoder.encode(text);
    const ts = Date.now() / 1000;
    const message = { recipient, rosters, content, ts, without };
    return (await this.#messenger.seal(message, keep)).toWire();
  }

  /**
   * Open a frame as it was delivered. `keep`'s entries are kept with it: a message opens only once.
   *
   * Throws a CryptoError; then nothing has changed. After `unknown_session`, `unknown_prekey` or
   * `too_many_skipped` call `Contacts.reset` with the frame's sender and device, then send.
   */
  async decrypt(delivered: unknown, keep?: Keep<DecryptedMessage>): Promise<DecryptedMessage> {
    const frame = Frame.fromWire(delivered);
    const pair = [this.#messenger.wallet, this.peerWallet];
    if (!pair.includes(frame.sender) || !pair.includes(frame.recipient)) {
      throw new CryptoError("not_addressed", "the frame is of another conversation");
    }
    const roster = await this.contacts.roster(frame.sender, frame.device);
    try {
      return await this.#open(frame, roster, keep);
    } catch (error) {
      if (!(error instanceof CryptoError && MAY_BE_RENEWED.has(error.code))) throw error;
      // Its sender's device may have another certificate by now than was known here (C35).
      const renewed = await this.contacts.renewed(roster);
      if (renewed === null) throw error;
      return this.#open(frame, renewed, keep);
    }
  }

  async #open(
    frame: Frame,
    roster: Roster,
    keep: Keep<DecryptedMessage> | undefined,
  ): Promise<DecryptedMessage> {
    const opened: DecryptedMessage[] = [];
    // Inside of the transaction, so that content which is not text changes nothing either.
    await this.#messenger.open({ frame, roster }, (one, kept) => {
      const message = { ...one, text: textOf(one) };
      opened.push(message);
      return keep?.(message, kept) ?? [];
    });
    const [message] = opened;
    if (message === undefined) throw new TypeError("what was opened was shown to keep");
    return message;
  }
}

/**
 * Open frames of any conversations as they were delivered, in order and with one commit; as
 * `SecureMessageClient.decrypt`, which must be asked about the first one behind those that were taken.
 *
 * `keep` is given each message, or why it did not open; its entries are kept with it, and null ends it
 * there. Returns how many were taken.
 */
export async function decryptMany(
  messenger: Messenger,
  contacts: Contacts,
  delivered: readonly unknown[],
  keep: (
    result: DecryptedMessage | CryptoError,
    kept: Kept,
    index: number,
  ) => Promise<readonly ArchiveEntry[] | null>,
): Promise<number> {
  const known = new Map<string, Roster>();
  const frames: Delivered[] = [];
  try {
    for (const one of delivered) {
      const frame = Frame.fromWire(one);
      const from = `${frame.sender}/${frame.device}`;
      const roster = known.get(from) ?? (await contacts.roster(frame.sender, frame.device));
      known.set(from, roster);
      frames.push({ frame, roster });
    }
  } catch (error) {
    // It is found again when that one is opened by itself.
    if (!(error instanceof CryptoError || error instanceof DirectoryError)) throw error;
  }
  const taken = await messenger.openMany(frames, async (result, kept, index) => {
    if (result instanceof CryptoError) return keep(result, kept, index);
    const text = textIn(result);
    return text === null ? null : keep({ ...result, text }, kept, index);
  });
  return taken.length;
}

function textOf(opened: Opened): string {
  const text = textIn(opened);
  if (text === null) throw new CryptoError("decode", "the content is not text");
  return text;
}

/** Null when it is not text. */
function textIn({ content }: Opened): string | null {
  try {
    return decoder.decode(content);
  } catch {
    return null;
  }
}

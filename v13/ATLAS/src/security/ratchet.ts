/**
 * The Double Ratchet over X25519, HKDF-SHA-256, HMAC-SHA-256 and AES-256-GCM.
 *
 * A state is a value: encrypting and decrypting return the next one and leave theirs as it was, so a
 * message that fails to authenticate changes nothing. Who the two sides are, and where states are
 * kept, is not known here.
 *
 * Two choices within the algorithm. The new key pair of a Diffie-Hellman step is made when sending,
 * not when receiving: decryption needs no randomness, and a state stolen while waiting to answer does
 * not hold the key of the answer. And the AEAD key is derived from the message key *and* all that the
 * message authenticates, so that even a state used twice never meets a key and nonce twice.
 */
import * as aead from "./aead";
import { type Bytes, concat, equal } from "./bytes";
import { flag, Reader, u16, u32 } from "./codec";
import { hkdf, hmac, sha256 } from "./digest";
import { CryptoError } from "./errors";
import { RATCHET_MESSAGE, RATCHET_ROOT } from "./labels";
import type { Randomness } from "./randomness";
import { KEY, type Suite } from "./suite";

export const HEADER = 40;
/** Messages that one message may pass over in its chain; a larger gap needs a new session. */
export const MAX_SKIP = 2000;
/** Keys kept for late messages, oldest dropped first: 35 kB of state a session at most. */
export const MAX_SKIPPED_KEPT = 512;
const MAX_COUNTER = 2 ** 32 - 1;

const MESSAGE_KEY = Uint8Array.of(1);
const NEXT_CHAIN = Uint8Array.of(2);

/** Travels in the clear before each ciphertext, and is authenticated. */
export class Header {
  readonly ratchet: Bytes;
  /** Messages in the sending chain before this one. */
  readonly previous: number;
  /** Of this message in its chain, from 0. */
  readonly number: number;

  constructor(ratchet: Bytes, previous: number, number: number) {
    this.ratchet = ratchet;
    this.previous = previous;
    this.number = number;
  }

  encode(): Bytes {
    return concat(this.ratchet, u32(this.previous), u32(this.number));
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Header {
    const reader = new Reader(data);
    const header = new Header(reader.take(KEY), reader.u32(), reader.u32());
    reader.end();
    return header;
  }
}

/** The key of a message that was passed over. */
interface SkippedKey {
  readonly ratchet: Bytes;
  readonly number: number;
  readonly key: Bytes;
}

interface RatchetState {
  readonly root: Bytes;
  /** Null while the initiator has sent nothing. */
  readonly privateKey: Bytes | null;
  /** Of `privateKey`, once it has sent. */
  readonly publicKey: Bytes | null;
  readonly remote: Bytes | null;
  /** A chain key is null while there is no such chain. */
  readonly sending: Bytes | null;
  readonly receiving: Bytes | null;
  /** In the current sending chain. */
  readonly sent: number;
  /** In the current receiving chain. */
  readonly received: number;
  /** Length of the sending chain before. */
  readonly previous: number;
  readonly skipped: readonly SkippedKey[];
}

const EMPTY = {
  publicKey: null,
  sending: null,
  receiving: null,
  sent: 0,
  received: 0,
  previous: 0,
  skipped: [],
};

/** One side's state. */
export class Ratchet {
  readonly #state: RatchetState;

  private constructor(state: RatchetState) {
    this.#state = state;
  }

  /** The side that sends first; `remote` is the responder's signed prekey. */
  static initiator(root: Bytes, remote: Bytes): Ratchet {
    return new Ratchet({ ...EMPTY, root, privateKey: null, remote });
  }

  /** The side that receives first; `privateKey` is its signed prekey's. */
  static responder(root: Bytes, privateKey: Bytes): Ratchet {
    return new Ratchet({ ...EMPTY, root, privateKey, remote: null });
  }

  /**
   * The header, the sealed bytes and the next state. Save that before the bytes leave. Throws
   * `refused` where a responder has received nothing yet, or the chain's numbers are used up.
   */
  async encrypt(
    suite: Suite,
    plaintext: Bytes,
    data: Bytes,
    randomness: Randomness,
  ): Promise<{ header: Header; sealed: Bytes; next: Ratchet }> {
    const state =
      this.#state.sending === null ? await startSending(suite, this.#state, randomness) : this.#state;
    if (state.sending === null || state.publicKey === null || state.sent === MAX_COUNTER) {
      throw new CryptoError("refused", "the chain is used up; establish again");
    }
    const header = new Header(state.publicKey, state.previous, state.sent);
    const { messageKey, chain } = advance(state.sending);
    const sealed = await seal(messageKey, plaintext, concat(data, header.encode()));
    const next = new Ratchet({ ...state, sending: chain, sent: state.sent + 1 });
    return { header, sealed, next };
  }

  /** The plaintext and the next state. Throws `decrypt`, `too_many_skipped` or `replayed`. */
  async decrypt(
    suite: Suite,
    header: Header,
    sealed: Bytes,
    data: Bytes,
  ): Promise<{ plaintext: Bytes; next: Ratchet }> {
    const authenticated = concat(data, header.encode());
    const kept = this.#state.skipped.find(
      (one) => one.number === header.number && equal(one.ratchet, header.ratchet),
    );
    if (kept !== undefined) {
      const plaintext = await unseal(kept.key, sealed, authenticated);
      const skipped = this.#state.skipped.filter((one) => one !== kept);
      return { plaintext, next: new Ratchet({ ...this.#state, skipped }) };
    }
    let state = this.#state;
    if (state.remote === null || !equal(header.ratchet, state.remote)) {
      state = await startReceiving(suite, skip(state, header.previous), header.ratchet);
    } else if (header.number < state.received) {
      throw new CryptoError("replayed", "the message key has been used, or was dropped");
    }
    state = skip(state, header.number);
    if (state.receiving === null) {
      throw new CryptoError("decrypt", "there is no chain to receive on");
    }
    const { messageKey, chain } = advance(state.receiving);
    const plaintext = await unseal(messageKey, sealed, authenticated);
    const next = new Ratchet({
      ...state,
      receiving: chain,
      received: header.number + 1,
      skipped: state.skipped.slice(-MAX_SKIPPED_KEPT),
    });
    return { plaintext, next };
  }

  /** For the store: secret. */
  encode(): Bytes {
    const state = this.#state;
    const optional = [
      state.privateKey,
      state.publicKey,
      state.remote,
      state.sending,
      state.receiving,
    ].flatMap((one) => (one === null ? [flag(false)] : [flag(true), one]));
    return concat(
      state.root,
      ...optional,
      u32(state.sent),
      u32(state.received),
      u32(state.previous),
      u16(state.skipped.length),
      ...state.skipped.flatMap((one) => [one.ratchet, u32(one.number), one.key]),
    );
  }

  /** Throws `decode`. */
  static read(reader: Reader): Ratchet {
    const optional = (): Bytes | null => (reader.flag() ? reader.take(KEY) : null);
    const state = {
      root: reader.take(KEY),
      privateKey: optional(),
      publicKey: optional(),
      remote: optional(),
      sending: optional(),
      receiving: optional(),
      sent: reader.u32(),
      received: reader.u32(),
      previous: reader.u32(),
    };
    const skipped = Array.from({ length: reader.u16() }, () => ({
      ratchet: reader.take(KEY),
      number: reader.u32(),
      key: reader.take(KEY),
    }));
    return new Ratchet({ ...state, skipped });
  }
}

async function startSending(
  suite: Suite,
  state: RatchetState,
  randomness: Randomness,
): Promise<RatchetState> {
  if (state.remote === null) {
    throw new CryptoError("refused", "the responder cannot send before it has received");
  }
  const privateKey = randomness(KEY);
  const [publicKey, shared] = await Promise.all([
    suite.x25519.publicOf(privateKey),
    suite.x25519.agree(privateKey, state.remote),
  ]);
  const { root, chain } = step(state.root, shared);
  return { ...state, root, privateKey, publicKey, sending: chain, sent: 0, previous: state.sent };
}

async function startReceiving(
  suite: Suite,
  state: RatchetState,
  remote: Bytes,
): Promise<RatchetState> {
  if (state.privateKey === null) {
    throw new CryptoError("decrypt", "nothing was sent that could be answered");
  }
  const { root, chain } = step(state.root, await suite.x25519.agree(state.privateKey, remote));
  return { ...state, root, remote, receiving: chain, received: 0, sending: null };
}

/** Walk the receiving chain up to `until`, keeping the keys passed over. */
function skip(state: RatchetState, until: number): RatchetState {
  const { remote } = state;
  if (state.receiving === null || remote === null || until <= state.received) return state;
  if (until - state.received > MAX_SKIP) {
    throw new CryptoError("too_many_skipped", `more than ${MAX_SKIP} messages are missing`);
  }
  let receiving = state.receiving;
  const skipped = [...state.skipped];
  for (let number = state.received; number < until; number++) {
    const { messageKey, chain } = advance(receiving);
    receiving = chain;
    skipped.push({ ratchet: remote, number, key: messageKey });
  }
  return { ...state, receiving, received: until, skipped };
}

/** A Diffie-Hellman step: the next root key and a new chain key. */
function step(root: Bytes, shared: Bytes): { root: Bytes; chain: Bytes } {
  const output = hkdf(root, shared, RATCHET_ROOT, 64);
  return { root: output.slice(0, 32), chain: output.slice(32) };
}

/** A symmetric step: this message's key and the next chain key. */
function advance(chain: Bytes): { messageKey: Bytes; chain: Bytes } {
  return { messageKey: hmac(chain, MESSAGE_KEY), chain: hmac(chain, NEXT_CHAIN) };
}

/** The AEAD key and nonce of one message, from its key and all that it authenticates. */
function expand(messageKey: Bytes, data: Bytes): { key: Bytes; nonce: Bytes } {
  const output = hkdf(sha256(data), messageKey, RATCHET_MESSAGE, KEY + aead.NONCE);
  return { key: output.slice(0, KEY), nonce: output.slice(KEY) };
}

function seal(messageKey: Bytes, plaintext: Bytes, data: Bytes): Promise<Bytes> {
  const { key, nonce } = expand(messageKey, data);
  return aead.seal(key, nonce, plaintext, data);
}

function unseal(messageKey: Bytes, sealed: Bytes, data: Bytes): Promise<Bytes> {
  const { key, nonce } = expand(messageKey, data);
  return aead.unseal(key, nonce, sealed, data);
}

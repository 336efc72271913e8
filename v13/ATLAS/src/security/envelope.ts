/**
 * The envelope: the bytes of `ciphertext`, and the sealing of one message's content.
 *
 * The content is encrypted once under a fresh key; the key is wrapped for each device. Here are the
 * layout, the associated data, the key commitment and the padding. Wrapping is `session.ts`'s, and
 * who gets a wrap is `messenger.ts`'s.
 */
import * as aead from "./aead";
import { type Bytes, compare, concat, equal } from "./bytes";
import { flag, identifier, isWallet, labelled, Reader, SUITE, u16, u32, u64, u8, VERSION } from "./codec";
import { hkdf, sha256 } from "./digest";
import { CryptoError } from "./errors";
import { CONTENT_KEY, CONVERSATION, MESSAGE } from "./labels";
import { Handshake, HANDSHAKE, SESSION_ID } from "./pqxdh";
import { Header, HEADER } from "./ratchet";
import type { Wrapped } from "./session";
import { KEY, MLDSA_SIGNATURE } from "./suite";

export const NO_PREVIOUS_MESSAGE: Bytes = new Uint8Array(32);
export const ADDRESS = 16; // leading bytes of a certificate id: who a wrap is for
/** With the largest content and a handshake in every wrap the ciphertext still fits 1 MiB. */
export const MAX_CONTENT = 2 ** 19 - 4;
export const MAX_CIPHERTEXT = 2 ** 20;
export const MAX_WRAPS = 400;
const MIN_PADDED = 256; // most chat messages are shorter: they all look the same
const SEALED_KEY = KEY + aead.TAG;
// Kinds of wrap: in a known session, or opening one.
const PLAIN = 1;
const OPENING = 2;

/** The conversation of a frame: of two wallets (in ascending order), or of a thread. */
export function conversation(sender: string, recipient: string): Bytes {
  const body = isWallet(recipient)
    ? [u8(1), ...[sender, recipient].sort().map(identifier)]
    : [u8(2), identifier(recipient)];
  return sha256(labelled(CONVERSATION, ...body));
}

/**
 * What every part of the message authenticates: suite, conversation, sender, device, recipient, seq,
 * and the hash of the sender's previous message in this stream.
 */
export function associatedData(
  sender: string,
  device: string,
  recipient: string,
  seq: number,
  previous: Bytes,
): Bytes {
  return labelled(
    MESSAGE,
    u16(SUITE),
    conversation(sender, recipient),
    identifier(sender),
    identifier(device),
    identifier(recipient),
    u64(seq),
    previous,
  );
}

/** From the wrapped key: the AES key and the commitment, both tied to the message. */
export function contentKeys(key: Bytes, messageDigest: Bytes): { payloadKey: Bytes; commitment: Bytes } {
  const output = hkdf(messageDigest, key, CONTENT_KEY, 64);
  return { payloadKey: output.slice(0, 32), commitment: output.slice(32) };
}

/**
 * The PADMÉ size for `size` bytes, at least 256: at most 12 % more, and the length tells
 * O(log log size) bits (Nikitin et al., PETS 2019).
 */
export function paddedSize(size: number): number {
  if (size <= MIN_PADDED) return MIN_PADDED;
  const bits = (value: number): number => 32 - Math.clz32(value);
  const exponent = bits(size) - 1;
  const unit = 2 ** (exponent - bits(exponent));
  return Math.ceil(size / unit) * unit;
}

/** The content's length in 4 bytes, the content, zeros. Throws `content_too_large`. */
export function pad(content: Bytes): Bytes {
  if (content.length > MAX_CONTENT) {
    throw new CryptoError("content_too_large", `a message holds at most ${MAX_CONTENT} bytes`);
  }
  const padded = new Uint8Array(paddedSize(4 + content.length));
  padded.set(u32(content.length));
  padded.set(content, 4);
  return padded;
}

/** Undo `pad`; throws `decode` unless it is what `pad` gives. */
export function unpad(padded: Bytes): Bytes {
  const content = new Reader(padded).b32(MAX_CONTENT);
  if (!equal(padded, pad(content))) throw new CryptoError("decode", "the padding is not canonical");
  return content;
}

/** A wrap, and whom it is for. */
export interface AddressedWrap {
  /** 16 bytes. */
  readonly address: Bytes;
  readonly wrapped: Wrapped;
}

/** The parsed `ciphertext`. */
export class Envelope {
  readonly previous: Bytes;
  readonly commitment: Bytes;
  /** ML-DSA-65, there exactly when a wrap opens a session, else null. */
  readonly initiation: Bytes | null;
  /** In ascending order of their addresses. */
  readonly wraps: readonly AddressedWrap[];
  readonly payload: Bytes;

  constructor(
    previous: Bytes,
    commitment: Bytes,
    initiation: Bytes | null,
    wraps: readonly AddressedWrap[],
    payload: Bytes,
  ) {
    this.previous = previous;
    this.commitment = commitment;
    this.initiation = initiation;
    this.wraps = wraps;
    this.payload = payload;
  }

  /** The wrap for `address`; null when there is none. */
  wrapFor(address: Bytes): Wrapped | null {
    return this.wraps.find((one) => equal(one.address, address))?.wrapped ?? null;
  }

  get wrapSection(): Bytes {
    return encodeWraps(this.wraps);
  }

  encode(): Bytes {
    return concat(
      u8(VERSION),
      u16(SUITE),
      this.previous,
      this.commitment,
      flag(this.initiation !== null),
      this.initiation ?? new Uint8Array(),
      this.wrapSection,
      this.payload,
    );
  }

  /** Throws `decode`, or `post_quantum_missing` when a session is opened unsigned. */
  static decode(data: Bytes): Envelope {
    const reader = new Reader(data);
    reader.version();
    reader.suite();
    const previous = reader.take(32);
    const commitment = reader.take(32);
    const initiation = reader.flag() ? reader.take(MLDSA_SIGNATURE) : null;
    const wraps = readWraps(reader);
    const payload = reader.rest();
    if (payload.length < MIN_PADDED + aead.TAG) {
      throw new CryptoError("decode", "the payload is too short");
    }
    const opens = wraps.some((one) => one.wrapped.handshake !== null);
    if (opens && initiation === null) {
      throw new CryptoError("post_quantum_missing", "a session is opened without ML-DSA-65");
    }
    if (initiation !== null && !opens) {
      throw new CryptoError("decode", "an initiation is signed where no session is opened");
    }
    return new Envelope(previous, commitment, initiation, wraps, payload);
  }
}

/** What a device signs with ML-DSA-65 when a message opens sessions: one signature for all. */
export function initiationBody(messageDigest: Bytes, commitment: Bytes, wrapSection: Bytes): Bytes {
  return concat(messageDigest, commitment, sha256(wrapSection));
}

/** Wraps in the order of the wire. */
export function inOrder(wraps: readonly AddressedWrap[]): readonly AddressedWrap[] {
  return [...wraps].sort((one, other) => compare(one.address, other.address));
}

/** The wrap section: a count, then the wraps, which are in ascending order of their addresses. */
export function encodeWraps(wraps: readonly AddressedWrap[]): Bytes {
  const parts = wraps.flatMap(({ address, wrapped: { handshake, header, sealed, session } }) => [
    address,
    u8(handshake === null ? PLAIN : OPENING),
    session,
    handshake?.encode() ?? new Uint8Array(),
    header.encode(),
    sealed,
  ]);
  return concat(u16(wraps.length), ...parts);
}

function readWraps(reader: Reader): readonly AddressedWrap[] {
  const count = reader.u16();
  if (count < 1 || count > MAX_WRAPS) {
    throw new CryptoError("decode", `an envelope has 1 to ${MAX_WRAPS} wraps`);
  }
  const wraps: AddressedWrap[] = [];
  let last = new Uint8Array();
  for (let index = 0; index < count; index++) {
    const address = reader.take(ADDRESS);
    const kind = reader.u8();
    if (kind !== PLAIN && kind !== OPENING) throw new CryptoError("decode", "not a kind of wrap");
    if (compare(address, last) <= 0) {
      throw new CryptoError("decode", "the wraps are not in ascending order");
    }
    last = address;
    const session = reader.take(SESSION_ID);
    const handshake = kind === OPENING ? Handshake.decode(reader.take(HANDSHAKE)) : null;
    const header = Header.decode(reader.take(HEADER));
    wraps.push({ address, wrapped: { session, handshake, header, sealed: reader.take(SEALED_KEY) } });
  }
  return wraps;
}

/** Encrypt padded content under a content key that is used for this message alone. */
export function sealPayload(key: Bytes, nonce: Bytes, data: Bytes, content: Bytes): Promise<Bytes> {
  return aead.seal(key, nonce, pad(content), data);
}

/** The content. Throws `commitment_mismatch` or `decrypt`. */
export async function openPayload(
  wrappedKey: Bytes,
  nonce: Bytes,
  data: Bytes,
  envelope: Envelope,
): Promise<Bytes> {
  const { payloadKey, commitment } = contentKeys(wrappedKey, sha256(data));
  if (!equal(commitment, envelope.commitment)) {
    throw new CryptoError("commitment_mismatch", "not the key that the sender committed to");
  }
  const padded = await aead.unseal(payloadKey, nonce, envelope.payload, data);
  try {
    return unpad(padded);
  } catch {
    throw new CryptoError("decrypt", "the padding is not canonical");
  }
}

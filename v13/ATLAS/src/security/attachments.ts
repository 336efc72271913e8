/**
 * Attachments: content cut into encrypted blocks that anybody may store and nobody can read.
 *
 * Each block is one raw IPFS block, named by its CIDv1. The descriptor, with the key, travels inside a
 * message; the frame's `cids` name the blocks. Fetching and storing are the client's.
 */
import * as aead from "./aead";
import { type Bytes, concat, equal } from "./bytes";
import { labelled, Reader, u16, u32, u64, u8, VERSION } from "./codec";
import { hkdf, sha256 } from "./digest";
import { CryptoError } from "./errors";
import { ATTACHMENT_BLOCK, ATTACHMENT_KEY } from "./labels";
import { fresh, type Randomness } from "./randomness";
import { KEY } from "./suite";

const MAX_BLOCK = 262_144; // up to here a raw block is the whole file (IPFS's default chunk)
export const CHUNK = MAX_BLOCK - aead.TAG;
export const MAX_BLOCKS = 64; // what a frame's cids may name: 16 MiB in all
const CID_PREFIX = Uint8Array.of(0x01, 0x55, 0x12, 0x20); // CIDv1, raw codec, sha2-256, 32 bytes
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

/** Lower-case base32 without padding (RFC 4648, section 6). */
function toBase32(data: Bytes): string {
  let text = "";
  let bits = 0;
  let held = 0;
  for (const byte of data) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += BASE32.charAt((held >> bits) & 31);
    }
    held &= (1 << bits) - 1;
  }
  return bits > 0 ? text + BASE32.charAt((held << (5 - bits)) & 31) : text;
}

function cidOf(digest: Bytes): string {
  return `b${toBase32(concat(CID_PREFIX, digest))}`;
}

/** The CIDv1 of a raw block: 'b' and lower-case base32 without padding. */
export function cid(block: Bytes): string {
  return cidOf(sha256(block));
}

/** What a message carries of an attachment. */
export class Attachment {
  /** For this attachment alone. */
  readonly key: Bytes;
  readonly size: number;
  /** The SHA-256 digest of each block. */
  readonly digests: readonly Bytes[];

  constructor(key: Bytes, size: number, digests: readonly Bytes[]) {
    this.key = key;
    this.size = size;
    this.digests = digests;
  }

  /** The CID of each block, for the frame and for fetching. */
  get cids(): readonly string[] {
    return this.digests.map(cidOf);
  }

  encode(): Bytes {
    const count = u16(this.digests.length);
    return concat(u8(VERSION), this.key, u64(this.size), count, ...this.digests);
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Attachment {
    const reader = new Reader(data);
    reader.version();
    const key = reader.take(KEY);
    const size = reader.u64();
    const count = reader.u16();
    if (count < 1 || count > MAX_BLOCKS || blocksOf(size) !== count) {
      throw new CryptoError("decode", "the number of blocks does not fit the size");
    }
    const digests = Array.from({ length: count }, () => reader.take(32));
    reader.end();
    return new Attachment(key, size, digests);
  }
}

/**
 * Encrypt `content` under a fresh key: the descriptor, and its blocks in order. Throws
 * `content_too_large`.
 */
export async function sealAttachment(
  content: Bytes,
  randomness: Randomness = fresh,
): Promise<{ attachment: Attachment; blocks: readonly Bytes[] }> {
  if (content.length > CHUNK * MAX_BLOCKS) {
    const most = CHUNK * MAX_BLOCKS;
    throw new CryptoError("content_too_large", `an attachment holds at most ${most} bytes`);
  }
  const key = randomness(KEY);
  const count = blocksOf(content.length);
  const blockKey = blockKeyOf(key, content.length);
  const blocks = await Promise.all(
    Array.from({ length: count }, (_, index) =>
      aead.seal(
        blockKey,
        nonceOf(index),
        content.slice(index * CHUNK, (index + 1) * CHUNK),
        dataOf(index, count),
      ),
    ),
  );
  const digests = blocks.map((block) => sha256(block));
  return { attachment: new Attachment(key, content.length, digests), blocks };
}

/**
 * The content, block by block; every block is hashed again before it is decrypted. Throws `decrypt`.
 * The content is whole only when the generator has ended.
 */
export async function* openAttachment(
  attachment: Attachment,
  fetchBlock: (cid: string) => Promise<Bytes>,
): AsyncGenerator<Bytes, void, undefined> {
  const { key, size, digests } = attachment;
  const blockKey = blockKeyOf(key, size);
  for (const [index, digest] of digests.entries()) {
    const block = await fetchBlock(cidOf(digest));
    if (!equal(sha256(block), digest)) {
      throw new CryptoError("decrypt", "a block is not the one its CID names");
    }
    const data = dataOf(index, digests.length);
    const plain = await aead.unseal(blockKey, nonceOf(index), block, data);
    if (plain.length !== Math.min(CHUNK, size - index * CHUNK)) {
      throw new CryptoError("decrypt", "a block has another size than it should");
    }
    yield plain;
  }
}

function blocksOf(size: number): number {
  return Math.max(1, Math.ceil(size / CHUNK));
}

function blockKeyOf(key: Bytes, size: number): Bytes {
  return hkdf(u64(size), key, ATTACHMENT_KEY, 32);
}

/** The block's index: the key is used for one attachment alone, so no pair comes twice. */
function nonceOf(index: number): Bytes {
  return concat(new Uint8Array(8), u32(index));
}

function dataOf(index: number, count: number): Bytes {
  return labelled(ATTACHMENT_BLOCK, u32(index), u32(count));
}

/**
 * The frame: a SecureMessageV2 in raw bytes, its hash, its device's signature, and its form in JSON.
 *
 * What is in `ciphertext` is `envelope.ts`'s.
 */
import { type Bytes, equal, fromBase64, toBase64 } from "./bytes";
import { NONCE } from "./aead";
import { b8, f64, identifier, isIdentifier, labelled, u16, u64 } from "./codec";
import { sha256 } from "./digest";
import { MAX_CIPHERTEXT } from "./envelope";
import { CryptoError } from "./errors";
import { FRAME } from "./labels";
import { ED25519_SIGNATURE, type PrivateKey, type Suite } from "./suite";

export const MAX_SEQ = Number.MAX_SAFE_INTEGER; // 2^53-1
const MIN_CIPHERTEXT = 16; // a GCM tag over nothing
const MAX_CIDS = 64;
const DEFAULT_DEVICE = "0";
// CIDv1, raw codec, sha2-256, base32: 'b' and 58 digits for 36 bytes.
const CID = /^bafkrei[a-z2-7]{52}$/;
const ADDRESS = /^0[xX][0-9a-fA-F]{40}$/;
const encoder = new TextEncoder();

/** The CHAT_MESSAGE frame as it is sent, with every field. */
export interface ChatMessage {
  readonly type: "CHAT_MESSAGE";
  readonly sender: string;
  readonly device: string;
  readonly recipient: string;
  readonly ciphertext: string;
  readonly nonce: string;
  readonly seq: number;
  readonly ts: number;
  readonly hash: string;
  readonly signature: string;
  readonly cids?: readonly string[];
}

/** SHA-256(ciphertext ‖ nonce ‖ seq as 8 bytes big-endian). */
export function messageHash(ciphertext: Bytes, nonce: Bytes, seq: number): Bytes {
  if (nonce.length !== NONCE) throw new RangeError("a nonce has 12 bytes");
  return sha256(ciphertext, nonce, u64(seq));
}

export interface FrameFields {
  readonly sender: string;
  readonly device: string;
  readonly recipient: string;
  readonly ciphertext: Bytes;
  readonly nonce: Bytes;
  readonly seq: number;
  readonly ts: number;
  readonly cids: readonly string[];
}

/**
 * What the device signs: the whole frame, the ciphertext through its hash, so that an auditor checks
 * the signature from the ledger alone. `ts` counts as an IEEE-754 double, minus zero as zero.
 */
export function signingInput(frame: Omit<FrameFields, "ciphertext">, hash: Bytes): Bytes {
  return labelled(
    FRAME,
    identifier(frame.sender),
    identifier(frame.device),
    identifier(frame.recipient),
    frame.nonce,
    u64(frame.seq),
    f64(frame.ts),
    hash,
    u16(frame.cids.length),
    ...frame.cids.map((cid) => b8(encoder.encode(cid))),
  );
}

/** A SecureMessageV2. */
export class Frame implements FrameFields {
  readonly sender: string;
  readonly device: string;
  readonly recipient: string;
  readonly ciphertext: Bytes;
  readonly nonce: Bytes;
  readonly seq: number;
  readonly ts: number;
  readonly cids: readonly string[];
  /** Ed25519; empty until `signed`. */
  readonly signature: Bytes;
  /** Computed, not believed. */
  readonly hash: Bytes;

  constructor(fields: FrameFields, signature: Bytes = new Uint8Array()) {
    this.sender = fields.sender;
    this.device = fields.device;
    this.recipient = fields.recipient;
    this.ciphertext = fields.ciphertext;
    this.nonce = fields.nonce;
    this.seq = fields.seq;
    this.ts = fields.ts;
    this.cids = fields.cids;
    this.signature = signature;
    this.hash = messageHash(this.ciphertext, this.nonce, this.seq);
  }

  /** With the Ed25519 signature of the device whose key this is. */
  async signed(suite: Suite, key: PrivateKey): Promise<Frame> {
    return new Frame(this, await suite.ed25519.sign(key, signingInput(this, this.hash)));
  }

  /** Check the signature by a certified device's Ed25519 key. Throws `bad_classical_signature`. */
  async verify(suite: Suite, publicKey: Bytes): Promise<void> {
    await suite.ed25519.verify(publicKey, this.signature, signingInput(this, this.hash));
  }

  /** The CHAT_MESSAGE fields, ready for JSON. */
  toWire(): ChatMessage {
    return {
      type: "CHAT_MESSAGE",
      sender: this.sender,
      device: this.device,
      recipient: this.recipient,
      ciphertext: toBase64(this.ciphertext),
      nonce: toBase64(this.nonce),
      seq: this.seq,
      ts: this.ts,
      hash: toBase64(this.hash),
      signature: toBase64(this.signature),
      ...(this.cids.length > 0 ? { cids: this.cids } : {}),
    };
  }

  /**
   * A frame from a delivered CHAT_MESSAGE; the server's own fields are ignored.
   *
   * Throws `decode` by the rules that the server keeps too, or `frame_hash_mismatch`. The signature
   * is not verified yet.
   */
  static fromWire(message: unknown): Frame {
    const fields = new WireFields(message);
    fields.type();
    const frame = new Frame(
      {
        sender: fields.name("sender"),
        device: fields.name("device", DEFAULT_DEVICE),
        recipient: fields.name("recipient"),
        ciphertext: fields.bytes("ciphertext", MIN_CIPHERTEXT, MAX_CIPHERTEXT),
        nonce: fields.bytes("nonce", NONCE),
        seq: fields.seq(),
        ts: fields.ts(),
        cids: fields.cids(),
      },
      fields.has("signature") ? fields.bytes("signature", ED25519_SIGNATURE) : new Uint8Array(),
    );
    if (!equal(fields.bytes("hash", 32), frame.hash)) {
      throw new CryptoError("frame_hash_mismatch", "the frame's hash is not its own");
    }
    return frame;
  }
}

/** Takes typed fields out of parsed JSON. Every method throws `decode` when it cannot. */
class WireFields {
  readonly #fields: Readonly<Record<string, unknown>>;

  constructor(message: unknown) {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw new CryptoError("decode", "a frame is an object");
    }
    this.#fields = message as Readonly<Record<string, unknown>>;
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#fields, name);
  }

  #get(name: string): unknown {
    return this.has(name) ? this.#fields[name] : undefined;
  }

  type(): void {
    if (this.has("type") && this.#get("type") !== "CHAT_MESSAGE") {
      throw new CryptoError("decode", "not a CHAT_MESSAGE");
    }
  }

  /** An identifier in its canonical form; `absent` stands for one that is not there. */
  name(name: string, absent?: string): string {
    const value = this.has(name) ? this.#get(name) : absent;
    if (typeof value !== "string" || !isIdentifier(value)) {
      throw new CryptoError("decode", `${name} is not an identifier`);
    }
    return ADDRESS.test(value) ? value.toLowerCase() : value;
  }

  bytes(name: string, least: number, most: number = least): Bytes {
    const value = this.#get(name);
    const data = typeof value === "string" && value.length <= 2 * most + 4 ? fromBase64(value) : null;
    if (data === null || data.length < least || data.length > most) {
      throw new CryptoError("decode", `${name} is not base64 of the right size`);
    }
    return data;
  }

  seq(): number {
    const value = this.#get("seq");
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > MAX_SEQ) {
      throw new CryptoError("decode", "seq is not an integer from 1 to 2^53-1");
    }
    return value;
  }

  ts(): number {
    const value = this.#get("ts");
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new CryptoError("decode", "ts is not a finite number");
    }
    return value;
  }

  cids(): readonly string[] {
    if (!this.has("cids")) return [];
    const value = this.#get("cids");
    if (!Array.isArray(value) || value.length < 1 || value.length > MAX_CIDS) {
      throw new CryptoError("decode", `cids must name 1 to ${MAX_CIDS} blocks`);
    }
    const cids = value.filter((one): one is string => typeof one === "string" && CID.test(one));
    if (cids.length !== value.length || new Set(cids).size !== cids.length) {
      throw new CryptoError("decode", "cids must be different CIDv1s of raw sha2-256 blocks");
    }
    return cids;
  }
}

/**
 * The dual identity: a wallet and an ML-DSA-65 key that vouch for each other (SPEC-crypto,
 * "Identity statement").
 *
 * Here are the statement, its rotation, and what one statement is to the one before it. Devices are
 * in `devices.ts`; what a person compares is in `safety.ts`.
 */
import { type Bytes, concat, equal } from "./bytes";
import { flag, labelled, Reader, u32, u8, VERSION, walletBytes } from "./codec";
import { sha256 } from "./digest";
import { CryptoError } from "./errors";
import { IDENTITY } from "./labels";
import { type KeyPair, MLDSA_KEY, MLDSA_SIGNATURE, type Suite } from "./suite";
import { statementText, verifyWallet, WALLET_SIGNATURE } from "./wallet";

export const NO_PREVIOUS_IDENTITY: Bytes = new Uint8Array(32);

/**
 * What an identity is to the one that was known before: nothing was known (*first*), *same*,
 * *rotated* (the old post-quantum key vouches for it), or *reset*: the wallet alone says so, and the
 * person must be asked before anything is sent again.
 */
export type Succession = "first" | "same" | "rotated" | "reset";

export interface IdentityFields {
  readonly wallet: string;
  /** Counts rotations from 0. */
  readonly generation: number;
  /** The id of the statement before this one; zeros for the first. */
  readonly previous: Bytes;
  /** ML-DSA-65. */
  readonly postQuantum: Bytes;
}

/** What is vouched for. */
export class IdentityBody implements IdentityFields {
  readonly wallet: string;
  readonly generation: number;
  readonly previous: Bytes;
  readonly postQuantum: Bytes;
  readonly encoded: Bytes;
  /** SHA-256 of the labelled body: names the identity everywhere else. */
  readonly id: Bytes;

  constructor(fields: IdentityFields) {
    this.wallet = fields.wallet;
    this.generation = fields.generation;
    this.previous = fields.previous;
    this.postQuantum = fields.postQuantum;
    this.encoded = concat(
      u8(VERSION),
      walletBytes(this.wallet),
      u32(this.generation),
      this.previous,
      this.postQuantum,
    );
    this.id = sha256(labelled(IDENTITY, this.encoded));
  }

  /** What the wallet signs. */
  get text(): string {
    return statementText(IDENTITY, this.wallet, this.id);
  }

  /** Throws `decode`. */
  static read(reader: Reader): IdentityBody {
    reader.version();
    const body = new IdentityBody({
      wallet: reader.wallet(),
      generation: reader.u32(),
      previous: reader.take(32),
      postQuantum: reader.take(MLDSA_KEY),
    });
    if ((body.generation === 0) !== equal(body.previous, NO_PREVIOUS_IDENTITY)) {
      throw new CryptoError("decode", "the first identity alone has no previous one");
    }
    return body;
  }
}

/** A published identity statement. */
export class Identity {
  readonly body: IdentityBody;
  readonly walletSignature: Bytes;
  readonly postQuantumSignature: Bytes;
  /** By the key of the statement before; null when there is none. */
  readonly previousSignature: Bytes | null;

  constructor(
    body: IdentityBody,
    walletSignature: Bytes,
    postQuantumSignature: Bytes,
    previousSignature: Bytes | null,
  ) {
    this.body = body;
    this.walletSignature = walletSignature;
    this.postQuantumSignature = postQuantumSignature;
    this.previousSignature = previousSignature;
  }

  get id(): Bytes {
    return this.body.id;
  }

  get wallet(): string {
    return this.body.wallet;
  }

  encode(): Bytes {
    const previous = this.previousSignature;
    return concat(
      this.body.encoded,
      this.walletSignature,
      this.postQuantumSignature,
      flag(previous !== null),
      previous ?? new Uint8Array(),
    );
  }

  /** Throws `decode`. Nothing is verified yet. */
  static decode(data: Bytes): Identity {
    const reader = new Reader(data);
    const body = IdentityBody.read(reader);
    const walletSignature = reader.take(WALLET_SIGNATURE);
    const postQuantum = reader.take(MLDSA_SIGNATURE);
    const previous = reader.flag() ? reader.take(MLDSA_SIGNATURE) : null;
    reader.end();
    if (previous !== null && body.generation === 0) {
      throw new CryptoError("decode", "the first identity has nothing before it to sign");
    }
    return new Identity(body, walletSignature, postQuantum, previous);
  }

  /**
   * Check that wallet and post-quantum key vouch for each other. Throws `bad_wallet_signature` or
   * `bad_post_quantum_signature`. The caller must still compare with the identity it knows.
   */
  async verify(suite: Suite): Promise<void> {
    const { body } = this;
    verifyWallet(body.wallet, body.text, this.walletSignature);
    const message = labelled(IDENTITY, body.encoded);
    await suite.mldsa65.verify(body.postQuantum, this.postQuantumSignature, IDENTITY, message);
  }
}

/**
 * Make the statement; `previous` is the key being rotated out, when it is still there. Throws
 * `post_quantum_missing` when the statement is about another key.
 */
export async function vouch(
  suite: Suite,
  body: IdentityBody,
  walletSignature: Bytes,
  key: KeyPair,
  previous: KeyPair | null = null,
): Promise<Identity> {
  if (!equal(key.publicKey, body.postQuantum)) {
    throw new CryptoError("post_quantum_missing", "the statement is about another post-quantum key");
  }
  const message = labelled(IDENTITY, body.encoded);
  return new Identity(
    body,
    walletSignature,
    await suite.mldsa65.sign(key.privateKey, IDENTITY, message),
    previous && (await suite.mldsa65.sign(previous.privateKey, IDENTITY, message)),
  );
}

/**
 * What the verified statement `next` is to the verified `known` one of the same wallet. Throws
 * `bad_post_quantum_signature` when it claims the old key's blessing and does not have it.
 */
export async function succession(suite: Suite, known: Identity, next: Identity): Promise<Succession> {
  if (equal(next.id, known.id)) return "same";
  if (next.previousSignature !== null && equal(next.body.previous, known.id)) {
    const message = labelled(IDENTITY, next.body.encoded);
    const key = known.body.postQuantum;
    await suite.mldsa65.verify(key, next.previousSignature, IDENTITY, message);
    if (next.body.generation === known.body.generation + 1) return "rotated";
  }
  return "reset";
}

/**
 * What a vector's `op` means here: one function for each, inputs by name (`Inputs` fails on a key
 * that an op does not know), outputs as an object. The same as tests/vectors/operations.py.
 */
import { cid, Attachment, openAttachment, sealAttachment } from "../../src/security/attachments";
import { type Bytes, concat, fromHex, toHex } from "../../src/security/bytes";
import { labelled, Reader } from "../../src/security/codec";
import {
  Certificate,
  CertificateBody,
  type DeviceKeys,
  publicKeys,
  Revocation,
  signAsDevice,
} from "../../src/security/devices";
import { hkdf, sha256 } from "../../src/security/digest";
import {
  bodyOf,
  certified,
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
} from "../../src/security/endorsement";
import {
  associatedData,
  contentKeys,
  conversation,
  Envelope,
  initiationBody,
  pad,
  paddedSize,
  unpad,
} from "../../src/security/envelope";
import { CryptoError } from "../../src/security/errors";
import { Frame, signingInput } from "../../src/security/frame";
import { Identity, succession } from "../../src/security/identity";
import * as labels from "../../src/security/labels";
import { Messenger } from "../../src/security/messenger";
import { Handshake, initiate, respond, sessionId } from "../../src/security/pqxdh";
import { Bundle, type PrekeyKind, PrekeySecret, Publication } from "../../src/security/prekeys";
import type { Randomness } from "../../src/security/randomness";
import { Header, Ratchet } from "../../src/security/ratchet";
import { type Roster, verifyRoster } from "../../src/security/roster";
import { grouped, safetyNumber } from "../../src/security/safety";
import { Session, Sessions, wrapData } from "../../src/security/session";
import { SessionStore } from "../../src/security/store";
import type { Suite } from "../../src/security/suite";
import { eip191Hash, recoverWallet, statementText, WalletKey } from "../../src/security/wallet";
import { MemoryStorage, MemoryWitness } from "./memory";

type Json = null | boolean | number | string | Uint8Array | readonly Json[] | { readonly [key: string]: Json };

/** A vector's value with its bytes decoded. Throws on a key that it does not know. */
export function plain(value: unknown, blobs: Readonly<Record<string, string>>): unknown {
  if (Array.isArray(value)) return value.map((one) => plain(one, blobs));
  if (typeof value !== "object" || value === null) return value;
  const fields = value as Readonly<Record<string, unknown>>;
  const names = Object.keys(fields);
  if (names.length === 1 && typeof fields["hex"] === "string") return fromHex(fields["hex"]);
  if ("blob" in fields) {
    const inputs = new Inputs(fields);
    let data = fromHex(blobs[inputs.text("blob")] ?? fail("no such blob"));
    for (const edit of inputs.has("edits") ? inputs.objects("edits") : []) {
      const at = edit.number("at");
      const from = at >= 0 ? at : data.length + at;
      const rest = data.slice(from + edit.number("cut"));
      data = concat(data.slice(0, from), fromHex(edit.text("put")), rest);
      edit.end();
    }
    inputs.end();
    return data;
  }
  return Object.fromEntries(names.map((name) => [name, plain(fields[name], blobs)]));
}

/** A result as a vector holds it. */
export function vectorForm(value: Json): unknown {
  if (value instanceof Uint8Array) return { hex: toHex(value) };
  if (Array.isArray(value)) return value.map(vectorForm);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, vectorForm(one)]));
}

function fail(text: string): never {
  throw new TypeError(text);
}

/** Named inputs, each taken once; `end` fails when one was not asked for. */
export class Inputs {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #left: Set<string>;

  constructor(fields: unknown) {
    if (typeof fields !== "object" || fields === null) fail("inputs are an object");
    this.#fields = fields as Readonly<Record<string, unknown>>;
    this.#left = new Set(Object.keys(this.#fields));
  }

  has(name: string): boolean {
    return name in this.#fields;
  }

  any(name: string): unknown {
    if (!this.has(name)) fail(`no input ${name}`);
    this.#left.delete(name);
    return this.#fields[name];
  }

  bytes(name: string): Bytes {
    const value = this.any(name);
    return value instanceof Uint8Array ? new Uint8Array(value) : fail(`${name} is not bytes`);
  }

  text(name: string): string {
    const value = this.any(name);
    return typeof value === "string" ? value : fail(`${name} is not text`);
  }

  number(name: string): number {
    const value = this.any(name);
    return typeof value === "number" ? value : fail(`${name} is not a number`);
  }

  list(name: string): readonly unknown[] {
    const value = this.any(name);
    return Array.isArray(value) ? value : fail(`${name} is not a list`);
  }

  byteStrings(name: string): readonly Bytes[] {
    return this.list(name).map((one) => new Inputs({ one }).bytes("one"));
  }

  object(name: string): Inputs {
    return new Inputs(this.any(name));
  }

  objects(name: string): readonly Inputs[] {
    return this.list(name).map((one) => new Inputs(one));
  }

  end(): void {
    if (this.#left.size > 0) fail(`unknown inputs: ${[...this.#left].join(", ")}`);
  }
}

async function keysOf(suite: Suite, device: Inputs): Promise<DeviceKeys> {
  const signing = device.bytes("signing");
  const agreement = device.bytes("agreement");
  const postQuantum = device.bytes("post_quantum");
  device.end();
  return {
    signing: { privateKey: signing, publicKey: await suite.ed25519.publicOf(signing) },
    agreement: { privateKey: agreement, publicKey: await suite.x25519.publicOf(agreement) },
    postQuantum: { privateKey: postQuantum, publicKey: await suite.mldsa65.publicOf(postQuantum) },
  };
}

async function rosterOf(suite: Suite, inputs: Inputs): Promise<Roster> {
  return verifyRoster(
    suite,
    Identity.decode(inputs.bytes("identity")),
    inputs.byteStrings("certificates").map((one) => Certificate.decode(one)),
    inputs.byteStrings("revocations").map((one) => Revocation.decode(one)),
  );
}

/** Encoding what was decoded must give the same bytes. */
function same(encoded: Bytes, data: Bytes): void {
  if (toHex(encoded) !== toHex(data)) fail("decoding and encoding do not agree");
}

function prekeySecrets(inputs: readonly Inputs[]): readonly PrekeySecret[] {
  return inputs.map((one) => {
    const kind = one.number("kind") as PrekeyKind;
    const secret = new PrekeySecret(kind, one.number("id"), one.bytes("secret"));
    one.end();
    return secret;
  });
}

/** A suite whose encapsulation gives what the vector says that it gave. */
function encapsulating(suite: Suite, inputs: Inputs): Suite {
  const secret = inputs.bytes("kem_secret");
  const ciphertext = inputs.bytes("kem_ciphertext");
  const encapsulate = (): Promise<{ secret: Bytes; ciphertext: Bytes }> =>
    Promise.resolve({ secret, ciphertext });
  return { ...suite, mlkem768: { ...suite.mlkem768, encapsulate } };
}

/** Gives each of `drawn` in turn. */
function draws(...drawn: readonly Bytes[]): Randomness {
  const left = [...drawn];
  return (size) => {
    const next = left.shift();
    return next?.length === size ? next : fail("a draw that the vector does not have");
  };
}

function codeOf(error: unknown): string {
  if (error instanceof CryptoError) return error.code;
  throw error;
}

async function ratchetScript(inputs: Inputs, suite: Suite): Promise<Json> {
  const root = inputs.bytes("root");
  const signed = inputs.bytes("signed");
  const sides = new Map([
    ["initiator", Ratchet.initiator(root, await suite.x25519.publicOf(signed))],
    ["responder", Ratchet.responder(root, signed)],
  ]);
  const messages: { header: Header; sealed: Bytes }[] = [];
  const outcomes: Json[] = [];
  for (const step of inputs.objects("steps")) {
    const side = step.text("side");
    let state = sides.get(side) ?? fail("no such side");
    const data = step.bytes("associated_data");
    if (step.text("do") === "encrypt") {
      const plaintext = step.bytes("plaintext");
      // Given on every encryption, used where the side draws a new key.
      const drawn = step.bytes("private");
      for (let left = step.has("repeat") ? step.number("repeat") : 1; left > 0; left--) {
        const { header, sealed, next } = await state.encrypt(suite, plaintext, data, () => drawn);
        messages.push({ header, sealed });
        state = next;
      }
      const { header, sealed } = messages.at(-1) ?? fail("nothing was encrypted");
      outcomes.push({ header: header.encode(), sealed });
      sides.set(side, state);
    } else {
      const { header, sealed } = messages[step.number("message")] ?? fail("no such message");
      const shown = step.has("header") ? Header.decode(step.bytes("header")) : header;
      const altered = sealed.slice();
      if (step.has("flip")) {
        const at = step.number("flip");
        altered[at] = (altered[at] ?? fail("no such byte")) ^ 1;
      }
      try {
        const { plaintext, next } = await state.decrypt(suite, shown, altered, data);
        outcomes.push({ plaintext });
        sides.set(side, next);
      } catch (error) {
        outcomes.push({ error: codeOf(error) });
      }
    }
    step.end();
  }
  return { outcomes };
}

async function messagesOpen(inputs: Inputs, suite: Suite): Promise<Json> {
  const receiver = inputs.object("receiver");
  const own = await rosterOf(suite, receiver);
  const sender = inputs.object("sender");
  const other = await rosterOf(suite, sender);
  sender.end();
  const store = await SessionStore.open(new MemoryStorage(), new MemoryWitness());
  const keys = await keysOf(suite, inputs.object("device"));
  const device = receiver.text("device");
  receiver.end();
  const messenger = await Messenger.create(store, suite, keys, own, device);
  const secrets = prekeySecrets(inputs.objects("prekeys"));
  await store.transact((records) => {
    for (const { kind, id, secret } of secrets) {
      records.put(`prekey/${kind}/${id.toString(16).padStart(8, "0")}`, secret);
    }
    return Promise.resolve();
  });
  await messenger.learn(other);
  const outcomes: Json[] = [];
  for (const wire of inputs.list("frames")) {
    try {
      const opened = await messenger.open({ frame: Frame.fromWire(wire), roster: other });
      outcomes.push({ content: opened.content, continuity: opened.continuity });
    } catch (error) {
      outcomes.push({ error: codeOf(error) });
    }
  }
  return { outcomes };
}

async function messageSeal(inputs: Inputs, suite: Suite): Promise<Json> {
  const given = encapsulating(suite, inputs);
  const sender = inputs.object("sender");
  const own = await rosterOf(given, sender);
  const device = sender.text("device");
  sender.end();
  const receiver = inputs.object("receiver");
  const other = await rosterOf(given, receiver);
  receiver.end();
  const store = await SessionStore.open(new MemoryStorage(), new MemoryWitness());
  const messenger = await Messenger.create(
    store,
    given,
    await keysOf(given, inputs.object("device")),
    own,
    device,
    {
      randomness: draws(
        inputs.bytes("ephemeral"),
        inputs.bytes("content_key"),
        inputs.bytes("nonce"),
        inputs.bytes("private"),
      ),
    },
  );
  await messenger.learn(other);
  await messenger.establish(other, Bundle.decode(inputs.bytes("bundle")), inputs.number("opened"));
  const content = inputs.bytes("content");
  const frame = await messenger.seal({ recipient: other.wallet, rosters: [other], content, ts: 0 });
  const { previous, commitment, wrapSection, payload } = Envelope.decode(frame.ciphertext);
  return { seq: frame.seq, previous, commitment, wrap_section: wrapSection, payload };
}

type Operation = (inputs: Inputs, suite: Suite) => Json | Promise<Json>;

export const OPERATIONS: Readonly<Record<string, Operation>> = {
  label(inputs) {
    const name = inputs.text("use").toUpperCase().replaceAll("-", "_");
    const found = Object.entries(labels).find(([key]) => key === name) ?? fail("no such label");
    return { label: new TextDecoder().decode(found[1]) };
  },
  "ed25519-verify": async (inputs, suite) => {
    await suite.ed25519.verify(inputs.bytes("public"), inputs.bytes("signature"), inputs.bytes("message"));
    return {};
  },
  hkdf: (inputs) => ({
    output: hkdf(
      inputs.bytes("salt"),
      inputs.bytes("secret"),
      inputs.bytes("info"),
      inputs.number("size"),
    ),
  }),
  "wallet-text"(inputs) {
    const label = new TextEncoder().encode(inputs.text("label"));
    const wallet = inputs.text("wallet_id");
    const text = statementText(label, wallet, inputs.bytes("digest"), inputs.text("device"));
    return { text, eip191: eip191Hash(text) };
  },
  "wallet-sign"(inputs) {
    const key = new WalletKey(inputs.bytes("secret"));
    return { wallet: key.wallet, signature: key.sign(inputs.text("text")) };
  },
  "wallet-recover": (inputs) => ({
    wallet: recoverWallet(inputs.text("text"), inputs.bytes("signature")),
  }),

  async "identity-verify"(inputs, suite) {
    const data = inputs.bytes("identity");
    const identity = Identity.decode(data);
    await identity.verify(suite);
    same(identity.encode(), data);
    const { generation, text } = identity.body;
    return { wallet: identity.wallet, generation, id: identity.id, text };
  },
  async "identity-succession"(inputs, suite) {
    const known = Identity.decode(inputs.bytes("known"));
    return { succession: await succession(suite, known, Identity.decode(inputs.bytes("new"))) };
  },
  "safety-number"(inputs) {
    const one = Identity.decode(inputs.bytes("one"));
    const number = safetyNumber(one, Identity.decode(inputs.bytes("other")));
    return { number, grouped: grouped(number) };
  },

  async "device-keys"(inputs, suite) {
    const keys = publicKeys(await keysOf(suite, inputs.object("device")));
    return { signing: keys.signing, agreement: keys.agreement, post_quantum: keys.postQuantum };
  },
  "certificate-body"(inputs) {
    const reader = new Reader(inputs.bytes("data"));
    const body = CertificateBody.read(reader);
    reader.end();
    return { id: body.id };
  },
  async "certificate-verify"(inputs, suite) {
    const data = inputs.bytes("certificate");
    const certificate = Certificate.decode(data);
    const endorser = inputs.bytes("endorser");
    const identity = Identity.decode(inputs.bytes("identity"));
    const by = endorser.length > 0 ? Certificate.decode(endorser) : null;
    await certificate.verify(suite, identity, by);
    same(certificate.encode(), data);
    const { wallet, device, id, body } = certificate;
    return { wallet, device, id, text: body.text };
  },
  async "revocation-verify"(inputs, suite) {
    const data = inputs.bytes("revocation");
    const revocation = Revocation.decode(data);
    await revocation.verify(suite, Identity.decode(inputs.bytes("identity")));
    same(revocation.encode(), data);
    return { device: revocation.body.device, id: revocation.id, text: revocation.body.text };
  },
  async "roster-verify"(inputs, suite) {
    const roster = await rosterOf(suite, inputs);
    return { active: roster.active.map((one) => one.device) };
  },

  async "enrolment-request"(inputs, suite) {
    const keys = publicKeys(await keysOf(suite, inputs.object("device")));
    const [wallet, device] = [inputs.text("wallet_id"), inputs.text("device_id")];
    return { request: encodeRequest({ wallet, device, keys }) };
  },
  "enrolment-body"(inputs) {
    const data = inputs.bytes("request");
    const request = decodeRequest(data);
    same(encodeRequest(request), data);
    const identity = Identity.decode(inputs.bytes("identity"));
    const { encoded, id, text } = bodyOf(
      request,
      identity,
      Certificate.decode(inputs.bytes("endorser")),
    );
    return { body: encoded, id, text };
  },
  "enrolment-answer"(inputs) {
    const answer = encodeAnswer({
      identity: Identity.decode(inputs.bytes("identity")),
      endorser: Certificate.decode(inputs.bytes("endorser")),
      identitySignature: inputs.bytes("identity_signature"),
      endorsement: {
        classical: inputs.bytes("classical"),
        postQuantum: inputs.bytes("post_quantum"),
      },
    });
    return { answer };
  },
  async "enrolment-finish"(inputs, suite) {
    const keys = await keysOf(suite, inputs.object("device"));
    const signer = new WalletKey(inputs.bytes("wallet_secret"));
    const data = inputs.bytes("answer");
    const word = decodeAnswer(data);
    same(encodeAnswer(word), data);
    const device = inputs.text("device_id");
    const asked = { wallet: signer.wallet, device, keys: publicKeys(keys) };
    const body = bodyOf(asked, word.identity, word.endorser);
    const proof = await signAsDevice(suite, keys, labels.DEVICE_CERTIFICATE, body.encoded);
    const { certificate, roster } = await certified(suite, word, body, signer.sign(body.text), proof);
    return { id: certificate.id, active: roster.active.map((one) => one.device) };
  },

  async "prekey-public"(inputs, suite) {
    const kind = inputs.number("kind") as PrekeyKind;
    return { public: await new PrekeySecret(kind, 1, inputs.bytes("secret")).publicKey(suite) };
  },
  async "publication-verify"(inputs, suite) {
    const data = inputs.bytes("publication");
    const publication = Publication.decode(data);
    await publication.verify(suite, Certificate.decode(inputs.bytes("certificate")));
    same(publication.encode(), data);
    return { one_time: publication.oneTime.map((one) => one.id), signed: publication.signed.id };
  },
  async "bundle-verify"(inputs, suite) {
    const data = inputs.bytes("bundle");
    const bundle = Bundle.decode(data);
    const kem = await bundle.verify(suite, Certificate.decode(inputs.bytes("certificate")));
    same(bundle.encode(), data);
    return { kem: kem.id, kem_kind: kem.kind, signed: bundle.signed.id };
  },

  /** Randomised: that the key is taken is all there is to compare. */
  async encapsulate(inputs, suite) {
    await suite.mlkem768.encapsulate(inputs.bytes("public"));
    return {};
  },

  async "handshake-initiate"(inputs, suite) {
    const given = encapsulating(suite, inputs);
    const { agreement, handshake } = await initiate(
      given,
      await keysOf(suite, inputs.object("device")),
      Certificate.decode(inputs.bytes("initiator")).body,
      Certificate.decode(inputs.bytes("responder")),
      Bundle.decode(inputs.bytes("bundle")),
      inputs.number("opened"),
      draws(inputs.bytes("ephemeral")),
    );
    const { transcript, root } = agreement;
    return { transcript, root, session: sessionId(transcript), handshake: handshake.encode() };
  },
  async "handshake-respond"(inputs, suite) {
    const secrets = prekeySecrets(inputs.objects("prekeys"));
    const { agreement, used } = await respond(
      suite,
      await keysOf(suite, inputs.object("device")),
      Certificate.decode(inputs.bytes("responder")).body,
      Certificate.decode(inputs.bytes("initiator")),
      Handshake.decode(inputs.bytes("handshake")),
      (kind, id) =>
        Promise.resolve(secrets.find((one) => one.kind === kind && one.id === id) ?? null),
    );
    const { transcript, root } = agreement;
    const ids = used.map((one) => [one.kind, one.id]);
    return { transcript, root, session: sessionId(transcript), used: ids };
  },
  "ratchet-script": ratchetScript,
  "sessions-rank"(inputs) {
    let known = new Sessions();
    for (const one of inputs.objects("sessions")) {
      const ratchet = Ratchet.responder(new Uint8Array(32), new Uint8Array(32));
      known = known.with(new Session(one.bytes("transcript"), one.number("opened"), ratchet, null));
      one.end();
    }
    return { kept: known.ranked.map((one) => one.id), opened: known.nextOpened(inputs.number("now")) };
  },

  conversation: (inputs) => ({
    conversation: conversation(inputs.text("sender"), inputs.text("recipient")),
  }),
  "associated-data"(inputs) {
    const data = associatedData(
      inputs.text("sender"),
      inputs.text("device"),
      inputs.text("recipient"),
      inputs.number("seq"),
      inputs.bytes("previous"),
    );
    return { associated_data: data, digest: sha256(data) };
  },
  "content-keys"(inputs) {
    const { payloadKey, commitment } = contentKeys(inputs.bytes("key"), inputs.bytes("digest"));
    return { payload_key: payloadKey, commitment };
  },
  "padded-size": (inputs) => ({ size: paddedSize(inputs.number("size")) }),
  pad: (inputs) => ({ padded: pad(inputs.bytes("content")) }),
  unpad: (inputs) => ({ content: unpad(inputs.bytes("padded")) }),
  "key-wrap-data"(inputs) {
    const transcript = inputs.bytes("transcript");
    const data = wrapData(transcript, inputs.bytes("digest"), inputs.bytes("commitment"));
    return { associated_data: data };
  },
  "initiation-body"(inputs) {
    const digest = inputs.bytes("digest");
    const section = inputs.bytes("wrap_section");
    const body = initiationBody(digest, inputs.bytes("commitment"), section);
    return { signed: labelled(labels.INITIATION, body) };
  },
  "envelope-decode"(inputs) {
    const data = inputs.bytes("ciphertext");
    const envelope = Envelope.decode(data);
    same(envelope.encode(), data);
    const { previous, commitment, wraps, wrapSection, payload } = envelope;
    return {
      previous,
      commitment,
      addresses: wraps.map((one) => one.address),
      sessions: wraps.map((one) => one.wrapped.session),
      opening: wraps.map((one) => one.wrapped.handshake !== null),
      wrap_section: wrapSection,
      payload,
    };
  },
  "message-seal": messageSeal,
  "messages-open": messagesOpen,

  "signing-input"(inputs) {
    const frame = {
      sender: inputs.text("sender"),
      device: inputs.text("device"),
      recipient: inputs.text("recipient"),
      nonce: inputs.bytes("nonce"),
      seq: inputs.number("seq"),
      ts: inputs.number("ts"),
      cids: inputs.list("cids").map(String),
    };
    return { signed: signingInput(frame, inputs.bytes("hash")) };
  },
  async "frame-sign"(inputs, suite) {
    const seed = inputs.bytes("seed");
    const frame = await Frame.fromWire(inputs.any("frame")).signed(suite, seed);
    return { signature: frame.signature, public: await suite.ed25519.publicOf(seed) };
  },
  async "frame-verify"(inputs, suite) {
    const frame = Frame.fromWire(inputs.any("frame"));
    await frame.verify(suite, inputs.bytes("public"));
    return { hash: frame.hash };
  },

  cid: (inputs) => ({ cid: cid(inputs.bytes("block")) }),
  async "attachment-seal"(inputs) {
    const content = inputs.bytes("content");
    const repeated = new Uint8Array(content.length * inputs.number("repeat"));
    for (let at = 0; at < repeated.length; at += content.length) repeated.set(content, at);
    const key = inputs.bytes("key");
    const { attachment, blocks } = await sealAttachment(repeated, draws(key));
    return {
      descriptor: attachment.encode(),
      cids: attachment.cids,
      sizes: blocks.map((block) => block.length),
    };
  },
  async "attachment-open"(inputs) {
    const attachment = Attachment.decode(inputs.bytes("descriptor"));
    const blocks = inputs.byteStrings("blocks");
    if (blocks.length !== attachment.cids.length) fail("a block for each CID");
    const byName = new Map(attachment.cids.map((name, index) => [name, blocks[index]]));
    const fetched = (name: string): Promise<Bytes> =>
      Promise.resolve(byName.get(name) ?? fail("no such block"));
    const parts: Bytes[] = [];
    for await (const part of openAttachment(attachment, fetched)) parts.push(part);
    return { content: concat(...parts) };
  },
};

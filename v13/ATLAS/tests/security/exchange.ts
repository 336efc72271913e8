/**
 * TypeScript and Python write to one another: real handshakes, real messages, fresh keys. Run under
 * Node and in Chromium; `ask` is the way to the Python process.
 */
import { expect } from "vitest";

import { Attachment, openAttachment, sealAttachment } from "../../src/security/attachments";
import { type Bytes, concat, fromBase64, toBase64 } from "../../src/security/bytes";
import { Certificate } from "../../src/security/devices";
import { Frame } from "../../src/security/frame";
import { Identity } from "../../src/security/identity";
import { Bundle } from "../../src/security/prekeys";
import { fresh } from "../../src/security/randomness";
import { type Roster, verifyRoster } from "../../src/security/roster";
import { safetyNumber } from "../../src/security/safety";
import type { Suite } from "../../src/security/suite";
import { Person, Stock, utf8 } from "./people";

export type Ask = (request: string) => Promise<string>;
type Answer = Readonly<Record<string, unknown>>;

export function bytes(value: unknown): Bytes {
  const data = typeof value === "string" ? fromBase64(value) : null;
  if (data === null) throw new TypeError("not base64");
  return data;
}

/** The Python person as the TypeScript one sees them. */
class Python {
  readonly #ask: Ask;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  async call(op: string, inputs: Answer = {}): Promise<Answer> {
    return JSON.parse(await this.#ask(JSON.stringify({ op, ...inputs }))) as Answer;
  }

  async roster(suite: Suite): Promise<Roster> {
    const { identity, certificates } = await this.call("roster");
    const decoded = (certificates as unknown[]).map((one) => Certificate.decode(bytes(one)));
    return verifyRoster(suite, Identity.decode(bytes(identity)), decoded);
  }
}

/** Both know each other's statements: each has verified the other's. */
async function meet(suite: Suite, python: Python): Promise<{ ours: Person; theirs: Roster }> {
  const ours = await Person.make(suite, new Stock(), "ts");
  await ours.add("old");
  await ours.revoke("old");
  const theirs = await python.roster(suite);
  const { identity, certificates, revocations } = ours;
  const learnt = await python.call("learn", {
    identity: toBase64(identity.encode()),
    certificates: certificates.map((one) => toBase64(one.encode())),
    revocations: revocations.map((one) => toBase64(one.encode())),
  });
  expect(learnt).toEqual({
    succession: "first",
    safety_number: safetyNumber(identity, theirs.identity),
  });
  expect(await ours.on("ts").learn(theirs)).toBe("first");
  return { ours, theirs };
}

export async function exchange(ask: Ask, suite: Suite, initiator: "typescript" | "python"): Promise<void> {
  const python = new Python(ask);
  const { ours, theirs } = await meet(suite, python);
  const messenger = ours.on("ts");
  if (initiator === "typescript") {
    const { bundle } = await python.call("bundle");
    await messenger.establish(theirs, Bundle.decode(bytes(bundle)), 1_000);
  } else {
    const publication = await messenger.publishPrekeys({ oneTime: 1 });
    const counted = await python.call("publication", { publication: toBase64(publication.encode()) });
    expect(counted).toEqual({ one_time: 1, one_time_kem: 1 });
    ours.stock.publish(publication);
    const bundle = toBase64(ours.stock.claim(publication.certificate).encode());
    expect(await python.call("establish", { bundle, now: 1_000 })).toEqual({});
  }
  const there = async (content: Bytes): Promise<Frame> =>
    messenger.seal({ recipient: theirs.wallet, rosters: [theirs], content, ts: 1.25 });
  const back = async (content: Bytes): Promise<Frame> => {
    const { frame } = await python.call("seal", { content: toBase64(content), ts: 0.1 });
    return Frame.fromWire(frame);
  };
  const openThere = (frame: Frame): Promise<Answer> => python.call("open", { frame: frame.toWire() });
  const openBack = async (frame: Frame): Promise<Answer> => {
    const { content, continuity } = await messenger.open({ frame, roster: theirs });
    return { content: toBase64(content), continuity };
  };
  const [send, open, answer, openAnswer] =
    initiator === "typescript" ? [there, openThere, back, openBack] : [back, openBack, there, openThere];

  // Three unanswered, then answers, then whatever comes: sizes about the borders of the padding.
  const contents = [0, 1, 252, 253, 1000, 65_536].map((size) => toBase64(fresh(size)));
  for (const [index, content] of contents.slice(0, 3).entries()) {
    const continuity = index === 0 ? "first" : "continuous";
    expect(await open(await send(bytes(content)))).toEqual({ content, continuity });
  }
  for (const [index, content] of contents.entries()) {
    const continuity = index === 0 ? "first" : "continuous";
    expect(await openAnswer(await answer(bytes(content)))).toEqual({ content, continuity });
    expect(await open(await send(bytes(content)))).toEqual({ content, continuity: "continuous" });
  }
  // Out of order across a turn of the ratchet, and again.
  const late = await send(utf8("late"));
  const early = await send(utf8("early"));
  expect(await open(early)).toEqual({ content: toBase64(utf8("early")), continuity: "gap" });
  const reply = await answer(utf8("reply"));
  expect(await openAnswer(reply)).toMatchObject({ continuity: "continuous" });
  expect(await open(await send(utf8("next")))).toMatchObject({ continuity: "continuous" });
  expect(await open(late)).toEqual({ content: toBase64(utf8("late")), continuity: "late" });
  const replay = await open(late).catch((error: unknown) => ({ error: (error as { code: string }).code }));
  expect(replay).toEqual({ error: "replayed" });
}

export async function exchangeAttachments(ask: Ask): Promise<void> {
  const python = new Python(ask);
  const content = concat(...Array.from({ length: 6 }, () => fresh(50_000)));
  const { attachment, blocks } = await sealAttachment(content);
  const opened = await python.call("detach", {
    descriptor: toBase64(attachment.encode()),
    blocks: blocks.map(toBase64),
  });
  expect(opened["content"]).toBe(toBase64(content));
  const sealed = await python.call("attach", { content: toBase64(content) });
  const theirs = Attachment.decode(bytes(sealed["descriptor"]));
  const stored = (sealed["blocks"] as unknown[]).map(bytes);
  const parts: Bytes[] = [];
  const fetched = (name: string): Promise<Bytes> =>
    Promise.resolve(stored[theirs.cids.indexOf(name)] ?? utf8(""));
  for await (const part of openAttachment(theirs, fetched)) parts.push(part);
  expect(toBase64(concat(...parts))).toBe(toBase64(content));
}

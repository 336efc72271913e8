/** One message of a recipient at a time, from one tab: what keeps a stream's numbers in their order. */
import { afterEach, expect, test } from "vitest";

import { Sending } from "../../src/chat/sending";
import { Frame } from "../../src/security/frame";

const BOB = `0x${"b".repeat(40)}`;
const CAROL = `0x${"c".repeat(40)}`;

function frame(recipient: string, seq: number): Frame {
  const sender = `0x${"a".repeat(40)}`;
  const [ciphertext, nonce] = [new Uint8Array(8), new Uint8Array(12)];
  return new Frame({ sender, device: "phone", recipient, ciphertext, nonce, seq, ts: 1, cids: [] });
}

/** A tab, the frames that it has sent, and a way to wait for its turn. */
class Tab {
  static waiting: Frame[] = [];
  static lock = "";
  readonly sent: string[] = [];
  readonly sending: Sending;
  turns = 0;
  #turned: () => void = () => undefined;

  constructor() {
    this.sending = new Sending({
      lock: Tab.lock,
      outbox: () => Promise.resolve(Tab.waiting),
      send: (wire) => {
        const { recipient, seq } = wire as { recipient: string; seq: number };
        this.sent.push(`${recipient.slice(2, 3)}${seq}`);
        return true;
      },
      onTurn: () => {
        this.turns += 1;
        this.#turned();
      },
      onSilence: () => undefined,
    });
  }

  /** Resolves at the next turn. */
  turn(): Promise<void> {
    return new Promise((resolve) => {
      this.#turned = resolve;
    });
  }

  static acknowledge(recipient: string, seq: number): void {
    Tab.waiting = Tab.waiting.filter((one) => one.recipient !== recipient || one.seq !== seq);
  }
}

const tabs: Tab[] = [];

function tab(): Tab {
  const one = new Tab();
  tabs.push(one);
  return one;
}

afterEach(() => {
  for (const one of tabs.splice(0)) one.sending.end();
});

async function first(): Promise<Tab> {
  Tab.lock = `test/${crypto.randomUUID()}`;
  Tab.waiting = [frame(BOB, 1), frame(BOB, 2), frame(CAROL, 1)];
  const one = tab();
  const turn = one.turn();
  one.sending.begin();
  await turn;
  await one.sending.pump();
  return one;
}

test("the second message of a stream waits for the answer to the first", async () => {
  const one = await first();
  await one.sending.pump();
  expect(one.sent).toEqual(["b1", "c1"]);
  Tab.acknowledge(BOB, 1);
  one.sending.answered(BOB, 7); // of another message
  await one.sending.pump();
  expect(one.sent).toEqual(["b1", "c1"]);
  one.sending.answered(BOB, 1);
  await one.sending.pump();
  expect(one.sent).toEqual(["b1", "c1", "b2"]);
});

test("after a refusal that passes the same message goes again, and none before it", async () => {
  const one = await first();
  const turn = one.turn();
  one.sending.again(BOB, 1, 0);
  await turn;
  await one.sending.pump();
  expect(one.sent).toEqual(["b1", "c1", "b1"]);
});

test("another tab sends nothing before the first one's connection falls", async () => {
  const one = await first();
  const other = tab();
  const turn = other.turn();
  other.sending.begin();
  await other.sending.pump();
  expect(other.turns).toBe(0);
  one.sending.end();
  await turn;
  await one.sending.pump();
  await other.sending.pump();
  expect(other.sent).toEqual(["b1", "c1"]);
  expect(one.sent).toEqual(["b1", "c1"]);
});

test("what was read for a connection that has fallen is not sent", async () => {
  const one = await first();
  Tab.acknowledge(BOB, 1);
  one.sending.answered(BOB, 1);
  const pumping = one.sending.pump();
  one.sending.end();
  await pumping;
  expect(one.sent).toEqual(["b1", "c1"]);
});

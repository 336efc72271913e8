/**
 * What waits goes out: one message of each recipient at a time, from one tab of the browser.
 *
 * The server takes the numbers of a stream upwards only. Two tabs that send side by side, or one that
 * goes on after a refusal that passes, would have it refuse the lower number for good. So the tab that
 * holds a lock sends for all, and the next message of a stream waits for the answer to the one before.
 */
import type { Frame } from "../security/frame";

/** Milliseconds without an answer, after which the connection is not believed any more. */
const UNANSWERED = 30_000;

export interface SendingOptions {
  /** The same in all tabs of the wallet. */
  readonly lock: string;
  /** What waits, each stream in its order. */
  readonly outbox: () => Promise<readonly Frame[]>;
  readonly send: (frame: object) => boolean;
  /** It is this tab's turn, or a message's: `pump` is due. */
  readonly onTurn: (first: boolean) => void;
  readonly onSilence: () => void;
}

interface UnderWay {
  readonly seq: number;
  readonly timer: ReturnType<typeof setTimeout>;
}

export class Sending {
  readonly #options: SendingOptions;
  /** By recipient. */
  readonly #underWay = new Map<string, UnderWay>();
  #turn: AbortController | null = null;
  #ours = false;

  constructor(options: SendingOptions) {
    this.#options = options;
  }

  /** There is a connection: this tab sends as soon as no other one does. */
  begin(): void {
    this.end();
    const turn = new AbortController();
    const { signal } = turn;
    this.#turn = turn;
    const held = (): Promise<void> =>
      new Promise((resolve) => {
        if (signal.aborted) {
          resolve();
          return;
        }
        signal.addEventListener("abort", () => {
          resolve();
        });
        this.#ours = true;
        this.#options.onTurn(true);
      });
    navigator.locks.request(this.#options.lock, { signal }, held).catch((error: unknown) => {
      if (!signal.aborted) reportError(error);
    });
  }

  /** There is none any more: another tab may send. */
  end(): void {
    this.#ours = false;
    for (const { timer } of this.#underWay.values()) clearTimeout(timer);
    this.#underWay.clear();
    this.#turn?.abort();
    this.#turn = null;
  }

  /** Send the first message of each recipient of which none is under way. */
  async pump(): Promise<void> {
    if (!this.#ours) return;
    const turn = this.#turn;
    const waiting = await this.#options.outbox();
    // The connection may have fallen meanwhile, and another tab may be sending.
    if (turn !== this.#turn) return;
    for (const frame of waiting) {
      const { recipient, seq } = frame;
      if (this.#underWay.has(recipient) || !this.#options.send(frame.toWire())) continue;
      this.#wait(recipient, seq, UNANSWERED, this.#options.onSilence);
    }
  }

  /** The server has decided on a message: the next one of its stream may go. */
  answered(recipient: string, seq: number): void {
    const under = this.#underWay.get(recipient);
    if (under?.seq !== seq) return;
    clearTimeout(under.timer);
    this.#underWay.delete(recipient);
    this.#options.onTurn(false);
  }

  /** The server cannot take it now: the same one again, after so many milliseconds. */
  again(recipient: string, seq: number, after: number): void {
    const under = this.#underWay.get(recipient);
    if (under?.seq !== seq) return;
    clearTimeout(under.timer);
    this.#wait(recipient, seq, after, () => {
      this.answered(recipient, seq);
    });
  }

  #wait(recipient: string, seq: number, milliseconds: number, then: () => void): void {
    this.#underWay.set(recipient, { seq, timer: setTimeout(then, milliseconds) });
  }
}

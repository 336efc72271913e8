/**
 * Streams: what has been seen of one sender's messages, so that drops and repeats show.
 *
 * A stream is (sender, device, recipient). Its messages carry the hash of the one before, so what is
 * missing shows even where numbers were passed over lawfully.
 */
import { type Bytes, concat, equal } from "./bytes";
import { Reader, u16, u64 } from "./codec";
import { NO_PREVIOUS_MESSAGE } from "./envelope";
import { CryptoError } from "./errors";

/** Ranges of missing numbers kept for late messages; beyond, the oldest is given up for lost. */
export const MAX_MISSING = 64;

/**
 * How a message follows what was seen of its stream. Only *first* and *continuous* are as they
 * should be; *joined* is what a device sees that was added, or came back, in mid-stream; *gap* means
 * that a message before this one is missing (dropped, withheld or late) and must be shown to the
 * person; *late* is one of those missing before.
 */
export type Continuity = "first" | "continuous" | "joined" | "gap" | "late";

/** Our own stream to one recipient: the last number used and that message's hash. */
export class Outgoing {
  readonly seq: number;
  readonly hash: Bytes;

  constructor(seq = 0, hash: Bytes = NO_PREVIOUS_MESSAGE) {
    this.seq = seq;
    this.hash = hash;
  }

  encode(): Bytes {
    return concat(u64(this.seq), this.hash);
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Outgoing {
    const reader = new Reader(data);
    const stream = new Outgoing(reader.u64(), reader.take(32));
    reader.end();
    return stream;
  }
}

/** Both ends belong to it. */
type Range = readonly [low: number, high: number];

/** What was seen of a stream. */
export class Incoming {
  readonly seq: number;
  readonly hash: Bytes;
  /** Ranges of numbers below `seq`. */
  readonly missing: readonly Range[];

  constructor(seq = 0, hash: Bytes = NO_PREVIOUS_MESSAGE, missing: readonly Range[] = []) {
    this.seq = seq;
    this.hash = hash;
    this.missing = missing;
  }

  /** Throws `replayed` unless `seq` is above all seen, or missing. */
  check(seq: number): void {
    if (seq <= this.seq && !this.missing.some(([low, high]) => low <= seq && seq <= high)) {
      throw new CryptoError("replayed", "this number of the stream was taken, or given up");
    }
  }

  /** Take an authenticated message: how it follows, and the stream after it. Throws `replayed`. */
  take(seq: number, previous: Bytes, hash: Bytes): { continuity: Continuity; next: Incoming } {
    this.check(seq);
    if (seq <= this.seq) {
      const missing = without(this.missing, seq);
      return { continuity: "late", next: new Incoming(this.seq, this.hash, missing) };
    }
    if (equal(previous, this.hash)) {
      // Nothing lies between by the sender's own word: the numbers passed over are unused.
      const continuity = equal(previous, NO_PREVIOUS_MESSAGE) ? "first" : "continuous";
      return { continuity, next: new Incoming(seq, hash, this.missing) };
    }
    const passed: readonly Range[] = seq > this.seq + 1 ? [[this.seq + 1, seq - 1]] : [];
    const missing = [...this.missing, ...passed].slice(-MAX_MISSING);
    const continuity = this.seq === 0 ? "joined" : "gap";
    return { continuity, next: new Incoming(seq, hash, missing) };
  }

  encode(): Bytes {
    return concat(
      u64(this.seq),
      this.hash,
      u16(this.missing.length),
      ...this.missing.flatMap(([low, high]) => [u64(low), u64(high)]),
    );
  }

  /** Throws `decode`. */
  static decode(data: Bytes): Incoming {
    const reader = new Reader(data);
    const seq = reader.u64();
    const hash = reader.take(32);
    const count = reader.u16();
    if (count > MAX_MISSING) throw new CryptoError("decode", "too many missing ranges");
    const missing = Array.from({ length: count }, (): Range => [reader.u64(), reader.u64()]);
    reader.end();
    return new Incoming(seq, hash, missing);
  }
}

function without(ranges: readonly Range[], seq: number): readonly Range[] {
  const parts = ranges.flatMap((range): readonly Range[] => {
    const [low, high] = range;
    if (seq < low || seq > high) return [range];
    const pieces: readonly Range[] = [
      [low, seq - 1],
      [seq + 1, high],
    ];
    return pieces.filter(([from, to]) => from <= to);
  });
  return parts.slice(-MAX_MISSING);
}

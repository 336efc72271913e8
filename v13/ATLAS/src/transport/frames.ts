/** The socket's frames as the server sends them (SPEC.md, "Frames"), taken apart at the edge. */
import { isCode } from "../security/codec";

/** A committed message. Its fields are checked by the protocol (`Frame.fromWire`), not here. */
export interface MessageFrame {
  readonly type: "CHAT_MESSAGE";
  readonly id: string;
  readonly sender: string;
  readonly recipient: string;
  readonly device: string;
  readonly seq: number;
  readonly hash: string;
  /** The ledger's time, for people; nothing is ordered by it. */
  readonly timestamp: string;
  /** The number of the record's line in the ledger. */
  readonly position: number;
}

export type ServerFrame =
  | { readonly type: "READY"; readonly wallet: string; readonly position: number }
  | MessageFrame
  | {
      readonly type: "ACK";
      readonly seq: number;
      readonly hash: string;
      readonly recipient: string;
      readonly device: string;
      readonly position: number;
      readonly timestamp: string;
    }
  | {
      readonly type: "ERROR";
      readonly code: string;
      readonly detail: string;
      readonly seq: number | null;
      readonly recipient: string | null;
      /** Of the stream, where the server knows more of it than this device. */
      readonly lastSeq: number | null;
      /** Seconds. */
      readonly retryAfter: number | null;
    }
  | { readonly type: "RESUMED"; readonly position: number; readonly complete: boolean }
  | {
      readonly type: "RECEIPT";
      readonly kind: "delivered" | "read";
      readonly position: number;
      readonly wallet: string;
    }
  | { readonly type: "PREKEYS_LOW"; readonly device: string };

type Fields = Readonly<Record<string, unknown>>;

const FIELDS: Readonly<Record<ServerFrame["type"], Readonly<Record<string, "string" | "number" | "boolean">>>> = {
  READY: { wallet: "string", position: "number" },
  CHAT_MESSAGE: {
    id: "string",
    sender: "string",
    recipient: "string",
    device: "string",
    seq: "number",
    hash: "string",
    timestamp: "string",
    position: "number",
  },
  ACK: {
    seq: "number",
    hash: "string",
    recipient: "string",
    device: "string",
    position: "number",
    timestamp: "string",
  },
  ERROR: { code: "string", detail: "string" },
  RESUMED: { position: "number", complete: "boolean" },
  RECEIPT: { kind: "string", position: "number", wallet: "string" },
  PREKEYS_LOW: { device: "string" },
};

// The numbers of a frame count something: streams' messages and lines of the ledger.
function isOf(kind: string, value: unknown): boolean {
  return kind === "number" ? isCount(value) : typeof value === kind;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/**
 * The frame in `text`; null for one that this client does not know (newer servers may send more),
 * or that makes no sense. All fields of a CHAT_MESSAGE are kept: the sender's signature covers them.
 */
export function parseServerFrame(text: string): ServerFrame | null {
  let fields: unknown;
  try {
    fields = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof fields !== "object" || fields === null) return null;
  const frame = fields as Fields;
  const { type } = frame;
  if (typeof type !== "string" || !Object.hasOwn(FIELDS, type)) return null;
  const expected = FIELDS[type as ServerFrame["type"]];
  if (!Object.entries(expected).every(([name, kind]) => isOf(kind, frame[name]))) return null;
  if (type === "ERROR") {
    const { code, seq, recipient, last_seq: lastSeq, retry_after: retryAfter } = frame;
    if (!isCode(code)) return null;
    return {
      type,
      code,
      detail: String(frame["detail"]),
      seq: isCount(seq) ? seq : null,
      recipient: typeof recipient === "string" ? recipient : null,
      lastSeq: isCount(lastSeq) ? lastSeq : null,
      retryAfter: typeof retryAfter === "number" && retryAfter >= 0 ? retryAfter : null,
    };
  }
  return frame as unknown as ServerFrame;
}

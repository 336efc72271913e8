/** What codes mean to a person: one sentence, and what to do where there is something to do. */
import type { ChatEntry } from "../chat/archive";
import { codeOf } from "../chat/failure";

/** Sentences, by code. */
export type Words = Readonly<Record<string, string>>;

const WHY_NOT_SHOWN: Words = {
  unknown_session: "This message cannot be read on this device. Ask for it to be sent again.",
  unknown_prekey: "This message cannot be read on this device. Ask for it to be sent again.",
  too_many_skipped: "This message cannot be read: too many before it are missing. Ask for it again.",
  not_addressed: "This message was not encrypted for this device.",
  replayed: "The server delivered a message a second time. It is not shown again.",
  device_revoked: "A message from a device that was revoked. It is not shown.",
  not_certified: "A message from a device that is not certified. It is not shown.",
};

const WHY_NOT_SENT: Words = {
  bad_signature: "the server did not accept this device’s signature. Reload this page",
  identity_changed: "the safety number has changed",
  unknown_device: "this device’s keys no longer count. Reload this page",
  not_a_member: "the server does not let you write here",
  message_too_large: "it is too long",
  invalid_message: "the server could not read it",
  hash_mismatch: "it was damaged on its way",
};

const REVOKED =
  "This device no longer counts: it was revoked, or your keys were renewed on another one. Reload this page.";

const PROBLEMS: Words = {
  identity_changed: "The safety number has changed. Compare it before you write.",
  not_certified: "This wallet has not set up secure chat, so nothing can be encrypted for it yet.",
  refused: "There is no device to encrypt to.",
  content_too_large: "The message is too long. Send it in parts.",
  state_rolled_back: "This browser’s keys are an old copy. Nothing is sent until you begin again.",
  state_unreadable: "What this browser has kept cannot be read.",
  storage: "The browser could not keep a message. Make room for it, then reload this page.",
  device_revoked: REVOKED,
  unknown_device: REVOKED,
  unauthorized: "Your login is no longer valid. Log in again.",
  unreachable: "The server does not answer. Try again when it does.",
  no_wallet: "No wallet is there to sign. Open this page in a browser that has one.",
  refused_by_wallet: "Your wallet did not sign. Try again, and let it sign.",
  unexpected: "Something went wrong in this page. Reload it, then try again.",
  rate_limited: "Too many requests. Wait a moment, then try again.",
};

/** The sentence for `code`, which a server may have made up; null when there is none. */
function sentence(words: Words, code: string): string | null {
  return Object.hasOwn(words, code) ? (words[code] ?? null) : null;
}

/** Why an entry, or `count` of them, is not shown. */
export function whyNotShown(code: string, count = 1): string {
  if (count > 1) return `${count} messages were not encrypted for this device.`;
  const why = sentence(WHY_NOT_SHOWN, code);
  return why ?? `A message that could not be verified (${code}). It is not shown.`;
}

/** What is wrong, for a code of the protocol or of the wire. */
export function problemText(code: string): string {
  return sentence(PROBLEMS, code) ?? `Something went wrong (${code}).`;
}

/** Why something failed, and what to do; `words` come before the usual ones. */
export function whyItFailed(error: unknown, words: Words = {}): string {
  const code = codeOf(error);
  return sentence(words, code) ?? problemText(code);
}

function whyNotSent(code: string): string {
  return sentence(WHY_NOT_SENT, code) ?? `the server refused it (${code})`;
}

/** How far a message of one's own has come; the truth, as far as it is known here. */
export function stateText(entry: ChatEntry): string {
  const at = entry.position === null ? "" : ` at ${entry.position}`;
  switch (entry.state) {
    case "sending":
      return "Sending";
    case "committed":
      return `In the ledger${at}`;
    case "delivered":
      return `Delivered, in the ledger${at}`;
    case "read":
      return `Read, in the ledger${at}`;
    case "failed":
      return `Not sent: ${whyNotSent(entry.problem ?? "refused")}`;
  }
}

/** An entry as it is read out when it comes: shorter than what is shown. */
export function spokenText(entry: ChatEntry): string {
  const { text, state, problem, continuity } = entry;
  if (state === "failed") return `${stateText(entry)}. ${text}`;
  if (problem !== null) return "A message has come that is not shown.";
  if (continuity === "gap") return `Messages are missing. ${text}`;
  return continuity === "late" ? `A late message. ${text}` : text;
}

/** What must be said before an entry; null when it follows as it should. */
export function continuityText(entry: ChatEntry): string | null {
  if (entry.continuity === "gap") {
    return "One or more messages before this one are missing: lost, withheld, or late.";
  }
  if (entry.continuity === "late") return "This message was missing and came late.";
  return null;
}

/** What must be said before an entry that stands where its sender did not put it. */
export const MISPLACED =
  "The server has put the next message in another place than its sender did: it was written earlier.";

/** A wallet, short enough for a line: its beginning and its end. */
export function shortWallet(wallet: string): string {
  return wallet.length > 15 ? `${wallet.slice(0, 8)}…${wallet.slice(-6)}` : wallet;
}

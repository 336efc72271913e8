/** The safety number with a peer: digits to read out, and the same as a QR code to hold side by side. */
import { type ReactNode, useEffect, useState } from "react";
import { encode } from "uqr";

import type { ChatSession } from "../chat/session";
import type { Contact } from "../security/contacts";
import { grouped } from "../security/safety";
import { Dialog } from "./Dialog";
import styles from "./SafetyNumber.module.css";
import theme from "./theme.module.css";
import { problemText, shortWallet } from "./words";

export interface SafetyNumberProps {
  readonly session: ChatSession;
  readonly peer: string;
  /** Whether the number is a new one that has to be accepted. */
  readonly changed: boolean;
  readonly onClose: () => void;
}

type Found =
  | { readonly contact: Contact; readonly number: string }
  | { readonly problem: string }
  | null;

async function find(session: ChatSession, peer: string): Promise<Found> {
  try {
    const contact = await session.contact(peer);
    if (contact === null) return { problem: problemText("not_certified") };
    return { contact, number: await session.safetyNumber(contact) };
  } catch {
    return { problem: "The key directory could not be asked. Try again when you are online." };
  }
}

export function SafetyNumber({ session, peer, changed, onClose }: SafetyNumberProps): ReactNode {
  const [found, setFound] = useState<Found>(null);
  useEffect(() => {
    let wanted = true;
    void find(session, peer).then((one) => {
      if (wanted) setFound(one);
    });
    return () => {
      wanted = false;
    };
  }, [session, peer]);
  return (
    <Dialog title="Safety number" onClose={onClose}>
      <p>
        Compare this number with {shortWallet(peer)} over another channel: in person, or by a call.
        When it is the same on both sides, nobody is in between.
      </p>
      {found === null && <p role="status">Asking the key directory…</p>}
      {found !== null && "problem" in found && <p role="alert">{found.problem}</p>}
      {found !== null && "number" in found && (
        <>
          <p className={styles["digits"]} data-testid="safety-number">
            {grouped(found.number)}
          </p>
          <Code text={found.number} />
          {changed && found.contact.succession === "reset" && (
            <button
              type="button"
              className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
              onClick={() => {
                session.accept(peer, found.contact, found.number).then(onClose, reportError);
              }}
            >
              I have compared it: accept
            </button>
          )}
        </>
      )}
    </Dialog>
  );
}

function Code({ text }: { readonly text: string }): ReactNode {
  const { data, size } = encode(text, { border: 2 });
  const path = data.flatMap((row, y) => row.map((on, x) => (on ? `M${x} ${y}h1v1h-1z` : "")));
  return (
    <svg
      className={styles["code"]}
      viewBox={`0 0 ${size} ${size}`}
      role="img"
      aria-label="The safety number as a QR code"
    >
      <path d={path.join("")} />
    </svg>
  );
}

/** The safety number with a peer: digits to read out, and the same as a QR code to hold side by side. */
import { type ReactNode, useEffect, useState } from "react";
import { encode } from "uqr";

import type { ChatSession } from "../chat/session";
import { useAttempt } from "../hooks/useAttempt";
import type { Contact } from "../security/contacts";
import { grouped } from "../security/safety";
import { Dialog } from "./Dialog";
import styles from "./SafetyNumber.module.css";
import { Problem } from "./Problem";
import theme from "./theme.module.css";
import { problemText, shortWallet, whyItFailed, type Words } from "./words";

export interface SafetyNumberProps {
  readonly session: ChatSession;
  readonly peer: string;
  /** Whether the number is a new one that has to be accepted. */
  readonly changed: boolean;
  readonly onClose: () => void;
}

interface Comparison {
  readonly contact: Contact;
  readonly number: string;
}

type Found = Comparison | { readonly problem: string } | null;

const WHY_NOT_ACCEPTED: Words = {
  refused: "The number has changed meanwhile. Close this, and compare it again.",
};

async function find(session: ChatSession, peer: string): Promise<Found> {
  try {
    const contact = await session.contact(peer);
    if (contact === null) return { problem: problemText("not_certified") };
    return { contact, number: await session.safetyNumber(contact) };
  } catch (error) {
    return { problem: `There is no number to compare. ${whyItFailed(error)}` };
  }
}

export function SafetyNumber({ session, peer, changed, onClose }: SafetyNumberProps): ReactNode {
  const [found, setFound] = useState<Found>(null);
  const accepting = useAttempt(WHY_NOT_ACCEPTED);
  useEffect(() => {
    let wanted = true;
    void find(session, peer).then((one) => {
      if (wanted) setFound(one);
    });
    return () => {
      wanted = false;
    };
  }, [session, peer]);

  async function accept({ contact, number }: Comparison): Promise<void> {
    if (await accepting.begin(() => session.accept(peer, contact, number))) onClose();
  }

  return (
    <Dialog title="Safety number" onClose={onClose}>
      {found === null && <p role="status">Asking the key directory…</p>}
      {found !== null && "problem" in found && <Problem text={found.problem} />}
      {found !== null && "number" in found && (
        <>
          <p>
            Compare this number with {shortWallet(peer)} over another channel: in person, or by a
            call. When it is the same on both sides, nobody is in between.
          </p>
          <p className={styles["digits"]} data-testid="safety-number">
            {grouped(found.number)}
          </p>
          <Code text={found.number} />
          {(changed ? found.contact.succession === "reset" : found.contact.rotated) && (
            <button
              type="button"
              className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
              disabled={accepting.underWay}
              onClick={() => {
                void accept(found);
              }}
            >
              I have compared it: accept
            </button>
          )}
          <Problem text={accepting.problem} what="It was not accepted." />
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

/** The devices of both sides, and adding one of one's own. */
import { type ReactNode, type SyntheticEvent, useEffect, useId, useState } from "react";

import type { ChatSession } from "../chat/session";
import { useAttempt } from "../hooks/useAttempt";
import { fromBase64, toBase64 } from "../security/bytes";
import { answerRequest } from "../security/enrolment";
import { CryptoError } from "../security/errors";
import type { Roster } from "../security/roster";
import { Copy } from "./Copy";
import styles from "./DeviceList.module.css";
import { Dialog } from "./Dialog";
import { Problem } from "./Problem";
import theme from "./theme.module.css";
import { shortWallet, whyItFailed, type Words } from "./words";

export interface DeviceListProps {
  readonly session: ChatSession;
  readonly peer: string;
  readonly onClose: () => void;
}

type Side = { readonly wallet: string; readonly roster: Roster | null } | null;

async function side(session: ChatSession, wallet: string): Promise<Side> {
  return { wallet, roster: (await session.contact(wallet))?.roster ?? null };
}

export function DeviceList({ session, peer, onClose }: DeviceListProps): ReactNode {
  const [sides, setSides] = useState<readonly Side[]>([null, null]);
  const [problem, setProblem] = useState<string | null>(null);
  /** How often the own devices were changed here: then both sides are asked for again. */
  const [changes, setChanges] = useState(0);
  useEffect(() => {
    let wanted = true;
    Promise.all([side(session, session.wallet), side(session, peer)]).then(
      (found) => {
        if (wanted) setSides(found);
      },
      (error: unknown) => {
        if (wanted) setProblem(whyItFailed(error));
      },
    );
    return () => {
      wanted = false;
    };
  }, [session, peer, changes]);
  return (
    <Dialog title="Devices" onClose={onClose}>
      <p>Messages are encrypted for these devices and for no others.</p>
      <Problem text={problem} what="The devices are not known." />
      {["You", shortWallet(peer)].map((who, index) => (
        <section key={who}>
          <h3 className={styles["who"]}>{who}</h3>
          <Devices side={sides[index] ?? null} own={session.messenger.device} />
        </section>
      ))}
      <AddDevice session={session} />
      <RenewKeys
        session={session}
        onRenewed={() => {
          setChanges((before) => before + 1);
        }}
      />
    </Dialog>
  );
}

function Devices({ side, own }: { readonly side: Side; readonly own: string }): ReactNode {
  if (side === null) return <p>…</p>;
  if (side.roster === null) return <p>None yet.</p>;
  const { roster } = side;
  const active = new Set(roster.active.map((one) => one.device));
  return (
    <ul className={styles["devices"]}>
      {roster.certificates.map(({ device }) => (
        <li key={device}>
          <code>{device}</code>
          {device === own && " (this browser)"}
          {!active.has(device) && " (revoked)"}
        </li>
      ))}
    </ul>
  );
}

const NO_REQUEST = "This is not a device’s request.";

const WHY_NOT_ADDED: Words = {
  decode: NO_REQUEST,
  unsupported_suite: NO_REQUEST,
  not_certified: "This is a request of another wallet.",
  refused: "This browser may not add devices. The one that your chat began in may.",
};

/** Answering the request that a further device of one's own shows. */
function AddDevice({ session }: { readonly session: ChatSession }): ReactNode {
  const [request, setRequest] = useState("");
  const [answer, setAnswer] = useState<string | null>(null);
  const { underWay, problem, begin } = useAttempt(WHY_NOT_ADDED);
  const field = useId();

  function submit(event: SyntheticEvent): void {
    event.preventDefault();
    setAnswer(null);
    void begin(async () => {
      const bytes = fromBase64(request.trim());
      if (bytes === null) throw new CryptoError("decode", "not base64");
      setAnswer(toBase64(await answerRequest(session.messenger, bytes)));
    });
  }

  return (
    <form className={styles["add"]} onSubmit={submit}>
      <h3 className={styles["who"]}>Add a device of yours</h3>
      <label htmlFor={field}>The request that it shows</label>
      <textarea
        id={field}
        className={theme["carried"]}
        rows={3}
        value={request}
        onChange={(event) => {
          setRequest(event.target.value);
        }}
      />
      <Problem text={problem} />
      <button type="submit" className={theme["button"]} disabled={underWay || request.trim() === ""}>
        Make the answer
      </button>
      {answer !== null && (
        <>
          <p>Carry this answer back to the new device, and only there:</p>
          <output className={theme["carried"]} tabIndex={0} aria-label="Answer">
            {answer}
          </output>
          <Copy text={answer} what="the answer" />
        </>
      )}
    </form>
  );
}

const WHY_NOT_RENEWED: Words = {
  refused: "It works on the device that set up your chat, once everything you wrote is sent.",
  unreachable: "The server does not answer. Reload this page: if they are renewed, it is told then.",
};

interface RenewKeysProps {
  readonly session: ChatSession;
  readonly onRenewed: () => void;
}

/** A new identity key for one's own wallet, on the device that has the present one. */
function RenewKeys({ session, onRenewed }: RenewKeysProps): ReactNode {
  const [done, setDone] = useState(false);
  const { underWay, problem, begin } = useAttempt(WHY_NOT_RENEWED);
  return (
    <details className={styles["renew"]}>
      <summary>Renew your keys</summary>
      <p>
        Your wallet signs twice. Everyone you write with is shown a new safety number, and messages go
        on. Your other devices stop until you add them again.
      </p>
      <button
        type="button"
        className={theme["button"]}
        disabled={underWay}
        onClick={() => {
          void begin(() => session.rotate()).then((renewed) => {
            setDone(renewed);
            if (renewed) onRenewed();
          });
        }}
      >
        Renew
      </button>
      <Problem text={problem} />
      {done && <p role="status">Your keys are renewed. Now add your other devices again.</p>}
    </details>
  );
}

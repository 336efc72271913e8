/** What is shown before a chat is open: that it opens, why it does not, or how this browser joins. */
import { type ReactNode, type SyntheticEvent, useId, useState } from "react";

import type { ChatSession } from "../chat/session";
import type { Gate, OpeningChat } from "../chat/sessions";
import { useAttempt } from "../hooks/useAttempt";
import { useChat, useGate } from "../hooks/useChat";
import { type Bytes, fromBase64, toBase64 } from "../security/bytes";
import { CryptoError } from "../security/errors";
import styles from "./ChatGate.module.css";
import { Copy } from "./Copy";
import { Problem } from "./Problem";
import theme from "./theme.module.css";
import { problemText, type Words } from "./words";

export interface ChatGateProps {
  readonly token: string;
  readonly wallet: string;
  readonly place: Gate["place"];
  readonly children: (session: ChatSession) => ReactNode;
}

export function ChatGate({ token, wallet, place, children }: ChatGateProps): ReactNode {
  const { opening, chat } = useChat(token, wallet);
  const asks = useGate(chat, place);
  if (opening.at === "open") return children(opening.session);
  if (!asks) return <p className={styles["elsewhere"]}>Your chat is not open yet.</p>;
  switch (opening.at) {
    case "opening":
      return (
        <div className={styles["gate"]} role="status">
          <p>Opening your encrypted chat. Your wallet may ask you to sign.</p>
        </div>
      );
    case "failed":
      return (
        <div className={styles["gate"]} role="alert">
          <p>{problemText(opening.code)}</p>
          <button
            type="button"
            className={theme["button"]}
            onClick={() => {
              chat.again();
            }}
          >
            Try again
          </button>
        </div>
      );
    case "unknown_device":
      return (
        <div className={styles["gate"]}>
          <h2 className={styles["title"]}>This browser is new to your chat</h2>
          <p>
            Your wallet already chats on another device. Let that device add this browser, and both
            can read from now on. What was written before stays where it is.
          </p>
          <JoinDevice chat={chat} request={opening.request} />
          <BeginAnew chat={chat} />
        </div>
      );
    case "left_behind":
      return (
        <div className={styles["gate"]}>
          <h2 className={styles["title"]}>Your keys were renewed on another device</h2>
          <p>
            Let that device add this browser again; it goes on with what it has. If you did not renew
            them, somebody else can sign for your wallet.
          </p>
          <JoinDevice chat={chat} request={opening.request} />
        </div>
      );
  }
}

interface JoinDeviceProps {
  readonly chat: OpeningChat;
  readonly request: Bytes | null;
}

const ANOTHER_REQUEST = "This is the answer to another request. Let the other device answer this one.";
const NO_ANSWER = "This is not an answer. Copy all of it from the other device.";

const WHY_NOT_JOINED: Words = {
  decode: NO_ANSWER,
  unsupported_suite: NO_ANSWER,
  not_certified: "This is an answer for another wallet.",
  refused: "This answer is from before the keys were renewed. Let the other device answer again.",
  verification: ANOTHER_REQUEST,
  bad_classical_signature: ANOTHER_REQUEST,
  bad_post_quantum_signature: ANOTHER_REQUEST,
};

/** Joining by another device's word. */
function JoinDevice({ chat, request }: JoinDeviceProps): ReactNode {
  const [answer, setAnswer] = useState("");
  const { underWay, problem, begin } = useAttempt(WHY_NOT_JOINED);
  const field = useId();

  function finish(event: SyntheticEvent): void {
    event.preventDefault();
    void begin(async () => {
      const bytes = fromBase64(answer.trim());
      if (bytes === null) throw new CryptoError("decode", "not base64");
      await chat.finish(bytes);
    });
  }

  return (
    <>
      {request === null ? (
        <button
          type="button"
          className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
          disabled={underWay}
          onClick={() => {
            void begin(() => chat.begin());
          }}
        >
          Show this browser’s request
        </button>
      ) : (
        <form className={styles["join"]} onSubmit={finish}>
          <p>1. Copy this to the other device, under Devices, “Add a device of yours”:</p>
          {/* Reachable by the keyboard, so that it can be scrolled. */}
          <output className={theme["carried"]} tabIndex={0} aria-label="Request">
            {toBase64(request)}
          </output>
          <Copy text={toBase64(request)} what="the request" />
          <label htmlFor={field}>2. Paste its answer here:</label>
          <textarea
            id={field}
            className={theme["carried"]}
            rows={3}
            value={answer}
            onChange={(event) => {
              setAnswer(event.target.value);
            }}
          />
          <button
            type="submit"
            className={theme["button"]}
            disabled={underWay || answer.trim() === ""}
          >
            Join
          </button>
        </form>
      )}
      {underWay && <p role="status">One moment. Your wallet may ask you to sign.</p>}
      <Problem text={problem} />
    </>
  );
}

/** The other device is gone, and with it the identity's key. */
function BeginAnew({ chat }: { readonly chat: OpeningChat }): ReactNode {
  const [sure, setSure] = useState(false);
  return (
    <details>
      <summary>The other device is lost</summary>
      <p>
        You can begin anew with a new identity. Everyone you write with will see that your safety
        number has changed, and your old devices stop working.
      </p>
      <label>
        <input
          type="checkbox"
          checked={sure}
          onChange={(event) => {
            setSure(event.target.checked);
          }}
        />{" "}
        I understand
      </label>{" "}
      <button
        type="button"
        className={theme["button"]}
        disabled={!sure}
        onClick={() => {
          chat.startAnew();
        }}
      >
        Begin anew
      </button>
    </details>
  );
}

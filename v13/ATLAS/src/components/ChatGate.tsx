/** What is shown before a chat is open: that it opens, why it does not, or how this browser joins. */
import { type ReactNode, type SyntheticEvent, useId, useState } from "react";

import type { ChatSession } from "../chat/session";
import type { OpeningChat } from "../chat/sessions";
import { useChat } from "../hooks/useChat";
import { fromBase64, toBase64 } from "../security/bytes";
import type { FurtherDevice } from "../security/enrolment";
import styles from "./ChatGate.module.css";
import theme from "./theme.module.css";
import { problemText } from "./words";

export interface ChatGateProps {
  readonly token: string;
  readonly wallet: string;
  readonly children: (session: ChatSession) => ReactNode;
}

export function ChatGate({ token, wallet, children }: ChatGateProps): ReactNode {
  const { opening, chat } = useChat(token, wallet);
  switch (opening.at) {
    case "open":
      return children(opening.session);
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
      return <JoinDevice chat={chat} />;
  }
}

/** The wallet has secure chat elsewhere: join by that device's word, or begin anew. */
function JoinDevice({ chat }: { readonly chat: OpeningChat }): ReactNode {
  const [device, setDevice] = useState<FurtherDevice | null>(null);
  const [answer, setAnswer] = useState("");
  const [problem, setProblem] = useState(false);
  const [sure, setSure] = useState(false);
  const field = useId();

  function finish(event: SyntheticEvent): void {
    event.preventDefault();
    const bytes = fromBase64(answer.trim());
    setProblem(bytes === null);
    if (device !== null && bytes !== null) chat.finish(device, bytes);
  }

  return (
    <div className={styles["gate"]}>
      <h2 className={styles["title"]}>This browser is new to your chat</h2>
      <p>
        Your wallet already chats on another device. Let that device add this browser, and both can
        read from now on. What was written before stays where it is.
      </p>
      {device === null ? (
        <button
          type="button"
          className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
          onClick={() => {
            chat.begin().then(setDevice, reportError);
          }}
        >
          Show this browser’s request
        </button>
      ) : (
        <form className={styles["join"]} onSubmit={finish}>
          <p>1. Copy this to the other device, under Devices, “Add a device of yours”:</p>
          {/* Reachable by the keyboard, so that it can be scrolled. */}
          <output className={styles["code"]} tabIndex={0} aria-label="Request">
            {toBase64(device.request)}
          </output>
          <label htmlFor={field}>2. Paste its answer here:</label>
          <textarea
            id={field}
            rows={3}
            value={answer}
            onChange={(event) => {
              setAnswer(event.target.value);
            }}
          />
          {problem && <p role="alert">This is not an answer.</p>}
          <button type="submit" className={theme["button"]} disabled={answer.trim() === ""}>
            Join
          </button>
        </form>
      )}
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
    </div>
  );
}

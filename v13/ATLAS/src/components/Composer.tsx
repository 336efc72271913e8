/** Where one writes: Enter sends, Shift and Enter begin a new line. Nothing is cleared before it is kept. */
import { type KeyboardEvent, type ReactNode, useId, useState } from "react";

import { useAttempt } from "../hooks/useAttempt";
import styles from "./Composer.module.css";
import theme from "./theme.module.css";

export interface ComposerProps {
  /** Resolves when the text is kept. */
  readonly onSend: (text: string) => Promise<void>;
  /** Why nothing can be written now; null when it can. */
  readonly blocked: string | null;
}

export function Composer({ onSend, blocked }: ComposerProps): ReactNode {
  const [text, setText] = useState("");
  const { underWay, problem: failed, begin } = useAttempt();
  /** What was last tried: why it failed says nothing of another text. */
  const [tried, setTried] = useState("");
  const problem = text === tried ? failed : null;
  const field = useId();
  const ready = blocked === null && !underWay && text.trim() !== "";

  async function send(): Promise<void> {
    if (!ready) return;
    setTried(text);
    if (await begin(() => onSend(text))) setText("");
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    void send();
  }

  return (
    <form
      className={styles["composer"]}
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      {(problem ?? blocked) !== null && (
        <p className={styles["problem"]} role={problem === null ? "status" : "alert"}>
          {problem ?? blocked}
        </p>
      )}
      <label htmlFor={field} className={theme["spoken"]}>
        Message
      </label>
      <textarea
        id={field}
        className={styles["field"]}
        rows={1}
        dir="auto"
        value={text}
        disabled={blocked !== null}
        placeholder="Write a message"
        onChange={(event) => {
          setText(event.target.value);
        }}
        onKeyDown={onKeyDown}
      />
      <button
        type="submit"
        className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
        disabled={!ready}
      >
        Send
      </button>
    </form>
  );
}

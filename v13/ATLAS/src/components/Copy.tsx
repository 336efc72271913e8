/** A button that copies a text, and says whether it did. */
import { type ReactNode, useState } from "react";

import theme from "./theme.module.css";

export interface CopyProps {
  readonly text: string;
  /** What the text is, after "Copy". */
  readonly what: string;
}

export function Copy({ text, what }: CopyProps): ReactNode {
  const [outcome, setOutcome] = useState("");
  return (
    <span className={theme["copy"]}>
      <button
        type="button"
        className={theme["button"]}
        onClick={() => {
          navigator.clipboard.writeText(text).then(
            () => {
              setOutcome("Copied.");
            },
            () => {
              setOutcome("Your browser does not let this page copy. Copy it by hand.");
            },
          );
        }}
      >
        Copy {what}
      </button>{" "}
      <span role="status">{outcome}</span>
    </span>
  );
}

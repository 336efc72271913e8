/** What has failed and why, read out when it comes; nothing while there is no such text. */
import type { ReactNode } from "react";

import theme from "./theme.module.css";

export interface ProblemProps {
  readonly text: string | null;
  /** What has failed, when the text says only why. */
  readonly what?: string;
}

export function Problem({ text, what }: ProblemProps): ReactNode {
  if (text === null) return null;
  return (
    <p className={theme["problem"]} role="alert">
      {what === undefined ? text : `${what} ${text}`}
    </p>
  );
}

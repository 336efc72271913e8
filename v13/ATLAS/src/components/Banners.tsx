/** What a person must know before reading or writing on; the gravest first. */
import type { ReactNode } from "react";

import type { ChatSession, SessionView } from "../chat/session";
import { useAttempt } from "../hooks/useAttempt";
import theme from "./theme.module.css";
import { problemText } from "./words";

export interface BannersProps {
  readonly session: ChatSession;
  readonly view: SessionView;
  readonly changed: boolean;
  readonly rotated: boolean;
  readonly onCompare: () => void;
}

export function Banners(props: BannersProps): ReactNode {
  const { session, view, changed, rotated, onCompare } = props;
  const beginning = useAttempt();
  const bad = `${theme["banner"] ?? ""} ${theme["bad"] ?? ""}`;
  const warn = `${theme["banner"] ?? ""} ${theme["warn"] ?? ""}`;
  return (
    <>
      {view.problem !== null && (
        <div className={bad} role="alert">
          <p>
            {problemText(view.problem)}
            {beginning.problem !== null && ` It did not begin again. ${beginning.problem}`}
          </p>
          {view.problem === "state_rolled_back" && (
            <button
              type="button"
              className={theme["button"]}
              disabled={beginning.underWay}
              onClick={() => {
                void beginning.begin(() => session.beginAgain());
              }}
            >
              Begin again
            </button>
          )}
        </div>
      )}
      {changed && (
        <div className={bad} role="alert">
          <p>
            The safety number has changed: new keys on the other side, or somebody in between.
            Nothing is sent, and nothing new is shown, until you have compared it.
          </p>
          <button type="button" className={theme["button"]} onClick={onCompare}>
            Compare
          </button>
        </div>
      )}
      {rotated && (
        <div className={warn} role="status">
          <p>
            The safety number is another one: the other side has renewed its keys, and the old keys
            vouch for the new. Messages go on.
          </p>
          <button type="button" className={theme["button"]} onClick={onCompare}>
            Compare
          </button>
        </div>
      )}
      {view.connection === "refused" && (
        <div className={bad} role="alert">
          <p>{problemText(view.refusal === "" ? "unauthorized" : view.refusal)}</p>
        </div>
      )}
      {view.connection === "offline" && (
        <div className={warn} role="status">
          <p>There is no connection to the server. What you write is kept, and sent when it is back.</p>
        </div>
      )}
      {!view.complete && (
        <div className={warn} role="status">
          <p>Some of what you missed is no longer on the server and cannot be shown.</p>
        </div>
      )}
    </>
  );
}

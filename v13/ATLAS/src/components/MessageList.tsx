/** The lines of a conversation in ledger order, with days between them and history above. */
import { type ReactNode, useEffect, useLayoutEffect, useMemo, useRef } from "react";

import { type ChatEntry, misplaced } from "../chat/archive";
import type { ConversationView } from "../chat/session";
import styles from "./MessageList.module.css";
import theme from "./theme.module.css";
import { continuityText, MISPLACED, stateText, whyNotShown } from "./words";

export interface MessageListProps {
  readonly view: ConversationView;
  readonly own: string;
  readonly onOlder: () => Promise<void>;
  readonly onRetry: (entry: ChatEntry) => void;
}

/** So near to its end, in pixels, a reader counts as being there. */
const AT_END = 80;

export function MessageList({ view, own, onOlder, onRetry }: MessageListProps): ReactNode {
  const list = useRef<HTMLDivElement>(null);
  const top = useRef<HTMLButtonElement>(null);
  const place = useRef({ atEnd: true, fromEnd: 0 });
  const { entries, more, loaded } = view;
  const elsewhere = useMemo(() => misplaced(entries), [entries]);

  // Stay at the end while the reader is there; stay where the reader is when history comes above.
  useLayoutEffect(() => {
    const shown = list.current;
    if (shown === null) return;
    const { atEnd, fromEnd } = place.current;
    if (atEnd) shown.scrollTop = shown.scrollHeight;
    else if (shown.scrollTop === 0) shown.scrollTop = shown.scrollHeight - fromEnd;
  }, [entries]);

  useEffect(() => {
    const button = top.current;
    if (button === null) return;
    const observer = new IntersectionObserver(([seen]) => {
      if (seen?.isIntersecting === true && !place.current.atEnd) button.click();
    });
    observer.observe(button);
    return () => {
      observer.disconnect();
    };
  }, [more]);

  if (!loaded) return <div className={styles["list"]} role="status" aria-label="Loading" />;
  return (
    <div
      ref={list}
      className={styles["list"]}
      // Reachable by the keyboard, so that it can be scrolled.
      tabIndex={0}
      role="log"
      aria-label="Messages"
      onScroll={({ currentTarget }) => {
        const { scrollHeight, scrollTop, clientHeight } = currentTarget;
        const fromEnd = scrollHeight - scrollTop;
        place.current = { atEnd: fromEnd - clientHeight < AT_END, fromEnd };
      }}
    >
      {more && (
        <button
          ref={top}
          type="button"
          className={`${theme["button"] ?? ""} ${styles["older"] ?? ""}`}
          onClick={() => {
            onOlder().catch(reportError);
          }}
        >
          Older messages
        </button>
      )}
      {entries.length === 0 && (
        <p className={styles["empty"]}>
          No messages yet. What you write is encrypted in this browser; the server only sees that
          you wrote, and when.
        </p>
      )}
      {entries.map((entry, index) => {
        const day = dayOf(entry);
        const before = entries[index - 1];
        return (
          <div key={entry.id}>
            {(before === undefined || dayOf(before) !== day) && (
              <p className={styles["day"]}>
                <span>{day}</span>
              </p>
            )}
            <Line
              entry={entry}
              own={own}
              notice={elsewhere.has(entry.id) ? MISPLACED : continuityText(entry)}
              onRetry={onRetry}
            />
          </div>
        );
      })}
    </div>
  );
}

interface LineProps {
  readonly entry: ChatEntry;
  readonly own: string;
  readonly notice: string | null;
  readonly onRetry: (entry: ChatEntry) => void;
}

function Line({ entry, own, notice, onRetry }: LineProps): ReactNode {
  const { direction, text, state, problem, device } = entry;
  const hidden = problem !== null && state !== "failed";
  const kind = hidden ? "hidden" : direction;
  return (
    <>
      {notice !== null && <p className={styles["notice"]}>{notice}</p>}
      <article className={`${styles["line"] ?? ""} ${styles[kind] ?? ""}`}>
        <p className={styles["text"]} dir="auto">
          {hidden ? whyNotShown(problem) : text}
        </p>
        <footer className={styles["foot"]}>
          <time dateTime={dateOf(entry).toISOString()}>{timeOf(entry)}</time>
          {direction === "out" && !hidden && (
            <span className={styles["state"]} data-state={state}>
              {device === own ? stateText(entry) : `${stateText(entry)}, from ${device}`}
            </span>
          )}
          {state === "failed" && (
            <button
              type="button"
              className={styles["retry"]}
              onClick={() => {
                onRetry(entry);
              }}
            >
              Send again
            </button>
          )}
        </footer>
      </article>
    </>
  );
}

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

// The sender's clock may say anything; beyond what a date can be it says nothing.
function dateOf({ ts }: ChatEntry): Date {
  const date = new Date(ts * 1000);
  return Number.isNaN(date.getTime()) ? new Date(0) : date;
}

function dayOf(entry: ChatEntry): string {
  return DAY.format(dateOf(entry));
}

function timeOf(entry: ChatEntry): string {
  return TIME.format(dateOf(entry));
}

/** The lines of a conversation in ledger order, with days between them and history above. */
import {
  memo,
  type ReactNode,
  useEffect,
  useEffectEvent,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";

import { type ChatEntry, misplaced, newsBetween, timeOf } from "../chat/archive";
import type { ConversationView } from "../chat/conversations";
import { useAttempt } from "../hooks/useAttempt";
import styles from "./MessageList.module.css";
import theme from "./theme.module.css";
import { continuityText, MISPLACED, spokenText, stateText, whyNotShown } from "./words";

export interface MessageListProps {
  readonly view: ConversationView;
  readonly own: string;
  readonly onOlder: () => Promise<void>;
  /** The same function at every render, so that lines which do not change are not drawn again. */
  readonly onRetry: (entry: ChatEntry) => Promise<void>;
}

/** So near to its end, in pixels, a reader counts as being there. */
const AT_END = 80;

export function MessageList({ view, own, onOlder, onRetry }: MessageListProps): ReactNode {
  const list = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const place = useRef({ atEnd: true, fromEnd: 0, top: 0 });
  const written = useRef<string | null>(null);
  const { entries, more, loaded } = view;
  const elsewhere = useMemo(() => misplaced(entries), [entries]);
  const lines = useMemo(() => linesOf(entries), [entries]);

  // Stay at the end while the reader is there, and go there with what they write; stay where the reader
  // is when history comes above.
  useLayoutEffect(() => {
    const shown = list.current;
    if (shown === null) return;
    const last = entries.at(-1);
    const mine = last?.state === "sending" ? last.id : null;
    if (mine !== null && mine !== written.current) place.current.atEnd = true;
    written.current = mine;
    const { atEnd, fromEnd } = place.current;
    if (atEnd) shown.scrollTop = shown.scrollHeight;
    else if (shown.scrollTop === 0) shown.scrollTop = shown.scrollHeight - fromEnd;
  }, [entries]);

  // And when the list, or what is in it, gets another size: a keyboard comes up, a window is turned.
  useEffect(() => {
    const [shown, inside] = [list.current, content.current];
    if (shown === null || inside === null) return;
    const observer = new ResizeObserver(() => {
      if (place.current.atEnd) shown.scrollTop = shown.scrollHeight;
    });
    observer.observe(shown);
    observer.observe(inside);
    return () => {
      observer.disconnect();
    };
  }, [loaded]);

  if (!loaded) return <div className={styles["list"]} role="status" aria-label="Loading" />;
  return (
    <>
      <div
        ref={list}
        className={styles["list"]}
        // Reachable by the keyboard, so that it can be scrolled.
        tabIndex={0}
        role="log"
        // History comes into it as well; `Spoken` says what is new.
        aria-live="off"
        aria-label="Messages"
        onScroll={({ currentTarget }) => {
          const { scrollHeight, scrollTop: top } = currentTarget;
          // Who was at the end leaves it by going up, not by what grows below.
          const stays = place.current.atEnd && top >= place.current.top;
          const atEnd = stays || isAtEnd(currentTarget);
          place.current = { atEnd, fromEnd: scrollHeight - top, top };
        }}
      >
        <div ref={content} className={styles["content"]}>
          {more && (
            <Older
              first={entries[0]?.id ?? ""}
              onOlder={onOlder}
              wanted={() => !isAtEnd(list.current)}
            />
          )}
          {entries.length === 0 && (
            <p className={styles["empty"]}>
              No messages yet. What you write is encrypted in this browser. The server sees that you
              wrote, to whom, when, and how much.
            </p>
          )}
          {lines.map(({ entry, count, day }) => (
            <Line
              key={entry.id}
              entry={entry}
              count={count}
              day={day}
              own={own}
              notice={elsewhere.has(entry.id) ? MISPLACED : continuityText(entry)}
              onRetry={onRetry}
            />
          ))}
        </div>
      </div>
      <Spoken view={view} />
    </>
  );
}

/** Asked of the list itself: its button may come in sight before the list says that it was scrolled. */
function isAtEnd(list: HTMLElement | null): boolean {
  return list === null || list.scrollHeight - list.scrollTop - list.clientHeight < AT_END;
}

interface OlderProps {
  /** The entry under it: another one when a page has come. */
  readonly first: string;
  readonly onOlder: () => Promise<void>;
  /** Whether the page before is to be shown as soon as its button comes in sight. */
  readonly wanted: () => boolean;
}

function Older({ first, onOlder, wanted }: OlderProps): ReactNode {
  const button = useRef<HTMLButtonElement>(null);
  const { underWay, problem, begin } = useAttempt();
  const seen = useEffectEvent(() => {
    // What has failed waits for the person: it would fail again and again.
    if (wanted() && !underWay && problem === null) void begin(onOlder);
  });
  // Looked at anew when a page has come: the button may be in sight again before it was seen to go.
  useEffect(() => {
    if (button.current === null || underWay) return;
    const observer = new IntersectionObserver(([one]) => {
      if (one?.isIntersecting === true) seen();
    });
    observer.observe(button.current);
    return () => {
      observer.disconnect();
    };
  }, [underWay, first]);
  return (
    <>
      <button
        ref={button}
        type="button"
        className={`${theme["button"] ?? ""} ${styles["older"] ?? ""}`}
        onClick={() => {
          if (!underWay) void begin(onOlder);
        }}
      >
        Older messages
      </button>
      {problem !== null && (
        <p className={styles["notice"]} role="alert">
          {problem}
        </p>
      )}
    </>
  );
}

/** For who listens: what has come since, and what was refused. History that is read stays silent. */
function Spoken({ view }: { readonly view: ConversationView }): ReactNode {
  const [heard, setHeard] = useState<{ view: ConversationView; news: readonly ChatEntry[] }>({
    view,
    news: [],
  });
  if (heard.view !== view) {
    const news = newsBetween(heard.view.entries, view.entries);
    setHeard({ view, news: news.length > 0 ? news : heard.news });
  }
  return (
    <div className={theme["spoken"]} aria-live="polite">
      {heard.news.map((entry) => (
        <p key={entry.id + entry.state}>{spokenText(entry)}</p>
      ))}
    </div>
  );
}

interface ShownLine {
  readonly entry: ChatEntry;
  /** How many entries it stands for: `entry` is the first of them. */
  readonly count: number;
  /** The day that begins with it; null when it is that of the line before. */
  readonly day: string | null;
}

interface LineProps extends ShownLine {
  readonly own: string;
  readonly notice: string | null;
  readonly onRetry: (entry: ChatEntry) => Promise<void>;
}

const Line = memo(function Line(props: LineProps): ReactNode {
  const { entry, count, day, own, notice, onRetry } = props;
  const { direction, text, state, problem, device } = entry;
  const hidden = problem !== null && state !== "failed";
  const kind = hidden ? (problem === NOT_FOR_US ? "foreign" : "hidden") : direction;
  const time = timeOf(entry);
  const retrying = useAttempt();
  return (
    <div>
      {day !== null && (
        <p className={styles["day"]} data-day>
          {day}
        </p>
      )}
      {notice !== null && <p className={styles["notice"]}>{notice}</p>}
      <article className={`${styles["line"] ?? ""} ${styles[kind] ?? ""}`}>
        <p className={styles["text"]} dir="auto">
          {hidden ? whyNotShown(problem, count) : text}
        </p>
        <footer className={styles["foot"]}>
          {time === null ? (
            <span>time unknown</span>
          ) : (
            <time dateTime={new Date(time * 1000).toISOString()}>{TIME.format(time * 1000)}</time>
          )}
          {direction === "out" && !hidden && (
            <span className={styles["state"]} data-state={state}>
              {device === own ? stateText(entry) : `${stateText(entry)}, from ${device}`}
            </span>
          )}
          {state === "failed" && (
            <button
              type="button"
              className={styles["retry"]}
              disabled={retrying.underWay}
              onClick={() => {
                void retrying.begin(() => onRetry(entry));
              }}
            >
              Send again
            </button>
          )}
          {retrying.problem !== null && (
            <span className={styles["failure"]} role="alert">
              Still not sent. {retrying.problem}
            </span>
          )}
        </footer>
      </article>
    </div>
  );
});

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });

/** What a device is given that was not one yet, or no longer was one, when it was written. */
const NOT_FOR_US = "not_addressed";

/**
 * The lines for `entries`. What was not encrypted for this device, and stands together, is one line: a
 * device that joins late would show little else. What has no time is of the day before it.
 */
function linesOf(entries: readonly ChatEntry[]): readonly ShownLine[] {
  const lines: ShownLine[] = [];
  let last = "";
  for (const entry of entries) {
    const before = lines.at(-1);
    if (entry.problem === NOT_FOR_US && before?.entry.problem === NOT_FOR_US) {
      lines[lines.length - 1] = { ...before, count: before.count + 1 };
      continue;
    }
    const time = timeOf(entry);
    const date = time === null ? last : new Date(time * 1000).toDateString();
    const day = time === null || date === last ? null : DAY.format(time * 1000);
    last = date;
    lines.push({ entry, count: 1, day });
  }
  return lines;
}

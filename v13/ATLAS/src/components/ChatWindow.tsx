/** A conversation with one wallet, encrypted in this browser. */
import { type ReactNode, useEffect, useState } from "react";

import type { ChatEntry } from "../chat/archive";
import type { ChatSession, SessionView } from "../chat/session";
import { useConversation, useSessionView } from "../hooks/useChat";
import { DirectoryError } from "../security/directory";
import { CryptoError } from "../security/errors";
import { ChatGate } from "./ChatGate";
import styles from "./ChatWindow.module.css";
import { Composer } from "./Composer";
import { DeviceList } from "./DeviceList";
import { MessageList } from "./MessageList";
import { SafetyNumber } from "./SafetyNumber";
import theme from "./theme.module.css";
import { problemText, shortWallet } from "./words";

export interface ChatWindowProps {
  /** The login of `currentUserWallet`; a fresh one may be given at any time. */
  readonly token: string;
  readonly currentUserWallet: string;
  readonly peerWallet: string;
  readonly onClose?: () => void;
}

export function ChatWindow(props: ChatWindowProps): ReactNode {
  const { token, currentUserWallet, peerWallet, onClose } = props;
  const peer = peerWallet.toLowerCase();
  return (
    <section
      className={`${theme["theme"] ?? ""} ${styles["window"] ?? ""}`}
      aria-label={`Chat with ${shortWallet(peer)}`}
    >
      <ChatGate token={token} wallet={currentUserWallet.toLowerCase()}>
        {(session) => (
          <Conversation
            key={peer}
            session={session}
            peer={peer}
            {...(onClose === undefined ? {} : { onClose })}
          />
        )}
      </ChatGate>
    </section>
  );
}

interface ConversationProps {
  readonly session: ChatSession;
  readonly peer: string;
  readonly onClose?: () => void;
}

type Shown = "safety" | "devices" | null;

function Conversation({ session, peer, onClose }: ConversationProps): ReactNode {
  const view = useSessionView(session);
  const conversation = useConversation(session, peer);
  const [shown, setShown] = useState<Shown>(null);
  const summary = view.conversations.find((one) => one.peer === peer);
  const changed = summary?.changed ?? false;
  const unread = summary?.unread ?? 0;

  // Seen is what stands in a page that is in front.
  useEffect(() => {
    if (unread === 0 || !conversation.loaded) return;
    const look = (): void => {
      if (document.visibilityState === "visible") session.seen(peer).catch(reportError);
    };
    look();
    document.addEventListener("visibilitychange", look);
    return () => {
      document.removeEventListener("visibilitychange", look);
    };
  }, [session, peer, unread, conversation.loaded]);

  return (
    <>
      <header className={styles["head"]}>
        <h2 className={styles["peer"]} title={peer}>
          {shortWallet(peer)}
        </h2>
        <ConnectionState view={view} />
        <div className={styles["actions"]}>
          <button
            type="button"
            className={theme["button"]}
            onClick={() => {
              setShown("safety");
            }}
          >
            Safety number
          </button>
          <button
            type="button"
            className={theme["button"]}
            onClick={() => {
              setShown("devices");
            }}
          >
            Devices
          </button>
          <label className={styles["receipts"]}>
            <input
              type="checkbox"
              checked={view.receipts}
              onChange={(event) => {
                session.giveReceipts(event.target.checked).catch(reportError);
              }}
            />
            Receipts
          </label>
          {onClose !== undefined && (
            <button
              type="button"
              className={theme["button"]}
              aria-label="Close chat"
              onClick={onClose}
            >
              ×
            </button>
          )}
        </div>
      </header>
      <Banners
        session={session}
        view={view}
        changed={changed}
        onCompare={() => {
          setShown("safety");
        }}
      />
      <MessageList
        view={conversation}
        own={session.messenger.device}
        onOlder={() => session.older(peer)}
        onRetry={(entry: ChatEntry) => {
          session.retry(peer, entry).catch(reportError);
        }}
      />
      <Composer
        blocked={blockedBy(view, changed)}
        onSend={(text) => session.send(peer, text).catch(explain)}
      />
      {shown === "safety" && (
        <SafetyNumber
          session={session}
          peer={peer}
          changed={changed}
          onClose={() => {
            setShown(null);
          }}
        />
      )}
      {shown === "devices" && (
        <DeviceList
          session={session}
          peer={peer}
          onClose={() => {
            setShown(null);
          }}
        />
      )}
    </>
  );
}

function ConnectionState({ view }: { readonly view: SessionView }): ReactNode {
  const words = {
    online: "Connected",
    connecting: "Connecting…",
    offline: "Offline",
    refused: "Logged out",
  };
  return (
    <span className={styles["connection"]} role="status" data-connection={view.connection}>
      {words[view.connection]}
    </span>
  );
}

interface BannersProps {
  readonly session: ChatSession;
  readonly view: SessionView;
  readonly changed: boolean;
  readonly onCompare: () => void;
}

/** What a person must know before reading or writing on; the gravest first. */
function Banners({ session, view, changed, onCompare }: BannersProps): ReactNode {
  const bad = `${theme["banner"] ?? ""} ${theme["bad"] ?? ""}`;
  const warn = `${theme["banner"] ?? ""} ${theme["warn"] ?? ""}`;
  return (
    <>
      {view.problem !== null && (
        <div className={bad} role="alert">
          <p>{problemText(view.problem)}</p>
          {view.problem === "state_rolled_back" && (
            <button
              type="button"
              className={theme["button"]}
              onClick={() => {
                session.beginAgain().catch(reportError);
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
      {view.connection === "refused" && (
        <div className={bad} role="alert">
          <p>{problemText(view.refusal === "" ? "unauthorized" : view.refusal)}</p>
        </div>
      )}
      {view.connection === "offline" && (
        <div className={warn} role="status">
          <p>You are offline. What you write is kept and sent when you are back.</p>
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

function blockedBy(view: SessionView, changed: boolean): string | null {
  if (view.problem !== null) return problemText(view.problem);
  if (changed) return problemText("identity_changed");
  return null;
}

/** A refusal in words; anything else is a defect and stays what it is. */
function explain(error: unknown): never {
  if (error instanceof CryptoError) throw new Error(problemText(error.code));
  if (error instanceof DirectoryError) {
    throw new Error(problemText(error.unreachable ? "unreachable" : error.code));
  }
  throw error;
}

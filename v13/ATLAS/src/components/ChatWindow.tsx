/** A conversation with one wallet, encrypted in this browser. */
import { type ReactNode, useCallback, useEffect, useState } from "react";

import type { ChatEntry } from "../chat/archive";
import type { ChatSession, SessionView } from "../chat/session";
import { useAttempt } from "../hooks/useAttempt";
import { useConversation, useSessionView } from "../hooks/useChat";
import { Banners } from "./Banners";
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
      <ChatGate token={token} wallet={currentUserWallet.toLowerCase()} place="window">
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
  const receipts = useAttempt();
  const summary = view.conversations.find((one) => one.peer === peer);
  const changed = summary?.changed ?? false;
  const rotated = !changed && (summary?.rotated ?? false);
  const unread = summary?.unread ?? 0;

  const retry = useCallback((entry: ChatEntry) => session.retry(peer, entry), [session, peer]);

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
          <label
            className={styles["receipts"]}
            title="Everyone you write with is told when a message has come here, and when you have read it."
          >
            <input
              type="checkbox"
              checked={view.receipts}
              onChange={({ target: { checked } }) => {
                void receipts.begin(() => session.giveReceipts(checked));
              }}
            />
            Give receipts
          </label>
        </div>
        {onClose !== undefined && (
          <button
            type="button"
            className={`${theme["button"] ?? ""} ${styles["close"] ?? ""}`}
            aria-label="Close chat"
            onClick={onClose}
          >
            ×
          </button>
        )}
      </header>
      {receipts.problem !== null && (
        <div className={`${theme["banner"] ?? ""} ${theme["bad"] ?? ""}`} role="alert">
          <p>Receipts are as they were. {receipts.problem}</p>
        </div>
      )}
      <Banners
        session={session}
        view={view}
        changed={changed}
        rotated={rotated}
        onCompare={() => {
          setShown("safety");
        }}
      />
      <MessageList
        view={conversation}
        own={session.messenger.device}
        onOlder={() => session.older(peer)}
        onRetry={retry}
      />
      <Composer
        blocked={blockedBy(view, changed)}
        onSend={(text) => session.send(peer, text)}
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

function blockedBy(view: SessionView, changed: boolean): string | null {
  if (view.problem !== null) return problemText(view.problem);
  if (changed) return problemText("identity_changed");
  return null;
}

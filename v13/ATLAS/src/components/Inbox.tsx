/** The conversations of a wallet, the newest first, with what is unread. */
import { type ReactNode, type SyntheticEvent, useId, useState } from "react";

import type { ConversationSummary } from "../chat/archive";
import type { ChatSession } from "../chat/session";
import { useSessionView } from "../hooks/useChat";
import { ChatGate } from "./ChatGate";
import styles from "./Inbox.module.css";
import theme from "./theme.module.css";
import { shortWallet } from "./words";

export interface InboxProps {
  readonly token: string;
  readonly currentUserWallet: string;
  /** The person wants to see the conversation with this wallet. */
  readonly onOpenChat: (peerWallet: string) => void;
  /** Whose conversation is open: it is marked in the list. */
  readonly openPeerWallet?: string | null;
}

export function Inbox({ token, currentUserWallet, onOpenChat, openPeerWallet }: InboxProps): ReactNode {
  return (
    <nav className={`${theme["theme"] ?? ""} ${styles["inbox"] ?? ""}`} aria-label="Conversations">
      <ChatGate token={token} wallet={currentUserWallet.toLowerCase()} place="list">
        {(session) => (
          <Conversations
            session={session}
            open={openPeerWallet?.toLowerCase() ?? null}
            onOpenChat={onOpenChat}
          />
        )}
      </ChatGate>
    </nav>
  );
}

interface ConversationsProps {
  readonly session: ChatSession;
  readonly open: string | null;
  readonly onOpenChat: (peerWallet: string) => void;
}

function Conversations({ session, open, onOpenChat }: ConversationsProps): ReactNode {
  const { conversations } = useSessionView(session);
  return (
    <>
      <NewChat own={session.wallet} onOpenChat={onOpenChat} />
      {conversations.length === 0 && (
        <p className={styles["empty"]}>No conversations yet. Begin one with a wallet’s address.</p>
      )}
      <ul className={styles["list"]}>
        {conversations.map((one) => (
          <li key={one.peer}>
            <Row
              summary={one}
              isOpen={one.peer === open}
              onOpen={() => {
                onOpenChat(one.peer);
              }}
            />
          </li>
        ))}
      </ul>
    </>
  );
}

interface RowProps {
  readonly summary: ConversationSummary;
  readonly isOpen: boolean;
  readonly onOpen: () => void;
}

function Row({ summary, isOpen, onOpen }: RowProps): ReactNode {
  const { peer, unread, preview, changed } = summary;
  return (
    <button type="button" className={styles["row"]} aria-current={isOpen} onClick={onOpen}>
      <span className={styles["peer"]}>{shortWallet(peer)}</span>
      {unread > 0 && (
        <span className={styles["unread"]}>
          {unread}
          <span className={theme["spoken"]}> unread</span>
        </span>
      )}
      <span className={styles["preview"]} dir="auto">
        {changed ? "The safety number has changed" : preview}
      </span>
    </button>
  );
}

const WALLET = /^0x[0-9a-f]{40}$/;

function NewChat({ own, onOpenChat }: { own: string } & Pick<InboxProps, "onOpenChat">): ReactNode {
  const [address, setAddress] = useState("");
  const [problem, setProblem] = useState<string | null>(null);
  const field = useId();

  function open(event: SyntheticEvent): void {
    event.preventDefault();
    const wallet = address.trim().toLowerCase();
    if (!WALLET.test(wallet)) {
      setProblem("A wallet’s address is 0x and 40 hexadecimal digits.");
    } else if (wallet === own) {
      setProblem("This is your own wallet.");
    } else {
      setProblem(null);
      setAddress("");
      onOpenChat(wallet);
    }
  }

  return (
    <form className={styles["new"]} onSubmit={open}>
      <label htmlFor={field}>New conversation</label>
      <input
        id={field}
        className={styles["address"]}
        value={address}
        placeholder="0x…"
        autoComplete="off"
        spellCheck={false}
        onChange={(event) => {
          setAddress(event.target.value);
          setProblem(null);
        }}
      />
      <button type="submit" className={theme["button"]}>
        Open
      </button>
      {problem !== null && (
        <p className={styles["problem"]} role="alert">
          {problem}
        </p>
      )}
    </form>
  );
}

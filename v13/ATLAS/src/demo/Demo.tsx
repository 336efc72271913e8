/** Two panes: the conversations, and the open one. The open one stands in the page's fragment. */
import {
  type ReactNode,
  useCallback,
  useEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";

import { ChatWindow } from "../components/ChatWindow";
import { Copy } from "../components/Copy";
import { Inbox } from "../components/Inbox";
import { Problem } from "../components/Problem";
import { SecureChatProvider } from "../components/SecureChatProvider";
import theme from "../components/theme.module.css";
import { injectedWallet } from "../chat/wallet-signer";
import styles from "./Demo.module.css";
import {
  type Account,
  injectedAccount,
  lifetimeOf,
  login,
  NoAnswer,
  throwAwayAccount,
} from "./login";

/** A new token is fetched so many milliseconds before the old one expires, or at half of its life. */
const BEFORE_EXPIRY = 60_000;
/** The clock is looked at so often: a timer does not run while the machine sleeps. */
const LOOK_EVERY = 60_000;
/** Milliseconds before the next try, while the server does not answer. */
const TRY_AGAIN = 2_000;

/** Wallets reject with objects of their own. */
const REFUSED = "Your wallet did not sign, or did not open an account to this page.";

interface LoggedIn {
  readonly account: Account;
  readonly token: string;
}

export function Demo(): ReactNode {
  const [loggedIn, setLoggedIn] = useState<LoggedIn | null>(null);
  const [problem, setProblem] = useState<string | null>(null);

  const fail = useCallback((error: unknown): void => {
    setLoggedIn(null);
    setProblem(`You are not logged in. ${error instanceof Error ? error.message : REFUSED}`);
  }, []);
  const enter = useCallback(
    (account: Account): void => {
      login(account).then((token) => {
        setProblem(null);
        setLoggedIn({ account, token });
      }, fail);
    },
    [fail],
  );

  // Without a wallet in the browser there is nothing to ask.
  useEffect(() => {
    if (injectedWallet() === null) enter(throwAwayAccount());
  }, [enter]);

  if (loggedIn === null) return <Welcome problem={problem} onEnter={enter} onFailure={fail} />;
  return (
    <Chats
      {...loggedIn}
      onToken={(token) => {
        setLoggedIn({ ...loggedIn, token });
      }}
      onFailure={fail}
    />
  );
}

interface WelcomeProps {
  readonly problem: string | null;
  readonly onEnter: (account: Account) => void;
  readonly onFailure: (error: unknown) => void;
}

function Welcome({ problem, onEnter, onFailure }: WelcomeProps): ReactNode {
  return (
    <main className={`${theme["theme"] ?? ""} ${styles["welcome"] ?? ""}`}>
      <h1>ATLAS secure chat</h1>
      <Problem text={problem} />
      {injectedWallet() !== null && (
        <button
          type="button"
          className={`${theme["button"] ?? ""} ${theme["primary"] ?? ""}`}
          onClick={() => {
            injectedAccount().then((account) => {
              if (account !== null) onEnter(account);
            }, onFailure);
          }}
        >
          Connect your wallet
        </button>
      )}
      <button
        type="button"
        className={theme["button"]}
        onClick={() => {
          onEnter(throwAwayAccount());
        }}
      >
        Use a throw-away wallet
      </button>
    </main>
  );
}

function onFragment(listener: () => void): () => void {
  addEventListener("hashchange", listener);
  return () => {
    removeEventListener("hashchange", listener);
  };
}

function fragmentNow(): string {
  return location.hash.slice(1).toLowerCase();
}

interface ChatsProps extends LoggedIn {
  readonly onToken: (token: string) => void;
  readonly onFailure: (error: unknown) => void;
}

function Chats({ account, token, onToken, onFailure }: ChatsProps): ReactNode {
  const fragment = useSyncExternalStore(onFragment, fragmentNow);
  const peer = /^0x[0-9a-f]{40}$/.test(fragment) && fragment !== account.wallet ? fragment : null;

  // Who opens or closes a conversation goes on in what comes instead: in a narrow window the other
  // pane is not there any more.
  const inbox = useRef<HTMLDivElement>(null);
  const chat = useRef<HTMLDivElement>(null);
  const wasOpen = useRef(peer);
  useEffect(() => {
    if (peer !== wasOpen.current) (peer === null ? inbox : chat).current?.focus();
    wasOpen.current = peer;
  }, [peer]);

  useEffect(() => {
    const lifetime = lifetimeOf(token);
    if (lifetime === null) return;
    const due = Date.now() + Math.max(lifetime - BEFORE_EXPIRY, lifetime / 2);
    let wanted = true;
    let timer: ReturnType<typeof setTimeout>;
    const wait = (): void => {
      timer = setTimeout(look, Math.min(due - Date.now(), LOOK_EVERY));
    };
    const again = (error: unknown): void => {
      if (!wanted) return;
      if (error instanceof NoAnswer) timer = setTimeout(look, TRY_AGAIN);
      else onFailure(error);
    };
    const look = (): void => {
      if (Date.now() < due) wait();
      else login(account).then(onToken, again);
    };
    wait();
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- a new callback is no reason to log in
  }, [account, token]);

  return (
    <SecureChatProvider sign={account.sign}>
      <main className={`${theme["theme"] ?? ""} ${styles["page"] ?? ""}`} data-open={peer !== null}>
        <header className={styles["head"]}>
          <h1 className={styles["title"]}>ATLAS secure chat</h1>
          <p className={styles["own"]}>
            You are <code data-testid="own-wallet">{account.wallet}</code>{" "}
            <Copy text={account.wallet} what="address" />
          </p>
          {account.throwAway && (
            <p className={styles["throwAway"]}>
              This is a throw-away wallet: it ends with this window. To try the chat,{" "}
              <a href={`#${account.wallet}`} target="_blank" rel="noopener">
                open a second person in another window
              </a>
              .
            </p>
          )}
        </header>
        <div className={styles["inbox"]} ref={inbox} tabIndex={-1}>
          <Inbox
            token={token}
            currentUserWallet={account.wallet}
            openPeerWallet={peer}
            onOpenChat={(wallet) => {
              location.hash = wallet;
            }}
          />
        </div>
        <div className={styles["chat"]} ref={chat} tabIndex={-1}>
          {peer === null ? (
            <p className={styles["none"]}>Choose a conversation, or begin one.</p>
          ) : (
            <ChatWindow
              key={peer}
              token={token}
              currentUserWallet={account.wallet}
              peerWallet={peer}
              onClose={() => {
                location.hash = "";
              }}
            />
          )}
        </div>
      </main>
    </SecureChatProvider>
  );
}

/** A wallet's chat in React: opened by the first component that uses it, closed with the last. */
import { createContext, use, useEffect, useLayoutEffect, useState, useSyncExternalStore } from "react";

import type { ConversationView } from "../chat/conversations";
import type { ChatSession, SessionView } from "../chat/session";
import { chatOf, type Gate, type Opening, type OpeningChat } from "../chat/sessions";
import type { SignText } from "../security/wallet";

/** What a page says of its surroundings; the defaults are those of a page that the API serves. */
export interface ChatSurroundings {
  /** Signs for the wallet; null: the wallet that the browser injects. */
  readonly sign: SignText | null;
  /** Where the API is, "" for the page's own server. */
  readonly base: string;
}

export const ChatContext = createContext<ChatSurroundings>({ sign: null, base: "" });

/** The chat of `wallet`, opened by the first component that uses it and closed with the last. */
export function useChat(token: string, wallet: string): { opening: Opening; chat: OpeningChat } {
  const { sign, base } = use(ChatContext);
  const chat = chatOf({ token, wallet, base, url: `${base}/v1/chat/ws`, sign });
  useEffect(() => chat.use(), [chat]);
  useEffect(() => {
    chat.renew(token);
  }, [chat, token]);
  return { chat, opening: useSyncExternalStore(chat.subscribe, chat.opening) };
}

/** Whether this place in the page is the one that asks the person what `chat` needs. */
export function useGate(chat: OpeningChat, place: Gate["place"]): boolean {
  const [gate] = useState<Gate>({ place });
  useLayoutEffect(() => chat.place(gate), [chat, gate]);
  return useSyncExternalStore(chat.subscribe, () => chat.asks(gate));
}

export function useSessionView(session: ChatSession): SessionView {
  return useSyncExternalStore(session.subscribe, session.view);
}

/** The conversation with `peer`, in memory while it is shown. */
export function useConversation(session: ChatSession, peer: string): ConversationView {
  useEffect(() => {
    session.enter(peer).catch(reportError);
    return () => {
      session.leave(peer);
    };
  }, [session, peer]);
  return useSyncExternalStore(session.subscribe, () => session.conversation(peer));
}

/** A wallet's chat in React: opened by the first component that uses it, closed with the last. */
import { createContext, use, useEffect, useSyncExternalStore } from "react";

import type { ChatSession, ConversationView, SessionView } from "../chat/session";
import { chatOf, type Opening, type OpeningChat } from "../chat/sessions";
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

export function useSessionView(session: ChatSession): SessionView {
  return useSyncExternalStore(session.subscribe, session.view);
}

/** The conversation with `peer`, read from what is kept when it is first shown. */
export function useConversation(session: ChatSession, peer: string): ConversationView {
  useEffect(() => {
    session.enter(peer).catch(reportError);
  }, [session, peer]);
  return useSyncExternalStore(session.subscribe, () => session.conversation(peer));
}

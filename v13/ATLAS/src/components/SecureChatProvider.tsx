/** Says who signs for the wallet, and where the API is; without it both are the page's own. */
import { type ReactNode, useMemo } from "react";

import { ChatContext } from "../hooks/useChat";
import type { SignText } from "../security/wallet";

export interface SecureChatProviderProps {
  /** Signs a text by personal_sign. Not given: the wallet that the browser injects (EIP-1193). */
  readonly sign?: SignText;
  /** Where the API is, without a slash at the end. Not given: the page's own server. */
  readonly base?: string;
  readonly children: ReactNode;
}

export function SecureChatProvider({ sign, base, children }: SecureChatProviderProps): ReactNode {
  const value = useMemo(() => ({ sign: sign ?? null, base: base ?? "" }), [sign, base]);
  return <ChatContext value={value}>{children}</ChatContext>;
}

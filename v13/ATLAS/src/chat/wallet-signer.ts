/** Who signs for the wallet: the one that the page's browser injects (EIP-1193), or another. */
import { fromHex, toHex } from "../security/bytes";
import { CryptoError } from "../security/errors";
import { type SignText, WALLET_SIGNATURE } from "../security/wallet";

/** EIP-1193, as far as it is used here. */
export interface InjectedWallet {
  request(call: { readonly method: string; readonly params?: readonly unknown[] }): Promise<unknown>;
}

declare global {
  interface Window {
    readonly ethereum?: InjectedWallet;
  }
}

/** The wallet that the browser injects; null when there is none. */
export function injectedWallet(): InjectedWallet | null {
  return window.ethereum ?? null;
}

/** The accounts that the person opens to this page, in lower case. Rejects when they refuse. */
export async function accounts(injected: InjectedWallet): Promise<readonly string[]> {
  const found = await injected.request({ method: "eth_requestAccounts" });
  if (!Array.isArray(found)) return [];
  return found.filter((one) => typeof one === "string").map((one) => one.toLowerCase());
}

/** personal_sign by the injected wallet. Rejects when the person refuses. */
export function signerOf(injected: InjectedWallet, wallet: string): SignText {
  return async (text) => {
    const message = `0x${toHex(new TextEncoder().encode(text))}`;
    const answer = await injected.request({ method: "personal_sign", params: [message, wallet] });
    const signature = typeof answer === "string" ? fromHex(answer.replace(/^0x/, "")) : null;
    if (signature?.length !== WALLET_SIGNATURE) {
      throw new CryptoError("bad_wallet_signature", "the wallet gave no signature of 65 bytes");
    }
    return signature;
  };
}

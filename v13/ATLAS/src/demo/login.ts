/**
 * Logging in to the host (challenge, EIP-191 signature, token), with the browser's wallet or a
 * throw-away one.
 *
 * A throw-away wallet lives in this window only: its key is in the session's storage, so it survives
 * a reload and ends with the window. It is for trying the chat out and for nothing else.
 */
import { accounts, injectedWallet, signerOf } from "../chat/wallet-signer";
import { fromBase64, fromHex, toHex } from "../security/bytes";
import { fresh } from "../security/randomness";
import { type SignText, WalletKey } from "../security/wallet";

/** A wallet that can sign. */
export interface Account {
  readonly wallet: string;
  readonly sign: SignText;
  readonly throwAway: boolean;
}

const KEY = "atlas/throw-away-wallet";

/** The throw-away wallet of this window; made when there is none. */
export function throwAwayAccount(): Account {
  const stored = sessionStorage.getItem(KEY);
  const secret = stored === null ? fresh(32) : fromHex(stored);
  if (stored === null) sessionStorage.setItem(KEY, toHex(secret));
  const key = new WalletKey(secret);
  return { wallet: key.wallet, sign: (text) => Promise.resolve(key.sign(text)), throwAway: true };
}

/** The wallet that the browser injects, once the person opens it to this page; null without one. */
export async function injectedAccount(): Promise<Account | null> {
  const injected = injectedWallet();
  if (injected === null) return null;
  const [wallet] = await accounts(injected);
  return wallet === undefined
    ? null
    : { wallet, sign: signerOf(injected, wallet), throwAway: false };
}

/** The server was not reached, or could not answer now. */
export class NoAnswer extends Error {}

async function post(path: string, body: object): Promise<Readonly<Record<string, unknown>>> {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  }).catch(() => {
    throw new NoAnswer("The server does not answer. Try again when it does.");
  });
  if (response.status >= 500) throw new NoAnswer("The server cannot log you in now. Try again.");
  if (!response.ok) throw new Error(`The server refused the login (${response.status}).`);
  return (await response.json()) as Readonly<Record<string, unknown>>;
}

/** A token of the host for `account`, whose wallet is asked to sign the challenge. */
export async function login({ wallet, sign }: Account): Promise<string> {
  const { nonce } = await post("/v1/auth/challenge", { wallet });
  if (typeof nonce !== "string") throw new Error("The server gave no challenge.");
  const signature = `0x${toHex(await sign(nonce))}`;
  const { token } = await post("/v1/auth/connect-wallet", { wallet, signature, nonce });
  if (typeof token !== "string") throw new Error("The server gave no token.");
  return token;
}

/**
 * How long a token is good for, in milliseconds (RFC 7519 `exp` less `iat`); null when it does not say.
 * Both are the server's clock's, so this browser's may be any.
 */
export function lifetimeOf(token: string): number | null {
  const claims = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
  const bytes = fromBase64(claims.padEnd(Math.ceil(claims.length / 4) * 4, "="));
  if (bytes === null) return null;
  try {
    const { exp, iat } = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    return typeof exp === "number" && typeof iat === "number" ? (exp - iat) * 1000 : null;
  } catch {
    return null;
  }
}

/** What went wrong, as a code that words can be found for. */
import { DirectoryError } from "../security/directory";
import { CryptoError } from "../security/errors";

/** The wallet gave no signature. */
export class WalletError extends Error {
  readonly code: "refused_by_wallet" | "no_wallet";

  constructor(code: WalletError["code"]) {
    super(code === "no_wallet" ? "no wallet is there to sign" : "the wallet did not sign");
    this.name = "WalletError";
    this.code = code;
  }
}

/**
 * The code of `error`: of a CryptoError, a WalletError or SPEC.md; `unreachable` when the server does
 * not answer. Anything else is a defect: it is reported, and `unexpected`.
 */
export function codeOf(error: unknown): string {
  if (error instanceof CryptoError || error instanceof WalletError) return error.code;
  if (error instanceof DirectoryError) return error.unreachable ? "unreachable" : error.code;
  reportError(error);
  return "unexpected";
}

/**
 * The open chats of a page: one for each wallet, shared by whatever shows it, closed with the last.
 *
 * Opening one makes this browser a device of the wallet when it is none yet, and the wallet is asked to
 * sign. A wallet with devices elsewhere is not touched: the person decides.
 */
import { Directory, DirectoryError } from "../security/directory";
import { type Enrolment, FurtherDevice, openMessenger, resetIdentity } from "../security/enrolment";
import { CryptoError } from "../security/errors";
import { openStore } from "../security/indexed-db";
import type { Messenger } from "../security/messenger";
import { selectSuite } from "../security/select";
import type { SignText } from "../security/wallet";
import { ChatSession } from "./session";
import { injectedWallet, signerOf } from "./wallet-signer";

/** What making a device says when another tab was faster: before, and while, it was made. */
const MADE_ELSEWHERE = new Set(["refused", "not_certified"]);

/** How far opening has come. */
export type Opening =
  | { readonly at: "opening" }
  | { readonly at: "open"; readonly session: ChatSession }
  /** The wallet has devices, and this browser is none of them: `begin` or `startAnew`. */
  | { readonly at: "unknown_device" }
  /**
   * `code`: of a CryptoError or of SPEC.md; `unreachable` when the server does not answer,
   * `refused_by_wallet` when the person did not sign.
   */
  | { readonly at: "failed"; readonly code: string };

export interface ChatOptions {
  readonly token: string;
  readonly wallet: string;
  /** Where the API is: "" for the page's own server. */
  readonly base: string;
  /** Path or URL of the socket. */
  readonly url: string;
  /** Signs for the wallet; the injected one when not given. */
  readonly sign: SignText | null;
}

/** One wallet's chat, from before it is open. Made by `chatOf`. */
export class OpeningChat {
  #users = 0;
  /** Rises when what is being opened is no longer wanted. */
  #generation = 0;
  #token: string;
  #opening: Opening = { at: "opening" };
  #enrolment: Promise<Enrolment> | null = null;
  readonly #options: ChatOptions;
  readonly #listeners = new Set<() => void>();

  constructor(options: ChatOptions) {
    this.#options = options;
    this.#token = options.token;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  readonly opening = (): Opening => this.#opening;

  /** Count one more user; the first one opens. Returns how to end the use; the last one closes. */
  use(): () => void {
    this.#users += 1;
    if (this.#users === 1) void this.#open(openMessenger);
    return () => {
      this.#users -= 1;
      if (this.#users > 0) return;
      this.#generation += 1;
      if (this.#opening.at === "open") this.#opening.session.close();
      this.#opening = { at: "opening" };
    };
  }

  renew(token: string): void {
    this.#token = token;
    if (this.#opening.at === "open") this.#opening.session.renew(token);
  }

  /** Try again what failed. */
  again(): void {
    void this.#open(openMessenger);
  }

  /** A new identity, this browser its only device: everyone must compare the safety number again. */
  startAnew(): void {
    void this.#open(resetIdentity);
  }

  /** Keys for this browser as a further device; its request goes to the device that has the identity. */
  async begin(): Promise<FurtherDevice> {
    return FurtherDevice.begin(await this.#enrol());
  }

  /** The answer of that device. */
  finish(device: FurtherDevice, answer: Uint8Array<ArrayBuffer>): void {
    void this.#open(() => device.finish(answer));
  }

  async #open(openDevice: (enrolment: Enrolment) => Promise<Messenger>): Promise<void> {
    this.#generation += 1;
    const generation = this.#generation;
    this.#become({ at: "opening" });
    let opening: Opening;
    try {
      const enrolment = await this.#enrol();
      const { directory, suite } = enrolment;
      const messenger = await openDevice(enrolment).catch((error: unknown) => {
        // Another tab of this browser has made the device meanwhile: it is there for both.
        if (!(error instanceof CryptoError && MADE_ELSEWHERE.has(error.code))) throw error;
        return openMessenger(enrolment);
      });
      const token = this.#token;
      const { url } = this.#options;
      const session = await ChatSession.open({ messenger, directory, suite, url, token });
      opening = { at: "open", session };
    } catch (error) {
      opening = failure(error);
    }
    if (generation === this.#generation) this.#become(opening);
    else if (opening.at === "open") opening.session.close();
  }

  #enrol(): Promise<Enrolment> {
    this.#enrolment ??= this.#prepare().catch((error: unknown) => {
      this.#enrolment = null;
      throw error;
    });
    return this.#enrolment;
  }

  async #prepare(): Promise<Enrolment> {
    const { wallet, base, sign } = this.#options;
    const injected = injectedWallet();
    return {
      wallet,
      sign: sign ?? (injected === null ? nobodySigns : signerOf(injected, wallet)),
      directory: new Directory(() => this.#token, base),
      store: await openStore(wallet),
      suite: await selectSuite(),
    };
  }

  #become(opening: Opening): void {
    this.#opening = opening;
    for (const listener of this.#listeners) listener();
  }
}

function nobodySigns(): Promise<never> {
  return Promise.reject(new CryptoError("refused", "no wallet is there to sign"));
}

function failure(error: unknown): Opening {
  if (error instanceof CryptoError) {
    if (error.code === "not_certified") return { at: "unknown_device" };
    return { at: "failed", code: error.code };
  }
  if (error instanceof DirectoryError) {
    return { at: "failed", code: error.unreachable ? "unreachable" : error.code };
  }
  return { at: "failed", code: "refused_by_wallet" };
}

const chats = new Map<string, OpeningChat>();

/** The page's chat of `options.wallet`; it is open while somebody uses it. */
export function chatOf(options: ChatOptions): OpeningChat {
  const key = `${options.base} ${options.wallet}`;
  let chat = chats.get(key);
  if (chat === undefined) {
    chat = new OpeningChat(options);
    chats.set(key, chat);
  }
  return chat;
}

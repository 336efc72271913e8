/**
 * The open chats of a page: one for each wallet, shared by whatever shows it, closed with the last.
 *
 * Opening one makes this browser a device of the wallet when it is none yet, and the wallet is asked to
 * sign. A wallet with devices elsewhere is not touched: the person decides.
 */
import type { Bytes } from "../security/bytes";
import { Directory } from "../security/directory";
import {
  type Enrolment,
  FurtherDevice,
  LeftBehindDevice,
  openMessenger,
  resetIdentity,
} from "../security/enrolment";
import { CryptoError } from "../security/errors";
import { openStore } from "../security/indexed-db";
import type { Messenger } from "../security/messenger";
import { selectSuite } from "../security/select";
import type { SignText } from "../security/wallet";
import { codeOf, WalletError } from "./failure";
import { ChatSession } from "./session";
import { injectedWallet, signerOf } from "./wallet-signer";

/** What making a device says when another tab was faster: before, and while, it was made. */
const MADE_ELSEWHERE = new Set(["refused", "not_certified"]);

/** How far opening has come. */
export type Opening =
  | { readonly at: "opening" }
  | { readonly at: "open"; readonly session: ChatSession }
  /**
   * The wallet has devices, and this browser is none of them: `begin`, then `finish`; or `startAnew`.
   * `request`: for the device that has the identity; null before `begin`.
   */
  | { readonly at: "unknown_device"; readonly request: Bytes | null }
  /** The wallet's identity was replaced on another device: `begin`, then `finish`. */
  | { readonly at: "left_behind"; readonly request: Bytes | null }
  /** `code`: see `codeOf`. */
  | { readonly at: "failed"; readonly code: string };

/** A place in the page that can show how far opening has come, and ask what it needs. */
export interface Gate {
  /** Windows come before lists. */
  readonly place: "window" | "list";
}

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
  /** Kept over wrong answers: its request may be on its way. */
  #device: FurtherDevice | LeftBehindDevice | null = null;
  #gates: readonly Gate[] = [];
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

  /** This browser as a further device, with the keys it has or fresh ones. Rejects when it cannot be. */
  async begin(): Promise<void> {
    const enrolment = await this.#enrol();
    this.#device ??=
      (await LeftBehindDevice.find(enrolment)) ?? (await FurtherDevice.begin(enrolment));
    const at = this.#device instanceof LeftBehindDevice ? "left_behind" : "unknown_device";
    this.#become({ at, request: this.#device.request });
  }

  /** The answer of the other device. Rejects when it is not one; the request stays as it was. */
  async finish(answer: Bytes): Promise<void> {
    if (this.#device === null) throw new TypeError("an answer is to a request");
    const enrolment = await this.#enrol();
    const messenger = await this.#device.finish(answer).catch((error: unknown) => {
      if (!wasMadeElsewhere(error)) throw error;
      return openMessenger(enrolment).catch(() => {
        throw error;
      });
    });
    this.#device = null;
    await this.#open(() => Promise.resolve(messenger));
  }

  /** Count `gate` in; returns how to count it out. One gate of a page asks the person. */
  place(gate: Gate): () => void {
    this.#gates = [...this.#gates, gate];
    this.#tell();
    return () => {
      this.#gates = this.#gates.filter((one) => one !== gate);
      this.#tell();
    };
  }

  /** Whether `gate` is the one that asks: the first window, else the first. */
  asks(gate: Gate): boolean {
    const first = this.#gates.find((one) => one.place === "window") ?? this.#gates[0];
    return gate === first;
  }

  async #open(openDevice: (enrolment: Enrolment) => Promise<Messenger>): Promise<void> {
    this.#generation += 1;
    const generation = this.#generation;
    this.#become({ at: "opening" });
    let opening: Opening;
    try {
      const enrolment = await this.#enrol();
      const { directory, suite, sign } = enrolment;
      const messenger = await openDevice(enrolment).catch((error: unknown) => {
        if (!wasMadeElsewhere(error)) throw error;
        return openMessenger(enrolment);
      });
      const token = this.#token;
      const { url } = this.#options;
      const session = await ChatSession.open({ messenger, directory, suite, sign, url, token });
      opening = { at: "open", session };
    } catch (error) {
      const code = codeOf(error);
      const request = this.#device?.request ?? null;
      if (code === "not_certified") opening = { at: "unknown_device", request };
      else if (code === "identity_changed") opening = { at: "left_behind", request };
      else opening = { at: "failed", code };
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
    const { wallet, base } = this.#options;
    return {
      wallet,
      sign: (text) => this.#sign(text),
      directory: new Directory(() => this.#token, base),
      store: await openStore(wallet),
      suite: await selectSuite(),
    };
  }

  async #sign(text: string): Promise<Bytes> {
    const injected = injectedWallet();
    const { wallet } = this.#options;
    const sign = this.#options.sign ?? (injected && signerOf(injected, wallet));
    if (sign === null) throw new WalletError("no_wallet");
    try {
      return await sign(text);
    } catch (error) {
      throw error instanceof CryptoError ? error : new WalletError("refused_by_wallet");
    }
  }

  #become(opening: Opening): void {
    this.#opening = opening;
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** Another tab of this browser may have made the device meanwhile: it is there for both. */
function wasMadeElsewhere(error: unknown): boolean {
  return error instanceof CryptoError && MADE_ELSEWHERE.has(error.code);
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

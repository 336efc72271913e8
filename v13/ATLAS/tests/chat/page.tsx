/** The list and a conversation as a page has them, on a server that is played by hand. */
import { createRoot, type Root } from "react-dom/client";

import { ChatWindow, type ChatWindowProps } from "../../src/components/ChatWindow";
import { Inbox } from "../../src/components/Inbox";
import { SecureChatProvider } from "../../src/components/SecureChatProvider";
import { Contacts } from "../../src/security/contacts";
import { Directory } from "../../src/security/directory";
import { SecureMessageClient } from "../../src/security/secureMessageV2";
import { WalletKey } from "../../src/security/wallet";
import type { Person } from "../security/people";
import { FarEnd } from "../transport/far-end";
import { waitUntil } from "./offline";

export class Page {
  readonly place: HTMLElement;
  /** What the list asked to open. */
  readonly opened: string[] = [];
  readonly #root: Root;
  readonly #key = WalletKey.generate();
  readonly #bob: Person;
  #renders = 0;

  constructor(bob: Person) {
    this.#bob = bob;
    this.place = document.body.appendChild(document.createElement("div"));
    this.#root = createRoot(this.place);
  }

  get wallet(): string {
    return this.#key.wallet;
  }

  /** Render with a fresh token. */
  show(props: Partial<ChatWindowProps> = {}): void {
    this.#renders += 1;
    const login = { token: `token ${this.#renders}`, currentUserWallet: this.wallet };
    const peer = this.#bob.roster.wallet;
    this.#root.render(
      <SecureChatProvider sign={(text) => Promise.resolve(this.#key.sign(text))}>
        <Inbox {...login} onOpenChat={(one) => this.opened.push(one)} openPeerWallet={peer} />
        <ChatWindow {...login} peerWallet={peer} {...props} />
      </SecureChatProvider>,
    );
  }

  close(): void {
    this.#root.unmount();
    this.place.remove();
  }

  get field(): HTMLTextAreaElement | null {
    return this.place.querySelector("form textarea[placeholder]");
  }

  button(name: string): HTMLButtonElement | null {
    const all = [...document.querySelectorAll("button")];
    return all.find((one) => (one.ariaLabel ?? one.textContent) === name) ?? null;
  }

  press(name: string): void {
    const found = this.button(name);
    if (found === null) throw new Error(`there is no button: ${name}`);
    found.click();
  }

  write(text: string): void {
    const { field } = this;
    if (field === null) throw new Error("one can write");
    fill(field, text);
    field.form?.requestSubmit();
  }

  /** The latest socket, when more than `before` were opened: online, and resumed up to `head`. */
  async online(before: number, head = 0): Promise<FarEnd> {
    await waitUntil(() => FarEnd.opened.length > before);
    const server = FarEnd.latest;
    server.accept();
    server.say({ type: "READY", wallet: this.wallet, position: head });
    await server.hears("RESUME", 1);
    server.say({ type: "RESUMED", position: head, complete: true });
    return server;
  }

  /** A message of Bob's as the server delivers it at a position. */
  async fromBob(text: string, position: number): Promise<object> {
    const bob = this.#bob.on("b");
    const contacts = new Contacts(bob, new Directory(() => "", ""), this.#bob.suite);
    const frame = await new SecureMessageClient(bob, contacts, this.wallet).encrypt(text);
    return { ...frame, id: `m${position}`, timestamp: "2026-01-01T00:00:00Z", position };
  }
}

/** As a person fills it: React does not see what is set on the element itself. */
export function fill(field: HTMLTextAreaElement | HTMLInputElement, text: string): void {
  const { prototype } = field instanceof HTMLTextAreaElement ? HTMLTextAreaElement : HTMLInputElement;
  Reflect.set(prototype, "value", text, field);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

/** A page, and no real socket, while `work` goes on. */
export async function inPage(bob: Person, work: (page: Page) => Promise<void>): Promise<void> {
  FarEnd.stand();
  const page = new Page(bob);
  try {
    await work(page);
  } finally {
    page.close();
    FarEnd.leave();
  }
}

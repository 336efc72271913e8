/** Real browsers against a real server process: persons on pages, and Bob in Python. */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";

import type { run } from "axe-core";
import {
  type Browser,
  type BrowserContext,
  chromium,
  errors,
  type Locator,
  type Page,
  type WebSocket,
} from "playwright";

import { CHROMIUM } from "../node/chromium";
import { PythonProcess } from "../node/python";
import type { Fields } from "./between";

/** Where screenshots are put, to be looked at; not kept. */
const SCREENSHOTS = resolve(import.meta.dirname, "../../screenshots");
/** The accessibility checker, as its package ships it for browsers. */
const AXE = readFileSync(
  resolve(import.meta.dirname, "../../node_modules/axe-core/axe.min.js"),
  "utf8",
);
/** Milliseconds without anything new that only a failing test waits. */
const PATIENCE = 180_000;
/** Characters of the server's log, and frames of a socket, that a failing test shows. */
const LAST_OF_LOG = 4000;
const LAST_FRAMES = 6;

interface Axe {
  readonly run: typeof run;
}

/** What is done to a browser before its first page. */
export type Preparation = (context: BrowserContext) => Promise<void>;

export class Stage {
  readonly url: string;
  readonly #log: string;
  readonly #world: PythonProcess;
  readonly #browser: Browser;

  private constructor(url: string, log: string, world: PythonProcess, browser: Browser) {
    this.url = url;
    this.#log = log;
    this.#world = world;
    this.#browser = browser;
  }

  /** `settings`: environment variables of the server. */
  static async set(settings: Readonly<Record<string, string>> = {}): Promise<Stage> {
    mkdirSync(SCREENSHOTS, { recursive: true });
    const world = new PythonProcess("world", settings);
    const { url, log } = JSON.parse(await world.line()) as { url: string; log: string };
    const browser = await chromium.launch(CHROMIUM);
    return new Stage(url, log, world, browser);
  }

  async strike(): Promise<void> {
    await this.#browser.close();
    await this.#world.end();
  }

  /** Ask the world: see `tests/client/world.py`. */
  async ask<T>(request: Readonly<Record<string, unknown>>): Promise<T> {
    const answer = JSON.parse(await this.#world.ask(JSON.stringify(request))) as T & { error?: string };
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  /** The end of the server's log. */
  serverLog(): string {
    return readFileSync(this.#log, "utf8").slice(-LAST_OF_LOG);
  }

  /** Two tabs of a browser whose wallet is new: both open at the same time. */
  async twins(): Promise<readonly [Person, Person]> {
    const context = await this.#context();
    const secret = randomBytes(32).toString("hex");
    await context.addInitScript((key) => {
      sessionStorage.setItem("atlas/throw-away-wallet", key);
    }, secret);
    const pages = [await context.newPage(), await context.newPage()] as const;
    const [one, other] = pages.map((page) => new Person(this, context, page));
    if (one === undefined || other === undefined) throw new TypeError("there are two pages");
    await Promise.all([one.arrive(), other.arrive()]);
    return [one, other];
  }

  /** A browser profile without anything. */
  async #context(): Promise<BrowserContext> {
    const context = await this.#browser.newContext({ reducedMotion: "reduce" });
    context.setDefaultTimeout(PATIENCE);
    return context;
  }

  /** Another browser for the wallet that `stored` is of; it is none of its devices yet. */
  async browserOf(stored: readonly (readonly [string, string])[]): Promise<Person> {
    const context = await this.#context();
    await context.addInitScript((entries) => {
      for (const [name, value] of entries) sessionStorage.setItem(name, value);
    }, stored);
    const person = new Person(this, context, await context.newPage());
    await person.page.goto(this.url);
    return person;
  }

  /** A person with a fresh throw-away wallet, in a browser profile of their own. */
  async person(...preparations: readonly Preparation[]): Promise<Person> {
    const context = await this.#context();
    for (const prepare of preparations) await prepare(context);
    const person = new Person(this, context, await context.newPage());
    await person.arrive();
    return person;
  }

  /** A person whose browser injects `wallet`, and who connects it. */
  async walletOwner(
    wallet: InjectedWallet,
    ...preparations: readonly Preparation[]
  ): Promise<Person> {
    const context = await this.#context();
    for (const prepare of preparations) await prepare(context);
    await context.exposeFunction("askWallet", (method: string, params: readonly unknown[]) =>
      wallet(method, params),
    );
    await context.addInitScript(() => {
      const { askWallet } = window as unknown as { askWallet: InjectedWallet };
      const request = ({ method, params = [] }: { method: string; params?: unknown[] }): unknown =>
        askWallet(method, params);
      Object.assign(window, { ethereum: { request } });
    });
    const person = new Person(this, context, await context.newPage());
    await person.page.goto(this.url);
    await person.page.getByRole("button", { name: "Connect your wallet" }).click();
    await person.page.getByRole("textbox", { name: "New conversation" }).waitFor();
    person.wallet = (await person.page.getByTestId("own-wallet").textContent()) ?? "";
    return person;
  }
}

/** Answers as a wallet does over EIP-1193. */
export type InjectedWallet = (method: string, params: readonly unknown[]) => unknown;

export class Person {
  readonly stage: Stage;
  readonly context: BrowserContext;
  readonly page: Page;
  wallet = "";
  /** What the session storage of the tab holds: the throw-away wallet. */
  #stored: readonly (readonly [string, string])[] = [];
  /** What the page complained of; a test that ends with any has failed. */
  readonly complaints: string[] = [];
  /** Every URL that the page asked for. */
  readonly requested: string[] = [];
  readonly #sockets: Socket[] = [];

  constructor(stage: Stage, context: BrowserContext, page: Page) {
    this.stage = stage;
    this.context = context;
    this.page = page;
    this.#listen(page);
  }

  #listen(page: Page): void {
    page.on("pageerror", (error) => this.complaints.push(error.message));
    page.on("request", (request) => this.requested.push(request.url()));
    page.on("websocket", (socket) => {
      this.requested.push(socket.url());
      this.#sockets.push(new Socket(socket));
    });
  }

  /** Load the page, until its chat is open. */
  async arrive(): Promise<void> {
    await this.page.goto(this.stage.url);
    await this.page.getByRole("textbox", { name: "New conversation" }).waitFor();
    this.wallet = (await this.page.getByTestId("own-wallet").textContent()) ?? "";
    this.#stored = await this.page.evaluate(() => Object.entries(sessionStorage));
  }

  get messages(): Locator {
    return this.page.getByRole("log", { name: "Messages" });
  }

  get field(): Locator {
    return this.page.getByRole("textbox", { name: "Message", exact: true });
  }

  async open(peer: string): Promise<void> {
    await this.page.evaluate((wallet) => {
      location.hash = wallet;
    }, peer);
    await this.field.waitFor();
  }

  /** Leave the conversation, to the list alone. */
  async close(): Promise<void> {
    await this.page.evaluate(() => {
      location.hash = "";
    });
    await this.field.waitFor({ state: "detached" });
  }

  async write(text: string): Promise<void> {
    await this.field.fill(text);
    await this.field.press("Enter");
  }

  /** Write, and wait until the ledger has it. */
  async say(text: string): Promise<void> {
    await this.write(text);
    await this.line(text, "In the ledger").waitFor();
  }

  /** Not by their role: to find it, each line out of sight would be laid out, at every look. */
  get lines(): Locator {
    return this.messages.locator("article");
  }

  /** The line with this text, and with this in its foot. */
  line(text: string, foot = ""): Locator {
    return this.lines.filter({ hasText: text }).filter({ hasText: foot });
  }

  /** Wait for the line with `text`, as long as others still come; `last` is the last one there was. */
  async sees(text: string, last = ""): Promise<void> {
    try {
      await this.line(text).first().waitFor();
    } catch (error) {
      const now = (await this.texts()).at(-1) ?? "";
      if (!(error instanceof errors.TimeoutError) || now === last) throw error;
      await this.sees(text, now);
    }
  }

  /** The texts of the lines, in the order in which they stand. */
  async texts(): Promise<readonly string[]> {
    return this.messages.locator("article > p").allTextContents();
  }

  async until(condition: () => Promise<boolean>, what: string): Promise<void> {
    const end = Date.now() + PATIENCE;
    while (!(await condition())) {
      if (Date.now() > end) throw new Error(`it never came true: ${what}`);
      await this.page.waitForTimeout(50);
    }
  }

  /** Another tab of the same browser and the same wallet; this one may be gone. */
  async tab(): Promise<Person> {
    const page = await this.context.newPage();
    const tab = new Person(this.stage, this.context, page);
    await page.addInitScript((entries) => {
      for (const [name, value] of entries) sessionStorage.setItem(name, value);
    }, this.#stored);
    await tab.arrive();
    return tab;
  }

  /** Another browser of the same wallet, which is none of its devices yet. */
  async elsewhere(): Promise<Person> {
    const other = await this.stage.browserOf(this.#stored);
    other.wallet = this.wallet;
    return other;
  }

  async screenshot(name: string): Promise<void> {
    await this.page.screenshot({ path: resolve(SCREENSHOTS, `${name}.png`) });
  }

  /** What axe finds wrong with the page as it stands: rule and place. */
  async inaccessible(): Promise<readonly string[]> {
    // By the debugger, which the page's policy does not bind.
    await this.page.evaluate(AXE);
    return this.page.evaluate(async () => {
      const { axe } = window as unknown as { axe: Axe };
      const { violations } = await axe.run();
      return violations.flatMap(({ id, nodes }) =>
        nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary ?? ""}`),
      );
    });
  }

  /** What the page shows of its state, and what went over its sockets last; for a test that failed. */
  async situation(): Promise<string> {
    const shown = await this.page
      .evaluate(() => {
        const texts = (selector: string): readonly (string | null)[] =>
          [...document.querySelectorAll(selector)].map((one) => one.textContent);
        return {
          connection: texts("[data-connection]"),
          alerts: texts("[role='alert']"),
          rows: texts("nav li"),
          lines: document.querySelectorAll("[role='log'] article").length,
          last: texts("[role='log'] article").slice(-3),
        };
      })
      .catch(String);
    const sockets = this.#sockets.map(String).join("\n  ");
    return `${this.wallet}: ${JSON.stringify(shown)}\n  ${sockets}`;
  }

  async leave(): Promise<void> {
    await this.context.close();
  }
}

/** What went over a socket: of each frame its kind and its numbers, never what it holds. */
class Socket {
  readonly #frames: string[] = [];
  #received = 0;
  #sent = 0;
  #isClosed = false;

  constructor(socket: WebSocket) {
    socket.on("framereceived", ({ payload }) => {
      this.#received += 1;
      this.#note("<", payload);
    });
    socket.on("framesent", ({ payload }) => {
      this.#sent += 1;
      this.#note(">", payload);
    });
    socket.on("close", () => {
      this.#isClosed = true;
    });
  }

  #note(way: string, payload: string | Buffer): void {
    this.#frames.push(`${way} ${summed(String(payload))}`);
    this.#frames.splice(0, this.#frames.length - LAST_FRAMES);
  }

  toString(): string {
    const state = this.#isClosed ? "closed" : "open";
    return `a socket, ${state}, ${this.#received} in, ${this.#sent} out: ${this.#frames.join(" ")}`;
  }
}

function summed(frame: string): string {
  try {
    const { type, position, seq, code, after } = JSON.parse(frame) as Fields;
    return JSON.stringify({ type, position, seq, code, after });
  } catch {
    return "no JSON";
  }
}

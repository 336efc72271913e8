/**
 * A server that answers nonsense, at every place that the client reads: each field of each REST answer
 * and of each frame, missing, of another kind, huge, or a name that means something to the language. What
 * is shown stays, nothing of it is kept, and the client goes on when the server talks sense again.
 */
import { afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { Contacts } from "../../src/security/contacts";
import { Directory, DirectoryError } from "../../src/security/directory";
import { keepPrekeysInStock, publishPrekeys } from "../../src/security/enrolment";
import { CryptoError } from "../../src/security/errors";
import { openStore } from "../../src/security/indexed-db";
import { Messenger } from "../../src/security/messenger";
import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import { KeyDirectory, pair, type Person } from "../security/people";
import { type Answer, FarApi, type Route } from "../transport/far-api";
import { FarEnd } from "../transport/far-end";
import { NONSENSE, withWrong } from "./nonsense";
import { waitUntil } from "./offline";
import { inPage, type Page } from "./page";

const CODE = /^[a-z][a-z0-9_]{0,63}$/;

let suite: Suite;
let alice: Person;
let bob: Person;
let api: FarApi;
beforeAll(async () => {
  suite = await selectSuite();
});
beforeEach(async () => {
  ({ alice, bob } = await pair(suite));
  api = FarApi.stand(new KeyDirectory([alice, bob]));
});
afterEach(() => {
  FarApi.leave();
});

/** What went wrong, which must be of the client's own errors; null when nothing did. */
async function outcome(work: Promise<unknown>): Promise<CryptoError | DirectoryError | null> {
  try {
    await work;
    return null;
  } catch (error) {
    if (error instanceof CryptoError || error instanceof DirectoryError) return error;
    throw error;
  }
}

/** What the client does with each route. */
const USES: readonly (readonly [Route, (one: Person, directory: Directory) => Promise<unknown>])[] = [
  [
    "GET /identities/*",
    (one, directory) => new Contacts(one.on("a"), directory, suite).roster(bob.roster.wallet),
  ],
  [
    "POST /identities/*/claim",
    (one, directory) => new Contacts(one.on("a"), directory, suite).reset(bob.roster.wallet, "b"),
  ],
  ["GET /devices/*/prekeys", (one, directory) => keepPrekeysInStock(one.on("a"), directory, 1)],
  ["PUT /devices/*/prekeys", (one, directory) => publishPrekeys(one.on("a"), directory, null)],
  ["PUT /identity", (one, directory) => directory.putIdentity(one.identity)],
  [
    "POST /devices",
    async (one, directory) => {
      for (const certificate of one.certificates) await directory.addDevice(certificate);
    },
  ],
];

test.each(USES)("%s: an answer that makes no sense ends in an error, and is forgotten", async (route, use) => {
  const directory = new Directory(() => "", "");
  const messenger = alice.on("a");
  // Each publication makes a hundred prekeys: one is enough.
  messenger.publishPrekeys = messenger.publishPrekeys.bind(messenger, { oneTime: 1 });
  const pin = await messenger.pinned(bob.roster.wallet);
  let answers: Answer[] = [];
  api.lie = (asked, answer) => {
    if (asked === route) answers = [...answers, answer];
    return answer;
  };
  await use(alice, directory);
  const [honest] = answers;
  if (honest === undefined) throw new Error("it was asked");
  for (const [, wrong] of NONSENSE) {
    for (const body of withWrong(honest.body, wrong)) {
      api.lie = (asked, answer) => (asked === route ? { status: 200, body } : answer);
      await outcome(use(alice, directory));
    }
  }
  expect(await messenger.pinned(bob.roster.wallet)).toEqual(pin);
  api.lie = (_, answer) => answer;
  await use(alice, directory);
  const { wallet } = bob.roster;
  expect(await new Contacts(messenger, directory, suite).contact(wallet)).toMatchObject({
    succession: "same",
    current: true,
  });
});

test("an error answer that makes no sense keeps its status, and its code is a code", async () => {
  const directory = new Directory(() => "", "");
  const { wallet } = bob.roster;
  for (const status of [400, 401, 404, 409, 422, 429, 500, 503]) {
    const bodies = ["", "<html>", "null", "[]", '"x"', "7"];
    const codes = NONSENSE.map(([, code]) => ({ code, retry_after: code }));
    for (const body of [...bodies, ...codes]) {
      api.lie = () => ({ status, body });
      const error = await outcome(directory.lookup(wallet));
      expect(error).toMatchObject({ name: "DirectoryError", status });
      expect(error?.code).toMatch(CODE);
    }
  }
});

test("a server that never answers is given up", async () => {
  const timeout = AbortSignal.timeout.bind(AbortSignal);
  const given: AbortController[] = [];
  AbortSignal.timeout = () => {
    const one = new AbortController();
    given.push(one);
    return one.signal;
  };
  try {
    api.lie = () => new Promise(() => undefined);
    const asking = outcome(new Directory(() => "", "").lookup(bob.roster.wallet));
    for (const one of given) one.abort();
    expect(await asking).toMatchObject({ status: 0, unreachable: true });
  } finally {
    AbortSignal.timeout = timeout;
  }
});

test("a directory that repeats what it says, or goes back for ever, is not followed", async () => {
  const directory = new Directory(() => "", "");
  const { wallet } = bob.roster;
  await bob.add("c");
  await bob.revoke("c");
  let decoded = 0;
  const repeated = (name: string): void => {
    api.lie = (route, answer) => {
      if (route !== "GET /identities/*") return answer;
      const body = answer.body as Readonly<Record<string, unknown>>;
      const [one = body["identity"]] = body[name] as readonly unknown[];
      decoded += 1;
      return { ...answer, body: { ...body, [name]: Array.from({ length: 5_000 }, () => one) } };
    };
  };
  for (const name of ["certificates", "revocations"]) {
    repeated(name);
    const contacts = new Contacts(alice.on("a"), directory, suite);
    await expect(contacts.contact(wallet)).rejects.toMatchObject({ code: "not_certified" });
  }
  repeated("history");
  expect((await directory.lookup(wallet)).history.length).toBeLessThanOrEqual(64);
  expect(decoded).toBe(3);
});

/** Nothing of what a server makes up is in the page, and the page is there. */
function holdsUp({ place }: Page): void {
  const { textContent } = place;
  expect(place.querySelectorAll("nav, section[aria-label]").length).toBeGreaterThanOrEqual(2);
  expect(textContent).not.toMatch(/example\.org|evil|\[object|function |undefined|AAAA|NaN|\u202e/);
}

test("a page whose server refuses with nonsense says that it does not open, and opens later", async () => {
  await inPage(bob, async (page) => {
    const { place } = page;
    api.lie = () => ({ status: 422, body: { code: "bad_request" } });
    page.show();
    await waitUntil(() => place.querySelector("[role='alert']"));
    for (const [, code] of NONSENSE) {
      let asked = false;
      api.lie = () => {
        asked = true;
        return { status: 422, body: { code } };
      };
      page.press("Try again");
      await waitUntil(() => asked && place.querySelector("[role='alert']"));
      holdsUp(page);
    }
    api.lie = (_, answer) => answer;
    page.press("Try again");
    await waitUntil(() => page.field);
  });
});

test("a page whose server talks nonsense stays as it is, and goes on when it talks sense", async () => {
  await inPage(bob, async (page) => {
    const { place } = page;
    page.show();
    const server = await page.online(0);
    await waitUntil(() => page.field);
    page.write("waits for its ACK");
    await server.hears("CHAT_MESSAGE", 1);
    const [sent = {}] = server.frames("CHAT_MESSAGE");
    const { seq, hash, recipient, device } = sent;
    const timestamp = "2026-01-01T00:00:00Z";
    const message = await page.fromBob("not to be shown in pieces", 1);
    const lines: readonly object[] = [
      { type: "CHAT_MESSAGE", ...message },
      { type: "ACK", seq, hash, recipient, device, position: 2, timestamp },
      { type: "RECEIPT", kind: "read", position: 2, wallet: recipient },
      { type: "PREKEYS_LOW", device },
      { type: "RESUMED", position: 1, complete: true },
      { type: "ERROR", code: "rate_limited", detail: "", seq, recipient, last_seq: 0, retry_after: 9 },
      { type: "READY", wallet: page.wallet, position: 0 },
    ];
    for (const [, wrong] of NONSENSE) {
      for (const line of lines) {
        for (const frame of withWrong(line, wrong)) server.say(frame === undefined ? "" : JSON.stringify(frame));
      }
      holdsUp(page);
    }
    // Whatever else it made of that, the next connection is sound.
    server.say({ type: "READY", wallet: page.wallet, position: 2 });
    server.say({ type: "RESUMED", position: 2, complete: true });
    server.say(await page.fromBob("a true word", 3));
    await waitUntil(() => place.textContent.includes("a true word"));
    holdsUp(page);
    const store = await openStore(page.wallet);
    const kept = (await (await Messenger.load(store, suite))?.kept("")) ?? [];
    expect(kept.length).toBeGreaterThan(0);
    for (const { name, value } of kept) {
      // A listing has statements of some kilobytes each.
      expect([name, value.length < (name.startsWith("contacts/") ? 200_000 : 2_000)]).toEqual([name, true]);
      expect(name.length).toBeLessThan(200);
    }
  });
});

test("a refusal whose code makes no sense is told as a refusal", async () => {
  await inPage(bob, async (page) => {
    const { place } = page;
    page.show();
    await waitUntil(() => FarEnd.opened.length > 0);
    for (const [, code] of NONSENSE) {
      const server = FarEnd.latest;
      server.accept();
      server.say(JSON.stringify({ type: "ERROR", code, detail: "" }));
      server.onclose({ code: 1008 });
      await waitUntil(() => place.querySelector("[data-connection='refused']"));
      holdsUp(page);
      const before = FarEnd.opened.length;
      page.show();
      await waitUntil(() => FarEnd.opened.length > before);
    }
  });
});

test("a directory that refuses with nonsense has no number to compare, and the window stays", async () => {
  await inPage(bob, async (page) => {
    const { place } = page;
    page.show();
    await page.online(0);
    await waitUntil(() => page.field);
    for (const [, code] of NONSENSE) {
      api.lie = () => ({ status: 422, body: { code } });
      page.press("Safety number");
      const alert = await waitUntil(() => place.querySelector("dialog [role='alert']"));
      expect(alert.textContent).toMatch(/^There is no number to compare\. /);
      holdsUp(page);
      page.press("Close");
      await waitUntil(() => place.querySelector("dialog") === null);
    }
  });
});

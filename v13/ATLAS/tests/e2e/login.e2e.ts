/** A login that runs out while the page is open: the wallet signs a new one, and the chat goes on. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { fromHex, toHex } from "../../src/security/bytes";
import { WalletKey } from "../../src/security/wallet";
import { Between } from "./between";
import { type Person, Stage } from "./stage";

/** Seconds that a login is good for. */
const LIFETIME = "6";

let stage: Stage;
let alice: Person;
let between: Between;
/** Texts that Alice's wallet was asked to sign, and whether it does. */
let asked: string[];
let signs: boolean;

beforeAll(async () => {
  stage = await Stage.set({ ATLAS_TOKEN_TTL: LIFETIME });
});
afterAll(async () => {
  await stage.strike();
});
afterEach(async () => {
  await alice.leave();
  expect(alice.complaints).toEqual([]);
});

async function arrive(): Promise<void> {
  const key = WalletKey.generate();
  between = new Between();
  asked = [];
  signs = true;
  alice = await stage.walletOwner((method, [message]) => {
    if (method === "eth_requestAccounts") return [key.wallet];
    const text = new TextDecoder().decode(fromHex(String(message).slice(2)));
    asked.push(text);
    if (!signs) throw new Error("User rejected the request.");
    return `0x${toHex(key.sign(text))}`;
  }, between.stand);
  const { wallet } = await stage.ask<{ wallet: string }>({ do: "bob anew" });
  await alice.open(wallet);
  await alice.say("with the first login");
}

/** The tokens that the page gave to the server, each once. */
function tokens(): ReadonlySet<unknown> {
  return new Set(between.sent.filter(({ type }) => type === "AUTH").map(({ token }) => token));
}

test("the wallet signs a new login before the old one runs out, and the connection goes on", async () => {
  await arrive();
  // By the fourth login, each at half of the life of the one before, the first one has run out.
  await alice.until(() => Promise.resolve(tokens().size >= 4), "three logins more");
  await alice.say("with the fourth login");
  expect(await alice.texts()).toEqual(["with the first login", "with the fourth login"]);
  expect(alice.requested.filter((url) => url.includes("/v1/chat/ws"))).toHaveLength(1);
  // Four for logins, two for the identity and the device.
  expect(asked.length).toBeGreaterThanOrEqual(6);
});

test("while the server gives no login the page stays as it is, and goes on when it does", async () => {
  await arrive();
  await alice.page.route("**/v1/auth/challenge", (route) => route.abort());
  await alice.page.getByText("Your login is no longer valid.").waitFor();
  await alice.write("written without a login");
  await alice.line("written without a login", "Sending").waitFor();
  await alice.screenshot("login-ran-out");
  await alice.page.unroute("**/v1/auth/challenge");
  await alice.line("written without a login", "In the ledger").waitFor();
});

test("a wallet that does not sign a new login ends the chat in the page; what waits is not lost", async () => {
  await arrive();
  signs = false;
  await alice.page.getByRole("alert").getByText("You are not logged in.").waitFor();
  const refused = asked.length;
  signs = true;
  await alice.page.getByRole("button", { name: "Connect your wallet" }).click();
  await alice.field.waitFor();
  await alice.sees("with the first login");
  await alice.say("with a login of later");
  expect(asked.length).toBeGreaterThan(refused);
});

/** What sealing and opening cost in a browser, with the state in IndexedDB: `npm run bench`. */
import { bench, describe } from "vitest";

import { CryptoError } from "../../src/security/errors";
import { eraseStore, openStore } from "../../src/security/indexed-db";
import { Messenger } from "../../src/security/messenger";
import { nobleSuite } from "../../src/security/noble";
import type { Roster } from "../../src/security/roster";
import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import { connect, correspondents, Person, Stock, utf8, write } from "./people";

const native = await selectSuite();

/** A thread of `people` people with `each` devices each, and the sender's messenger. */
async function thread(
  suite: Suite,
  people: number,
  each: number,
): Promise<{ messenger: Messenger; rosters: readonly Roster[] }> {
  const stock = new Stock();
  const alice = await Person.make(suite, stock, "phone");
  await alice.add("web");
  const { wallet } = alice.wallet;
  await eraseStore(wallet);
  const store = await openStore(wallet);
  const { keys } = alice.device("web");
  const messenger = await Messenger.create(store, suite, keys, alice.roster, "web");
  const devices = Array.from({ length: each }, (_, index) => `d${index}`);
  const others: Person[] = [];
  for (let index = 0; index < people; index++) {
    const other = await Person.make(suite, stock, ...devices);
    await messenger.learn(other.roster);
    await connect(messenger, other);
    others.push(other);
  }
  const rosters = others.map((one) => one.roster);
  return { messenger, rosters };
}

const many = await thread(native, 4, 50);
const one = await thread(native, 1, 1);
const oneByNoble = await thread(nobleSuite, 1, 1);
const content = utf8("a message of usual length, which is some sixty bytes or so long");

describe("seal", () => {
  const seal = async ({ messenger, rosters }: typeof many): Promise<void> => {
    const frame = await messenger.seal({ recipient: "thread", rosters, content, ts: 0 });
    await messenger.acknowledged(frame);
  };
  bench("for 200 devices, WebCrypto, handshakes with each", () => seal(many), { iterations: 20 });
  bench("for 1 device, WebCrypto, with its handshake", () => seal(one));
  bench("for 1 device, noble, with its handshake", () => seal(oneByNoble));
});

const { alice, bob } = await correspondents(native);

describe("one way of a conversation, state in memory", () => {
  bench("seal and open", async () => {
    const frame = await write(alice, "a", bob, "x");
    const opened = await bob.on("b").open({ frame, roster: alice.roster });
    if (opened.content.length !== 1) throw new CryptoError("decrypt", "not what was sent");
  });
});

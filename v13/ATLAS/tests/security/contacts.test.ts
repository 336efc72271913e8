/** Contacts between a directory, which may lie or be away, and what is pinned. */
import { beforeAll, beforeEach, expect, test } from "vitest";

import { Contacts } from "../../src/security/contacts";
import { keepPrekeysInStock, openMessenger } from "../../src/security/enrolment";
import { selectSuite } from "../../src/security/select";
import { SessionStore } from "../../src/security/store";
import type { Suite } from "../../src/security/suite";
import { KeyDirectory, pair, type Person } from "./people";

let suite: Suite;
let alice: Person;
let bob: Person;
let directory: KeyDirectory;
beforeAll(async () => {
  suite = await selectSuite();
});
beforeEach(async () => {
  ({ alice, bob } = await pair(suite));
  directory = new KeyDirectory([alice, bob]);
});

/** As a page has them: what was asked for is fresh for a minute of `clock`. */
function contacts(clock = (): number => 0): Contacts {
  return new Contacts(alice.on("a"), directory, suite, clock);
}

/** A second tab on the same state. */
async function otherTab(): Promise<Contacts> {
  return new Contacts(await alice.restart("a"), directory, suite, () => 0);
}

async function accept(there: Contacts): Promise<void> {
  const contact = await there.contact(bob.roster.wallet);
  if (contact === null) throw new Error("there is an identity");
  await there.accept(contact.roster, await there.safetyNumber(contact.roster));
}

test("no roster is given of an identity that nobody has accepted, fresh or not", async () => {
  const { wallet } = bob.roster;
  const here = contacts();
  await here.roster(wallet);
  await bob.renew(false);
  expect(await here.contact(wallet)).toMatchObject({ succession: "reset" });
  for (let ask = 0; ask < 2; ask++) {
    await expect(here.roster(wallet)).rejects.toMatchObject({ code: "identity_changed" });
  }
  await accept(here);
  expect((await here.roster(wallet)).identity.id).toEqual(bob.identity.id);
});

test("what another tab has accepted is asked for, however fresh the roster before is", async () => {
  const { wallet } = bob.roster;
  const here = contacts();
  expect((await here.roster(wallet)).identity.id).toEqual(bob.identity.id);
  await bob.renew(false);
  await accept(await otherTab());
  expect((await here.roster(wallet)).identity.id).toEqual(bob.identity.id);
});

test.each([0, 500, 503])("a directory that answers %d is away: what it said last goes on", async (down) => {
  const { wallet } = bob.roster;
  let now = 0;
  const here = contacts(() => now);
  await here.roster(wallet);
  directory.down = down;
  now = 60_000;
  expect(await here.contact(wallet)).toMatchObject({ current: false, succession: "same" });
  expect((await here.roster(wallet)).identity.id).toEqual(bob.identity.id);
  const { storage, witness } = alice.device("a");
  const store = await SessionStore.open(storage, witness);
  const sign = (): Promise<never> => Promise.reject(new Error("nobody signs"));
  const opened = await openMessenger({ wallet: alice.roster.wallet, sign, directory, store, suite });
  expect(opened.device).toBe("a");
});

test.each([401, 429])("a directory that answers %d refuses: nothing goes on without it", async (down) => {
  const { wallet } = bob.roster;
  const here = contacts();
  await here.roster(wallet);
  directory.down = down;
  await expect(here.contact(wallet)).rejects.toMatchObject({ status: down });
});

test("an identity that is rotated and then reset is told as reset alone, and as neither once accepted", async () => {
  const { wallet } = bob.roster;
  const here = contacts();
  directory.history = [await bob.renew(true)];
  expect(await here.contact(wallet)).toMatchObject({ succession: "rotated", rotated: true });
  directory.history = [...directory.history, await bob.renew(false)];
  expect(await here.contact(wallet)).toMatchObject({ succession: "reset", rotated: false });
  expect(here.isRotated(wallet)).toBe(false);
  await accept(here);
  expect(await here.contact(wallet)).toMatchObject({ succession: "same", rotated: false });
});

test.each([
  [{ oneTime: 19, oneTimeKem: 50 }, 1],
  [{ oneTime: 50, oneTimeKem: 19 }, 1],
  [{ oneTime: 20, oneTimeKem: 20 }, 0],
])("with %o left %d publication is made: the lesser kind decides", async (left, published) => {
  const messenger = alice.on("a");
  await keepPrekeysInStock(messenger, directory, 0); // the first signed ones
  directory.left = left;
  directory.published = 0;
  await keepPrekeysInStock(messenger, directory, 1);
  expect(directory.published).toBe(published);
});

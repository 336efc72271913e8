/** What identities, certificates and publications must refuse and no vector has. */
import { expect, test } from "vitest";

import { fromHex } from "../../src/security/bytes";
import { certify, describeDevice } from "../../src/security/devices";
import { IdentityBody, succession, vouch } from "../../src/security/identity";
import { nobleSuite as suite } from "../../src/security/noble";
import { Publication } from "../../src/security/prekeys";
import { Person, Stock, utf8 } from "./people";

test("a blessed statement that skips a generation is a reset", async () => {
  const bob = await Person.make(suite, new Stock());
  const key = await suite.mldsa65.generate();
  for (const [generation, expected] of [
    [1, "rotated"],
    [2, "reset"],
  ] as const) {
    const body = new IdentityBody({
      wallet: bob.wallet.wallet,
      generation,
      previous: bob.identity.id,
      postQuantum: key.publicKey,
    });
    const next = await vouch(suite, body, bob.wallet.sign(body.text), key, bob.identityKey);
    expect(await succession(suite, bob.identity, next)).toBe(expected);
  }
});

test("a device of another identity endorses nothing", async () => {
  const stock = new Stock();
  const [alice, bob] = [await Person.make(suite, stock, "a"), await Person.make(suite, stock, "b")];
  const [endorser, { keys }] = [alice.roster.device("a"), bob.device("b")];
  const body = describeDevice(bob.identity, "c", keys, endorser);
  const signature = bob.wallet.sign(body.text);
  const by = alice.device("a").keys;
  const certificate = await certify(suite, body, signature, bob.identityKey, keys, by);
  await expect(certificate.verify(suite, bob.identity, endorser)).rejects.toMatchObject({
    code: "not_certified",
  });
});

test("one-time prekeys that do not rise are refused", async () => {
  const bob = await Person.make(suite, new Stock(), "b");
  const { certificate, signed, lastResort, oneTime, oneTimeKem } = await bob
    .on("b")
    .publishPrekeys({ oneTime: 2 });
  const decoded = (order: typeof oneTime): Publication =>
    Publication.decode(
      new Publication(certificate, signed, lastResort, order, oneTimeKem).encode(),
    );
  const [one, two] = oneTime;
  if (one === undefined || two === undefined) throw new Error("two prekeys");
  expect(decoded([one, two]).oneTime).toHaveLength(2);
  expect(() => decoded([one, one])).toThrow("ascending");
  expect(() => decoded([two, one])).toThrow("ascending");
});

test("noble takes no Ed25519 key in an encoding that RFC 8032 does not have", async () => {
  // The neutral point as p + 1: with it any message verifies under ZIP 215.
  const key = fromHex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
  const signature = new Uint8Array(64);
  signature[0] = 1;
  await expect(suite.ed25519.verify(key, signature, utf8("anything"))).rejects.toMatchObject({
    code: "bad_classical_signature",
  });
});

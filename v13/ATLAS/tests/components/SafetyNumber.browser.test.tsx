/** Comparing a safety number, and accepting a new one. */
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test } from "vitest";

import { SafetyNumber } from "../../src/components/SafetyNumber";
import { CryptoError } from "../../src/security/errors";
import { offline, type Offline, waitUntil } from "../chat/offline";

let root: Root;
let place: HTMLElement;
let opened: Offline;

beforeEach(async () => {
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
  opened = await offline("everyone");
});
afterEach(() => {
  root.unmount();
  place.remove();
  opened.session.close();
});

test("an acceptance that cannot be kept says so, and can be tried again", async () => {
  const { session, bob, device } = opened;
  const peer = bob.roster.wallet;
  await bob.renew(false);
  let closed = 0;
  root.render(<SafetyNumber session={session} peer={peer} changed onClose={() => (closed += 1)} />);
  const accept = await waitUntil(() => place.querySelector<HTMLElement>("dialog > button"));
  const { storage } = device;
  const write = storage.write.bind(storage);
  storage.write = () => Promise.reject(new CryptoError("storage", "the disk is full"));
  accept.click();
  const alert = await waitUntil(() => place.querySelector("dialog > [role='alert']"));
  expect(alert.textContent).toMatch(/^It was not accepted\. The browser could not keep/);
  expect(closed).toBe(0);
  expect(session.summary(peer)?.changed).toBe(true);
  storage.write = write;
  accept.click();
  await waitUntil(() => closed === 1);
  expect(session.summary(peer)?.changed).toBe(false);
});

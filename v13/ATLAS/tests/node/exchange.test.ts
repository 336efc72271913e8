/** Python and TypeScript under Node: both ways, by the platform's algorithms and by noble. */
import { afterEach, beforeEach, test } from "vitest";

import { nobleSuite } from "../../src/security/noble";
import { selectSuite } from "../../src/security/select";
import { exchange, exchangeAttachments } from "../security/exchange";
import { PythonProcess } from "./python";

let peer: PythonProcess;
beforeEach(() => {
  peer = new PythonProcess("peer");
});
afterEach(async () => {
  await peer.end();
});

const ask = (request: string): Promise<string> => peer.ask(request);

test.each([
  ["typescript", "platform"],
  ["python", "platform"],
  ["typescript", "noble"],
  ["python", "noble"],
] as const)("%s opens the session (%s)", async (initiator, which) => {
  await exchange(ask, which === "noble" ? nobleSuite : await selectSuite(), initiator);
});

test("attachments are read by the other side", async () => {
  await exchangeAttachments(ask);
});

/** Python and TypeScript in Chromium: both ways, by WebCrypto's own algorithms. */
import { afterEach, test } from "vitest";
import { commands } from "vitest/browser";

import { selectSuite } from "../../src/security/select";
import { exchange, exchangeAttachments } from "./exchange";

declare module "vitest/browser" {
  interface BrowserCommands {
    /** The answer of this page's Python peer; an empty request ends it. */
    askPython: (request: string) => Promise<string>;
  }
}

afterEach(async () => {
  await commands.askPython("");
});

test.each(["typescript", "python"] as const)("%s opens the session", async (initiator) => {
  await exchange(commands.askPython, await selectSuite(), initiator);
});

test("attachments are read by the other side", async () => {
  await exchangeAttachments(commands.askPython);
});

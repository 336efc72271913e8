/**
 * A second tab: a worker of the same origin, with its own copy of the program, on the same stored
 * device. It seals until it is told to stop, or is closed in the middle of it.
 */
import { fromBase64 } from "../../src/security/bytes";
import { Certificate } from "../../src/security/devices";
import { Identity } from "../../src/security/identity";
import { openStore } from "../../src/security/indexed-db";
import { Messenger } from "../../src/security/messenger";
import { verifyRoster } from "../../src/security/roster";
import { selectSuite } from "../../src/security/select";

export interface Task {
  readonly wallet: string;
  /** The recipient's identity and one certificate, in base64. */
  readonly identity: string;
  readonly certificate: string;
  readonly messages: number;
}

/** What a tab reports: the frame as JSON, or what went wrong. */
export type Report = { readonly frame: string } | { readonly failed: string };

function bytes(text: string): Uint8Array<ArrayBuffer> {
  const data = fromBase64(text);
  if (data === null) throw new TypeError("not base64");
  return data;
}

async function work(task: Task): Promise<void> {
  const suite = await selectSuite();
  const messenger = await Messenger.load(await openStore(task.wallet), suite);
  if (messenger === null) throw new TypeError("no device is stored");
  const identity = Identity.decode(bytes(task.identity));
  const certificate = Certificate.decode(bytes(task.certificate));
  const roster = await verifyRoster(suite, identity, [certificate]);
  for (let number = 0; number < task.messages; number++) {
    const content = new TextEncoder().encode(`from the other tab ${number}`);
    const frame = await messenger.seal({
      recipient: roster.wallet,
      rosters: [roster],
      content,
      ts: 0,
    });
    report({ frame: JSON.stringify(frame.toWire()) });
  }
}

function report(report: Report): void {
  globalThis.postMessage(report);
}

globalThis.onmessage = ({ data }: MessageEvent<Task>) => {
  work(data).catch((error: unknown) => {
    report({ failed: String(error) });
  });
};

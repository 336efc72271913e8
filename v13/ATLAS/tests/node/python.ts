/** Processes of the Python implementation: `tests/client/peer.py`, asked over its standard input. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

const ROOT = resolve(import.meta.dirname, "../../../..");

/** One person in Python. Requests are answered in their order. */
export class PythonPeer {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #complaint = "";
  #last: Promise<unknown> = Promise.resolve();

  constructor() {
    const python = process.env["PYTHON"] ?? resolve(ROOT, ".venv/bin/python");
    this.#process = spawn(python, ["-m", "tests.client.peer"], { cwd: ROOT });
    this.#process.stderr.on("data", (data: Buffer) => {
      this.#complaint += data.toString();
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** The answer, as text; throws what Python complained of when there is none. */
  ask(request: string): Promise<string> {
    const answer = this.#last.then(async () => {
      this.#process.stdin.write(`${request}\n`);
      const line = await this.#lines.next();
      if (line.done === true) throw new Error(`the Python peer ended:\n${this.#complaint}`);
      return line.value;
    });
    this.#last = answer.catch(() => null);
    return answer;
  }

  end(): void {
    this.#process.stdin.end();
  }
}

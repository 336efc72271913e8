/** Processes of the Python side: a module of `tests/client`, asked in lines over its standard input. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

const ROOT = resolve(import.meta.dirname, "../../../..");

/** One process. Requests are answered in their order. */
export class PythonProcess {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #complaint = "";
  #last: Promise<unknown> = Promise.resolve();

  /** `module`: of `tests/client`, as `peer` or `host`; `settings`: further environment variables. */
  constructor(module: string, settings: Readonly<Record<string, string>> = {}) {
    const python = process.env["PYTHON"] ?? resolve(ROOT, ".venv/bin/python");
    const env = { ...process.env, ...settings };
    this.#process = spawn(python, ["-m", `tests.client.${module}`], { cwd: ROOT, env });
    this.#process.stderr.on("data", (data: Buffer) => {
      this.#complaint += data.toString();
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /** The next line that it says; throws what it complained of when there is none. */
  async line(): Promise<string> {
    const line = await this.#lines.next();
    if (line.done === true) throw new Error(`the Python process ended:\n${this.#complaint}`);
    return line.value;
  }

  /** The answer to one request, each a line. */
  ask(request: string): Promise<string> {
    const answer = this.#last.then(() => {
      this.#process.stdin.write(`${request}\n`);
      return this.line();
    });
    this.#last = answer.catch(() => null);
    return answer;
  }

  /** Resolves when it has ended. */
  async end(): Promise<void> {
    const ended = once(this.#process, "exit");
    this.#process.stdin.end();
    await ended;
  }
}

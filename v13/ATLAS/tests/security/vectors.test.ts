/** Every vector gives the answer, or the error, that it names: by this platform's suite and by noble. */
import { beforeAll, describe, expect, test } from "vitest";

import { CryptoError } from "../../src/security/errors";
import * as labels from "../../src/security/labels";
import { nobleSuite } from "../../src/security/noble";
import { selectSuite } from "../../src/security/select";
import type { Suite } from "../../src/security/suite";
import { Inputs, OPERATIONS, plain, vectorForm } from "./operations";

interface Vector {
  readonly name: string;
  readonly op: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly output?: unknown;
  readonly error?: string;
}

interface Document {
  readonly format: string;
  readonly subject: string;
  readonly blobs: Readonly<Record<string, string>>;
  readonly vectors: readonly Vector[];
}

const files = import.meta.glob<Document>("../../../../tests/vectors/crypto-*.json", {
  eager: true,
  import: "default",
});
const documents = Object.entries(files).map(([path, document]) => {
  const name = path.replace(/.*\/(.*)\.json/, "$1");
  return { name, document };
});
const vectors = documents.flatMap(({ document }) => document.vectors);

let native: Suite;
beforeAll(async () => {
  native = await selectSuite();
});

const suites = [
  { suite: "the platform's algorithms", of: () => native },
  { suite: "noble alone", of: () => nobleSuite },
];

describe.each(suites)("$suite", ({ of }) => {
  describe.each(documents)("$name", ({ document }) => {
    test.each(document.vectors)("$name", async (vector) => {
      const keys = ["name", "op", "input", vector.error === undefined ? "output" : "error"];
      expect(Object.keys(vector).sort()).toEqual(keys.sort());
      const operation = OPERATIONS[vector.op];
      if (operation === undefined) throw new TypeError(`no operation ${vector.op}`);
      const inputs = new Inputs(plain(vector.input, document.blobs));
      const outcome = async (): Promise<unknown> => {
        const output = await operation(inputs, of());
        inputs.end();
        return vectorForm(output);
      };
      if (vector.error === undefined) {
        expect(await outcome()).toEqual(vector.output);
      } else {
        const error: unknown = await outcome().catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(CryptoError);
        expect((error as CryptoError).code).toBe(vector.error);
      }
    });
  });
});

test("the documents are of the format that is read here, and names are not used twice", () => {
  expect(documents.length).toBeGreaterThanOrEqual(7);
  for (const { document } of documents) {
    expect(Object.keys(document).sort()).toEqual(["blobs", "format", "subject", "vectors"]);
    expect(document.format).toBe("atlas-secure-chat-vectors/1");
    const names = document.vectors.map((one) => one.name);
    expect(new Set(names).size).toBe(names.length);
  }
});

test("every operation and every label has a vector", () => {
  expect(new Set(vectors.map((one) => one.op))).toEqual(new Set(Object.keys(OPERATIONS)));
  const pinned = vectors.filter((one) => one.op === "label").map((one) => one.output);
  const decoder = new TextDecoder();
  const ours = Object.values(labels).map((label) => ({ label: decoder.decode(label) }));
  expect(new Set(pinned)).toEqual(new Set(ours));
});

test("an unknown key in a vector fails the harness", async () => {
  const inputs = new Inputs({ block: new Uint8Array(1), surprise: 1 });
  await OPERATIONS["cid"]?.(inputs, nobleSuite);
  expect(() => {
    inputs.end();
  }).toThrow("surprise");
  expect(() => plain({ blob: "x", surprise: 1 }, { x: "" })).toThrow("surprise");
  const edit = { at: 0, cut: 0, put: "", surprise: 1 };
  expect(() => plain({ blob: "x", edits: [edit] }, { x: "" })).toThrow("surprise");
});

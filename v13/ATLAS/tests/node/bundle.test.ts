/** What a page must load for the protocol: all of it, the fallback for every algorithm included. */
import { resolve } from "node:path";
import { gzipSync } from "node:zlib";

import { build } from "vite";
import { expect, test } from "vitest";

const LARGEST = 60_000; // bytes gzipped: 80 kB are for protocol and user interface together

test("the protocol is small enough to load with a page", async () => {
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      target: "es2023",
      // As an application, not as a library: those keep their white space.
      rolldownOptions: {
        input: resolve(import.meta.dirname, "everything.ts"),
        preserveEntrySignatures: "strict",
      },
    },
  });
  const outputs = (Array.isArray(built) ? built : [built]).flatMap((one) =>
    "output" in one ? one.output : [],
  );
  const chunks = outputs.filter((one) => one.type === "chunk");
  const code = chunks.map((one) => one.code).join("");
  expect(code).toContain("atlas/secure-chat/v2/");
  const size = gzipSync(code, { level: 9 }).length;
  expect(size, `${size} bytes gzipped`).toBeLessThan(LARGEST);
  // Where the browser has every algorithm the fallback is not loaded at all.
  const first = chunks.find((one) => one.isEntry)?.code ?? "";
  expect(gzipSync(first, { level: 9 }).length).toBeLessThan(LARGEST / 2);
  expect(first.length).toBeGreaterThan(code.length / 4);
});

test("protocol and user interface, without React, are small enough to load with a page", async () => {
  const built = await build({
    configFile: false,
    logLevel: "silent",
    build: {
      write: false,
      target: "es2023",
      rolldownOptions: {
        input: resolve(import.meta.dirname, "../../src/demo/main.tsx"),
        external: [/^react/],
      },
    },
  });
  const outputs = (Array.isArray(built) ? built : [built]).flatMap((one) =>
    "output" in one ? one.output : [],
  );
  const parts = outputs.map((one) => (one.type === "chunk" ? one.code : String(one.source)));
  expect(parts.join("")).toContain("atlas/secure-chat/v2/");
  expect(parts.join("")).toContain("Safety number");
  const size = parts.reduce((sum, part) => sum + gzipSync(part, { level: 9 }).length, 0);
  expect(size, `${size} bytes gzipped`).toBeLessThan(80_000);
});

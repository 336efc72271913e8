import react from "@vitejs/plugin-react";
import { playwright } from "@vitest/browser-playwright";
import { searchForWorkspaceRoot } from "vite";
import { defineConfig } from "vitest/config";
import type { BrowserCommand } from "vitest/node";

import { CHROMIUM } from "./tests/node/chromium.ts";
import { PythonProcess } from "./tests/node/python.ts";

// Tests named *.browser.test.ts need what only a browser has; those in tests/node need Node; all
// others run in both.
// Milliseconds; nothing is measured by it: only a test that hangs waits this long. In tests with
// browsers and a server each step has a patience of its own, which ends them before.
const TIMEOUT = 120_000;
const OF_MANY_STEPS = 10 * TIMEOUT;

let peer: PythonProcess | null = null;

/** The way of tests in the browser to a Python process; an empty request ends it. */
const askPython: BrowserCommand<[request: string]> = async (_, request) => {
  if (request !== "") return (peer ??= new PythonProcess("peer")).ask(request);
  await peer?.end();
  peer = null;
  return "";
};

export default defineConfig({
  plugins: [react()],
  // Found at once, so that the test run does not start over when it meets them.
  optimizeDeps: {
    include: [
      "@noble/curves/ed25519.js",
      "@noble/curves/secp256k1.js",
      "@noble/hashes/hkdf.js",
      "@noble/hashes/hmac.js",
      "@noble/hashes/sha2.js",
      "@noble/hashes/sha3.js",
      "@noble/post-quantum/ml-dsa.js",
      "@noble/post-quantum/ml-kem.js",
      "fast-check",
      "react",
      "react-dom/client",
    ],
  },
  build: { target: "es2023", sourcemap: true },
  // The vectors that every implementation reads lie beside the Python tests.
  server: { fs: { allow: [searchForWorkspaceRoot(import.meta.dirname), "../../tests/vectors"] } },
  test: {
    projects: [
      {
        extends: true,
        test: {
          name: "node",
          environment: "node",
          testTimeout: TIMEOUT,
          hookTimeout: TIMEOUT,
          include: ["tests/**/*.test.ts"],
          exclude: ["tests/**/*.browser.test.ts", "tests/**/*.browser.test.tsx"],
        },
      },
      {
        extends: true,
        test: {
          name: "e2e",
          environment: "node",
          testTimeout: OF_MANY_STEPS,
          hookTimeout: TIMEOUT,
          include: ["tests/e2e/**/*.e2e.ts"],
        },
      },
      {
        extends: true,
        test: {
          name: "measure",
          environment: "node",
          testTimeout: OF_MANY_STEPS,
          hookTimeout: TIMEOUT,
          include: ["tests/e2e/**/*.measure.ts"],
        },
      },
      {
        extends: true,
        test: {
          name: "browser",
          testTimeout: TIMEOUT,
          hookTimeout: TIMEOUT,
          include: ["tests/**/*.test.ts", "tests/**/*.browser.test.tsx"],
          exclude: ["tests/node/**"],
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            commands: { askPython },
            instances: [{ browser: "chromium" }],
            provider: playwright({ launchOptions: CHROMIUM }),
          },
        },
      },
    ],
  },
});

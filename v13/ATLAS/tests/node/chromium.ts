/** The Chromium that every test in a browser starts, and how. */
import type { LaunchOptions } from "playwright";

export const CHROMIUM: LaunchOptions = {
  executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
  args: [
    // As root in a container there is no sandbox; the only pages are ours.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // ML-KEM and ML-DSA: still behind this switch before Chromium 156.
    "--enable-features=WebCryptoPQC",
  ],
};

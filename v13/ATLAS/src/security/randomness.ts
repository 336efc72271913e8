import type { Bytes } from "./bytes";

/** `n` -> n fresh bytes of a cryptographic generator, at most 65,536. */
export type Randomness = (size: number) => Bytes;

/** The platform's generator. */
export function fresh(size: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(size));
}

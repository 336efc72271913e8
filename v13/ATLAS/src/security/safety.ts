/** Safety numbers: what two people compare to know that no one stands between them. */
import { labelled } from "./codec";
import { sha512 } from "./digest";
import type { Identity } from "./identity";
import { SAFETY_NUMBER } from "./labels";

const ITERATIONS = 5200; // makes a search for a near match dearer by 2^12
const GROUPS = 6;

/** One side's 30 digits: six groups of 5 bytes modulo 10^5 of an iterated SHA-512. */
function half(identity: Identity): string {
  let digest = sha512(labelled(SAFETY_NUMBER, identity.body.encoded));
  for (let round = 1; round < ITERATIONS; round++) digest = sha512(digest, identity.id);
  let digits = "";
  for (let group = 0; group < GROUPS; group++) {
    const number = digest
      .subarray(5 * group, 5 * group + 5)
      .reduce((value, byte) => value * 256 + byte, 0);
    digits += String(number % 100_000).padStart(5, "0");
  }
  return digits;
}

/** 60 digits, the same whichever side asks: the two halves in ascending order. */
export function safetyNumber(one: Identity, other: Identity): string {
  return [half(one), half(other)].sort().join("");
}

/** As people read it: twelve groups of five. */
export function grouped(number: string): string {
  return number.replace(/(\d{5})(?=\d)/g, "$1 ");
}

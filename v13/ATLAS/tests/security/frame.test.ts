/** A delivered frame is taken by the rules that the server keeps too (SPEC.md, "Envelope"). */
import { describe, expect, test } from "vitest";

import { toBase64 } from "../../src/security/bytes";
import { CryptoError } from "../../src/security/errors";
import { Frame, messageHash, signingInput } from "../../src/security/frame";

const CID = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";
const OTHER = "bafkreicxhgn7hvjrq4idqoachgrslmmacoqejfgjputhtxnkwjbdnow3xq";
const [ciphertext, nonce] = [new Uint8Array(16), new Uint8Array(12)];
const sound = {
  sender: "0x" + "aB".repeat(20),
  recipient: "0X" + "Cd".repeat(20),
  ciphertext: toBase64(ciphertext),
  nonce: toBase64(nonce),
  seq: 1,
  ts: 1.5,
  hash: toBase64(messageHash(ciphertext, nonce, 1)),
};

test("addresses come in lower case, an absent device is 0, the server's own fields are passed over", () => {
  const frame = Frame.fromWire({ ...sound, position: 7, id: "x", timestamp: "y" });
  expect([frame.sender, frame.recipient, frame.device]).toEqual([
    "0x" + "ab".repeat(20),
    "0x" + "cd".repeat(20),
    "0",
  ]);
  expect([frame.cids, frame.signature.length]).toEqual([[], 0]);
  const signature = toBase64(new Uint8Array(64).fill(7));
  const named = Frame.fromWire({ ...sound, sender: "Wallet_Alice", cids: [CID, OTHER], signature });
  expect([named.sender, named.cids]).toEqual(["Wallet_Alice", [CID, OTHER]]);
  expect(Frame.fromWire(JSON.parse(JSON.stringify(named.toWire()))).cids).toEqual([CID, OTHER]);
});

test("minus zero is signed as zero", () => {
  const frame = Frame.fromWire(sound);
  const fields = { sender: "a", device: "0", recipient: "b", nonce, seq: 1, cids: [] };
  const [zero, minus] = [0, -0].map((ts) => signingInput({ ...fields, ts }, frame.hash));
  expect(minus).toEqual(zero);
});

const short = toBase64(new Uint8Array(15));
describe.each([
  ["type", { type: "PING" }],
  ["no sender", { sender: undefined }],
  ["a sender that is no name", { sender: "a b" }],
  ["a name of 129 characters", { sender: "x".repeat(129) }],
  ["a device that is no text", { device: 0 }],
  ["no recipient", { recipient: null }],
  ["a short ciphertext", { ciphertext: short }],
  ["base64 of another alphabet", { ciphertext: "-".repeat(24) }],
  ["base64 without its padding", { ciphertext: sound.ciphertext.replace(/=+$/, "") }],
  ["a nonce of 13 bytes", { nonce: toBase64(new Uint8Array(13)) }],
  ["seq 0", { seq: 0 }],
  ["seq 1.5", { seq: 1.5 }],
  ["seq 2^53", { seq: 2 ** 53 }],
  ["seq as text", { seq: "1" }],
  ["ts infinite", { ts: Infinity }],
  ["ts as text", { ts: "1" }],
  ["no hash", { hash: undefined }],
  ["a short hash", { hash: short }],
  ["a short signature", { signature: short }],
  ["no cids", { cids: [] }],
  ["a cid twice", { cids: [CID, CID] }],
  ["a cid of another kind", { cids: ["bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"] }],
  ["cids that are no texts", { cids: [1] }],
  ["65 cids", { cids: Array.from({ length: 65 }, () => CID) }],
])("%s", (_, change) => {
  test("is refused", () => {
    try {
      Frame.fromWire({ ...sound, ...change });
    } catch (error) {
      expect(error).toBeInstanceOf(CryptoError);
      expect((error as CryptoError).code).toBe("decode");
      return;
    }
    throw new Error("it was taken");
  });
});

test.each([null, [], "text", 1, undefined])("what is no object is refused: %j", (value) => {
  expect(() => Frame.fromWire(value)).toThrow("object");
});

/** Attachments: SPEC-crypto C26. The bytes themselves are in the vectors. */
import { expect, test } from "vitest";

import { NONCE, seal } from "../../src/security/aead";
import {
  Attachment,
  CHUNK,
  MAX_BLOCKS,
  openAttachment,
  sealAttachment,
} from "../../src/security/attachments";
import { type Bytes, concat } from "../../src/security/bytes";
import { labelled, u32, u64 } from "../../src/security/codec";
import { hkdf, sha256 } from "../../src/security/digest";
import { ATTACHMENT_BLOCK, ATTACHMENT_KEY } from "../../src/security/labels";
import { fresh } from "../../src/security/randomness";
import { utf8 } from "./people";

async function opened(attachment: Attachment, blocks: readonly Bytes[]): Promise<Bytes> {
  const parts: Bytes[] = [];
  const fetched = (name: string): Promise<Bytes> =>
    Promise.resolve(blocks[attachment.cids.indexOf(name)] ?? new Uint8Array());
  for await (const part of openAttachment(attachment, fetched)) parts.push(part);
  return concat(...parts);
}

test("a block that its key opens, but its CID does not name, is refused", async () => {
  const key = fresh(32);
  const { attachment } = await sealAttachment(utf8("as it was sent"), () => key);
  const { blocks: forged } = await sealAttachment(utf8("as it was not"), () => key);
  const { blocks: sameSize } = await sealAttachment(utf8("AS IT WAS SENT"), () => key);
  await expect(opened(attachment, forged)).rejects.toMatchObject({ code: "decrypt" });
  await expect(opened(attachment, sameSize)).rejects.toMatchObject({ code: "decrypt" });
});

test("blocks in another order are refused", async () => {
  const content = new Uint8Array(2 * CHUNK).fill(7);
  const { attachment, blocks } = await sealAttachment(content);
  expect(await opened(attachment, blocks)).toHaveLength(content.length);
  await expect(opened(attachment, [...blocks].reverse())).rejects.toMatchObject({ code: "decrypt" });
  const { key, size, digests } = attachment;
  const swapped = new Attachment(key, size, [...digests].reverse());
  await expect(opened(swapped, [...blocks].reverse())).rejects.toMatchObject({ code: "decrypt" });
});

test("what no frame could name is too large", async () => {
  const content = new Uint8Array(CHUNK * MAX_BLOCKS + 1);
  await expect(sealAttachment(content)).rejects.toMatchObject({ code: "content_too_large" });
  const { blocks } = await sealAttachment(content.subarray(1));
  expect(blocks).toHaveLength(MAX_BLOCKS);
});

test("a size that does not fit what came is refused", async () => {
  const key = fresh(32);
  // A sender who says five bytes and seals four.
  const blockKey = hkdf(u64(5), key, ATTACHMENT_KEY, 32);
  const data = labelled(ATTACHMENT_BLOCK, u32(0), u32(1));
  const block = await seal(blockKey, new Uint8Array(NONCE), utf8("1234"), data);
  const lied = new Attachment(key, 5, [sha256(block)]);
  await expect(opened(lied, [block])).rejects.toThrow("another size");
  const { attachment } = await sealAttachment(utf8("12345"));
  const encoded = attachment.encode();
  encoded[33] = 1;
  expect(() => Attachment.decode(encoded)).toThrow("does not fit");
});

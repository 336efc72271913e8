/** Which implementation of each algorithm this browser gets. */
import type { Bytes } from "./bytes";
import { CryptoError } from "./errors";
import { fresh } from "./randomness";
import { type KeyPair, MLKEM_SEED, type Suite } from "./suite";
import { webEd25519, webMldsa65, webMlkem768, webX25519 } from "./webcrypto";

/** Whether `trial` passes: the algorithm is there, and does what the suite needs of it. */
async function works(trial: () => Promise<unknown>): Promise<boolean> {
  try {
    await trial();
    return true;
  } catch {
    return false;
  }
}

/** A handle that cannot be stored would be gone with the page. */
function storable(pair: KeyPair): KeyPair {
  structuredClone(pair.privateKey);
  return pair;
}

/**
 * The suite for this platform: each algorithm by WebCrypto where it is there and its keys can be
 * stored, else by noble. Throws `refused` outside of a secure context, where there is no WebCrypto.
 */
export async function selectSuite(): Promise<Suite> {
  // The declaration has it always; a page served over plain HTTP does not.
  if ((crypto.subtle as SubtleCrypto | undefined) === undefined) {
    throw new CryptoError("refused", "no secure context: serve the page over https or from localhost");
  }
  const probe: Bytes = Uint8Array.of(1);
  const [x25519, ed25519, mldsa65, mlkem768] = await Promise.all([
    works(async () => {
      const pair = storable(await webX25519.generate());
      await webX25519.agree(fresh(32), pair.publicKey);
    }),
    works(async () => {
      const pair = storable(await webEd25519.generate());
      const signature = await webEd25519.sign(pair.privateKey, probe);
      await webEd25519.verify(pair.publicKey, signature, probe);
    }),
    works(async () => {
      const pair = storable(await webMldsa65.generate());
      const signature = await webMldsa65.sign(pair.privateKey, probe, probe);
      await webMldsa65.verify(pair.publicKey, signature, probe, probe);
    }),
    works(async () => {
      const publicKey = await webMlkem768.publicOf(fresh(MLKEM_SEED));
      await webMlkem768.encapsulate(publicKey);
    }),
  ]);
  if (x25519 && ed25519 && mldsa65 && mlkem768) {
    return { x25519: webX25519, ed25519: webEd25519, mldsa65: webMldsa65, mlkem768: webMlkem768 };
  }
  // Loaded only where it is needed: it is most of what a page would load.
  const { nobleSuite } = await import("./noble");
  return {
    x25519: x25519 ? webX25519 : nobleSuite.x25519,
    ed25519: ed25519 ? webEd25519 : nobleSuite.ed25519,
    mldsa65: mldsa65 ? webMldsa65 : nobleSuite.mldsa65,
    mlkem768: mlkem768 ? webMlkem768 : nobleSuite.mlkem768,
  };
}

/** Something that a person asked for and that can fail: it is under way, or why it failed. */
import { useState } from "react";

import { whyItFailed, type Words } from "../components/words";

export interface Attempt {
  readonly underWay: boolean;
  /** A sentence to show, and what to do; null when nothing has failed. */
  readonly problem: string | null;
  /** Do it. Resolves to whether it went well; never rejects. */
  readonly begin: (work: () => Promise<void>) => Promise<boolean>;
}

/** `words`: what codes mean here, where that is not what they mean elsewhere. */
export function useAttempt(words: Words = {}): Attempt {
  const [underWay, setUnderWay] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const begin = async (work: () => Promise<void>): Promise<boolean> => {
    setUnderWay(true);
    setProblem(null);
    try {
      await work();
      return true;
    } catch (error) {
      setProblem(whyItFailed(error, words));
      return false;
    } finally {
      setUnderWay(false);
    }
  };
  return { underWay, problem, begin };
}

/** Who plays in a file's tests: one stage for the file, and persons who leave it after each test. */
import { afterAll, afterEach, beforeAll, expect } from "vitest";

import { Between } from "./between";
import { type Person, type Preparation, Stage } from "./stage";

/** A person behind a server that lies when it is told to, and Bob, who have written to one another. */
export interface Scene {
  readonly alice: Person;
  readonly between: Between;
  /** Bob's wallet. */
  readonly bob: string;
}

export class Cast {
  #stage: Stage | null = null;
  readonly #people: Person[] = [];

  /**
   * The cast of the file that calls: a page that complains fails its test, and a test that failed says
   * what its pages and the server knew then.
   */
  static gather(): Cast {
    const cast = new Cast();
    beforeAll(async () => {
      cast.#stage = await Stage.set();
    });
    afterAll(async () => {
      await cast.stage.strike();
    });
    afterEach(async ({ task }) => {
      const people = cast.#people.splice(0);
      if (task.result?.state === "fail") {
        const situations = await Promise.all(people.map((one) => one.situation()));
        const log = `The server's log ends:\n${cast.stage.serverLog()}`;
        process.stderr.write(`${[task.name, ...situations, log].join("\n")}\n`);
      }
      for (const one of people) await one.leave();
      expect(people.flatMap((one) => one.complaints)).toEqual([]);
    });
    return cast;
  }

  get stage(): Stage {
    if (this.#stage === null) throw new Error("the stage is set before the first test");
    return this.#stage;
  }

  /** `one` leaves with the others. */
  join(one: Person): Person {
    this.#people.push(one);
    return one;
  }

  async person(...prepare: readonly Preparation[]): Promise<Person> {
    return this.join(await this.stage.person(...prepare));
  }

  /** Another tab of a person's browser. */
  async tab(of: Person): Promise<Person> {
    return this.join(await of.tab());
  }

  /** Two persons who have the conversation with each other open. */
  async pair(): Promise<readonly [Person, Person]> {
    const [alice, carol] = [await this.person(), await this.person()];
    await alice.open(carol.wallet);
    await carol.open(alice.wallet);
    return [alice, carol];
  }

  async scene(...prepare: readonly Preparation[]): Promise<Scene> {
    const between = new Between();
    const alice = await this.person(between.stand, ...prepare);
    const bob = await this.bobAnew();
    await alice.open(bob);
    await alice.say("hello Bob");
    await this.hear();
    await this.say(alice, "hello Alice");
    await alice.sees("hello Alice");
    // That it was seen is kept as well: what a test does to the storage comes after it.
    await alice.page.getByRole("button", { name: /unread/ }).waitFor({ state: "detached" });
    return { alice, between, bob };
  }

  // Bob, in Python.

  /** His wallet; he listens from now on. */
  async bob(): Promise<string> {
    return (await this.stage.ask<{ wallet: string }>({ do: "bob" })).wallet;
  }

  /** The same wallet, with a new identity on a new device. */
  async bobAnew(): Promise<string> {
    return (await this.stage.ask<{ wallet: string }>({ do: "bob anew" })).wallet;
  }

  /** Bob writes. */
  async say(to: Person, text: string): Promise<void> {
    await this.stage.ask({ do: "say", to: to.wallet, text });
  }

  /** The next text that Bob gets, and from whom. */
  hear(): Promise<{ readonly from: string; readonly text: string }> {
    return this.stage.ask({ do: "hear" });
  }
}

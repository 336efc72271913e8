/** Values that make no sense where another is expected, each with how it is called. */
export const NONSENSE: readonly (readonly [string, unknown])[] = [
  ["nothing", undefined],
  ["null", null],
  ["true", true],
  ["0", 0],
  ["-1", -1],
  ["1.5", 1.5],
  ["1e300", 1e300],
  ["2^53", 2 ** 53],
  ["2^53 - 1", 2 ** 53 - 1],
  ["an empty text", ""],
  ["__proto__", "__proto__"],
  ["constructor", "constructor"],
  ["a text to be believed", "Your wallet is at risk: go to example.org"],
  ["directions turned round", "\u202Eevil\u2066"],
  ["a long text", "A".repeat(200_000)],
  ["an empty list", []],
  ["a list", ["x", null]],
  ["a long list", Array.from({ length: 10_000 }, () => "AAAA")],
  ["an empty object", {}],
  ["an object", { code: "x", toString: 1 }],
];

type Fields = Readonly<Record<string, unknown>>;

/** `value` with each of its fields, at every depth, replaced by `wrong`: one at a time. */
export function* withWrong(value: unknown, wrong: unknown): Generator {
  yield wrong;
  if (Array.isArray(value)) {
    for (const [at, one] of value.entries()) {
      for (const other of withWrong(one, wrong)) yield value.with(at, other);
    }
  } else if (typeof value === "object" && value !== null) {
    for (const [name, one] of Object.entries(value as Fields)) {
      for (const other of withWrong(one, wrong)) yield { ...value, [name]: other };
    }
  }
}

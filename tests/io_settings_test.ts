/** Nested settings: every rule kept and broken, changes in part, settings by path. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  checkSettings,
  choice,
  type Fail,
  list,
  number,
  type Rules,
  settingAt,
  text,
  toggle,
  whole,
  withChanges,
} from "../src/io/settings.ts";

const RULES: Rules = {
  rate: number({ above: 0, max: 1 }),
  share: number({ min: 0, below: 1 }),
  count: whole({ min: 1 }),
  kind: choice(["a", "b"]),
  on: toggle,
  name: text,
  parts: { betas: list(number({ min: 0 }), { min: 2, max: 2 }), inner: { words: list(choice(["x"]), {}) } },
  extra: { ...whole({}), optional: true },
};

const GOOD = {
  ...{ rate: 1, share: 0, count: 1, kind: "a", on: false, name: "" },
  parts: { betas: [0, 0.5], inner: { words: [] as string[] } },
};

const fail: Fail = (message) => {
  throw new RangeError(message);
};

Deno.test("settings: good ones pass, with and without those that are optional", () => {
  checkSettings(GOOD, RULES, fail);
  checkSettings(
    { ...GOOD, extra: -3, rate: 1e-9, parts: { betas: [1, 2], inner: { words: ["x", "x"] } } },
    RULES,
    fail,
  );
});

Deno.test("settings: each broken rule is named with what it asks for", () => {
  const parts = (change: object) => ({ ...GOOD, parts: { ...GOOD.parts, ...change } });
  const rate = 'the field "rate" should be a number, above 0 and at most 1';
  const betas = 'the field "parts.betas" should be a list of 2, each a number, at least 0';
  const cases: [unknown, string][] = [
    [{ ...GOOD, rate: 0 }, rate],
    [{ ...GOOD, rate: 1.1 }, rate],
    [{ ...GOOD, rate: "1" }, rate],
    [{ ...GOOD, rate: NaN }, rate],
    [{ ...GOOD, rate: undefined }, rate],
    [{ ...GOOD, share: 1 }, 'the field "share" should be a number, at least 0 and below 1'],
    [{ ...GOOD, count: 0 }, 'the field "count" should be a whole number, at least 1'],
    [{ ...GOOD, count: 1.5 }, 'the field "count" should be a whole number, at least 1'],
    [{ ...GOOD, count: 2 ** 53 }, 'the field "count" should be a whole number, at least 1'],
    [{ ...GOOD, kind: "c" }, 'the field "kind" should be one of a, b'],
    [{ ...GOOD, kind: 0 }, 'the field "kind" should be one of a, b'],
    [{ ...GOOD, on: 1 }, 'the field "on" should be a boolean'],
    [{ ...GOOD, name: null }, 'the field "name" should be a text'],
    [{ ...GOOD, extra: 0.5 }, 'the field "extra" should be a whole number'],
    [{ ...GOOD, extra: null }, 'the field "extra" should be a whole number'],
    [{ ...GOOD, parts: 1 }, 'the field "parts" should hold settings'],
    [{ ...GOOD, parts: [] }, 'the field "parts" should hold settings'],
    [parts({ betas: [1] }), betas],
    [parts({ betas: [1, 2, 3] }), betas],
    [parts({ betas: [1, -1] }), betas],
    [parts({ betas: 1 }), betas],
    [parts({ inner: { words: ["y"] } }), 'the field "parts.inner.words" should be a list, each item one of x'],
    [parts({ inner: {} }), 'the field "parts.inner.words" should be a list, each item one of x'],
    [parts({ bettas: 1 }), 'there is no setting "parts.bettas". Did you mean "parts.betas"?'],
    [{ ...GOOD, cuont: 1 }, 'there is no setting "cuont". Did you mean "count"?'],
    [{ ...GOOD, toString: 1 }, 'there is no setting "toString"'],
    [[], "there should be an object of settings"],
    [null, "there should be an object of settings"],
  ];
  for (const [value, message] of cases) {
    const error = assertThrows(() => checkSettings(value, RULES, fail), RangeError);
    assertEquals(error.message, message, JSON.stringify(value));
  }
});

Deno.test("settings: changes take the place of what they name, of lists as a whole, and of nothing else", () => {
  const changed = withChanges(GOOD, { rate: 0.5, parts: { betas: [3, 4] } }, RULES, fail);
  assertEquals(changed, { ...GOOD, rate: 0.5, parts: { betas: [3, 4], inner: GOOD.parts.inner } });
  assertEquals(GOOD.parts.betas, [0, 0.5], "the base is left as it is");
  assertEquals(withChanges(GOOD, {}, RULES, fail), GOOD);
  assertEquals<object>(withChanges(GOOD, { extra: 7 }, RULES, fail), { ...GOOD, extra: 7 });
  assertEquals(withChanges(GOOD, { rate: undefined }, RULES, fail).rate, GOOD.rate, "undefined is no change");
  assertThrows(() => withChanges(GOOD, { parts: { inner: { words: [1] } } }, RULES, fail), RangeError, "inner.words");
  assertThrows(() => withChanges(GOOD, { more: 1 }, RULES, fail), RangeError, '"more"');
});

Deno.test("settings: a path and a text are nested settings, the text JSON or a word", () => {
  assertEquals(settingAt("seed", "5"), { seed: 5 });
  assertEquals(settingAt("a.b.c", "[1, 2]"), { a: { b: { c: [1, 2] } } });
  assertEquals(settingAt("a.b", '{"c": true}'), { a: { b: { c: true } } });
  assertEquals(settingAt("h", "kl"), { h: "kl" });
  assertEquals(settingAt("h", '"1"'), { h: "1" });
  assertEquals(settingAt("h", ""), { h: "" });
  const hostile = settingAt("__proto__.seed", "1");
  assert(Object.hasOwn(hostile, "__proto__") && !("seed" in hostile), "no prototype is set");
});

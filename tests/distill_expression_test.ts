/** Tests of the expressions of the logit: against JavaScript's arithmetic, and on what is refused. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { weightExpression } from "../src/distill/bregman.ts";
import { parseExpression } from "../src/distill/expression.ts";
import { UsageError } from "../src/gpu/errors.ts";
import * as g from "../src/graph/mod.ts";
import { Workspace } from "../src/graph/mod.ts";
import { scalarFunction } from "../src/graph/scalar_function.ts";
import { gpuTest, uniformSource } from "./gpu.ts";

/** The value of an expression at a logit. */
function value(text: string, logit: number): number {
  return scalarFunction(parseExpression(text))(logit);
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const softplus = (x: number) => Math.log(1 + Math.exp(x));
const clamp = (x: number, low: number, high: number) => Math.min(high, Math.max(low, x));

Deno.test("expressions: numbers, names, operators and functions", () => {
  const l = 0.7, r = Math.exp(-l);
  const expected: Record<string, number> = {
    "2": 2,
    " 2.5e-1\t+ .5 +1.": 1.75,
    "1e1+1E+1": 20,
    "logit": l,
    "r": r,
    "1 - 2 - 3": -4,
    "16 / 4 / 2 * 3": 6,
    "2 + 3 * 4": 14,
    "(2 + 3) * 4": 20,
    "2^3^2": 512,
    "-2^2": -4,
    "-logit^2": -(l ** 2),
    "2^-1": 0.5,
    "2^-2^2": 1 / 16,
    "-2*-3": 6,
    "--logit": l,
    "1--logit": 1 + l,
    "2*logit^2*3": 6 * l ** 2,
    "logit^3": l ** 3,
    "(-logit)^3": -(l ** 3),
    "(logit-1)^-2": (l - 1) ** -2,
    "(-logit)^0": 1,
    "logit^7": l ** 7,
    "(0.99*logit+0.3)^1000": (0.99 * l + 0.3) ** 1000,
    "logit^0.5": Math.sqrt(l),
    "logit^logit": l ** l,
    "2^logit": 2 ** l,
    "r^0.5": r ** 0.5,
    "r^2": r ** 2,
    "(r^2)^logit": r ** (2 * l),
    "exp(2*logit)^-1.5": Math.exp(-3 * l),
    "exp(logit)": Math.exp(l),
    "exp(2)": Math.exp(2),
    "log(logit)": Math.log(l),
    "sqrt(logit) + sqrt(4)": Math.sqrt(l) + 2,
    "abs(-logit) + abs(-1)": l + 1,
    "sigmoid(-logit) * sigmoid(3)": sigmoid(-l) * sigmoid(3),
    "softplus(logit) * softplus(3)": softplus(l) * softplus(3),
    "tanh(logit) * tanh(3)": Math.tanh(l) * Math.tanh(3),
    "min(logit, 1) + min(3, 4)": l + 3,
    "max(logit, 1) + max(3, 4)": 5,
    "clamp(logit, -1, 1/2) + clamp(9, 1, 2)": 2.5,
    "clamp(logit, -1, 1)": l,
    "1/0.5": 2,
    "1/logit": 1 / l,
  };
  for (const [text, wanted] of Object.entries(expected)) {
    const got = value(text, l);
    assert(Math.abs(got - wanted) <= 1e-12 * Math.abs(wanted), `${text} is ${got}, not ${wanted}`);
  }
});

/** An expression as a tree. */
type Tree = number | "logit" | "r" | readonly ["neg", Tree] | readonly [string, ...Tree[]];

const OPERATORS: Readonly<Record<string, (a: number, b: number) => number>> = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => a / b,
  "^": (a, b) => a ** b,
};
const FUNCTIONS: Readonly<Record<string, (...x: number[]) => number>> = {
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  abs: Math.abs,
  sigmoid: (x) => sigmoid(x!),
  softplus: (x) => softplus(x!),
  tanh: Math.tanh,
  min: Math.min,
  max: Math.max,
};

/** Its value; NaN where something on the way is not finite: JavaScript's powers of infinities are not those of here. */
function evaluate(tree: Tree, logit: number): number {
  if (typeof tree === "number") return tree;
  if (tree === "logit") return logit;
  if (tree === "r") return Math.exp(-logit);
  const [name, ...parts] = tree;
  const args = parts.map((part) => evaluate(part, logit));
  if (!args.every(Number.isFinite)) return NaN;
  if (name === "neg") return -args[0]!;
  return (OPERATORS[name] ?? FUNCTIONS[name]!)(...args as [number, number]);
}

/** How tightly the operators bind, by the mathematicians' rules, and what their operands must bind at least. */
const RANKS: Readonly<Record<string, readonly [own: number, left: number, right: number]>> = {
  "+": [1, 1, 2],
  "-": [1, 1, 2],
  "*": [2, 2, 3],
  "/": [2, 2, 3],
  "neg": [3, 3, 3],
  "^": [4, 5, 3],
};

/** With no more parentheses than are needed. */
function print(tree: Tree, least = 0): string {
  if (typeof tree !== "object") return String(tree);
  const [name, a, b] = tree as readonly [string, Tree, Tree?];
  const ranks = RANKS[name];
  if (!ranks) return `${name}(${[a, b].flatMap((part) => part === undefined ? [] : [print(part)]).join(",")})`;
  const [own, left, right] = ranks;
  const text = name === "neg" ? `-${print(a, right)}` : `${print(a, left)} ${name} ${print(b!, right)}`;
  return own < least ? `(${text})` : text;
}

function randomTree(uniform: () => number, depth: number): Tree {
  const pick = <T>(of: readonly T[]): T => of[Math.floor(uniform() * of.length)]!;
  const child = () => randomTree(uniform, depth - 1);
  if (depth === 0 || uniform() < 0.1) return pick(["logit", "logit", "r", 0.5, 2, 3, 1.25]);
  const kind = pick(["+", "-", "*", "/", "^", "neg", "f", "+", "-", "*", "/", "^"]);
  if (kind === "neg") return ["neg", child()];
  if (kind === "^") {
    return ["^", child(), pick<Tree>([2, 3, 0, 0.5, ["neg", 1], ["neg", ["^", 2, 2]], ["^", 3, 2], "logit"])];
  }
  if (kind !== "f") return [kind, child(), child()];
  const name = pick(Object.keys(FUNCTIONS));
  return name === "min" || name === "max" ? [name, child(), child()] : [name, child()];
}

Deno.test("expressions: 3,000 random ones have the values of JavaScript's arithmetic", () => {
  const uniform = uniformSource(1);
  let compared = 0, refused = 0;
  for (let i = 0; i < 3000; i++) {
    const tree = randomTree(uniform, 1 + i % 5), text = print(tree);
    let f: (logit: number) => number;
    try {
      f = scalarFunction(parseExpression(text));
    } catch (error) {
      assert(
        error instanceof UsageError && /no float32 holds|should be positive/.test(error.message),
        `${text}: ${error}`,
      );
      refused++;
      continue;
    }
    for (const logit of [-1.7, -0.4, 0.3, 2.1]) {
      const wanted = evaluate(tree, logit), got = f(logit);
      if (!(Math.abs(wanted) < 1e6)) continue;
      assert(
        Math.abs(got - wanted) <= 1e-6 * Math.max(1, Math.abs(wanted)),
        `${text} at ${logit}: ${got}, not ${wanted}`,
      );
      compared++;
    }
  }
  assert(compared > 6000 && refused < 600, `${compared} compared, ${refused} refused`);
});

/** What `text` is in JavaScript; undefined where it is nothing there. */
function javaScript(text: string): ((logit: number) => number) | undefined {
  const scope = { ...FUNCTIONS, clamp };
  try {
    const compiled = new Function("scope", "logit", "r", `with (scope) return ${text.replaceAll("^", "**")};`);
    return (logit) => compiled(scope, logit, Math.exp(-logit));
  } catch (error) {
    // JavaScript has no -x ** 2.
    assert(error instanceof SyntaxError, `${text}: ${error}`);
    return undefined;
  }
}

Deno.test("expressions: random tokens give JavaScript's value, or an error", () => {
  const uniform = uniformSource(2);
  const tokens = [
    "logit",
    "r",
    "2",
    "0.5",
    "3",
    "+",
    "-",
    "*",
    "/",
    "^",
    "(",
    ")",
    "logit",
    "exp (",
    "log (",
    "min (",
    ",",
  ];
  let right = 0, alsoWrong = 0;
  for (let i = 0; i < 30_000; i++) {
    const text = Array.from(
      { length: 1 + Math.floor(uniform() * 9) },
      () => tokens[Math.floor(uniform() * tokens.length)],
    )
      .join(" ");
    const wanted = javaScript(text);
    let f: (logit: number) => number;
    try {
      f = scalarFunction(parseExpression(text));
    } catch (error) {
      assert(error instanceof UsageError, `${text}: ${error}`);
      // Of what JavaScript takes, a comma between expressions, other counts of arguments and such numbers are refused.
      const apart = /,|no float32 holds|should be positive/;
      assert(!wanted || apart.test(text) || apart.test(error.message), `${text}: ${error.message}`);
      alsoWrong += wanted ? 0 : 1;
      continue;
    }
    if (!wanted) {
      assert(/- .*\^/.test(text), `${text} is taken`);
      continue;
    }
    for (const logit of [-0.4, 1.3]) {
      const [a, b] = [f(logit), wanted(logit)];
      const same = Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b)) || Math.abs(b) > 1e15 || Number.isNaN(b);
      assert(same, `${text} at ${logit}: ${a}, not ${b}`);
    }
    right++;
  }
  assert(right > 1000 && alsoWrong > 1000, `${right} right, ${alsoWrong} wrong in both`);
});

Deno.test("expressions: 1,000 random strings are refused, or weights", () => {
  const uniform = uniformSource(3);
  const pieces = [
    "logit",
    "r",
    "1",
    "0.5",
    "exp(",
    "clamp(",
    "max(",
    ")",
    ",",
    "^",
    "*",
    "+",
    "-",
    "/",
    "(",
    "sigmoid(r)",
  ];
  let weights = 0;
  for (let i = 0; i < 1000; i++) {
    const text = i % 2 === 0
      ? String.fromCharCode(...Array.from({ length: 1 + i % 40 }, () => Math.floor(uniform() * (i % 4 ? 65536 : 128))))
      : Array.from({ length: 1 + i % 7 }, () => pieces[Math.floor(uniform() * pieces.length)]).join("");
    try {
      const { weight } = weightExpression(text);
      for (const logit of [-10, -0.3, 0, 4.5, 10]) {
        const js = javaScript(text);
        assert(weight(logit) > 0 && Number.isFinite(weight(logit)), text);
        if (js) assert(Math.abs(weight(logit) / js(logit) - 1) < 1e-9, text);
      }
      weights++;
    } catch (error) {
      assert(error instanceof UsageError, `${JSON.stringify(text)}: ${error}`);
    }
  }
  assert(weights > 20, `${weights} weights`);
});

Deno.test("expressions: what is wrong is named with its position", () => {
  const expected: Record<string, string> = {
    "": 'at character 1: a number, a name or "(" was expected, not the end.',
    "exp(0.5 * logit": 'at character 16: ")" was expected, not the end.',
    "2 logit": 'at character 3: an operator or the end was expected, not "logit".',
    "logit +": 'at character 8: a number, a name or "(" was expected, not the end.',
    "1 + * 2": 'at character 5: a number, a name or "(" was expected, not "*".',
    "logit $ 2": 'at character 7: "$" does not belong into an expression.',
    "logit 😀": 'at character 7: "😀" does not belong into an expression.',
    "0x10": 'at character 2: an operator or the end was expected, not "x10".',
    "1.2.3": 'at character 4: an operator or the end was expected, not ".3".',
    "2 * foo": 'at character 5: "foo" is not known; there are logit, r, exp,',
    "constructor(1)": '"constructor" is not known',
    "__proto__": '"__proto__" is not known',
    "exp logit": 'at character 5: "(" was expected, not "logit".',
    "exp()": 'at character 5: a number, a name or "(" was expected, not ")".',
    "exp(1, 2)": 'at character 6: ")" was expected, not ",".',
    "min(logit)": 'at character 10: "," was expected, not ")".',
    "logit(2)": 'at character 6: an operator or the end was expected, not "(".',
    "2 * clamp(logit, 2, 1)": "at character 5: the bounds of clamp, 2 and 1, are in the wrong order.",
    "clamp(logit, r, 1)": "at character 1: the bounds of clamp should be numbers.",
    "r + 1 / 0": "at character 7: this number is Infinity, which no float32 holds.",
    "log(-1)": "at character 1: this number is NaN",
    "1e39 * logit": "at character 1: this number is 1e+39, which no float32 holds.",
    "(0-2) ^ logit": "at character 7: the base of a power that depends on the logit should be positive, not -2.",
    ["(".repeat(10_000)]: "at most 1000 characters, but this one has 10000.",
    ["(".repeat(900)]: "at character 51: there are more than 50 levels.",
    ["-".repeat(900)]: "at character 51: there are more than 50 levels.",
    [`2${"^2".repeat(400)}`]: "there are more than 50 levels.",
    ["exp(".repeat(200)]: "there are more than 50 levels.",
  };
  for (const [text, message] of Object.entries(expected)) {
    assertThrows(() => parseExpression(text), UsageError, message);
  }
  assertEquals(value(`${"(".repeat(49)}logit${")".repeat(49)}`, 3), 3);
  assertEquals(value(`logit${"+1".repeat(497)}`, 3), 500);
});

Deno.test("expressions: weights are positive and finite within the range, in float32 as well", () => {
  const expected: Record<string, string> = {
    "logit": "at every logit from -10 to 10, in float32 as well, but at -10 it is -10, in float32 -10.",
    "logit - logit": "but at -10 it is 0, in float32 0.",
    "sqrt(logit + 9)": "but at -10 it is NaN, in float32 NaN.",
    "(logit + 9)^0.5": "but at -10 it is NaN, in float32 NaN.",
    "1 / abs(logit - 5)": "but at 5 it is Infinity, in float32 Infinity.",
    "exp(8.9 * max(logit, 0))": "but at 9.97 it is 3.4",
    "log(exp(9 * max(logit, 0)) + 2)": "but at 9.86 it is 88.74, in float32 Infinity.",
    "exp(9 * min(logit, 0))": "in float32 0.",
    "1e-5 + r - exp(-logit - 1e-9)": "but at -10 it is 0.0000320",
  };
  for (const [text, message] of Object.entries(expected)) {
    assertThrows(() => weightExpression(text), UsageError, message);
  }
  assertThrows(
    () => weightExpression("logit + 12", { range: 13 }),
    UsageError,
    "from -13 to 13, in float32 as well, but at -13 it is -1, in float32 -1.",
  );
  assertThrows(() => weightExpression("1", { range: 0 }), UsageError, "but it is 0");
  weightExpression("logit + 2.5", { range: [-2.4, 20] });
  assertThrows(() => weightExpression("logit + 2.5", { range: [-2.6, 20] }), UsageError, "but at -2.6 it is");
  for (const range of [[1, 2], [-2, -1], [0, 0], [-71, 1]] as const) {
    assertThrows(() => weightExpression("1", { range }), UsageError, "The range of logits");
  }
  weightExpression("softplus(logit)");
  const cancels = () => weightExpression("softplus(logit)", { range: 20 });
  assertThrows(cancels, UsageError, "but at -20 it is 2.061153620314381e-9, in float32 0.");
  const { name, weight, d2h, h, dh } = weightExpression("exp(0.5 * logit)");
  assertEquals([name, h, dh], ["exp(0.5 * logit)", undefined, undefined]);
  assertEquals(weight(3), Math.exp(1.5));
  assert(Math.abs(d2h(0.2) - 0.2 ** -1.5) < 1e-12);
});

gpuTest("expressions: the device computes what they say", async (gpu) => {
  const workspace = new Workspace(gpu);
  const logits = Float32Array.from({ length: 81 }, (_, i) => (i - 40) / 4);
  const texts = [
    "exp(0.5 * logit)",
    "r^-0.5 + 2^logit / 3",
    "1 / (1 + r)^2",
    "(logit - 20)^6 * 1e-5",
    "max(min(softplus(logit), 3), sigmoid(logit)) + abs(tanh(logit)) + clamp(logit, -1, 2)^2",
    "sqrt(logit + 11) * log(logit + 12)",
  ];
  const l = g.constant(logits, [81]);
  const got = await g.evaluate(workspace, Object.fromEntries(texts.map((text) => [text, parseExpression(text)(l)])));
  for (const text of texts) {
    const { weight } = weightExpression(text);
    logits.forEach((logit, i) => {
      const off = Math.abs(got[text]![i]! / weight(logit) - 1);
      assert(off < 1e-5, `${text} at ${logit}: ${got[text]![i]}, not ${weight(logit)}`);
    });
  }
  workspace.destroy();
});

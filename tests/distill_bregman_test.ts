/** Tests of the Bregman functions: the known, and users' own from code and from expressions, also on the device. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { BREGMAN_KINDS, type BregmanKind } from "../kernels/bregman.ts";
import {
  type BregmanDefinition,
  type BregmanFunction,
  bregmanFunction,
  checkLambda,
  defineBregman,
  usesLambda,
  weightExpression,
} from "../src/distill/bregman.ts";
import { GraphError, UsageError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { lowerNodes } from "../src/graph/fuse.ts";
import * as g from "../src/graph/mod.ts";
import { type BregmanSettings, type Tensor, Workspace } from "../src/graph/mod.ts";
import { scalarFunction } from "../src/graph/scalar_function.ts";
import { gpuTest, randomArray } from "./gpu.ts";
import { bregmanWeightsReference } from "./reference/bregman.ts";
import { interpret } from "./reference/interpreter.ts";

const KNOWN = BREGMAN_KINDS.flatMap((kind) =>
  (usesLambda(kind) ? [-0.9, -0.5, 0.5, 1, 2] : [0]).map((lambda) => bregmanFunction(kind, lambda))
);

/** KL and Pearson together: c = 1 + r. */
const SUM: BregmanDefinition = {
  name: "kl and lsif",
  h: (r) => r * Math.log(r) - r + (r - 1) ** 2 / 2,
  dh: (r) => Math.log(r) + r - 1,
  d2h: (r) => 1 / r + 1,
  weight: (logit) => g.affine(g.exp(g.neg(logit)), 1, 1),
};

const EXPRESSION = "sigmoid(logit / 2) + 0.1";

/** Every kind, and two of a user's own, with their weights as written down here once more. */
const ALL: readonly { readonly f: BregmanFunction; readonly weight: (l: number) => number }[] = [
  ...KNOWN.map((f) => ({ f, weight: f.weight })),
  { f: defineBregman(SUM, { range: 60 }), weight: (l) => 1 + Math.exp(-l) },
  { f: weightExpression(EXPRESSION, { range: 60 }), weight: (l) => 1 / (1 + Math.exp(-l / 2)) + 0.1 },
];

function close(actual: number, expected: number, tolerance: number): void {
  const off = Math.abs(actual - expected) / Math.max(1, Math.abs(expected));
  assert(off <= tolerance, `${actual} is not ${expected}`);
}

for (const { name, h, dh, d2h, weight } of [...KNOWN, defineBregman(SUM)]) {
  Deno.test(`bregman: ${name}: derivatives and weight belong to h`, () => {
    for (const r of [0.05, 0.3, 0.9, 1, 1.7, 10]) {
      const step = 1e-5 * r;
      const slope = (f: (r: number) => number) => (f(r + step) - f(r - step)) / (2 * step);
      close(dh!(r), slope(h!), 1e-7);
      close(d2h(r), slope(dh!), 1e-7);
    }
    for (let logit = -60; logit <= 60; logit += 2.5) {
      const r = Math.exp(-logit);
      close(weight(logit) / (d2h(r) * r), 1, 1e-12);
      for (const value of [h!(r), dh!(r), d2h(r)]) assert(Number.isFinite(value), `${value} at ${logit}`);
    }
    assert(d2h(1) > 0);
  });
}

/** The table's h(r), in other words than the source's. */
const H: Readonly<Record<BregmanKind, (r: number, lambda: number) => number>> = {
  "kl": (r) => r * Math.log(r) - r,
  "lsif": (r) => 0.5 * r * r - r + 0.5,
  "logistic": (r) => r * Math.log(r) - (1 + r) * Math.log(1 + r),
  "itakura-saito": (r) => Math.log(1 / r),
  "sba": (r, lambda) => (r ** (1 + lambda) - r) / (lambda * (1 + lambda)),
  "basu": (r, lambda) => (r ** (1 + lambda) - r) / lambda,
  "softened-kl": (r) => (1 + r) * Math.log(1 + r) - r,
  "jeffreys": (r) => (r - 1) * Math.log(r),
};

Deno.test("bregman: h is the table's", () => {
  for (const kind of BREGMAN_KINDS) {
    for (const lambda of usesLambda(kind) ? [-0.9, -0.5, 0.5, 1, 2] : [0]) {
      for (const r of [0.05, 0.3, 0.9, 1, 1.7, 10]) {
        close(bregmanFunction(kind, lambda).h!(r), H[kind](r, lambda), 1e-12);
      }
    }
  }
});

Deno.test("bregman: weights of any logit are numbers", () => {
  for (const { f: { name, weight } } of ALL) {
    for (const logit of [-1e300, -5000, -300, -60, -1e-300, 0, 60, 300, 5000, 1e300]) {
      assert(!Number.isNaN(weight(logit)), `${name} at ${logit}`);
      if (Math.abs(logit) <= 300) assert(Number.isFinite(weight(logit)) && weight(logit) > 0, `${name} at ${logit}`);
    }
  }
});

Deno.test("bregman: names, and the parameters that are refused", () => {
  assertEquals(bregmanFunction("jeffreys", 3).name, "jeffreys");
  assertEquals(bregmanFunction("sba", -0.5).name, "sba(-0.5)");
  assertEquals(bregmanFunction("basu", 2).weighting, { kind: "basu", lambda: 2 });
  for (const lambda of [undefined, 0, -1, -2, NaN, Infinity]) {
    assertThrows(() => bregmanFunction("sba", lambda), UsageError, `"sba" must be a number above -1 and not 0`);
  }
  assertThrows(() => bregmanFunction("toString" as BregmanKind), UsageError, 'no Bregman function "toString"');
  checkLambda("basu", -0.5);
  checkLambda("kl", 0);
});

const LOGITS = Float32Array.from({ length: 67 }, (_, i) => -60 + 120 * i / 66);
const OFFSETS = randomArray(67, 5).map((value) => 2 * value);
const USUAL = { logitClamp: 10, ratioMin: 0.05, ratioMax: 10 };
const SETTINGS: readonly (Omit<BregmanSettings, "h"> & { readonly blend?: number; readonly offsets?: boolean })[] = [
  { logitClamp: 60, ratioMin: 0, ratioMax: Infinity, normalise: false },
  { logitClamp: 60, ratioMin: 0, ratioMax: Infinity, normalise: true },
  { ...USUAL, normalise: true, offsets: true },
  { ...USUAL, normalise: true, temperature: 3, blend: 0.25, offsets: true },
  { ...USUAL, normalise: false, temperature: 0.5 },
];

for (const { f, weight } of ALL) {
  gpuTest(`bregman: ${f.name}: weights on the device`, async (gpu) => {
    const workspace = new Workspace(gpu);
    for (const { blend = 1, offsets, ...settings } of SETTINGS) {
      const { weights, ratios, stats } = g.bregmanWeights({
        ...{ logits: g.constant(LOGITS, [67]), blend: g.constant([blend], []) },
        ...offsets && { offsets: g.constant(OFFSETS, [67]) },
      }, { h: f.weighting, ...settings });
      const tensors = { weights, ratios, stats };
      const got = await g.evaluate(workspace, tensors);
      const expected = reference(f, weight, blend, settings, offsets ? OFFSETS : undefined);
      const interpreted = interpret(tensors);
      for (const name of ["weights", "ratios", "stats"] as const) {
        expected[name].forEach((value, i) => {
          const what = `${name}[${i}] with ${JSON.stringify(settings)}`;
          assert(
            Math.abs(got[name][i]! - value) <= 2e-5 * Math.max(1e-32, Math.abs(value)),
            `${what}: ${got[name][i]}, not ${value}`,
          );
          assert(
            Math.abs(interpreted[name][i]! - value) <= 1e-12 * Math.abs(value),
            `interpreted ${what}: ${interpreted[name][i]}, not ${value}`,
          );
        });
      }
    }
    workspace.destroy();
  });
}

/** In double precision; the weights of one's own are computed here from the bounded ratios. */
function reference(
  { weighting }: BregmanFunction,
  weight: (l: number) => number,
  blend: number,
  { temperature = 1, ...settings }: Omit<BregmanSettings, "h">,
  offsets: Float32Array | undefined,
) {
  const s = { batch: 67, lambda: 0, temperature, ...settings };
  if ("kind" in weighting) return bregmanWeightsReference(LOGITS, blend, { ...s, ...weighting }, { offsets });
  const { ratios } = bregmanWeightsReference(LOGITS, blend, { ...s, kind: "kl" }, { offsets });
  const given = ratios.map((r) => weight(-Math.log(r)));
  return bregmanWeightsReference(LOGITS, blend, { ...s, kind: "given" }, { offsets, given });
}

/** h′ at r = e⁻ˡ, but for a constant, from the logits. */
const DH: Readonly<Record<string, (l: Tensor, lambda: number) => Tensor>> = {
  "kl": (l) => g.neg(l),
  "lsif": (l) => g.exp(g.neg(l)),
  "logistic": (l) => g.neg(g.softplus(l)),
  "itakura-saito": (l) => g.neg(g.exp(l)),
  "sba": (l, lambda) => g.affine(g.exp(g.affine(l, -lambda, 0)), 1 / lambda, 0),
  "basu": (l, lambda) => g.affine(g.exp(g.affine(l, -lambda, 0)), 1 / lambda + 1, 0),
  "softened-kl": (l) => g.softplus(g.neg(l)),
  "jeffreys": (l) => g.neg(g.add(l, g.exp(l))),
  "kl and lsif": (l) => g.sub(g.exp(g.neg(l)), l),
};

gpuTest("bregman: the gradient of the score-free loss E[h′(e⁻ˡ)] is −c(r)", async (gpu) => {
  const workspace = new Workspace(gpu);
  for (const { f } of ALL.filter(({ f }) => f.dh)) {
    const logits = g.affine(g.constant(LOGITS, [67]), 1 / 6, 0);
    const lambda = "kind" in f.weighting ? f.weighting.lambda : 0;
    const loss = g.sum(DH[f.name.replace(/\(.*/, "")]!(logits, lambda));
    const settings = { h: f.weighting, logitClamp: 60, ratioMin: 0, ratioMax: Infinity, normalise: false };
    const { weights } = g.bregmanWeights({ logits, blend: g.constant([1], []) }, settings);
    const got = await g.evaluate(workspace, { weights, slopes: g.gradients([loss], [logits])[0]! });
    LOGITS.forEach((logit, i) => {
      const l = Math.fround(logit / 6), c = got.weights[i]!;
      assert(Math.abs(c + got.slopes[i]!) <= 1e-5 * c, `${f.name} at ${l}: ${c} and ${got.slopes[i]}`);
      const slope = (f.dh!(Math.exp(-l - 1e-5)) - f.dh!(Math.exp(-l + 1e-5))) / 2e-5;
      assert(Math.abs(c + slope) <= 1e-5 * c + 1e-10, `${f.name} at ${l}: ${c} and ${slope} of dh`);
    });
  }
  workspace.destroy();
});

async function nansOf(gpu: Gpu, weight: (l: Tensor) => Tensor, normalise = false): Promise<boolean[]> {
  const workspace = new Workspace(gpu);
  const tensors = { logits: g.constant([-50, NaN, 0, 1, 50], [5]), blend: g.constant([1], []) };
  const settings = { h: { weight }, logitClamp: 60, ratioMin: 0, ratioMax: Infinity, normalise };
  const { weights } = await g.evaluate(workspace, { weights: g.bregmanWeights(tensors, settings).weights });
  workspace.destroy();
  return [...weights].map(Number.isNaN);
}

gpuTest(
  "bregman: NaNs reach the weights through weight functions, and what these compute wrongly shows",
  async (gpu) => {
    const [NAN, OK] = [true, false];
    assertEquals(await nansOf(gpu, (l) => g.affine(g.exp(g.neg(l)), 1, 1)), [OK, NAN, OK, OK, OK]);
    assertEquals(await nansOf(gpu, (l) => l), [NAN, NAN, NAN, OK, OK], "the logit itself, negative and 0");
    assertEquals(await nansOf(gpu, () => g.constant([2], [])), [OK, NAN, OK, OK, OK], "a constant");
    assertEquals(await nansOf(gpu, (l) => g.clamp(l, 0.1, 1), true), [NAN, NAN, NAN, NAN, NAN]);
    const large = (l: Tensor) => g.exp(g.affine(g.relu(l), 10, 0));
    assertEquals(await nansOf(gpu, large), [OK, NAN, OK, OK, NAN], "exp(500)");
    const one = (l: Tensor) => g.sub(large(l), g.affine(large(l), 1, -1));
    assertEquals(await nansOf(gpu, one), [OK, NAN, OK, OK, NAN], "exp(500) - (exp(500) - 1)");
  },
);

gpuTest("bregman: weight functions that differ in constants share their pipelines", (gpu) => {
  const source = (text: string) => {
    const { weights } = g.bregmanWeights({ logits: g.host("l", [8]), blend: g.host("blend") }, {
      h: weightExpression(text).weighting,
      ...USUAL,
      normalise: true,
    });
    const { steps } = lowerNodes(g.reachable([weights]), new Set(), gpu.choices);
    return steps.flatMap(({ dispatches }) => dispatches).map(({ source, constants }) => ({ source, constants }));
  };
  assertEquals(source("exp(0.5 * logit) + 2").length, 2, "one pointwise kernel before the weighting");
  assertEquals(source("exp(0.5 * logit) + 2"), source("exp(-0.25*logit)+(30.0)"));
  return Promise.resolve();
});

Deno.test("bregman: settings of the weighting that are refused", () => {
  const logits = g.host("l", [3]), blend = g.host("blend");
  const make = (more: Partial<BregmanSettings>, offsets = logits) => () =>
    g.bregmanWeights({ logits, blend, offsets }, { h: { kind: "sba", lambda: 1 }, ...USUAL, normalise: true, ...more });
  for (const temperature of [0, -1, NaN, 1e-39]) {
    assertThrows(make({ temperature }), GraphError, `temperature to be a positive number; got ${temperature}`);
  }
  assertThrows(make({ logitClamp: 0 }), GraphError, "logitClamp to be positive; got 0");
  assertThrows(make({ ratioMin: 10 }), GraphError, "ratioMin to be less than ratioMax (10); got 10");
  assertThrows(make({ h: { kind: "sba", lambda: NaN } }), GraphError, "h.lambda to be a finite number; got NaN");
  assertThrows(make({}, g.host("o", [2])), GraphError, "offsets [N]; got [3] and [] and [2]");
  assertThrows(make({ h: { weight: () => g.host("c", [2]) } }), GraphError, "cannot repeat [2] to [3]");
});

Deno.test("bregman: an h of one's own that contradicts itself is refused", () => {
  const refused: [Partial<BregmanDefinition>, string][] = [
    [
      { d2h: (r) => 1 / r + 1.0002 },
      '"kl and lsif" contradicts itself at the logit -10, r = 22026.465794806718: ' +
      "the weight is 22027.465794806718, but h″(r)·r is 22031.87",
    ],
    [{ dh: (r) => Math.log(r) + r }, "h′(r) is"],
    [{ h: (r) => r * Math.log(r) - r + (r - 1) ** 2 }, "the slope of h is"],
    [{ d2h: (r) => 2 / r, weight: () => g.constant([2], []) }, "the slope of h′ is"],
    [{ weight: (l) => g.exp(l) }, "at the logit -10"],
    [{ d2h: () => NaN }, "but h″(r)·r is NaN"],
    [
      { weight: (l) => l },
      "positive and finite at every logit from -10 to 10, in float32 as well, but at -10 it is -10, in float32 -10.",
    ],
    [{ weight: (l) => g.exp(g.affine(g.relu(l), 9, 0)) }, "in float32 Infinity"],
  ];
  for (const [part, message] of refused) {
    assertThrows(() => defineBregman({ ...SUM, ...part }), UsageError, message);
  }
  for (const range of [0, -1, NaN, 71]) {
    assertThrows(() => defineBregman(SUM, { range }), UsageError, `but it is ${range}`);
  }
  // Right within ± 10 only.
  const narrow: BregmanDefinition = { ...SUM, weight: (l) => g.affine(g.exp(g.clamp(g.neg(l), -12, 12)), 1, 1) };
  assertEquals(defineBregman(narrow).weight(20), 1 + Math.exp(-12));
  assertThrows(() => defineBregman(narrow, { range: 20 }), UsageError, "contradicts itself at the logit -20");
});

Deno.test("bregman: every known h passes as one's own", () => {
  const weights: Readonly<Record<BregmanKind, string>> = {
    "kl": "1",
    "lsif": "r",
    "logistic": "sigmoid(logit)",
    "itakura-saito": "1 / r",
    "sba": "r ^ -0.5",
    "basu": "0.5 * r ^ -0.5",
    "softened-kl": "r / (1 + r)",
    "jeffreys": "1 + exp(logit)",
  };
  for (const kind of BREGMAN_KINDS) {
    const { name, h, dh, d2h } = bregmanFunction(kind, -0.5);
    const { weighting } = weightExpression(weights[kind]);
    if ("kind" in weighting) throw new Error("An expression is no kind.");
    for (const range of [1, 10, 30]) defineBregman({ name, h: h!, dh: dh!, d2h, weight: weighting.weight }, { range });
    const naive = (r: number) => H[kind](r, -0.5);
    defineBregman({ name, h: naive, dh: dh!, d2h, weight: weighting.weight }, { range: 30 });
  }
});

Deno.test("functions of one number are of pointwise ops and constants", () => {
  const value = scalarFunction((x) => g.reshape(g.mul(g.reshape(x, [1, 2]), g.constant([3], [])), [2]));
  assertEquals(value(0.1), 0.1 * 3);
  const refused: [(x: Tensor) => Tensor, string][] = [
    [(x) => g.sum(x), 'uses "reduce"'],
    [(x) => g.add(x, g.host("y")), 'uses "host"'],
    [(x) => g.mul(x, g.constant([1, 2], [2])), "holds a tensor [2]"],
    [(x) => g.mul(x, g.reshape(x, [2, 1])), "cannot repeat [2, 2] to [2]"],
    [(x) => g.reshape(x, [2, 1]), "cannot repeat [2, 1] to [2]"],
  ];
  for (const [f, message] of refused) assertThrows(() => scalarFunction(f), GraphError, message);
});

gpuTest("functions of one number agree with the device and the interpreter", async (gpu) => {
  const workspace = new Workspace(gpu);
  const logits = Float32Array.from({ length: 41 }, (_, i) => (i - 20) / 4);
  const unary = [
    "exp",
    "square",
    "abs",
    "sign",
    "step",
    "tanh",
    "sigmoid",
    "softplus",
    "silu",
    "relu",
    "sin",
    "cos",
  ] as const;
  const functions: Record<string, (x: Tensor) => Tensor> = {
    ...Object.fromEntries(unary.map((name) => [name, g[name]])),
    log: (x) => g.log(g.affine(x, 1, 6)),
    sqrt: (x) => g.sqrt(g.affine(x, 2, 11)),
    isFinite: (x) => g.isFinite(g.div(g.constant([1], []), x)),
    greater: (x) => g.greater(x, g.constant([0.25], [])),
    equal: (x) => g.equal(x, g.constant([0.25], [])),
    where: (x) => g.where(g.greater(x, g.neg(x)), g.affine(x, 3, 0), g.sub(x, g.constant([1], []))),
    minmax: (x) => g.max(g.min(x, g.affine(x, -1, 1)), g.constant([-2], [])),
    clamp: (x) => g.clamp(x, -1, 2),
    stop: (x) => g.stopGradient(x),
  };
  const x = g.constant(logits, [41]);
  const tensors = Object.fromEntries(Object.entries(functions).map(([name, f]) => [name, f(x)]));
  const got = await g.evaluate(workspace, tensors), interpreted = interpret(tensors);
  for (const [name, f] of Object.entries(functions)) {
    const value = scalarFunction(f);
    logits.forEach((logit, i) => {
      close(got[name]![i]!, value(logit), 1e-5);
      close(interpreted[name]![i]!, value(logit), 1e-12);
    });
  }
  workspace.destroy();
});

gpuTest("functions of one number in float32 lose what the device loses", async (gpu) => {
  const workspace = new Workspace(gpu);
  const logits = Float32Array.from({ length: 81 }, (_, i) => -20 + i / 2);
  const functions: Record<string, (x: Tensor) => Tensor> = {
    softplus: g.softplus,
    sigmoid: (x) => g.sigmoid(g.affine(x, 5, 0)),
    exp: (x) => g.exp(g.affine(x, 5, 0)),
    cancelling: (x) => g.sub(g.affine(g.exp(x), 1, 1), g.constant([1], [])),
  };
  const x = g.constant(logits, [81]);
  const tensors = Object.fromEntries(Object.entries(functions).map(([name, f]) => [name, f(x)]));
  const got = await g.evaluate(workspace, tensors);
  for (const [name, f] of Object.entries(functions)) {
    const exact = scalarFunction(f), single = scalarFunction(f, "f32");
    const lost = (value: number, logit: number) => Math.abs(value / exact(logit) - 1);
    const numbers = [...logits].map((logit, i) => [lost(got[name]![i]!, logit), lost(single(logit), logit)] as const);
    assert(numbers.some(([device]) => device > 0.1), `${name} loses nothing`);
    for (const [device, host] of numbers) assert(device <= Math.max(0.01, 3 * host), `${name}: ${device}, not ${host}`);
  }
  workspace.destroy();
});

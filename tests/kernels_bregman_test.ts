/** Tests of the Bregman functions, of the weighting and of the gradient at the generator's output. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  BREGMAN_KINDS,
  bregmanGradient,
  type BregmanGradientShape,
  type BregmanKind,
  type BregmanShape,
  bregmanWeights,
} from "../kernels/bregman.ts";
import { BREGMAN, checkLambda } from "../src/distill/bregman.ts";
import { UsageError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { bregmanGradientReference, bregmanWeightsReference } from "./reference/bregman.ts";

/** Values of lambda to try for a kind. */
function lambdas(kind: BregmanKind): number[] {
  return BREGMAN[kind].usesLambda ? [-0.9, -0.5, 0.5, 1, 2] : [0];
}

const CASES = BREGMAN_KINDS.flatMap((kind) => lambdas(kind).map((lambda) => ({ kind, lambda })));

for (const { kind, lambda } of CASES) {
  const { h, dh, d2h, weight } = BREGMAN[kind];
  Deno.test(`bregman: ${kind}(${lambda}): derivatives and weight belong to h`, () => {
    for (const r of [0.05, 0.3, 0.9, 1, 1.7, 10]) {
      const step = 1e-5 * r;
      const slope = (f: typeof h) => (f(r + step, lambda) - f(r - step, lambda)) / (2 * step);
      close(dh(r, lambda), slope(h), 1e-7);
      close(d2h(r, lambda), slope(dh), 1e-7);
    }
    for (let logit = -60; logit <= 60; logit += 2.5) {
      const r = Math.exp(-logit);
      close(weight(logit, lambda) / (d2h(r, lambda) * r), 1, 1e-12);
    }
    assert(d2h(1, lambda) > 0);
  });
}

function close(actual: number, expected: number, tolerance: number): void {
  const off = Math.abs(actual - expected) / Math.max(1, Math.abs(expected));
  assert(off <= tolerance, `${actual} is not ${expected}`);
}

Deno.test("bregman: lambdas are checked", () => {
  for (const lambda of [0, -1, -2, NaN, Infinity]) assertThrows(() => checkLambda("sba", lambda), UsageError, "sba");
  checkLambda("basu", -0.5);
  checkLambda("kl", 0);
});

async function weigh(gpu: Gpu, logits: Float32Array, blend: number, s: BregmanShape) {
  const buffers = { logits: "logits", blend: "blend", weights: "weights", ratios: "ratios", stats: "stats" } as const;
  return await runDispatches(gpu, [bregmanWeights(buffers, s)], {
    ...{ logits, blend: Float32Array.of(blend) },
    ...{ weights: new Float32Array(s.batch), ratios: new Float32Array(s.batch), stats: new Float32Array(6) },
  });
}

/** Every element within a relative tolerance: tiny weights must be right as well, down to where f32 is denormal. */
function assertElements(actual: ArrayLike<number>, expected: readonly number[], what: string): void {
  expected.forEach((value, i) => {
    const off = Math.abs(actual[i]! - value) / Math.max(1e-32, Math.abs(value));
    assert(off < 2e-5, `${what}[${i}] is ${actual[i]}, expected ${value}`);
  });
}

const WIDE = { logitClamp: 1000, ratioMin: 0, ratioMax: Infinity };
const USUAL = { logitClamp: 10, ratioMin: 0.05, ratioMax: 10 };

for (const { kind, lambda } of CASES) {
  gpuTest(`bregman: weights of ${kind}(${lambda})`, async (gpu) => {
    for (const batch of [1, 67, 300]) {
      const spread = Float32Array.from({ length: batch }, (_, i) => batch === 1 ? -3 : -60 + 120 * i / (batch - 1));
      for (const bounds of [WIDE, USUAL]) {
        for (const [normalise, blend] of [[true, 1], [false, 1], [true, 0.25], [false, 0]] as const) {
          const s: BregmanShape = { batch, kind, lambda, normalise, ...bounds };
          const actual = await weigh(gpu, spread, blend, s);
          const expected = bregmanWeightsReference(spread, blend, s);
          for (const name of ["weights", "ratios", "stats"] as const) {
            assertElements(actual[name], expected[name], `${name} of ${JSON.stringify({ ...s, blend })}`);
          }
        }
      }
    }
  });
}

gpuTest("bregman: huge logits stay finite, a NaN is passed on", async (gpu) => {
  for (const { kind, lambda } of CASES) {
    const s: BregmanShape = { batch: 5, kind, lambda, normalise: true, ...WIDE };
    const huge = await weigh(gpu, Float32Array.of(-3e38, -500, 0, 500, 3e38), 1, s);
    for (const name of ["weights", "ratios", "stats"] as const) {
      assert(huge[name].every(Number.isFinite), `${name} of ${kind}: ${huge[name]}`);
    }
    const { weights } = await weigh(gpu, Float32Array.of(0, NaN, 1, 2, 3), 1, { ...s, normalise: false });
    assertEquals([...weights].map(Number.isNaN), [false, true, false, false, false]);
  }
});

const GRADIENTS: BregmanGradientShape[] = [
  { batch: 1, perSample: 1, normaliser: true, epsilon: 1e-2, scale: 1 },
  { batch: 67, perSample: 64, normaliser: true, epsilon: 1e-5, scale: 0.5 },
  { batch: 3, perSample: 1001, normaliser: true, epsilon: 1e-5, scale: -2 },
  { batch: 2, perSample: 1500, normaliser: true, epsilon: 1e-5, scale: 2 },
  { batch: 5, perSample: 67, normaliser: false, epsilon: 1e-5, scale: 3 },
];

for (const s of GRADIENTS) {
  gpuTest(`bregman: gradient ${JSON.stringify(s)}`, async (gpu) => {
    const elements = s.batch * s.perSample;
    const [x, fake, teacher] = [1, 2, 3].map((seed) => randomArray(elements, seed)) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const weights = randomArray(s.batch, 4).map(Math.exp);
    const buffers = { weights: "weights", x: "x", fake: "fake", teacher: "teacher", g: "g" } as const;
    const data = { weights, x, fake, teacher, g: new Float32Array(elements) };
    const { g } = await runDispatches(gpu, [bregmanGradient(buffers, s)], data);
    const error = relativeError(g, bregmanGradientReference(weights, x, fake, teacher, s));
    assert(error < 1e-6, `g is off by ${error}`);
  });
}

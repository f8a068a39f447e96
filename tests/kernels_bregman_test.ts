/** Tests of the Bregman weighting's kernel and of the gradient's at the generator's output. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  BREGMAN_KINDS,
  bregmanGradient,
  type BregmanGradientShape,
  type BregmanShape,
  bregmanWeights,
} from "../kernels/bregman.ts";
import { usesLambda } from "../src/distill/bregman.ts";
import { GraphError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { bregmanGradientReference, bregmanWeightsReference } from "./reference/bregman.ts";

const CASES = BREGMAN_KINDS.flatMap((kind) =>
  (usesLambda(kind) ? [-0.9, -0.5, 0.5, 1, 2] : [0]).map((lambda) => ({ kind, lambda }))
);

type Optional = { readonly offsets?: Float32Array; readonly given?: Float32Array };

async function weigh(gpu: Gpu, logits: Float32Array, blend: number, s: BregmanShape, optional: Optional = {}) {
  const buffers = { logits: "logits", blend: "blend", weights: "weights", ratios: "ratios", stats: "stats" };
  const names = Object.fromEntries(Object.keys(optional).map((name) => [name, name]));
  const result = await runDispatches<string>(gpu, [bregmanWeights({ ...buffers, ...names }, s)], {
    ...{ logits, blend: Float32Array.of(blend), ...optional },
    ...{ weights: new Float32Array(s.batch), ratios: new Float32Array(s.batch), stats: new Float32Array(6) },
  });
  return result as Record<"weights" | "ratios" | "stats", Float32Array>;
}

/** Every element within a relative tolerance: tiny weights must be right as well, down to where f32 is denormal. */
function assertElements(actual: ArrayLike<number>, expected: readonly number[], what: string): void {
  expected.forEach((value, i) => {
    const off = Math.abs(actual[i]! - value) / Math.max(1e-32, Math.abs(value));
    assert(off < 2e-5, `${what}[${i}] is ${actual[i]}, expected ${value}`);
  });
}

async function check(gpu: Gpu, logits: Float32Array, blend: number, s: BregmanShape, optional: Optional = {}) {
  const actual = await weigh(gpu, logits, blend, s, optional);
  const expected = bregmanWeightsReference(logits, blend, s, optional);
  for (const name of ["weights", "ratios", "stats"] as const) {
    assertElements(actual[name], expected[name], `${name} of ${JSON.stringify({ ...s, blend })}`);
  }
}

/** Logits from -60 to 60. */
function wide(batch: number): Float32Array {
  return Float32Array.from({ length: batch }, (_, i) => batch === 1 ? -3 : -60 + 120 * i / (batch - 1));
}

const WIDE = { temperature: 1, logitClamp: 1000, ratioMin: 0, ratioMax: Infinity };
const USUAL = { temperature: 1, logitClamp: 10, ratioMin: 0.05, ratioMax: 10 };
const BLENDS = [[true, 1], [false, 1], [true, 0.25], [false, 0]] as const;

for (const { kind, lambda } of CASES) {
  gpuTest(`bregman: weights of ${kind}(${lambda})`, async (gpu) => {
    for (const batch of [1, 67, 300]) {
      for (const bounds of [WIDE, USUAL]) {
        for (const [normalise, blend] of BLENDS) {
          await check(gpu, wide(batch), blend, { batch, kind, lambda, normalise, ...bounds });
        }
      }
    }
  });

  gpuTest(`bregman: weights of ${kind}(${lambda}) with a temperature and offsets`, async (gpu) => {
    const batch = 67, offsets = randomArray(batch, 5).map((value) => 2 * value);
    for (const bounds of [WIDE, USUAL]) {
      for (const temperature of [0.5, 3]) {
        const s = { batch, kind, lambda, normalise: true, ...bounds, temperature };
        await check(gpu, wide(batch), 1, s);
        await check(gpu, wide(batch), 1, s, { offsets });
      }
    }
  });
}

gpuTest("bregman: given weights", async (gpu) => {
  for (const batch of [1, 67, 300]) {
    const given = randomArray(batch, 6).map(Math.exp), offsets = randomArray(batch, 5);
    for (const [normalise, blend] of BLENDS) {
      const s: BregmanShape = { batch, kind: "given", lambda: 0, normalise, ...USUAL };
      await check(gpu, wide(batch), blend, s, { given });
      await check(gpu, wide(batch), blend, s, { offsets, given });
    }
  }
});

Deno.test("bregman: given weights need a buffer, others take none", () => {
  const b = { logits: 0, blend: 1, weights: 2, ratios: 3, stats: 4 };
  const s = { batch: 1, lambda: 0, normalise: true, ...USUAL };
  assertThrows(() => bregmanWeights(b, { kind: "given", ...s }), GraphError, "given come from a buffer");
  assertThrows(() => bregmanWeights({ ...b, given: 5 }, { kind: "kl", ...s }), GraphError, "kl come from no buffer");
});

gpuTest("bregman: huge logits stay finite, a NaN is passed on", async (gpu) => {
  for (const { kind, lambda } of CASES) {
    const s: BregmanShape = { batch: 5, kind, lambda, normalise: true, ...WIDE };
    const huge = await weigh(gpu, Float32Array.of(-3e38, -500, 0, 500, 3e38), 1, { ...s, temperature: 0.5 });
    for (const name of ["weights", "ratios", "stats"] as const) {
      assert(huge[name].every(Number.isFinite), `${name} of ${kind}: ${huge[name]}`);
    }
    const { weights } = await weigh(gpu, Float32Array.of(0, NaN, 1, 2, 3), 1, { ...s, normalise: false });
    assertEquals([...weights].map(Number.isNaN), [false, true, false, false, false]);
  }
});

gpuTest("bregman: offsets that are not finite and weights that are none give NaN, even while c is 1", async (gpu) => {
  const logits = Float32Array.of(0, 1, 2, 3, NaN), ones = () => new Float32Array(5).fill(1);
  const offsets = ones(), given = ones();
  [offsets[0], offsets[1], given[2]] = [NaN, -Infinity, Infinity];
  const negative = Float32Array.of(1, 0, -1, 1, 1);
  const s: BregmanShape = { batch: 5, kind: "given", lambda: 0, normalise: false, ...WIDE };
  for (const blend of [0, 0.5, 1]) {
    const nans = async (s: BregmanShape, optional: Optional) => {
      const { weights } = await weigh(gpu, logits, blend, s, optional);
      return [...weights].map(Number.isNaN);
    };
    assertEquals(await nans(s, { given: ones() }), [false, false, false, false, true]);
    assertEquals(await nans(s, { given }), [false, false, true, false, true]);
    assertEquals(await nans(s, { given: negative }), [false, true, true, false, true]);
    assertEquals(await nans(s, { given, offsets }), [true, true, true, false, true]);
    assertEquals(await nans({ ...s, kind: "jeffreys" }, { offsets }), [true, true, false, false, true]);
    assertEquals(await nans({ ...s, normalise: true }, { given }), [true, true, true, true, true]);
  }
  const most = { given: new Float32Array(4).fill(3e38) };
  const { weights, stats } = await weigh(gpu, logits.subarray(0, 4), 1, { ...s, batch: 4, normalise: true }, most);
  assert(
    [...weights, stats[4]!].every(Number.isNaN),
    `a sum that overflows gives ${weights} with the mean ${stats[4]}`,
  );
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

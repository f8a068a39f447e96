/** Tests of the optimiser's step against a float64 loop. */

import { assert, assertEquals } from "@std/assert";
import { adamEma, type AdamShape } from "../kernels/adam.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { adamReference, type AdamState } from "./reference/adam.ts";

const BUFFERS = {
  ...{ grad: "grad", hyper: "hyper", control: "control" },
  ...{ p: "p", m: "m", v: "v", ema: "ema" },
} as const;

interface GpuState {
  p: Float32Array;
  m: Float32Array;
  v: Float32Array;
  ema: Float32Array;
}

async function runStep(
  gpu: Gpu,
  state: GpuState,
  grad: Float32Array,
  hyper: number[],
  control: number[],
  s: AdamShape,
) {
  const { p, m, v, ema } = await runDispatches(gpu, [adamEma(BUFFERS, s)], {
    ...{ grad, ...state },
    ...{ hyper: new Float32Array(hyper), control: new Float32Array(control) },
  });
  return { p, m, v, ema } as GpuState;
}

function initial(count: number): GpuState {
  const p = randomArray(count, 1);
  return { p, m: new Float32Array(count), v: new Float32Array(count), ema: p.slice() };
}

const SETTINGS: AdamShape[] = [
  { count: 64, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
  { count: 1000, beta1: 0, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 },
  { count: 1, beta1: 0.9, beta2: 0.99, epsilon: 1e-4, weightDecay: 0 },
  { count: 67, beta1: 0.5, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1 },
];

for (const s of SETTINGS) {
  gpuTest(`adam: five steps, ${JSON.stringify(s)}`, async (gpu) => {
    let state = initial(s.count);
    let expected: AdamState = { p: [...state.p], m: [...state.m], v: [...state.v], ema: [...state.ema] };
    const start = [...state.p];
    for (let t = 1; t <= 5; t++) {
      const grad = randomArray(s.count, 10 + t);
      const hyper = [1e-2, 1 - s.beta1 ** t, 1 - s.beta2 ** t, 0.9];
      state = await runStep(gpu, state, grad, hyper, [0.5, 1], s);
      expected = adamReference(expected, grad, hyper, [0.5, 1], s);
    }
    for (const name of ["m", "v"] as const) {
      const error = relativeError(state[name], expected[name]);
      assert(error < 1e-6, `${name} is off by ${error}`);
    }
    // What counts is the change, which is small beside the parameters themselves.
    for (const name of ["p", "ema"] as const) {
      const change = (values: ArrayLike<number>) => start.map((old, i) => values[i]! - old);
      const error = relativeError(change(state[name]), change(expected[name]));
      assert(error < 3e-5, `the change of ${name} is off by ${error}`);
    }
  });
}

gpuTest("adam: sanitised, NaN counts as 0 and an infinity as 1e5 with its sign", async (gpu) => {
  for (const count of [64, 7]) {
    const s: AdamShape = { count, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, sanitise: true };
    const step = (values: readonly number[]) => {
      const grad = Float32Array.from({ length: count }, (_, i) => values[i % 5]!);
      return runStep(gpu, initial(count), grad, [1e-2, 0.1, 0.001, 0.9], [1, 1], s);
    };
    const { p, m, v, ema } = await step([NaN, Infinity, -Infinity, 1e10, -2]);
    assertEquals({ p, m, v, ema }, await step([0, 1e5, -1e5, 1e10, -2]));
    assert(p.every(Number.isFinite));
  }
});

gpuTest("adam: a step that is not finite leaves everything untouched", async (gpu) => {
  for (const s of SETTINGS) {
    const before = initial(s.count);
    const grad = new Float32Array(s.count).fill(NaN);
    const after = await runStep(gpu, before, grad, [1e-2, 0.1, 0.001, 0.9], [NaN, 0], s);
    assertEquals(after, before);
  }
});

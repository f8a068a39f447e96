/** The preconditionings' coefficients against EDM's table 1 in double precision. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { type Coefficients, coefficients, lossWeight, sigmaLimits } from "../src/diffusion/preconditioning.ts";
import { constant, evaluate, Workspace } from "../src/graph/mod.ts";
import {
  EDM_PRECONDITIONING,
  type Preconditioning,
  VE_PRECONDITIONING,
  VP_PRECONDITIONING,
} from "../src/nn/preconditioning.ts";
import { gpuTest, relativeError } from "./gpu.ts";

const SIGMAS = [0.02, 0.1, 0.5, 1, 7, 40, 80].map(Math.fround);

/** Inverse of σ(t) = √(exp(½ 19.9 t² + 0.1 t) − 1) by bisection. */
function vpTime(sigma: number): number {
  let low = 0, high = 1;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (Math.sqrt(Math.expm1(0.5 * 19.9 * middle ** 2 + 0.1 * middle)) < sigma) low = middle;
    else high = middle;
  }
  return low;
}

/** c_skip, c_out, c_in and c_noise. */
const TABLE: readonly [Preconditioning, (sigma: number) => [number, number, number, number]][] = [
  [
    EDM_PRECONDITIONING,
    (s) => [0.25 / (s * s + 0.25), s / 2 / Math.hypot(s, 0.5), 1 / Math.hypot(s, 0.5), Math.log(s) / 4],
  ],
  [
    { kind: "edm", sigmaData: 2 },
    (s) => [4 / (s * s + 4), 2 * s / Math.hypot(s, 2), 1 / Math.hypot(s, 2), Math.log(s) / 4],
  ],
  [VP_PRECONDITIONING, (s) => [1, -s, 1 / Math.hypot(s, 1), 999 * vpTime(s)]],
  [VE_PRECONDITIONING, (s) => [1, s, 1, Math.log(s / 2)]],
];

for (const [preconditioning, row] of TABLE) {
  gpuTest(`preconditioning: ${JSON.stringify(preconditioning)}`, async (gpu) => {
    const workspace = new Workspace(gpu);
    const sigma = constant(SIGMAS, [SIGMAS.length]);
    const ones = constant(SIGMAS.map(() => 1), [SIGMAS.length]);
    const given: Coefficients = coefficients(preconditioning, sigma);
    const got = await evaluate(workspace, {
      cSkip: given.cSkip ?? ones,
      cOut: given.cOut,
      inputScale: given.inputScale ?? ones,
      cNoise: given.cNoise,
      weight: lossWeight(preconditioning, sigma),
    });
    workspace.destroy();
    const column = (i: number) => SIGMAS.map((s) => row(s)[i]!);
    const expected = {
      cSkip: column(0),
      cOut: column(1),
      inputScale: column(2).map((c) => 1 / c),
      cNoise: column(3),
      weight: column(1).map((c) => 1 / c ** 2),
    };
    for (const name of ["cSkip", "cOut", "inputScale", "weight", "cNoise"] as const) {
      const error = relativeError(got[name], expected[name]);
      assert(error < 3e-6, `${name}: relative error ${error}`);
    }
  });
}

gpuTest("preconditioning: VP's condition at small noise levels, where 1 + σ² keeps little of σ", async (gpu) => {
  const workspace = new Workspace(gpu);
  const sigmas = [1e-3, 0.002, 0.01, 0.1, 0.3, 0.316, 0.317, 0.33].map(Math.fround);
  const { cNoise } = coefficients(VP_PRECONDITIONING, constant(sigmas, [sigmas.length]));
  const got = (await evaluate(workspace, { cNoise })).cNoise;
  workspace.destroy();
  sigmas.forEach((sigma, i) => {
    const expected = 999 * vpTime(sigma);
    assert(Math.abs(got[i]! / expected - 1) < 2e-6, `σ ${sigma}: ${got[i]}, not ${expected}`);
  });
});

Deno.test("preconditioning: the limits of the noise levels", () => {
  assertEquals(sigmaLimits(EDM_PRECONDITIONING), { sigmaMin: 0, sigmaMax: Infinity });
  assertEquals(sigmaLimits(VE_PRECONDITIONING), { sigmaMin: 0.02, sigmaMax: 100 });
  const { sigmaMin, sigmaMax } = sigmaLimits(VP_PRECONDITIONING);
  assertAlmostEquals(sigmaMin, 1.0004978e-3, 1e-9);
  assertAlmostEquals(sigmaMax, 152.1675, 1e-3);
});

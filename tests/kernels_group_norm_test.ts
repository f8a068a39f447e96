/** Tests of the group norm kernels against float64 references. */

import { assert } from "@std/assert";
import { groupNormForward, groupNormGrad, type GroupNormShape } from "../kernels/group_norm.ts";
import { standalone } from "../kernels/standalone.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import { groupNormGradReference, groupNormReference } from "./reference/group_norm.ts";

const SHAPES: GroupNormShape[] = [
  { batch: 3, channels: 16, groups: 4, size: 64, eps: 1e-5, silu: true },
  { batch: 2, channels: 16, groups: 4, size: 16, eps: 1e-5, silu: false },
  { batch: 1, channels: 6, groups: 2, size: 35, eps: 1e-6, silu: true },
  { batch: 5, channels: 6, groups: 2, size: 1, eps: 1e-3, silu: false },
  { batch: 19, channels: 8, groups: 4, size: 5, eps: 1e-5, silu: true },
  { batch: 2, channels: 14, groups: 1, size: 100, eps: 1e-5, silu: true },
  { batch: 2, channels: 16, groups: 2, size: 1024, eps: 1e-5, silu: false },
  { batch: 1, channels: 33, groups: 1, size: 1024, eps: 1e-5, silu: true },
  { batch: 1, channels: 5, groups: 1, size: 777, eps: 1e-5, silu: true },
];

function problem(s: GroupNormShape) {
  const x = randomArray(s.batch * s.channels * s.size, 1).map((v, i) => 2 * v + 0.5 * (i % 3));
  const gamma = randomArray(s.channels, 2).map((v) => 1 + 0.3 * v);
  const beta = randomArray(s.channels, 3);
  const dy = randomArray(x.length, 4);
  return { x, gamma, beta, dy };
}

async function runForward(gpu: Gpu, s: GroupNormShape, p: ReturnType<typeof problem>) {
  const buffers = { x: "x", gamma: "gamma", beta: "beta", y: "y", stats: "stats" } as const;
  return await runDispatches(gpu, [groupNormForward(buffers, s)], {
    x: p.x,
    gamma: p.gamma,
    beta: p.beta,
    y: new Float32Array(p.x.length),
    stats: new Float32Array(2 * s.batch * s.groups),
  });
}

for (const s of SHAPES) {
  const name = `${s.batch}x${s.channels}x${s.size}, ${s.groups} groups${s.silu ? ", silu" : ""}`;
  gpuTest(`group norm: ${name}`, async (gpu) => {
    const p = problem(s);
    const expected = groupNormReference(p.x, p.gamma, p.beta, s);
    const forward = await runForward(gpu, s, p);
    const yError = relativeError(forward.y, expected.y);
    const statsError = relativeError(forward.stats, expected.stats);
    assert(yError < 3e-6 && statsError < 1e-6, `y is off by ${yError}, stats by ${statsError}`);

    // deno-fmt-ignore
    const buffers = {
      x: "x", gamma: "gamma", beta: "beta", stats: "stats", dy: "dy", dx: "dx", dgamma: "dgamma", dbeta: "dbeta",
    };
    const outputs = () => ({
      dx: unwritten(p.x.length),
      dgamma: unwritten(s.channels),
      dbeta: unwritten(s.channels),
    });
    const inputs = { x: p.x, gamma: p.gamma, beta: p.beta, dy: p.dy, stats: forward.stats };
    const list = standalone((lowering) => groupNormGrad(buffers, s, lowering));
    const grad = await runStandalone(gpu, list, { ...inputs, ...outputs() });
    const gradients = groupNormGradReference(p.x, p.gamma, p.beta, p.dy, s);
    for (const key of ["dx", "dgamma", "dbeta"] as const) {
      const error = relativeError(grad[key], gradients[key]);
      assert(error < 1e-5, `${key} is off by ${error}`);
    }
    const added = standalone((lowering) => groupNormGrad({ ...buffers, residual: "dy" }, s, lowering));
    const { dx } = await runStandalone(gpu, added, { ...inputs, ...outputs() });
    const error = relativeError(dx, gradients.dx.map((value, i) => value + p.dy[i]!));
    assert(error < 1e-5, `dx with a residual is off by ${error}`);
  });
}

gpuTest("group norm: a large mean does not spoil the variance", async (gpu) => {
  const s: GroupNormShape = { batch: 1, channels: 8, groups: 2, size: 256, eps: 1e-5, silu: false };
  const p = problem(s);
  p.x = p.x.map((v) => 1000 + v);
  const { y } = await runForward(gpu, s, p);
  const error = relativeError(y, groupNormReference(p.x, p.gamma, p.beta, s).y);
  assert(error < 1e-4, `y is off by ${error}`);
});

gpuTest("group norm: SiLU stays finite far out", async (gpu) => {
  const s: GroupNormShape = { batch: 1, channels: 4, groups: 1, size: 16, eps: 1e-5, silu: true };
  const p = problem(s);
  p.beta = Float32Array.from([-1e4, -200, 200, 1e4]);
  const { y } = await runForward(gpu, s, p);
  const error = relativeError(y, groupNormReference(p.x, p.gamma, p.beta, s).y);
  assert(error < 1e-6, `y is off by ${error}`);
});

Deno.test("group norm: the reference gradient agrees with central differences", () => {
  const s: GroupNormShape = { batch: 2, channels: 4, groups: 2, size: 3, eps: 1e-3, silu: true };
  const p = problem(s);
  const [x, gamma, beta] = [Array.from(p.x), Array.from(p.gamma), Array.from(p.beta)];
  const loss = () => groupNormReference(x, gamma, beta, s).y.reduce((sum, v, i) => sum + v * p.dy[i]!, 0);
  const slopes = (values: number[]) =>
    values.map((value, i) => {
      values[i] = value + 1e-5;
      const above = loss();
      values[i] = value - 1e-5;
      const below = loss();
      values[i] = value;
      return (above - below) / 2e-5;
    });
  const { dx, dgamma, dbeta } = groupNormGradReference(x, gamma, beta, p.dy, s);
  for (const [got, want] of [[dx, slopes(x)], [dgamma, slopes(gamma)], [dbeta, slopes(beta)]]) {
    const error = relativeError(got!, want!);
    assert(error < 1e-7, `a gradient is off by ${error}`);
  }
});

/** Tests of the group norm kernels against float64 references. */

import { assert, assertEquals } from "@std/assert";
import { groupNorm, groupNormGrad, type GroupNormShape, groupNormStats } from "../kernels/group_norm.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { HostArray } from "../src/gpu/run.ts";
import { forEachVariant, gpuTest, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import { groupNormGradReference, groupNormReference } from "./reference/group_norm.ts";

const SHAPES: GroupNormShape[] = [
  { batch: 3, channels: 16, groups: 4, size: 32, eps: 1e-5, silu: true },
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

/** Adds each sample's scale and shift to a problem. */
function modulationOf(s: GroupNormShape) {
  const count = s.batch * s.channels;
  return { scale: randomArray(count, 5).map((v) => 0.5 * v), shift: randomArray(count, 6) };
}

type GroupNormVariant = typeof groupNorm.variants[string];

async function runForward(
  gpu: Gpu,
  variant: GroupNormVariant,
  s: GroupNormShape,
  p: ReturnType<typeof problem>,
  modulation?: ReturnType<typeof modulationOf>,
) {
  const buffers = {
    ...{ x: "x", gamma: "gamma", beta: "beta", y: "y", stats: "stats" },
    ...modulation && { scale: "scale", shift: "shift" },
  };
  const data: Record<string, HostArray> = {
    ...{ x: p.x, gamma: p.gamma, beta: p.beta, ...modulation },
    y: unwritten(p.x.length),
    stats: unwritten(groupNormStats(s, modulation !== undefined)),
  };
  const { y, stats } = await runStandalone(gpu, standaloneVariant(variant, buffers, s), data);
  return { y: y!, stats: stats! };
}

function close(label: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  const error = relativeError(got, expected);
  assert(error < tolerance, `${label} is off by ${error}`);
}

for (const s of SHAPES) {
  gpuTest(`group norm: ${groupNorm.key(s)}${s.silu ? ", silu" : ""}`, async (gpu) => {
    const p = problem(s);
    for (const modulation of [undefined, modulationOf(s)]) {
      const expected = groupNormReference(p.x, p.gamma, p.beta, s, modulation);
      await forEachVariant(groupNorm, s, async (variant, label) => {
        const { y, stats } = await runForward(gpu, variant, s, p, modulation);
        close(`${label}: y`, y, expected.y, 3e-6);
        close(`${label}: stats`, stats, expected.stats, 1e-6);
      });
    }
  });

  gpuTest(`group norm's gradient: ${groupNorm.key(s)}${s.silu ? ", silu" : ""}`, async (gpu) => {
    const p = problem(s);
    for (const modulation of [undefined, modulationOf(s)]) {
      const stats = Float32Array.from(groupNormReference(p.x, p.gamma, p.beta, s, modulation).stats);
      const expected = groupNormGradReference(p.x, p.gamma, p.beta, p.dy, s, modulation);
      const vectors = modulation ? { dscale: "dscale", dshift: "dshift" } as const : {};
      const outputs = { dx: "dx", dgamma: "dgamma", dbeta: "dbeta", ...vectors } as const;
      const inputs = { x: p.x, gamma: p.gamma, beta: p.beta, dy: p.dy, stats, ...modulation };
      await forEachVariant(groupNormGrad, s, async (variant, label) => {
        for (const residual of [undefined, "dy"]) {
          const buffers = {
            ...{ x: "x", gamma: "gamma", beta: "beta", stats: "stats", dy: "dy", residual, ...outputs },
            ...modulation && { scale: "scale" },
          };
          const data: Record<string, HostArray> = { ...inputs };
          for (const name of Object.values(outputs)) data[name] = unwritten(expected[name].length);
          const got = await runStandalone(gpu, standaloneVariant(variant, buffers, s), data);
          for (const name of Object.values(outputs)) {
            const added = name === "dx" && residual;
            const wanted = added ? expected.dx.map((value, i) => value + p.dy[i]!) : expected[name];
            close(`${label}: ${name}${added ? " with a residual" : ""}`, got[name]!, wanted, 1e-5);
          }
        }
      });
    }
  });
}

Deno.test("the shapes of group norm reach every variant", () => {
  const reached = Object.entries(groupNorm.variants).filter(([, { fits }]) => SHAPES.some(fits)).map(([name]) => name);
  assertEquals(reached, Object.keys(groupNorm.variants));
  assertEquals(reached, Object.keys(groupNormGrad.variants));
});

Deno.test("what group norm prefers fits", () => {
  for (const adapter of ["software", "hardware"] as const) {
    for (let channels = 1; channels < 100; channels += 3) {
      for (const size of [1, 7, 16, 64, 100, 1024, 4096, 65536]) {
        const s = { batch: 2, channels, groups: 1, size, eps: 1e-5, silu: true };
        for (const { variants, preferred } of [groupNorm, groupNormGrad]) {
          const name = preferred(s, adapter);
          assert(variants[name]?.fits(s), `${name} does not fit ${groupNorm.key(s)}`);
        }
      }
    }
  }
});

gpuTest("group norm: a large mean does not spoil the variance", async (gpu) => {
  const s: GroupNormShape = { batch: 1, channels: 8, groups: 2, size: 64, eps: 1e-5, silu: false };
  const p = problem(s);
  p.x = p.x.map((v) => 1000 + v);
  const expected = groupNormReference(p.x, p.gamma, p.beta, s).y;
  await forEachVariant(groupNorm, s, async (variant, label) => {
    const { y } = await runForward(gpu, variant, s, p);
    close(label, y, expected, 1e-4);
  });
});

gpuTest("group norm: SiLU stays finite far out", async (gpu) => {
  const s: GroupNormShape = { batch: 1, channels: 4, groups: 1, size: 16, eps: 1e-5, silu: true };
  const p = problem(s);
  p.beta = Float32Array.from([-1e4, -200, 200, 1e4]);
  const expected = groupNormReference(p.x, p.gamma, p.beta, s).y;
  await forEachVariant(groupNorm, s, async (variant, label) => {
    const { y } = await runForward(gpu, variant, s, p);
    close(label, y, expected, 1e-6);
  });
});

Deno.test("group norm: the reference gradient agrees with central differences", () => {
  const s: GroupNormShape = { batch: 2, channels: 4, groups: 2, size: 3, eps: 1e-3, silu: true };
  const p = problem(s), modulation = modulationOf(s);
  const [x, gamma, beta, scale, shift] = [p.x, p.gamma, p.beta, modulation.scale, modulation.shift]
    .map((values) => Array.from(values)) as [number[], number[], number[], number[], number[]];
  for (const given of [undefined, { scale, shift }]) {
    const loss = () => groupNormReference(x, gamma, beta, s, given).y.reduce((sum, v, i) => sum + v * p.dy[i]!, 0);
    const slopes = (values: number[]) =>
      values.map((value, i) => {
        values[i] = value + 1e-5;
        const above = loss();
        values[i] = value - 1e-5;
        const below = loss();
        values[i] = value;
        return (above - below) / 2e-5;
      });
    const { dx, dgamma, dbeta, dscale, dshift } = groupNormGradReference(x, gamma, beta, p.dy, s, given);
    close("dx", dx, slopes(x), 1e-7);
    close("dgamma", dgamma, slopes(gamma), 1e-7);
    close("dbeta", dbeta, slopes(beta), 1e-7);
    if (!given) continue;
    close("dscale", dscale, slopes(scale), 1e-7);
    close("dshift", dshift, slopes(shift), 1e-7);
  }
});

/** Kernels that store f16 against the float64 references, on inputs that f16 holds exactly. */

import { assert, assertEquals } from "@std/assert";
import { attention, attentionGrad, type AttentionShape } from "../kernels/attention.ts";
import {
  conv2d,
  conv2dWeightGrad,
  convolution,
  convOutputSize,
  type ConvShape,
  inputGradient,
} from "../kernels/conv2d.ts";
import { concatAxis, padAxis, sliceAxis, swapAxes } from "../kernels/copy.ts";
import { groupNorm, groupNormGrad, type GroupNormShape, groupNormStats } from "../kernels/group_norm.ts";
import { dropout } from "../kernels/dropout.ts";
import { reduce, reduceScratch, type ReduceShape } from "../kernels/reduce.ts";
import { filterDown2x, type FilterShape, filterUp2x, sumPool2x, upsampleNearest2x } from "../kernels/resample.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { f16Test, fromHalf, rounded, toHalf } from "./f16.ts";
import { forEachVariant, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import { attentionGradReference, attentionReference, packThirds, unpackThirds } from "./reference/attention.ts";
import {
  conv2dBiasGradReference,
  conv2dInputGradReference,
  conv2dReference,
  conv2dWeightGradReference,
} from "./reference/conv2d.ts";
import { concatReference, padReference, sliceReference, swapReference } from "./reference/copy.ts";
import { groupNormGradReference, groupNormReference } from "./reference/group_norm.ts";
import { reduceReference } from "./reference/reduce.ts";
import {
  filterDownReference,
  filterUpReference,
  largeSize,
  sumPoolReference,
  upsampleReference,
} from "./reference/resample.ts";

/** What rounding a result to f16 may cost, towards zero at worst; and what results in f32 may be off. */
const STORED = 1e-3, KEPT = 1e-5;

const normal = (count: number, seed: number) => rounded(randomArray(count, seed));

function close(label: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  const error = relativeError(got, expected);
  assert(error < tolerance, `${label}: relative error ${error}`);
}

/** [batch, in, out, height, width, kernel, stride]: odd extents, rows of vec4s, every kernel. */
const CONVOLUTIONS: ConvShape[] = ([
  [1, 1, 1, 1, 1, 3, 1],
  [3, 5, 9, 8, 8, 3, 1],
  [5, 7, 3, 5, 7, 3, 1],
  [2, 9, 11, 4, 4, 1, 1],
  [3, 4, 3, 7, 5, 3, 2],
  [2, 2, 17, 2, 24, 3, 1],
] as const).map(([batch, inChannels, outChannels, height, width, kernel, stride]) => (
  { batch, inChannels, outChannels, height, width, kernel, stride, scale: 0.7, f16: true }
));

f16Test("f16: every variant of the convolution and its gradients", async (gpu) => {
  for (const s of CONVOLUTIONS) {
    const outputs = s.batch * s.outChannels * convOutputSize(s.height, s.kernel, s.stride) *
      convOutputSize(s.width, s.kernel, s.stride);
    const x = normal(s.batch * s.inChannels * s.height * s.width, 1), dy = normal(outputs, 4);
    const w = normal(s.outChannels * s.inChannels * s.kernel ** 2, 2), residual = normal(outputs, 6);
    const bias = randomArray(s.outChannels, 3), shift = randomArray(s.batch * s.outChannels, 5);
    const stored = { x: toHalf(x), dy: toHalf(dy), residual: toHalf(residual) };
    await forEachVariant(conv2d, convolution(s), async (variant, label) => {
      const buffers = { x: "x", w: "w", y: "y", bias: "bias", shift: "shift", residual: "residual" };
      const data = { ...stored, w, bias, shift, y: toHalf(unwritten(outputs)) };
      const { y } = await runStandalone(gpu, standaloneVariant(variant, buffers, convolution(s)), data);
      close(label, fromHalf(y, outputs), conv2dReference(x, w, { bias, shift, residual }, s), STORED);
    });
    await forEachVariant(conv2d, inputGradient(s), async (variant, label) => {
      const list = standaloneVariant(variant, { x: "dy", w: "w", y: "dx", residual: "x" }, inputGradient(s));
      const { dx } = await runStandalone(gpu, list, { ...stored, w, dx: toHalf(unwritten(x.length)) });
      const expected = conv2dInputGradReference(dy, w, s).map((value, i) => value + x[i]!);
      close(label, fromHalf(dx, x.length), expected, STORED);
    });
    await forEachVariant(conv2dWeightGrad, s, async (variant, label) => {
      const list = standaloneVariant(variant, { dy: "dy", x: "x", dw: "dw", db: "db" }, s);
      const data = { ...stored, dw: unwritten(w.length), db: unwritten(s.outChannels) };
      const { dw, db } = await runStandalone(gpu, list, data);
      close(label, dw, conv2dWeightGradReference(dy, x, s), KEPT);
      close(`${label}, bias`, db, conv2dBiasGradReference(dy, s), KEPT);
    });
  }
});

const GROUP_NORMS: GroupNormShape[] = [
  { batch: 3, channels: 16, groups: 4, size: 64, eps: 1e-5, silu: true },
  { batch: 2, channels: 16, groups: 4, size: 16, eps: 1e-5, silu: false },
  { batch: 1, channels: 6, groups: 2, size: 35, eps: 1e-6, silu: true },
  { batch: 2, channels: 16, groups: 2, size: 1024, eps: 1e-5, silu: true },
  { batch: 1, channels: 5, groups: 1, size: 777, eps: 1e-5, silu: false },
].map((s) => ({ ...s, f16: true }));

f16Test("f16: every variant of group norm and its gradient", async (gpu) => {
  for (const s of GROUP_NORMS) {
    const x = normal(s.batch * s.channels * s.size, 1), dy = normal(x.length, 4);
    const [gamma, beta] = [2, 3].map((seed) => randomArray(s.channels, seed));
    const [scale, shift] = [5, 6].map((seed) => randomArray(s.batch * s.channels, seed));
    const inputs = { x: toHalf(x), dy: toHalf(dy), gamma: gamma!, beta: beta!, scale: scale!, shift: shift! };
    const buffers = {
      ...{ x: "x", gamma: "gamma", beta: "beta", y: "y", stats: "stats" },
      ...{ dy: "dy", dx: "dx", dgamma: "dgamma", dbeta: "dbeta" },
    };
    const statistics = groupNormStats(s, true);
    const modulation = { scale: scale!, shift: shift! };
    const { y, stats } = groupNormReference(x, gamma!, beta!, s, modulation);
    await forEachVariant(groupNorm, s, async (variant, label) => {
      const outputs = { y: toHalf(unwritten(x.length)), stats: unwritten(statistics) };
      const list = standaloneVariant(variant, { ...buffers, scale: "scale", shift: "shift" }, s);
      const got = await runStandalone(gpu, list, { ...inputs, ...outputs });
      close(label, fromHalf(got.y, x.length), y, STORED);
      close(`${label}, stats`, got.stats.subarray(0, stats.length), stats, KEPT);
    });
    const plain = groupNormReference(x, gamma!, beta!, s);
    const expected = groupNormGradReference(x, gamma!, beta!, dy, s);
    await forEachVariant(groupNormGrad, s, async (variant, label) => {
      const list = standaloneVariant(variant, { ...buffers, residual: "dy" }, s);
      const got = await runStandalone(gpu, list, {
        ...{ ...inputs, stats: Float32Array.from(plain.stats), dx: toHalf(unwritten(x.length)) },
        ...{ dgamma: unwritten(s.channels), dbeta: unwritten(s.channels) },
      });
      close(`${label}, dx`, fromHalf(got.dx, x.length), expected.dx.map((value, i) => value + dy[i]!), STORED);
      close(`${label}, dgamma`, got.dgamma, expected.dgamma, KEPT);
      close(`${label}, dbeta`, got.dbeta, expected.dbeta, KEPT);
    });
  }
});

const ATTENTIONS: AttentionShape[] = [
  { batch: 3, dim: 32, queries: 16, keys: 16, scale: 32 ** -0.5, packed: true },
  { batch: 2, dim: 37, queries: 13, keys: 7, scale: 0.3, packed: false },
  { batch: 2, dim: 30, queries: 40, keys: 32, scale: 0.2, packed: false },
  { batch: 1, dim: 50, queries: 77, keys: 77, scale: 0.15, packed: true },
].map((s) => ({ ...s, f16: true }));

f16Test("f16: every variant of attention and its gradient", async (gpu) => {
  for (const s of ATTENTIONS) {
    const [ofQueries, ofKeys] = [s.batch * s.dim * s.queries, s.batch * s.dim * s.keys];
    const [q, k, v, dO] = [normal(ofQueries, 1), normal(ofKeys, 2), normal(ofKeys, 3), normal(ofQueries, 4)] as const;
    const inputs: Record<string, Uint32Array> = s.packed
      ? { qkv: toHalf(packThirds([q, k, v], s)) }
      : { q: toHalf(q), k: toHalf(k), v: toHalf(v) };
    const separate = { q: "q", k: "k", v: "v", o: "o", lse: "lse", dO: "dO", dq: "dq", dk: "dk", dv: "dv" };
    const packed = { ...separate, q: "qkv", k: "qkv", v: "qkv", dq: "dqkv", dk: "dqkv", dv: "dqkv" };
    const buffers = s.packed ? packed : separate;
    const { o, lse } = attentionReference(q, k, v, s);
    await forEachVariant(attention, s, async (variant, label) => {
      const outputs = { o: toHalf(unwritten(o.length)), lse: unwritten(lse.length) };
      const got = await runStandalone(gpu, standaloneVariant(variant, buffers, s), { ...inputs, ...outputs });
      close(label, fromHalf(got.o!, o.length), o, STORED);
      close(`${label}, lse`, got.lse!, lse, KEPT);
    });
    const stored = rounded(o);
    const gradients = attentionGradReference(q, k, v, dO, s);
    await forEachVariant(attentionGrad, s, async (variant, label) => {
      const data: Record<string, Uint32Array | Float32Array> = {
        ...{ ...inputs, dO: toHalf(dO), o: toHalf(stored), lse: Float32Array.from(lse) },
        ...s.packed ? { dqkv: toHalf(unwritten(3 * ofKeys)) } : { dq: toHalf(q), dk: toHalf(k), dv: toHalf(v) },
      };
      const got = await runStandalone(gpu, standaloneVariant(variant, buffers, s), data);
      const [dq, dk, dv] = s.packed
        ? unpackThirds(fromHalf(got.dqkv!, 3 * ofKeys), s)
        : [fromHalf(got.dq!, ofQueries), fromHalf(got.dk!, ofKeys), fromHalf(got.dv!, ofKeys)];
      close(`${label}, dq`, dq!, gradients.dq, STORED);
      close(`${label}, dk`, dk!, gradients.dk, STORED);
      close(`${label}, dv`, dv!, gradients.dv, STORED);
    });
  }
});

f16Test("f16: upsampling and pooling", async (gpu) => {
  for (const [planes, height, width] of [[1, 1, 1], [3, 5, 7], [130, 4, 4]] as const) {
    const small = { planes, height, width, factor: 0.3, f16: true };
    const large = { ...small, height: 2 * height, width: 2 * width };
    const count = planes * height * width;
    const x = normal(count, 1), big = normal(4 * count, 2);
    const { up, down } = await runDispatches(gpu, [
      upsampleNearest2x<"x" | "up" | "big" | "down">({ x: "x", y: "up" }, small),
      sumPool2x<"x" | "up" | "big" | "down">({ x: "big", y: "down" }, large),
    ], { x: toHalf(x), big: toHalf(big), up: toHalf(unwritten(4 * count)), down: toHalf(unwritten(count)) });
    close("upsampled", fromHalf(up, 4 * count), upsampleReference(x, small), STORED);
    close("pooled", fromHalf(down, count), sumPoolReference(big, large), STORED);
  }
});

f16Test("f16: filters of four taps", async (gpu) => {
  for (const margin of [0, 1] as const) {
    const s: FilterShape = { planes: 3, height: 5, width: 7, taps: [0.3, 1.1, -0.7, 0.2], margin, f16: true };
    const { rows, columns } = largeSize(s);
    const x = normal(105, 1), big = normal(3 * rows * columns, 2);
    const { up, down } = await runDispatches(gpu, [
      filterUp2x<"x" | "up" | "big" | "down">({ x: "x", y: "up" }, s),
      filterDown2x<"x" | "up" | "big" | "down">({ x: "big", y: "down" }, s),
    ], { x: toHalf(x), big: toHalf(big), up: toHalf(unwritten(big.length)), down: toHalf(unwritten(105)) });
    close("up", fromHalf(up, big.length), filterUpReference(x, s), STORED);
    close("down", fromHalf(down, 105), filterDownReference(big, s), STORED);
  }
});

f16Test("f16: dropout draws what it draws for f32, for samples of any length", async (gpu) => {
  const s = { batch: 3, perSample: 37, stream: 7, probability: 0.4 };
  const x = normal(111, 1), y = unwritten(111);
  const draw = { seed: Uint32Array.of(1, 2), step: Uint32Array.of(3), first: Uint32Array.of(4) };
  const buffers = { seed: "seed", step: "step", first: "first", x: "x", y: "y" } as const;
  const single = await runDispatches(gpu, [dropout(buffers, s)], { ...draw, x, y });
  const half = await runDispatches(gpu, [dropout(buffers, { ...s, f16: true })], {
    ...draw,
    x: toHalf(x),
    y: toHalf(y),
  });
  assertEquals(fromHalf(half.y, 111), rounded(single.y));
});

f16Test(
  "f16: slices, padding, concatenation and swaps keep every element, whatever the lengths divide",
  async (gpu) => {
    for (const inner of [1, 2, 8]) {
      const s = { outer: 3, axis: 7, inner, start: 2, length: 3, bytes: 2 } as const;
      const p = { outer: 3, axis: 7, inner, before: 3, total: 11, bytes: 2 } as const;
      const c = { outer: 3, axisA: 7, axisB: 4, inner, bytes: 2 } as const;
      const x = normal(3 * 7 * inner, 1), b = normal(3 * 4 * inner, 2);
      const w = { outer: 1, a: 7, b: 3, inner, bytes: 2 } as const;
      const [sliced, padded, joined] = [sliceReference(x, s), padReference(x, p), concatReference(x, b, c)];
      const swapped = swapReference(x, w);
      type Name = "x" | "b" | "sliced" | "padded" | "joined" | "swapped";
      const got = await runDispatches<Name>(gpu, [
        sliceAxis({ x: "x", y: "sliced" }, s),
        padAxis({ x: "x", y: "padded" }, p),
        concatAxis({ a: "x", b: "b", y: "joined" }, c),
        swapAxes({ x: "x", y: "swapped" }, w),
      ], {
        ...{ x: toHalf(x), b: toHalf(b), sliced: toHalf(unwritten(sliced.length)) },
        ...{ padded: toHalf(unwritten(padded.length)), joined: toHalf(unwritten(joined.length)) },
        swapped: toHalf(unwritten(swapped.length)),
      });
      assertEquals([...fromHalf(got.sliced, sliced.length)], sliced, `slice, inner ${inner}`);
      assertEquals([...fromHalf(got.padded, padded.length)], padded, `pad, inner ${inner}`);
      assertEquals([...fromHalf(got.joined, joined.length)], joined, `concat, inner ${inner}`);
      assertEquals([...fromHalf(got.swapped, swapped.length)], swapped, `swap, inner ${inner}`);
    }
  },
);

f16Test("f16: reductions give f32", async (gpu) => {
  for (const [k0, r0, k1, r1] of [[1, 1, 1, 50_001], [3, 5, 9, 4], [1, 20, 3, 1024], [3, 5, 70, 1]] as const) {
    for (const op of ["sum", "sumSquares", "max", "min"] as const) {
      const s: ReduceShape = { k0, r0, k1, r1, op, f16: true };
      const x = rounded(randomArray(k0 * r0 * k1 * r1, 1).map((value) => value + 2));
      const { y } = await runDispatches(gpu, reduce({ x: "x", y: "y", scratch: "scratch" }, s), {
        x: toHalf(x),
        y: unwritten(k0 * k1),
        scratch: unwritten(Math.max(1, reduceScratch(s))),
      });
      close(`${op} of [${k0}, ${r0}, ${k1}, ${r1}]`, y, reduceReference(x, s), KEPT);
    }
  }
});

Deno.test("f16: the shapes reach every variant that takes f16", () => {
  const fitting = <S>({ variants }: { variants: Record<string, { fits(s: S): boolean }> }, shapes: readonly S[]) =>
    Object.keys(variants).filter((label) => shapes.some((s) => variants[label]!.fits(s)));
  const correlations = CONVOLUTIONS.flatMap((s) => [convolution(s), inputGradient(s)]);
  assertEquals(fitting(conv2d, correlations), Object.keys(conv2d.variants));
  assertEquals(fitting(conv2dWeightGrad, CONVOLUTIONS), Object.keys(conv2dWeightGrad.variants));
  assertEquals(fitting(groupNorm, GROUP_NORMS), Object.keys(groupNorm.variants));
  assertEquals(fitting(groupNormGrad, GROUP_NORMS), Object.keys(groupNormGrad.variants));
  assertEquals(fitting(attention, ATTENTIONS), Object.keys(attention.variants));
  assertEquals(fitting(attentionGrad, ATTENTIONS), ["shared"]);
});

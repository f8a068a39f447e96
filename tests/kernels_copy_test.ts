/** Tests of slicing, padding, concatenation and swaps of axes: bits must survive, whatever the type. */

import { assertEquals } from "@std/assert";
import {
  concatAxis,
  type ConcatShape,
  padAxis,
  type PadShape,
  sliceAxis,
  type SliceShape,
  swapAxes,
  type SwapShape,
} from "../kernels/copy.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest } from "./gpu.ts";
import { concatReference, padReference, sliceReference, swapReference } from "./reference/copy.ts";

const XY = { x: "x", y: "y" } as const;
const ABY = { a: "a", b: "b", y: "y" } as const;

/** Words of every kind: NaN patterns, denormals, large integers. */
function words(n: number, seed: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: n }, (_, i) => Math.imul(i + seed, 0x9e3779b1) | (i % 3 === 0 ? 0x7f800000 : 0));
}

const SLICES: SliceShape[] = [
  { outer: 1, axis: 1, inner: 1, start: 0, length: 1 },
  { outer: 3, axis: 7, inner: 5, start: 2, length: 4 },
  { outer: 2, axis: 9, inner: 16, start: 8, length: 1 },
  { outer: 67, axis: 12, inner: 1, start: 4, length: 8 },
  { outer: 1, axis: 8, inner: 12, start: 3, length: 5 },
];

for (const s of SLICES) {
  gpuTest(`copy: slice ${JSON.stringify(s)}`, async (gpu) => {
    const x = words(s.outer * s.axis * s.inner, 1);
    const y = new Uint32Array(s.outer * s.length * s.inner);
    const result = await runDispatches(gpu, [sliceAxis(XY, s)], { x, y });
    assertEquals([...result.y], sliceReference(x, s));
  });
}

const PADS: PadShape[] = [
  { outer: 1, axis: 1, inner: 1, before: 1, total: 3 },
  { outer: 3, axis: 4, inner: 5, before: 2, total: 7 },
  { outer: 2, axis: 1, inner: 16, before: 8, total: 9 },
  { outer: 67, axis: 8, inner: 1, before: 4, total: 12 },
  { outer: 1, axis: 5, inner: 12, before: 0, total: 8 },
];

for (const s of PADS) {
  gpuTest(`copy: pad ${JSON.stringify(s)}`, async (gpu) => {
    const x = words(s.outer * s.axis * s.inner, 1);
    const y = words(s.outer * s.total * s.inner, 2);
    const result = await runDispatches(gpu, [padAxis(XY, s)], { x, y });
    assertEquals([...result.y], padReference(x, s));
  });
}

const CONCATS: ConcatShape[] = [
  { outer: 1, axisA: 1, axisB: 1, inner: 1 },
  { outer: 3, axisA: 4, axisB: 2, inner: 5 },
  { outer: 67, axisA: 8, axisB: 4, inner: 3 },
  { outer: 2, axisA: 3, axisB: 5, inner: 16 },
];

for (const s of CONCATS) {
  gpuTest(`copy: concat ${JSON.stringify(s)}`, async (gpu) => {
    const a = words(s.outer * s.axisA * s.inner, 1);
    const b = words(s.outer * s.axisB * s.inner, 2);
    const y = new Uint32Array(a.length + b.length);
    const result = await runDispatches(gpu, [concatAxis(ABY, s)], { a, b, y });
    assertEquals([...result.y], concatReference(a, b, s));
  });
}

const SWAPS: SwapShape[] = [
  { outer: 1, a: 1, b: 1, inner: 1 },
  { outer: 3, a: 4, b: 3, inner: 5 },
  { outer: 1, a: 67, b: 3, inner: 1 },
  { outer: 2, a: 5, b: 3, inner: 16 },
];

for (const s of SWAPS) {
  gpuTest(`copy: swap ${JSON.stringify(s)}`, async (gpu) => {
    const x = words(s.outer * s.a * s.b * s.inner, 1);
    const result = await runDispatches(gpu, [swapAxes(XY, s)], { x, y: new Uint32Array(x.length) });
    assertEquals([...result.y], swapReference(x, s));
  });
}

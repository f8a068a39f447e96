/** The convolution kernels against float64 references. */

import { assert, assertEquals } from "@std/assert";
import {
  conv2dForward,
  conv2dInputGrad,
  conv2dWeightGrad,
  conv2dWeightGradScratch,
  convOutputSize,
  type ConvShape,
} from "../kernels/conv2d.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { conv2dInputGradReference, conv2dReference, conv2dWeightGradReference } from "./reference/conv2d.ts";

/** [batch, in, out, height, width, kernel, stride], chosen to cross every tile edge and to reach every kernel. */
const SHAPES: ConvShape[] = ([
  [1, 1, 1, 1, 1, 3, 1],
  [1, 1, 1, 1, 1, 1, 1],
  [1, 3, 5, 4, 4, 3, 1],
  [2, 5, 9, 8, 8, 3, 1],
  [3, 17, 13, 3, 12, 3, 1],
  [5, 7, 3, 5, 7, 3, 1],
  [33, 4, 4, 4, 4, 3, 1],
  [2, 9, 11, 4, 4, 1, 1],
  [3, 6, 10, 3, 5, 1, 1],
  [9, 2, 33, 2, 2, 1, 1],
  [2, 5, 9, 8, 8, 3, 2],
  [3, 4, 3, 7, 5, 3, 2],
  [1, 3, 2, 1, 6, 3, 2],
  [2, 3, 9, 6, 5, 1, 2],
  [40, 10, 19, 8, 8, 3, 2],
  [48, 18, 10, 8, 8, 3, 1],
  [20, 10, 9, 4, 8, 1, 1],
] as const).map(([batch, inChannels, outChannels, height, width, kernel, stride]) => (
  { batch, inChannels, outChannels, height, width, kernel, stride }
));

function data(s: ConvShape) {
  const outputs = convOutputSize(s.height, s.kernel, s.stride) * convOutputSize(s.width, s.kernel, s.stride);
  return {
    x: randomArray(s.batch * s.inChannels * s.height * s.width, 1),
    w: randomArray(s.outChannels * s.inChannels * s.kernel * s.kernel, 2),
    bias: randomArray(s.outChannels, 3),
    dy: randomArray(s.batch * s.outChannels * outputs, 4),
  };
}

/** An array of NaN: what a kernel leaves unwritten shows. */
function unwritten(count: number): Float32Array {
  return new Float32Array(count).fill(NaN);
}

const name = (s: ConvShape) => Object.values(s).join(",");

gpuTest("conv2dForward matches the reference", async (gpu) => {
  for (const s of SHAPES) {
    const { x, w, bias, dy } = data(s);
    for (const given of ["bias", undefined] as const) {
      const run = { x, w, bias, y: unwritten(dy.length) };
      const { y } = await runDispatches(gpu, [conv2dForward({ x: "x", w: "w", bias: given, y: "y" }, s)], run);
      const error = relativeError(y, conv2dReference(x, w, given && bias, s));
      assert(error < 1e-5, `Shape ${name(s)}: relative error ${error}.`);
    }
  }
});

gpuTest("conv2dInputGrad matches the reference", async (gpu) => {
  for (const s of SHAPES) {
    const { x, w, dy } = data(s);
    const run = { dy, w, dx: unwritten(x.length) };
    const { dx } = await runDispatches(gpu, [conv2dInputGrad({ dy: "dy", w: "w", dx: "dx" }, s)], run);
    const error = relativeError(dx, conv2dInputGradReference(dy, w, s));
    assert(error < 1e-5, `Shape ${name(s)}: relative error ${error}.`);
  }
});

gpuTest("conv2dWeightGrad matches the reference", async (gpu) => {
  for (const s of SHAPES) {
    const { x, w, dy } = data(s);
    const run = { dy, x, dw: unwritten(w.length), scratch: unwritten(Math.max(1, conv2dWeightGradScratch(s))) };
    const dispatches = conv2dWeightGrad<keyof typeof run>({ dy: "dy", x: "x", dw: "dw", scratch: "scratch" }, s);
    const { dw } = await runDispatches(gpu, dispatches, run);
    const error = relativeError(dw, conv2dWeightGradReference(dy, x, s));
    assert(error < 1e-5, `Shape ${name(s)}: relative error ${error}.`);
  }
});

Deno.test("some shapes split the weight gradient and some do not", () => {
  assertEquals(new Set(SHAPES.map((s) => conv2dWeightGradScratch(s) > 0)), new Set([true, false]));
});

Deno.test("the reference gradients match central differences", () => {
  const step = 1e-4;
  for (const s of SHAPES.slice(0, 14)) {
    const { x, w, dy } = data(s);
    const loss = (x: ArrayLike<number>, w: ArrayLike<number>) =>
      conv2dReference(x, w, undefined, s).reduce((total, y, i) => total + y * dy[i]!, 0);
    const probe = (values: Float32Array, i: number, by: number) => {
      const moved = Array.from(values);
      moved[i]! += by;
      return moved;
    };
    const dx = conv2dInputGradReference(dy, w, s), dw = conv2dWeightGradReference(dy, x, s);
    for (const i of [0, Math.floor(x.length / 2), x.length - 1]) {
      const slope = (loss(probe(x, i, step), w) - loss(probe(x, i, -step), w)) / (2 * step);
      assert(Math.abs(slope - dx[i]!) < 1e-6 * (1 + Math.abs(slope)), `Shape ${name(s)}: dx[${i}] ${dx[i]}, ${slope}.`);
    }
    for (const i of [0, Math.floor(w.length / 2), w.length - 1]) {
      const slope = (loss(x, probe(w, i, step)) - loss(x, probe(w, i, -step))) / (2 * step);
      assert(Math.abs(slope - dw[i]!) < 1e-6 * (1 + Math.abs(slope)), `Shape ${name(s)}: dw[${i}] ${dw[i]}, ${slope}.`);
    }
  }
});

/** The convolution kernels against float64 references. */

import { assert, assertEquals } from "@std/assert";
import {
  conv2d,
  conv2dWeightGrad,
  convolution,
  convOutputSize,
  type ConvShape,
  inputGradient,
} from "../kernels/conv2d.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import { forEachVariant, gpuTest, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import {
  conv2dBiasGradReference,
  conv2dInputGradReference,
  conv2dReference,
  conv2dWeightGradReference,
} from "./reference/conv2d.ts";

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
  [2, 3, 5, 6, 16, 3, 1],
  [1, 2, 3, 3, 32, 3, 1],
  [1, 2, 17, 2, 24, 3, 1],
  [5, 6, 132, 3, 12, 3, 1],
  [5, 37, 12, 3, 12, 3, 1],
  [3, 70, 68, 4, 12, 1, 1],
  [1, 70, 69, 6, 8, 3, 1],
  [3, 33, 67, 9, 7, 3, 2],
] as const).map(([batch, inChannels, outChannels, height, width, kernel, stride]) => (
  { batch, inChannels, outChannels, height, width, kernel, stride, scale: inChannels % 2 === 0 ? 1 : 0.7 }
));

/** The same and one of so many pixels that Winograd's variants take them in parts: too many for f32 sums over all of them. */
const CORRELATION_SHAPES: ConvShape[] = [
  ...SHAPES,
  { batch: 2, inChannels: 1, outChannels: 1, height: 192, width: 512, kernel: 3, stride: 1, scale: 0.7 },
];

function data(s: ConvShape) {
  const outputs = convOutputSize(s.height, s.kernel, s.stride) * convOutputSize(s.width, s.kernel, s.stride);
  return {
    x: randomArray(s.batch * s.inChannels * s.height * s.width, 1),
    w: randomArray(s.outChannels * s.inChannels * s.kernel * s.kernel, 2),
    bias: randomArray(s.outChannels, 3),
    shift: randomArray(s.batch * s.outChannels, 5),
    residual: randomArray(s.batch * s.outChannels * outputs, 6),
    dy: randomArray(s.batch * s.outChannels * outputs, 4),
  };
}

const name = (s: ConvShape) => Object.values(s).join(",");

const close = (actual: ArrayLike<number>, expected: ArrayLike<number>, label: string) => {
  const error = relativeError(actual, expected);
  assert(error < 1e-5, `${label}: relative error ${error}.`);
};

gpuTest("every variant of conv2d matches the reference", async (gpu) => {
  for (const s of CORRELATION_SHAPES) {
    const { x, w, bias, shift, dy, residual } = data(s);
    await forEachVariant(conv2d, convolution(s), async (variant, label) => {
      for (const terms of [{}, { bias: "bias" }, { bias: "bias", shift: "shift", residual: "residual" }]) {
        const list = standaloneVariant(variant, { x: "x", w: "w", y: "y", ...terms }, convolution(s));
        const { y } = await runStandalone(gpu, list, { x, w, bias, shift, residual, y: unwritten(dy.length) });
        const given = Object.keys(terms).length;
        const expected = conv2dReference(
          x,
          w,
          given === 0 ? {} : given === 1 ? { bias } : { bias, shift, residual },
          s,
        );
        close(y, expected, `${label}, ${given} terms`);
      }
    });
  }
});

gpuTest("every variant of conv2d as the input gradient matches the reference", async (gpu) => {
  for (const s of CORRELATION_SHAPES) {
    const { x, w, dy } = data(s);
    await forEachVariant(conv2d, inputGradient(s), async (variant, label) => {
      for (const residual of ["x", undefined]) {
        const list = standaloneVariant(variant, { x: "dy", w: "w", y: "dx", residual }, inputGradient(s));
        const { dx } = await runStandalone(gpu, list, { dy, w, x, dx: unwritten(x.length) });
        const expected = conv2dInputGradReference(dy, w, s).map((value, i) => value + (residual ? x[i]! : 0));
        close(dx, expected, label);
      }
    });
  }
});

gpuTest("every variant of conv2dWeightGrad matches the reference", async (gpu) => {
  for (const s of SHAPES) {
    const { x, w, dy } = data(s);
    await forEachVariant(conv2dWeightGrad, s, async (variant, label) => {
      for (const bias of ["db", undefined]) {
        const list = standaloneVariant(variant, { dy: "dy", x: "x", dw: "dw", db: bias }, s);
        const outputs = { dw: unwritten(w.length), db: unwritten(s.outChannels) };
        const { dw, db } = await runStandalone(gpu, list, { dy, x, ...outputs });
        close(dw, conv2dWeightGradReference(dy, x, s), label);
        if (bias) close(db, conv2dBiasGradReference(dy, s), `${label}, bias`);
      }
    });
  }
});

Deno.test("the shapes reach every variant of the families, and weight gradients in one part and in several", () => {
  const reached = new Set<string>(), parts = new Set<number>();
  for (const s of SHAPES) {
    for (const direction of [convolution(s), inputGradient(s)]) {
      for (const [label, { fits }] of Object.entries(conv2d.variants)) if (fits(direction)) reached.add(label);
    }
    for (const [label, variant] of Object.entries(conv2dWeightGrad.variants)) {
      if (!variant.fits(s)) continue;
      reached.add(`grad ${label}`);
      parts.add(standaloneVariant(variant, { dy: "dy", x: "x", dw: "dw" }, s).dispatches.length);
    }
  }
  const all = [
    ...Object.keys(conv2d.variants),
    ...Object.keys(conv2dWeightGrad.variants).map((label) => `grad ${label}`),
  ];
  assertEquals(reached, new Set(all));
  assertEquals(parts, new Set([1, 2]));
});

Deno.test("the shapes reach Winograd's variants with all tiles at once and in several parts", () => {
  for (const label of ["winograd", "winogradTiled"]) {
    const variant = conv2d.variants[label]!;
    const fitting = CORRELATION_SHAPES.map(convolution).filter((s) => variant.fits(s));
    const parts = fitting.map((s) =>
      (standaloneVariant(variant, { x: "x", w: "w", y: "y" }, s).dispatches.length - 1) / 3
    );
    assertEquals([parts.includes(1), parts.some((count) => count > 1)], [true, true], `${label}: parts ${parts}.`);
  }
});

Deno.test("software prefers Winograd's algorithm for 3x3 of stride 1 with many channels, and every preference fits", () => {
  const wide = {
    batch: 4,
    inChannels: 64,
    outChannels: 64,
    height: 8,
    width: 8,
    kernel: 3,
    stride: 1,
    scale: 1,
  } as const;
  const preferred = (s: ConvShape) => [convolution(s), inputGradient(s)].map((d) => conv2d.preferred(d, "software"));
  assertEquals(preferred(wide), ["winograd", "winograd"]);
  assertEquals(preferred({ ...wide, outChannels: 63 }), ["rows8", "rows8"]);
  assertEquals(preferred({ ...wide, kernel: 1 }), ["rows16", "rows16"]);
  assertEquals(preferred({ ...wide, stride: 2 }), ["general", "general"]);
  assertEquals(preferred({ ...wide, width: 7 }), ["general", "general"]);
  for (const s of [...SHAPES, wide]) {
    for (const direction of [convolution(s), inputGradient(s)]) {
      for (const adapter of ["software", "hardware"] as const) {
        const label = conv2d.preferred(direction, adapter);
        assert(conv2d.variants[label]!.fits(direction), `${label} does not fit ${conv2d.key(direction)}.`);
      }
    }
  }
});

Deno.test("the reference gradients match central differences", () => {
  const step = 1e-4;
  for (const s of SHAPES.slice(0, 14)) {
    const { x, w, dy } = data(s);
    const loss = (x: ArrayLike<number>, w: ArrayLike<number>) =>
      conv2dReference(x, w, {}, s).reduce((total, y, i) => total + y * dy[i]!, 0);
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

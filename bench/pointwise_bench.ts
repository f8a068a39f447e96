/** Pointwise benches: a chain over equal shapes, and one with a broadcast per-channel operand. */

import { pointwise } from "../kernels/pointwise.ts";
import { benchDispatch } from "./harness.ts";

for (const shape of [[64, 32, 8, 8], [64, 64, 32, 32]]) {
  const size = shape.reduce((total, extent) => total * extent, 1);
  const name = `[${shape}]`;
  const residual = pointwise({ inputs: ["a", "b"] as const, output: "y" as const }, {
    steps: [{ fn: "add", args: [0, 1], params: [] }, { fn: "affine", args: [2], params: [Math.SQRT1_2, 0] }],
    shape,
    inputShapes: [shape, shape],
  });
  benchDispatch("pointwise", `(a + b)·√½ ${name}`, [residual], { a: size, b: size, y: size });
  const [batch, channels] = shape as [number, number];
  const shifted = pointwise({ inputs: ["x", "shift"] as const, output: "y" as const }, {
    steps: [{ fn: "add", args: [0, 1], params: [] }],
    shape,
    inputShapes: [shape, [batch, channels, 1, 1]],
  });
  benchDispatch("pointwise", `x + shift[N, C] ${name}`, [shifted], { x: size, shift: batch * channels, y: size });
}

/** Times the reductions: a gradient's norm, bias gradients, rows and columns. */

import { reduce, reduceScratch, type ReduceShape } from "../kernels/reduce.ts";
import { benchDispatch } from "./harness.ts";

const SHAPES: ReduceShape[] = [
  { k0: 1, r0: 1, k1: 1, r1: 4_000_000, op: "sumSquares" },
  { k0: 1, r0: 128, k1: 32, r1: 64, op: "sum" },
  { k0: 1, r0: 128, k1: 128, r1: 1024, op: "sum" },
  { k0: 1, r0: 2048, k1: 512, r1: 1, op: "sum" },
  { k0: 128, r0: 1, k1: 1, r1: 3072, op: "sum" },
  { k0: 8192, r0: 1, k1: 1, r1: 64, op: "max" },
];

for (const s of SHAPES) {
  benchDispatch(
    "reduce",
    `${s.op} of [${s.k0}, ${s.r0}, ${s.k1}, ${s.r1}]`,
    reduce({ x: "x", y: "y", scratch: "scratch" }, s),
    { x: s.k0 * s.r0 * s.k1 * s.r1, y: s.k0 * s.k1, scratch: Math.max(1, reduceScratch(s)) },
  );
}

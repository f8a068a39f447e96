/** Tests of the reduction kernels against the float64 reference. */

import { assert, assertEquals } from "@std/assert";
import { reduce, type ReduceOp, reduceScratch, type ReduceShape } from "../kernels/reduce.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { reduceReference } from "./reference/reduce.ts";

const SHAPES: [k0: number, r0: number, k1: number, r1: number][] = [
  [1, 1, 1, 1],
  [1, 1, 1, 1_000_003],
  [1, 33, 7, 49],
  [1, 128, 32, 64],
  [1, 20, 3, 1024],
  [1, 70_001, 1, 1],
  [1, 4097, 65, 1],
  [3, 5, 70, 1],
  [2, 300, 2, 3],
  [67, 1, 1, 10],
  [3, 5, 9, 4],
  [5, 1, 1, 3001],
  [70_000, 1, 1, 65],
];

for (const [k0, r0, k1, r1] of SHAPES) {
  for (const op of ["sum", "sumSquares", "max", "min"] satisfies ReduceOp[]) {
    const s: ReduceShape = { k0, r0, k1, r1, op };
    gpuTest(`reduce: ${op} of [${k0}, ${r0}, ${k1}, ${r1}]`, async (gpu) => {
      // Off zero, so that sums do not cancel and neither zero nor the sign of the start value can pass for a result.
      const offset = { sum: 1, sumSquares: 0, max: -9, min: 9 }[op];
      const x = randomArray(k0 * r0 * k1 * r1, 1).map((value) => value + offset);
      const { y } = await runDispatches(gpu, reduce({ x: "x", y: "y", scratch: "scratch" }, s), {
        x,
        y: new Float32Array(k0 * k1),
        scratch: new Float32Array(Math.max(1, reduceScratch(s))),
      });
      const expected = reduceReference(x, s);
      if (op === "max" || op === "min") assertEquals([...y], expected);
      const error = relativeError(y, expected);
      assert(error < 1e-6, `y is off by ${error}`);
    });
  }
}

gpuTest("reduce: NaN reaches sums", async (gpu) => {
  for (const [k0, r1] of [[1, 5000], [100, 50]] as const) {
    const s: ReduceShape = { k0, r0: 1, k1: 1, r1, op: "sumSquares" };
    const x = randomArray(k0 * r1, 1);
    x[17] = NaN;
    const data = { x, y: new Float32Array(k0), scratch: new Float32Array(Math.max(1, reduceScratch(s))) };
    const { y } = await runDispatches(gpu, reduce({ x: "x", y: "y", scratch: "scratch" }, s), data);
    assert(Number.isNaN(y[0]), `the sum is ${y[0]}`);
  }
});

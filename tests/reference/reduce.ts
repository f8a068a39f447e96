/** Float64 reference of the reductions. */

import type { ReduceShape } from "../../kernels/reduce.ts";

const COMBINE = {
  sum: (a: number, b: number) => a + b,
  sumSquares: (a: number, b: number) => a + b * b,
  max: Math.max,
  min: Math.min,
};
const START = { sum: 0, sumSquares: 0, max: -Infinity, min: Infinity };

/** y [k0, k1] of x [k0, r0, k1, r1]. */
export function reduceReference(x: ArrayLike<number>, { k0, r0, k1, r1, op }: ReduceShape): number[] {
  const y = new Array<number>(k0 * k1).fill(START[op]);
  for (let at = 0; at < k0 * r0 * k1 * r1; at++) {
    const output = Math.floor(at / (r0 * k1 * r1)) * k1 + Math.floor(at / r1) % k1;
    y[output] = COMBINE[op](y[output]!, x[at]!);
  }
  return y;
}

/** References of slicing, zero padding and concatenation along an axis, and of swapping two. */

import type { ConcatShape, PadShape, SliceShape, SwapShape } from "../../kernels/copy.ts";

/** y [outer, length, inner] of x [outer, axis, inner]. */
export function sliceReference(x: ArrayLike<number>, { outer, axis, inner, start, length }: SliceShape): number[] {
  const y: number[] = [];
  for (let o = 0; o < outer; o++) {
    for (let a = start; a < start + length; a++) {
      for (let i = 0; i < inner; i++) y.push(x[(o * axis + a) * inner + i]!);
    }
  }
  return y;
}

/** y [outer, total, inner] of x [outer, axis, inner]. */
export function padReference(x: ArrayLike<number>, { outer, axis, inner, before, total }: PadShape): number[] {
  const y = new Array<number>(outer * total * inner).fill(0);
  for (let o = 0; o < outer; o++) {
    for (let a = 0; a < axis; a++) {
      for (let i = 0; i < inner; i++) y[(o * total + before + a) * inner + i] = x[(o * axis + a) * inner + i]!;
    }
  }
  return y;
}

/** y [outer, axisA + axisB, inner] of a [outer, axisA, inner] and b [outer, axisB, inner]. */
export function concatReference(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  { outer, axisA, axisB, inner }: ConcatShape,
): number[] {
  const y: number[] = [];
  for (let o = 0; o < outer; o++) {
    for (let e = 0; e < axisA * inner; e++) y.push(a[o * axisA * inner + e]!);
    for (let e = 0; e < axisB * inner; e++) y.push(b[o * axisB * inner + e]!);
  }
  return y;
}

/** y [outer, b, a, inner] of x [outer, a, b, inner]. */
export function swapReference(x: ArrayLike<number>, { outer, a, b, inner }: SwapShape): number[] {
  const y: number[] = [];
  for (let o = 0; o < outer; o++) {
    for (let j = 0; j < b; j++) {
      for (let i = 0; i < a; i++) {
        for (let e = 0; e < inner; e++) y.push(x[((o * a + i) * b + j) * inner + e]!);
      }
    }
  }
  return y;
}

/** Float64 references of nearest-neighbour upsampling and of 2x2 sum pooling. */

import type { ResampleShape } from "../../kernels/resample.ts";

/** y [planes, 2 height, 2 width]. */
export function upsampleReference(x: ArrayLike<number>, { planes, height, width, factor }: ResampleShape): number[] {
  const y: number[] = [];
  for (let p = 0; p < planes; p++) {
    for (let i = 0; i < 2 * height; i++) {
      for (let j = 0; j < 2 * width; j++) y.push(factor * x[(p * height + (i >> 1)) * width + (j >> 1)]!);
    }
  }
  return y;
}

/** y [planes, height / 2, width / 2]. */
export function sumPoolReference(x: ArrayLike<number>, { planes, height, width, factor }: ResampleShape): number[] {
  const y: number[] = [];
  for (let p = 0; p < planes; p++) {
    for (let i = 0; i < height; i += 2) {
      for (let j = 0; j < width; j += 2) {
        const at = (p * height + i) * width + j;
        y.push(factor * (x[at]! + x[at + 1]! + x[at + width]! + x[at + width + 1]!));
      }
    }
  }
  return y;
}

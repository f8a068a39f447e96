/** Float64 references of nearest-neighbour upsampling, of 2x2 sum pooling and of filters of four taps. */

import type { FilterShape, ResampleShape } from "../../kernels/resample.ts";

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

/** Height and width of the large image. */
export function largeSize({ height, width, margin }: FilterShape): { rows: number; columns: number } {
  return { rows: 2 * height + 2 - 2 * margin, columns: 2 * width + 2 - 2 * margin };
}

/** Calls `visit` with the places of every product of the filter, in the large and the small image, and its weight. */
function visitFilter(s: FilterShape, visit: (large: number, small: number, weight: number) => void): void {
  const { planes, height, width, taps, margin } = s;
  const { rows, columns } = largeSize(s);
  for (let p = 0; p < planes; p++) {
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        taps.forEach((a, u) =>
          taps.forEach((b, v) => {
            const [y, x] = [2 * i + u - margin, 2 * j + v - margin];
            if (y < 0 || y >= rows || x < 0 || x >= columns) return;
            visit((p * rows + y) * columns + x, (p * height + i) * width + j, a * b);
          })
        );
      }
    }
  }
}

/** The small image y of the large one x. */
export function filterDownReference(x: ArrayLike<number>, s: FilterShape): number[] {
  const y = new Array<number>(s.planes * s.height * s.width).fill(0);
  visitFilter(s, (large, small, weight) => y[small]! += weight * x[large]!);
  return y;
}

/** The large image y of the small one x. */
export function filterUpReference(x: ArrayLike<number>, s: FilterShape): number[] {
  const { rows, columns } = largeSize(s);
  const y = new Array<number>(s.planes * rows * columns).fill(0);
  visitFilter(s, (large, small, weight) => y[large]! += weight * x[small]!);
  return y;
}

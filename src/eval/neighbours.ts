/** Nearest real images of generated ones: a check on memorisation (distance) and on dropped modes (coverage). */

import { GraphError, NonFiniteError } from "../gpu/errors.ts";

/** What {@linkcode nearestReal} measures. */
export interface Neighbours {
  /** Mean Euclidean distance from a generated image to its nearest real one, in image values (0 to 1) over all pixels. */
  readonly meanDistance: number;
  /** Share (0 to 1) of the real images that are the nearest one of at least one generated image. */
  readonly coverage: number;
}

/** Values compared between two looks at whether a candidate can still be the nearest. */
const BLOCK = 16;

/**
 * Finds the nearest real image of every generated one by exhaustive search; of equally near ones the first counts.
 * `real` and `generated` hold images of `dim` values each, one after the other, in [0, 1] (a uint8 value / 255).
 *
 * @throws {GraphError} where an array is empty or no multiple of `dim`.
 * @throws {NonFiniteError} where an image holds a NaN or an infinity.
 */
export function nearestReal(
  real: Float32Array | Float64Array,
  generated: Float32Array | Float64Array,
  dim: number,
): Neighbours {
  const realCount = imageCount("Real", real, dim), generatedCount = imageCount("Generated", generated, dim);
  const isNearest = new Uint8Array(realCount);
  let total = 0;
  for (let g = 0; g < generatedCount; g++) {
    const { row, squared } = nearestRow(real, realCount, generated, g * dim, dim);
    isNearest[row] = 1;
    total += Math.sqrt(squared);
  }
  const covered = isNearest.reduce((sum, hit) => sum + hit, 0);
  return { meanDistance: total / generatedCount, coverage: covered / realCount };
}

/**
 * Which of `count` rows of `dim` values is nearest to the values of `points` from `start` on, and its squared distance; of
 * equally near ones the first counts, one with a NaN never.
 */
export function nearestRow(
  rows: Float32Array | Float64Array,
  count: number,
  points: Float32Array | Float64Array,
  start: number,
  dim: number,
): { readonly row: number; readonly squared: number } {
  let row = 0, squared = Infinity;
  for (let r = 0; r < count; r++) {
    const distance = squaredDistance(rows, r * dim, points, start, dim, squared);
    if (distance < squared) [row, squared] = [r, distance];
  }
  return { row, squared };
}

/** Squared distance of two images, or any number from `enough` on once it is known to reach that. */
function squaredDistance(
  a: Float32Array | Float64Array,
  aStart: number,
  b: Float32Array | Float64Array,
  bStart: number,
  dim: number,
  enough: number,
): number {
  let sum = 0;
  for (let start = 0; start < dim && sum < enough; start += BLOCK) {
    const end = Math.min(dim, start + BLOCK);
    for (let i = start; i < end; i++) {
      const difference = a[aStart + i]! - b[bStart + i]!;
      sum += difference * difference;
    }
  }
  return sum;
}

function imageCount(what: string, images: Float32Array | Float64Array, dim: number): number {
  const count = images.length / dim;
  if (!Number.isInteger(count) || count < 1) {
    throw new GraphError(`${what} images should hold a positive multiple of ${dim} values, but hold ${images.length}.`);
  }
  if (!images.every(Number.isFinite)) throw new NonFiniteError(`${what} images hold a NaN or an infinity.`);
  return count;
}

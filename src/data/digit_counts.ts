/** Images from the counts that the files of the optical digits hold. */

import { FileError } from "../gpu/errors.ts";
import type { ImageData8 } from "./image_data.ts";

/** Side of the optical digits in pixels. */
const SIDE = 8;
/** Largest count a pixel of the optical digits can have. */
const MAX_COUNT = 16;
const CLASSES = 10;

/**
 * The optical digits' images, from each pixel's count of dark points, 0 to 16: v = count / 16.
 *
 * Mean and standard deviation (divisor n − 1) are those of the exact counts, rounded to float32, as PyTorch's
 * `mean()` and `std()` of float32 data give them.
 *
 * @param counts `[count, 8, 8]`.
 * @param labels `[count]`.
 * @throws {FileError} where there are fewer than two images or all pixels are alike: such data have no scale.
 */
export function imagesFromCounts(name: string, counts: Uint8Array, labels: Uint16Array<ArrayBuffer>): ImageData8 {
  const n = counts.length;
  let sum = 0, squares = 0;
  for (const count of counts) {
    sum += count;
    squares += count * count;
  }
  if (labels.length < 2 || squares * n === sum * sum) {
    throw new FileError(`${name} should hold at least two images whose pixels are not all alike.`);
  }
  const variance = (squares * n - sum * sum) / (n * (n - 1)); // exact integers up to 2^53 in the numerator
  const unit = 2 / MAX_COUNT;
  return {
    name,
    count: labels.length,
    channels: 1,
    height: SIDE,
    width: SIDE,
    pixels: Uint8Array.from(counts, (count) => Math.round(255 * count / MAX_COUNT)),
    classes: CLASSES,
    labels,
    mean: Math.fround(unit * sum / n - 1),
    std: Math.fround(unit * Math.sqrt(variance)),
  };
}

/**
 * The digits: 1,797 handwritten digits of 8×8 pixels that come with the library.
 *
 * Alpaydin, E. & Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
 * https://doi.org/10.24432/C50P49, CC BY 4.0; the test set, as scikit-learn (BSD-3-Clause) ships it.
 */

import { decodeBase64 } from "../io/base64.ts";
import { inflate } from "../io/compression.ts";
import { imagesFromCounts } from "./digit_counts.ts";
import { DIGITS } from "./digits_data.ts";
import type { ImageData8 } from "./image_data.ts";

export type { ImageData8 };

const COUNT = 1797;

/** The embedded digits with their classes 0 to 9. */
export async function loadDigits(): Promise<ImageData8> {
  const bytes = await inflate(decodeBase64(DIGITS));
  const labels = Uint16Array.from(bytes.subarray(bytes.length - COUNT));
  return imagesFromCounts("digits", bytes.subarray(0, bytes.length - COUNT), labels);
}

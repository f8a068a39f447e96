/** What tells whether two data sets are the same. */

import { createHash } from "node:crypto";
import type { ImageData8 } from "./image_data.ts";

/** The SHA-256 of a data set's sizes, images and classes: the same in whatever kind of file they come. */
export function hashImages({ count, channels, height, width, classes, pixels, labels }: ImageData8): string {
  const hash = createHash("sha256").update(JSON.stringify({ count, channels, height, width, classes }));
  return hash.update(pixels).update(new Uint8Array(labels.buffer)).digest("hex");
}

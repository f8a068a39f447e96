/** A dataset of small 8-bit images in host memory. */

/** Labelled images of one size. */
export interface ImageData8 {
  /** What the set is called, in reports and in the metadata of models. */
  readonly name: string;
  /** Number of images. */
  readonly count: number;
  /** Channels of an image. */
  readonly channels: number;
  /** Height in pixels. */
  readonly height: number;
  /** Width in pixels. */
  readonly width: number;
  /** Values round(255 v) of v in [0, 1]: `[count, channels, height, width]`. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** The class of each image. */
  readonly labels: Uint8Array<ArrayBuffer>;
  /** Mean of 2 v − 1 over all values. */
  readonly mean: number;
  /** Standard deviation of 2 v − 1 over all values. */
  readonly std: number;
}

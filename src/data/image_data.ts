/** A dataset of small 8-bit images in host memory. */

import { FileError } from "../gpu/errors.ts";
import type { Statistics } from "./scaling.ts";

/** Images of one size, each of a class. */
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
  /** Number of classes; 1 where the images have no labels. */
  readonly classes: number;
  /** The class of each image, from 0 to `classes` − 1. */
  readonly labels: Uint16Array<ArrayBuffer>;
  /** Mean of 2 v − 1 over all values. */
  readonly mean: number;
  /** Standard deviation of 2 v − 1 over all values. */
  readonly std: number;
}

/** The size of a set of images. */
export type ImageShape = Pick<ImageData8, "count" | "channels" | "height" | "width">;

/** A set's images and classes, to be filled in. */
export type ImageBuffers = Pick<ImageData8, "pixels" | "labels">;

/** Largest class that `labels` can hold. */
const MAX_CLASS = 0xffff;

/**
 * Memory for images and their classes, all 0.
 *
 * @param name stands for the set in errors.
 * @throws {FileError} where there are fewer than two images, they are not square, neither grey nor RGB, or there is no
 * memory for them.
 */
export function allocateImages(name: string, { count, channels, height, width }: ImageShape): ImageBuffers {
  if (count < 2) throw new FileError(`${name} holds ${count} images; expected two or more.`);
  if (width !== height || width === 0) {
    throw new FileError(`${name} holds images of ${height}x${width} pixels; expected square ones.`);
  }
  if (channels !== 1 && channels !== 3) {
    throw new FileError(`${name} holds images of ${channels} channels; expected 1 or 3, of grey or RGB.`);
  }
  const bytes = count * channels * height * width;
  try {
    return { pixels: new Uint8Array(bytes), labels: new Uint16Array(count) };
  } catch (error) {
    throw new FileError(`${name} needs ${bytes} bytes of memory, which are not to be had.`, { cause: error });
  }
}

/** Puts `image` [height, width, channels] in its place among the others, as [channels, height, width]. */
export function putImage({ pixels }: ImageBuffers, index: number, image: Uint8Array, channels: number): void {
  const plane = image.length / channels;
  for (let c = 0; c < channels; c++) {
    const start = (index * channels + c) * plane;
    for (let i = 0; i < plane; i++) pixels[start + i] = image[i * channels + c]!;
  }
}

/**
 * A set of images with its mean and standard deviation (divisor n − 1), exact but for rounding.
 *
 * @throws {FileError} where all pixels are alike: such data have no scale.
 */
export function describeImages(parts: Omit<ImageData8, "mean" | "std">): ImageData8 {
  return { ...parts, ...statistics(parts.name, parts.pixels) };
}

/** One more than the largest class: the number of classes where a file does not give it. */
export function countClasses(labels: Uint16Array): number {
  return 1 + labels.reduce((largest, label) => Math.max(largest, label), 0);
}

/**
 * Checks what a file gives as a class.
 *
 * @param where names the file and the place at the head of the error's sentence.
 * @throws {FileError} where it is no whole number from 0 to `max`.
 */
export function expectClass(value: unknown, where: string, max = MAX_CLASS): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max) {
    throw new FileError(
      `${where} has the class ${String(value).slice(0, 20)}; expected a whole number from 0 to ${max}.`,
    );
  }
  return value;
}

/** The last part of a path: what a data set is called. */
export function baseName(path: string): string {
  return path.replace(/[\\/]+$/, "").replace(/^.*[\\/]/, "");
}

function statistics(name: string, pixels: Uint8Array): Statistics {
  const histogram = new Float64Array(256);
  for (const byte of pixels) histogram[byte]! += 1;
  const n = pixels.length;
  const mean = histogram.reduce((sum, times, byte) => sum + times * byte, 0) / n;
  const squares = histogram.reduce((sum, times, byte) => sum + times * (byte - mean) ** 2, 0);
  if (squares === 0) throw new FileError(`${name} should hold images whose pixels are not all alike.`);
  return { mean: Math.fround(2 * mean / 255 - 1), std: Math.fround(2 * Math.sqrt(squares / (n - 1)) / 255) };
}

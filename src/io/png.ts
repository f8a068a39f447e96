/** Pictures: grids of images in host memory, written as PNG. */

import { UsageError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { deflate } from "./compression.ts";
import { crc32 } from "./crc32.ts";

/** A picture of 8-bit values in rows: `pixels` is [height, width, channels]. */
export interface Picture {
  /** Values, channels fastest. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** Width in pixels. */
  readonly width: number;
  /** Height in pixels. */
  readonly height: number;
  /** 1 for grey, 3 for RGB. */
  readonly channels: 1 | 3;
}

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const COLOUR_TYPE = { 1: 0, 3: 2 } as const;
/** White: what gaps, dividers and empty cells show. */
const BACKGROUND = 255;

/**
 * Writes 8-bit pixels [height, width, channels] as a PNG file (grey for one channel, RGB for three).
 *
 * @throws {UsageError} where the number of values is not height·width·channels, or a side is not positive.
 */
export async function encodePng(
  pixels: Uint8Array,
  width: number,
  height: number,
  channels: 1 | 3,
): Promise<Uint8Array<ArrayBuffer>> {
  checkSize("A PNG", pixels.length, [height, width, channels]);
  const stride = width * channels;
  const rows = new Uint8Array(height * (stride + 1)); // each row is led by its filter type, 0
  for (let y = 0; y < height; y++) rows.set(pixels.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, COLOUR_TYPE[channels]], 8);
  const parts = [chunk("IHDR", header), chunk("IDAT", await deflate(rows)), chunk("IEND", new Uint8Array())];
  return new Uint8Array(await new Blob([new Uint8Array(SIGNATURE), ...parts]).arrayBuffer());
}

/**
 * Lays `n` images out in rows of `columns`, each pixel enlarged to `scale`×`scale`, `gap` white pixels between neighbours.
 *
 * @param images 8-bit values [n, height, width, channels].
 * @throws {UsageError} where the number of values is not n·height·width·channels, or a count is not positive.
 */
export function imageGrid(
  images: Uint8Array,
  n: number,
  height: number,
  width: number,
  channels: 1 | 3,
  columns: number,
  scale = 1,
  gap = 0,
): Picture {
  checkSize("A grid of images", images.length, [n, height, width, channels]);
  if (!isPositive(columns) || !isPositive(scale)) {
    throw new UsageError(
      `A grid of ${columns} columns at scale ${scale} is impossible; expected whole numbers above 0.`,
    );
  }
  const across = Math.min(columns, n);
  const down = Math.ceil(n / columns);
  const cellWidth = width * scale + gap;
  const cellHeight = height * scale + gap;
  const grid = blank(across * cellWidth - gap, down * cellHeight - gap, channels);
  for (let i = 0; i < n; i++) {
    const left = (i % columns) * cellWidth;
    const top = Math.floor(i / columns) * cellHeight;
    for (let y = 0; y < height * scale; y++) {
      const row = (i * height + Math.floor(y / scale)) * width;
      for (let x = 0; x < width * scale; x++) {
        const from = (row + Math.floor(x / scale)) * channels;
        const to = ((top + y) * grid.width + left + x) * channels;
        for (let c = 0; c < channels; c++) grid.pixels[to + c] = images[from + c]!;
      }
    }
  }
  return grid;
}

/**
 * Puts two pictures beside each other, tops level, with a white divider of `divider` pixels.
 *
 * @throws {UsageError} where one is grey and the other RGB.
 */
export function sideBySide(left: Picture, right: Picture, divider = 8): Picture {
  if (left.channels !== right.channels) {
    throw new UsageError(`Pictures of ${left.channels} and ${right.channels} channels cannot stand side by side.`);
  }
  const joined = blank(left.width + divider + right.width, Math.max(left.height, right.height), left.channels);
  for (const [picture, x] of [[left, 0], [right, left.width + divider]] as const) {
    const stride = picture.width * picture.channels;
    for (let y = 0; y < picture.height; y++) {
      const row = picture.pixels.subarray(y * stride, (y + 1) * stride);
      joined.pixels.set(row, (y * joined.width + x) * joined.channels);
    }
  }
  return joined;
}

function blank(width: number, height: number, channels: 1 | 3): Picture {
  return { pixels: new Uint8Array(width * height * channels).fill(BACKGROUND), width, height, channels };
}

function checkSize(what: string, length: number, shape: readonly number[]): void {
  if (!shape.every(isPositive) || elementCount(shape) !== length) {
    throw new UsageError(`${what} of shape ${shapeText(shape)} cannot be made from ${length} values.`);
  }
}

function isPositive(n: number): boolean {
  return Number.isInteger(n) && n > 0;
}

/** A PNG chunk: length of the data, type, data, CRC-32 of type and data. */
function chunk(type: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

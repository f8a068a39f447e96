/** Pictures: single ones and grids of them in host memory, in files of PNG. */

import { FileError, UsageError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { memoryFile, reading, streamOf, viewOf } from "./bytes.ts";
import { deflate, MAX_EXPANSION } from "./compression.ts";
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
/** Bytes a pixel has in a file, by colour type: grey, RGB, palette, grey and opacity, RGB and opacity. */
const PIXEL_BYTES: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const PALETTE = 3;
const OPAQUE = 255;
const EMPTY_CHUNK_BYTES = 12;
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
 * Reads a PNG file of 8 bits a channel that is not interlaced: grey, RGB or of a palette (which becomes RGB). Opacity is
 * dropped where every pixel is opaque. Colour profiles and gamma are not applied.
 *
 * @param name stands for the file in errors.
 * @param inflate decompresses; the runtime's stream when absent.
 * @throws {FileError} where the file is damaged or cut off, or is a PNG of another kind.
 */
export async function decodePng(bytes: Uint8Array, name: string, inflate: Inflate = inflateStream): Promise<Picture> {
  const { header, palette, data } = readChunks(bytes, name);
  const { width, height, colourType } = header;
  const pixelBytes = PIXEL_BYTES[colourType]!;
  const stride = width * pixelBytes;
  if (height * (stride + 1) > MAX_EXPANSION * data.length) {
    throw new FileError(`${name} is cut off: pixels are missing.`);
  }
  const rows = await inflate(data, height * (stride + 1), name);
  const samples = unfilter(rows, stride, height, pixelBytes, name);
  if (colourType === PALETTE) return { width, height, channels: 3, pixels: applyPalette(samples, palette, name) };
  const channels = pixelBytes < 3 ? 1 : 3;
  return { width, height, channels, pixels: dropOpacity(samples, channels, pixelBytes, name) };
}

/**
 * Makes exactly `length` bytes of zlib data; the `name` stands in its errors.
 *
 * @throws {FileError} where the data are damaged, or make more bytes or fewer.
 */
export type Inflate = (
  data: Uint8Array<ArrayBuffer>,
  length: number,
  name: string,
) => Promise<Uint8Array<ArrayBuffer>> | Uint8Array<ArrayBuffer>;

/** Through the runtime's stream, which leaves much for the garbage collector. */
async function inflateStream(data: Uint8Array<ArrayBuffer>, length: number, name: string) {
  const rows = new Uint8Array(length);
  const stream = streamOf(memoryFile(name, data)).pipeThrough(new DecompressionStream("deflate"));
  await reading(stream, name, async (reader) => {
    await reader.expect(rows);
    await reader.expectEnd();
  });
  return rows;
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

interface PngHeader {
  readonly width: number;
  readonly height: number;
  readonly colourType: number;
}

/** True for bytes that begin as a PNG file does. */
export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/** The parts of a file that decide its pixels; `data` is still compressed. */
function readChunks(
  bytes: Uint8Array,
  name: string,
): { header: PngHeader; palette: Uint8Array; data: Uint8Array<ArrayBuffer> } {
  if (!isPng(bytes)) throw new FileError(`${name} is not a PNG file.`);
  const view = viewOf(bytes);
  let header: PngHeader | undefined;
  let palette = new Uint8Array();
  const parts: Uint8Array[] = [];
  for (let at = SIGNATURE.length;;) {
    const length = at + EMPTY_CHUNK_BYTES <= bytes.length ? view.getUint32(at) : Infinity;
    const end = at + EMPTY_CHUNK_BYTES + length;
    if (end > bytes.length) throw new FileError(`${name} is cut off, or damaged: a part of it goes beyond its end.`);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, end - 4);
    if (view.getUint32(end - 4) !== crc32(bytes.subarray(at + 4, end - 4))) {
      throw new FileError(`${name} is damaged: its part ${JSON.stringify(type)} does not have its checksum.`);
    }
    if (!header) header = parseHeader(type, content, name);
    else if (type === "IEND") break;
    else if (type === "PLTE") palette = content.slice();
    else if (type === "IDAT") parts.push(content);
    else if (type === "tRNS") throw new FileError(`${name} has transparent colours; expected opaque ones alone.`);
    else if (!isAncillary(type)) {
      throw new FileError(`${name} needs the unknown part ${JSON.stringify(type)} to be read.`);
    }
    at = end;
  }
  const data = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return { header: header!, palette, data };
}

function parseHeader(type: string, content: Uint8Array, name: string): PngHeader {
  if (type !== "IHDR" || content.length !== 13) throw new FileError(`${name} is a damaged PNG file: it has no header.`);
  const view = viewOf(content);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, colourType, , , interlace] = content.subarray(8) as unknown as [number, number, number, number, number];
  if (width === 0 || height === 0) throw new FileError(`${name} has no pixels: it is ${width}x${height}.`);
  if (depth !== 8) throw new FileError(`${name} has ${depth} bits a channel; expected 8.`);
  if (!Object.hasOwn(PIXEL_BYTES, colourType)) {
    throw new FileError(`${name} has the unknown colour type ${colourType}.`);
  }
  if (interlace !== 0) throw new FileError(`${name} is interlaced; expected a PNG that is not.`);
  return { width, height, colourType };
}

/** A lower-case first letter marks what a reader may pass over. */
function isAncillary(type: string): boolean {
  return (type.charCodeAt(0) & 32) !== 0;
}

/** Rows without their filters (PNG specification, section 9.2): [height, stride]. */
function unfilter(
  rows: Uint8Array,
  stride: number,
  height: number,
  pixelBytes: number,
  name: string,
): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)]!;
    if (filter > 4) {
      throw new FileError(`${name} is a damaged PNG file: row ${y} has filter ${filter}; expected 0 to 4.`);
    }
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const left = i >= pixelBytes ? result[at - pixelBytes]! : 0;
      const up = y > 0 ? result[at - stride]! : 0;
      const upLeft = i >= pixelBytes && y > 0 ? result[at - stride - pixelBytes]! : 0;
      result[at] = rows[at + y + 1]! + predict(filter, left, up, upLeft);
    }
  }
  return result;
}

function predict(filter: number, left: number, up: number, upLeft: number): number {
  switch (filter) {
    case 1:
      return left;
    case 2:
      return up;
    case 3:
      return (left + up) >> 1;
    case 4:
      return paeth(left, up, upLeft);
    default:
      return 0;
  }
}

/** Of the three, the nearest to left + up − upLeft. */
function paeth(left: number, up: number, upLeft: number): number {
  const byLeft = Math.abs(up - upLeft), byUp = Math.abs(left - upLeft), byBoth = Math.abs(left + up - 2 * upLeft);
  return byLeft <= byUp && byLeft <= byBoth ? left : byUp <= byBoth ? up : upLeft;
}

function applyPalette(indices: Uint8Array, palette: Uint8Array, name: string): Uint8Array<ArrayBuffer> {
  const colours = Math.floor(palette.length / 3);
  const pixels = new Uint8Array(3 * indices.length);
  indices.forEach((index, i) => {
    if (index >= colours) throw new FileError(`${name} has a pixel of colour ${index}; its palette has ${colours}.`);
    pixels.set(palette.subarray(3 * index, 3 * index + 3), 3 * i);
  });
  return pixels;
}

/** The first `channels` of the `stored` bytes of every pixel; the one more there may be is its opacity. */
function dropOpacity(
  samples: Uint8Array<ArrayBuffer>,
  channels: number,
  stored: number,
  name: string,
): Uint8Array<ArrayBuffer> {
  if (stored === channels) return samples;
  const count = samples.length / stored;
  const pixels = new Uint8Array(count * channels);
  for (let i = 0; i < count; i++) {
    if (samples[i * stored + channels] !== OPAQUE) {
      throw new FileError(`${name} has transparent pixels; expected opaque ones alone.`);
    }
    for (let c = 0; c < channels; c++) pixels[i * channels + c] = samples[i * stored + c]!;
  }
  return pixels;
}

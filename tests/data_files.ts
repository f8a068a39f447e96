/** Small files of every kind of data set, and folders of them in memory. */

import { zipSync } from "fflate";
import { type ByteFile, memoryFile } from "../src/io/bytes.ts";
import { readDatasetFile, readDatasetFolder } from "../src/data/detect.ts";
import type { ImageData8 } from "../src/data/image_data.ts";
import { crc32 } from "../src/io/crc32.ts";
import { uniformSource } from "./gpu.ts";

export type Bytes = Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();

/** Bytes one after the other. */
export function concat(...parts: readonly (ArrayLike<number> | string)[]): Bytes {
  const all = parts.map((part) => typeof part === "string" ? encoder.encode(part) : part);
  const bytes = new Uint8Array(all.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of all) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

export function uint32(value: number): Bytes {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** `n` bytes, the same for the same seed. */
export function randomBytes(n: number, seed: number): Bytes {
  const uniform = uniformSource(seed);
  return Uint8Array.from({ length: n }, () => Math.floor(256 * uniform()));
}

export async function compress(bytes: Bytes, format: CompressionFormat): Promise<Bytes> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Records of CIFAR-10 (or CIFAR-100 with its coarse class before the class): class, then 3 planes of 32x32. */
export function cifarBatch(labels: readonly number[], pixels: Bytes, coarse?: number): Bytes {
  const before = coarse === undefined ? [] : [coarse];
  return concat(...labels.map((label, i) => concat(before, [label], pixels.subarray(3072 * i, 3072 * (i + 1)))));
}

/** A batch as Python 2 pickled it; `key` is that of the classes. */
export function cifarPickle(labels: readonly number[], pixels: Bytes, key = "labels"): Bytes {
  const short = (text: string) => concat("U", [text.length], text);
  const uint16 = (value: number) => ["M".charCodeAt(0), value & 0xff, value >> 8];
  const length = uint32(pixels.length).reverse();
  return concat(
    [0x80, 2],
    "}q\x01(",
    short("batch_label"),
    short("training batch 1 of 5"),
    short(key),
    "](",
    ...labels.map((label) => concat("K", [label])),
    "e",
    short("data"),
    "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK",
    [0, 0x85],
    short("b"),
    [0x87],
    "R(K\x01",
    uint16(pixels.length / 3072),
    uint16(3072),
    [0x86],
    "cnumpy\ndtype\n",
    short("u1"),
    [75, 0, 75, 1, 0x87],
    "R(K\x03",
    short("|"),
    "NNNJ",
    [255, 255, 255, 255],
    "J",
    [255, 255, 255, 255, 75, 0],
    "tb",
    [0x89],
    "T",
    length,
    pixels,
    "tbu.",
  );
}

/** A tar archive (ustar). */
export function tar(files: Readonly<Record<string, Bytes>>): Bytes {
  const blocks: Bytes[] = [];
  for (const [path, content] of Object.entries(files)) {
    const header = new Uint8Array(512);
    header.set(encoder.encode(path));
    header.set(encoder.encode("0000644"), 100);
    header.set(encoder.encode(content.length.toString(8).padStart(11, "0")), 124);
    header.set(encoder.encode("        "), 148);
    header.set(encoder.encode("0"), 156);
    header.set(encoder.encode("ustar\x0000"), 257);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.set(encoder.encode(`${sum.toString(8).padStart(6, "0")}\0 `), 148);
    blocks.push(header, concat(content, new Uint8Array((512 - content.length % 512) % 512)));
  }
  return concat(...blocks, new Uint8Array(1024));
}

/** A file in the IDX format. */
export function idx(extents: readonly number[], content: ArrayLike<number>): Bytes {
  return concat([0, 0, 8, extents.length], ...extents.map(uint32), content);
}

/** How {@linkcode png} writes a picture. */
export interface PngOptions {
  /** Filter of each row, by turns. */
  filters?: readonly number[];
  /** As the format numbers them. */
  colourType?: number;
  /** Parts between the header and the pixels. */
  before?: readonly Bytes[];
  /** Bits a channel and the flag of interlacing, to be claimed. */
  depth?: number;
  interlaced?: number;
}

/** A part of a PNG file. */
export function pngPart(type: string, content: ArrayLike<number>): Bytes {
  const body = concat(type, content);
  return concat(uint32(content.length), body, uint32(crc32(body)));
}

/** A PNG file of `samples` [height, width, bytes a pixel]. */
export async function png(
  samples: Bytes,
  width: number,
  height: number,
  pixelBytes: number,
  options: PngOptions = {},
): Promise<Bytes> {
  const { filters = [0], colourType = [0, 0, 4, 2, 6][pixelBytes]!, before = [], depth = 8, interlaced = 0 } = options;
  const stride = width * pixelBytes;
  const at = (x: number, y: number) => x < 0 || y < 0 ? 0 : samples[y * stride + x]!;
  const rows = Array.from({ length: height }, (_, y) => {
    const filter = filters[y % filters.length]!;
    const row = Array.from({ length: stride }, (_, x) => {
      const [a, b, c] = [at(x - pixelBytes, y), at(x, y - 1), at(x - pixelBytes, y - 1)];
      const nearest = [a, b, c].sort((p, q) => Math.abs(a + b - c - p) - Math.abs(a + b - c - q))[0]!;
      return at(x, y) - [0, a, b, Math.floor((a + b) / 2), nearest][filter % 5]!;
    });
    return [filter, ...row];
  });
  const data = await compress(Uint8Array.from(rows.flat()), "deflate");
  return concat(
    [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a],
    pngPart("IHDR", concat(uint32(width), uint32(height), [depth, colourType, 0, 0, interlaced])),
    ...before,
    pngPart("IDAT", data.subarray(0, 5)),
    pngPart("IDAT", data.subarray(5)),
    pngPart("IEND", []),
  );
}

/** A ZIP archive, deflated or (level 0) stored. */
export function zip(files: Readonly<Record<string, Bytes>>, level: 0 | 6 = 6): Bytes {
  return zipSync(files, { level, mtime: new Date(1980, 0, 1) });
}

/** Reads `path` out of a folder in memory. */
export function readFrom(folder: Readonly<Record<string, Bytes>>, path: string): Promise<ImageData8> {
  const find = (name: string) => Object.hasOwn(folder, name) ? memoryFile(name, folder[name]!) : undefined;
  return readDatasetFile(find(path)!, (name) => Promise.resolve(find(name)));
}

/** Reads a file that needs no other. */
export function readBytes(bytes: Bytes, path = "x"): Promise<ImageData8> {
  return readFrom({ [path]: bytes }, path);
}

/** Reads a whole folder in memory. */
export function readFolder(files: Readonly<Record<string, Bytes>>): Promise<ImageData8> {
  const entries = Object.entries(files).map(([path, bytes]): [string, ByteFile] => [path, memoryFile(path, bytes)]);
  return readDatasetFolder("folder", new Map(entries));
}

/** Images in NumPy's npz format, as `sample` writes them. */

import { FileError } from "../gpu/errors.ts";
import { type ByteFile, reading } from "../io/bytes.ts";
import { decodeNpy, NPY_HEADER_BYTES, type NpyHeader, parseNpyHeader } from "../io/npz.ts";
import { readZipEntry, streamZipEntry, type ZipEntry } from "../io/zip.ts";
import {
  allocateImages,
  baseName,
  countClasses,
  describeImages,
  expectClass,
  type ImageData8,
  putImage,
} from "./image_data.ts";

const IMAGES = "images.npy", LABELS = "labels.npy";

/** True for the entries of an npz file. */
export function isNpz(entries: ReadonlyMap<string, ZipEntry>): boolean {
  return entries.size > 0 && [...entries.keys()].every((path) => path.endsWith(".npy"));
}

/**
 * Reads the array `images`, uint8 [count, height, width, channels], and where there is one the array `labels` of whole
 * numbers [count]; any other array is refused, since it may be the labels under another name.
 *
 * @param entries of the archive `file`.
 * @throws {FileError} where they are damaged, missing or of other kinds or shapes.
 */
export async function readNpzImages(file: ByteFile, entries: ReadonlyMap<string, ZipEntry>): Promise<ImageData8> {
  const entry = entries.get(IMAGES);
  if (!entry || [...entries.keys()].some((path) => path !== IMAGES && path !== LABELS)) {
    const names = [...entries.keys()].map((path) => path.replace(/\.npy$/, ""));
    throw new FileError(
      `${file.path} holds the arrays ${names.join(", ")}; expected images, and labels where there are classes.`,
    );
  }
  const what = `${file.path}: array "images"`;
  const { dtype, shape: extents, dataStart } = await readHeader(file, entry, what);
  if (dtype !== "u1" || extents.length !== 4) {
    throw new FileError(
      `${what} is ${dtype} of shape [${extents.join(", ")}]; expected u1 of [count, height, width, channels].`,
    );
  }
  const [count, height, width, channels] = extents as [number, number, number, number];
  const shape = { count, channels, height, width };
  const images = allocateImages(file.path, shape);
  await reading(await streamZipEntry(file, entry), what, async (reader) => {
    await reader.skip(dataStart);
    const image = new Uint8Array(height * width * channels);
    for (let i = 0; i < count; i++) {
      await reader.expect(image);
      putImage(images, i, image, channels);
    }
    await reader.expectEnd();
  });
  const labels = entries.get(LABELS);
  if (labels) images.labels.set(await readLabels(file, labels, count));
  return describeImages({ name: baseName(file.path), ...shape, ...images, classes: countClasses(images.labels) });
}

async function readHeader(file: ByteFile, entry: ZipEntry, what: string): Promise<NpyHeader> {
  const head = new Uint8Array(Math.min(entry.size, NPY_HEADER_BYTES));
  await reading(await streamZipEntry(file, entry), what, (reader) => reader.expect(head));
  return parseNpyHeader(head, what, entry.size);
}

async function readLabels(file: ByteFile, entry: ZipEntry, count: number): Promise<number[]> {
  const what = `${file.path}: array "labels"`;
  const { shape, data } = decodeNpy(await readZipEntry(file, entry), what);
  if (shape.length !== 1 || shape[0] !== count) {
    throw new FileError(`${what} has shape [${shape.join(", ")}]; expected [${count}], a class for every image.`);
  }
  return Array.from(data as ArrayLike<unknown>, (label, i) => expectClass(Number(label), `${what}, element ${i},`));
}

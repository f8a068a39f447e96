/**
 * The IDX format of MNIST and of the sets made after it.
 *
 * LeCun, Y., Cortes, C. & Burges, C. J. C. (1998). The MNIST Database of Handwritten Digits.
 */

import { FileError } from "../gpu/errors.ts";
import { type ByteReader, type ByteStream, reading } from "../io/bytes.ts";
import { allocateImages, baseName, countClasses, describeImages, type ImageData8 } from "./image_data.ts";

/** A file's content, without the compression there may be around it. */
export interface Content {
  /** Stands for the file in errors. */
  readonly path: string;
  /** The content from its beginning. */
  open(): ByteStream;
}

/** Two bytes 0, the type (8: uint8) and the number of axes. */
const IMAGES = [0, 0, 8, 3], LABELS = [0, 0, 8, 1];
/** MNIST's side in pixels, and the one it is brought to: networks halve it several times. */
const SIDE = 28, PADDED = 32;

/** True where `head`, the beginning of a file, is that of images. */
export function isIdxImages(head: Uint8Array): boolean {
  return IMAGES.every((byte, i) => head[i] === byte);
}

/** True where `head` is the beginning of any other file of IDX. */
export function isIdx(head: Uint8Array): boolean {
  return head[0] === 0 && head[1] === 0 && [8, 9, 11, 12, 13, 14].includes(head[2]!) && head[3]! > 0 && head[3]! < 9;
}

/** The name of the file with the classes of the images in `name`; undefined for a name that does not tell. */
export function idxLabelsName(name: string): string | undefined {
  const labels = name.replace("images", "labels").replace("idx3", "idx1");
  return labels === name ? undefined : labels;
}

/**
 * Reads images [count, height, width] and their classes. Images of 28x28 get a frame of zeros and become 32x32.
 *
 * @throws {FileError} where one of the two is damaged, cut off or of another kind, or they do not belong together.
 */
export async function readIdx(images: Content, labels: Content): Promise<ImageData8> {
  const [count, rows, columns] = await readHeader(images, IMAGES) as [number, number, number];
  const [labelCount] = await readHeader(labels, LABELS) as [number];
  if (labelCount !== count) {
    throw new FileError(`${labels.path} holds ${labelCount} classes, but ${images.path} holds ${count} images.`);
  }
  const padded = rows === SIDE && columns === SIDE;
  const shape = { count, channels: 1, height: padded ? PADDED : rows, width: padded ? PADDED : columns };
  const buffers = allocateImages(images.path, shape);
  const frame = padded ? (PADDED - SIDE) / 2 : 0;
  await readContent(images, IMAGES, async (reader) => {
    for (let row = 0; row < count * rows; row++) {
      const y = Math.floor(row / rows) * shape.height + frame + row % rows;
      const at = y * shape.width + frame;
      await reader.expect(buffers.pixels.subarray(at, at + columns));
    }
  });
  const classes = new Uint8Array(count);
  await readContent(labels, LABELS, (reader) => reader.expect(classes));
  buffers.labels.set(classes);
  return describeImages({ name: baseName(images.path), ...shape, ...buffers, classes: countClasses(buffers.labels) });
}

/** The extents of a file whose length is what they tell. */
async function readHeader({ path, open }: Content, magic: readonly number[]): Promise<number[]> {
  const axes = magic[3]!;
  const header = new Uint8Array(4 * (1 + axes));
  const length = await reading(open(), path, async (reader) => {
    await reader.expect(header);
    return await reader.skip(Infinity);
  });
  if (!magic.every((byte, i) => header[i] === byte)) {
    const what = axes === 1 ? "classes" : "images";
    throw new FileError(
      `${path} is not a file of ${what} in the IDX format; expected it to begin with ${magic.join(" ")}.`,
    );
  }
  const view = new DataView(header.buffer);
  const extents = Array.from({ length: axes }, (_, axis) => view.getUint32(4 * (1 + axis)));
  const expected = extents.reduce((product, extent) => product * extent, 1);
  if (length !== expected) {
    throw new FileError(
      `${path} has ${length} bytes of data; expected ${expected} for its extents ${extents.join(" x ")}.`,
    );
  }
  return extents;
}

function readContent(
  { path, open }: Content,
  magic: readonly number[],
  action: (reader: ByteReader) => Promise<void>,
): Promise<void> {
  return reading(open(), path, async (reader) => {
    await reader.skip(4 * (1 + magic[3]!));
    await action(reader);
  });
}

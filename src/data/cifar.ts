/**
 * CIFAR-10 and CIFAR-100 in their binary and python versions.
 *
 * Krizhevsky, A. (2009). Learning Multiple Layers of Features from Tiny Images.
 */

import { FileError } from "../gpu/errors.ts";
import type { TarEntry } from "../io/tar.ts";
import { isCifarPickle, readCifarPickle } from "./cifar_pickle.ts";
import {
  allocateImages,
  baseName,
  describeImages,
  expectClass,
  type ImageBuffers,
  type ImageData8,
} from "./image_data.ts";

const SIDE = 32;
const CHANNELS = 3;
const PIXELS = CHANNELS * SIDE * SIDE;
/** What leads the pixels of a binary record; its last byte is the class. */
const RECORDS = [{ labelBytes: 1, classes: 10 }, { labelBytes: 2, classes: 100 }] as const;
const TRAINING = /^(data_batch_\d+|train)(\.bin)?$/;

/** The files of an archive or a folder, one after the other. */
export type Members = () => AsyncIterable<TarEntry>;

/** Memory for one batch after another. */
type Scratch = (length: number) => Uint8Array<ArrayBuffer>;

/** What is known of a batch before its images are read. */
interface Batch {
  readonly path: string;
  readonly count: number;
  readonly classes: number;
}

/** True for the name of a training batch; a test batch is none. */
export function isCifarTraining(path: string): boolean {
  return TRAINING.test(baseName(path));
}

/** True for a size that files of whole binary records have. */
export function isCifarSize(bytes: number): boolean {
  return bytes > 0 && RECORDS.some(({ labelBytes }) => bytes % (labelBytes + PIXELS) === 0);
}

/**
 * Reads the batches among `members` that `wanted` accepts, in the order of their names.
 *
 * Members are read twice: for the number of images, so that no more memory is taken than they need, and for the images.
 *
 * @param path stands for the archive or folder in errors.
 * @throws {FileError} where there is none, one is damaged or there twice, or batches of CIFAR-10 and CIFAR-100 are mixed.
 */
export async function readCifar(
  path: string,
  members: Members,
  wanted: (path: string) => boolean = isCifarTraining,
): Promise<ImageData8> {
  const scratch = reusedMemory();
  const batches: Batch[] = [];
  for await (const member of members()) {
    if (wanted(member.path)) batches.push(await inspect(member, path, scratch));
  }
  const classes = checkBatches(batches, path);
  const shape = {
    count: batches.reduce((sum, batch) => sum + batch.count, 0),
    channels: CHANNELS,
    height: SIDE,
    width: SIDE,
  };
  const images = allocateImages(path, shape);
  const starts = new Map<string, number>();
  let start = 0;
  for (const batch of batches) {
    starts.set(batch.path, start);
    start += batch.count;
  }
  for await (const member of members()) {
    const first = starts.get(member.path);
    if (first !== undefined) await readBatch(member, images, first, classes, path, scratch);
  }
  return describeImages({ name: baseName(path), ...shape, ...images, classes });
}

/** Sorts the batches by name and returns how many classes they have. */
function checkBatches(batches: Batch[], path: string): number {
  const [first] = batches;
  if (!first) {
    throw new FileError(
      `${path} holds no training batch of CIFAR; expected data_batch_1 … data_batch_5, or train, with or without ".bin".`,
    );
  }
  const key = (batch: Batch) => baseName(batch.path).replace(/\.bin$/, "");
  batches.sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }));
  batches.forEach((batch, i) => {
    const next = batches[i + 1];
    if (next && key(next) === key(batch)) {
      throw new FileError(`${path} holds the batch ${key(batch)} twice: "${batch.path}" and "${next.path}".`);
    }
    if (batch.classes !== first.classes) {
      throw new FileError(`${path} mixes CIFAR-10 and CIFAR-100: "${first.path}" and "${batch.path}".`);
    }
  });
  return first.classes;
}

async function inspect(member: TarEntry, archive: string, scratch: Scratch): Promise<Batch> {
  const { path, size } = member;
  const start = await firstByte(member);
  if (isCifarPickle(start)) {
    const { labels, classes } = await unpickle(member, start, archive, scratch);
    return { path, count: labels.length, classes };
  }
  const record = RECORDS.find(({ labelBytes }) => size % (labelBytes + PIXELS) === 0);
  if (size === 0 || !record) {
    throw new FileError(
      `${placeOf(archive, path)} has ${size} bytes; expected a multiple of ${1 + PIXELS} (CIFAR-10) or ` +
        `${2 + PIXELS} (CIFAR-100), or a pickle.`,
    );
  }
  return { path, count: size / (record.labelBytes + PIXELS), classes: record.classes };
}

async function readBatch(
  member: TarEntry,
  { pixels, labels }: ImageBuffers,
  first: number,
  classes: number,
  archive: string,
  scratch: Scratch,
): Promise<void> {
  const start = await firstByte(member);
  if (isCifarPickle(start)) {
    const batch = await unpickle(member, start, archive, scratch);
    labels.set(batch.labels, first);
    pixels.set(batch.pixels, first * PIXELS);
    return;
  }
  const { labelBytes } = RECORDS.find((record) => record.classes === classes)!;
  const count = member.size / (labelBytes + PIXELS);
  const lead = new Uint8Array(labelBytes);
  for (let i = 0; i < count; i++) {
    if (i === 0) lead.set(start);
    await member.read(lead.subarray(i === 0 ? start.length : 0));
    labels[first + i] = expectClass(lead.at(-1), `${placeOf(archive, member.path)}: record ${i}`, classes - 1);
    await member.read(pixels.subarray((first + i) * PIXELS, (first + i + 1) * PIXELS));
  }
}

/** The first byte, where there is one. */
async function firstByte(member: TarEntry): Promise<Uint8Array<ArrayBuffer>> {
  const byte = new Uint8Array(Math.min(1, member.size));
  await member.read(byte);
  return byte;
}

/** Reads all that follows the `start` of a pickled batch. */
async function unpickle(member: TarEntry, start: Uint8Array, archive: string, scratch: Scratch) {
  const bytes = scratch(member.size);
  bytes.set(start);
  await member.read(bytes.subarray(start.length));
  return readCifarPickle(bytes, placeOf(archive, member.path), PIXELS);
}

/** Memory that grows with what is asked for and is used again each time: freed memory may stay taken for long. */
function reusedMemory(): Scratch {
  let memory = new Uint8Array();
  return (length) => {
    if (length > memory.length) memory = new Uint8Array(length);
    return memory.subarray(0, length);
  };
}

function placeOf(archive: string, path: string): string {
  return archive === path ? path : `${archive}: "${path}"`;
}

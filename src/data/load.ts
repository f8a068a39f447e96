/** Data sets on the disk. */

import { dirname, join } from "@std/path";
import { FileError } from "../gpu/errors.ts";
import type { ByteFile } from "../io/bytes.ts";
import { onDisk, statIfThere } from "../io/disk.ts";
import { readDatasetFile, readDatasetFolder } from "./detect.ts";
import type { ImageData8 } from "./image_data.ts";

/**
 * Reads a data set of any kind that is known, which is found from its content:
 *
 * - CIFAR-10 and CIFAR-100, binary or python: the archive (.tar.gz or .tar), its folder, or one batch. Of an archive or a
 *   folder the training batches are read, not the test batch.
 * - Images in the IDX format (MNIST and its like), compressed by gzip or not, with the file of their labels beside them,
 *   or a folder of both. 28x28 becomes 32x32, with a frame of zeros.
 * - A folder or zip of PNG files of one size, with or without `dataset.json`.
 * - An npz file with `images`, uint8 [count, height, width, channels], and perhaps `labels`.
 * - The text of the UCI optical digits.
 *
 * Besides the images themselves no more than a batch or a picture is in memory at any time.
 *
 * @throws {FileError} naming the file, and the entry in it, that cannot be read, is damaged or is of no known kind.
 */
export async function loadDataset(path: string): Promise<ImageData8> {
  const { isDirectory } = await onDisk(path, "read", () => Deno.stat(path));
  if (isDirectory) return await readDatasetFolder(path, await listFolder(path));
  const folder = dirname(path);
  return await readDatasetFile(await openFile(path), async (name) => {
    const beside = join(folder, name);
    return (await statIfThere(beside))?.isFile ? await openFile(beside) : undefined;
  });
}

/** Opened for every reading anew: a folder can have more files than a process may hold open. */
async function openFile(path: string): Promise<ByteFile> {
  // Not asynchronous: for the small pieces most readings are, that takes several times as long.
  const { size } = await onDisk(path, "read", async () => await Deno.statSync(path));
  const read = (start: number, length: number) => onDisk(path, "read", async () => await readPart(path, start, length));
  return { path, size, read };
}

function readPart(path: string, start: number, length: number): Uint8Array<ArrayBuffer> {
  using file = Deno.openSync(path);
  file.seekSync(start, Deno.SeekMode.Start);
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length;) {
    const count = file.readSync(bytes.subarray(filled));
    if (count === null) throw new FileError(`The file ${path} became shorter while it was read.`);
    filled += count;
  }
  return bytes;
}

/** The files in a folder and in its folders, by their paths in it. */
async function listFolder(path: string): Promise<Map<string, ByteFile>> {
  const files = new Map<string, ByteFile>();
  const visit = async (folder: string, prefix: string, outer: readonly string[]) => {
    const real = await onDisk(folder, "read", () => Deno.realPath(folder));
    if (outer.includes(real)) throw new FileError(`${folder} is a link to a folder that it lies in.`);
    const entries = await onDisk(folder, "read", () => Array.fromAsync(Deno.readDir(folder)));
    for (const { name, isDirectory, isSymlink } of entries) {
      const inside = join(folder, name);
      const isFolder = isSymlink ? (await onDisk(inside, "read", () => Deno.stat(inside))).isDirectory : isDirectory;
      if (isFolder) await visit(inside, `${prefix}${name}/`, [...outer, real]);
      else files.set(prefix + name, await openFile(inside));
    }
  };
  await visit(path, "", []);
  return files;
}

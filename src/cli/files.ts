/** Files that a command is given by the user. */

import { FileError } from "../gpu/errors.ts";
import type { ImageData8 } from "../data/image_data.ts";
import { loadDigits } from "../data/digits.ts";
import { hashImages } from "../data/hash.ts";
import { loadDataset } from "../data/load.ts";
import { importModel, type StateSettings } from "../io/import.ts";
import type { Model } from "../io/model.ts";
import { decodeNpz, type NpyArray } from "../io/npz.ts";
import type { FileSource } from "../train/config.ts";
import { onDisk } from "../io/disk.ts";
import { sha256 } from "../io/sha256.ts";

/** Reads a file; one that cannot be read is the user's mistake. */
function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  return onDisk(path, "read", () => Deno.readFile(path));
}

/** Reads a text file. */
export function readText(path: string): Promise<string> {
  return onDisk(path, "read", () => Deno.readTextFile(path));
}

/** Reads a model from a file of any program that is known. */
export async function readModel(
  path: string,
  settings?: StateSettings,
): Promise<{ bytes: Uint8Array<ArrayBuffer>; model: Model }> {
  const bytes = await readFile(path);
  return { bytes, model: await importModel(bytes, path, settings) };
}

/** Reads a file of named arrays. */
export async function readArrays(path: string): Promise<Record<string, NpyArray>> {
  return await decodeNpz(await readFile(path), path);
}

/** The images of a data set, or the embedded digits where no path is given. */
export async function readImages(path?: string): Promise<{ data: ImageData8; source?: FileSource }> {
  if (path === undefined) return { data: await loadDigits() };
  const data = await loadDataset(path);
  return { data, source: { path, sha256: hashImages(data) } };
}

/** Reads the data set named in a run's settings, if any, again and makes sure that it is still the same. */
export async function rereadImages(known?: FileSource): Promise<ImageData8> {
  const { data, source } = await readImages(known?.path);
  if (source?.sha256 !== known?.sha256) {
    throw new FileError(`${known!.path} does not hold the images and classes that this run was begun with.`);
  }
  return data;
}

/** A file with the hash of its contents. */
export async function fileSource(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<FileSource> {
  return { path, sha256: await sha256(bytes) };
}

/** Reads the model named in a run's settings again and makes sure that its file is still the same. */
export async function rereadModel({ path, sha256 }: FileSource, settings?: StateSettings): Promise<Model> {
  const bytes = await readFile(path);
  if ((await fileSource(path, bytes)).sha256 !== sha256) {
    throw new FileError(`The file ${path} is not the one this run was begun with (its SHA-256 should be ${sha256}).`);
  }
  return await importModel(bytes, path, settings);
}

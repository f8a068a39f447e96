/** Files that a command is given by the user. */

import { FileError, UsageError } from "../gpu/errors.ts";
import type { ImageData8 } from "../data/image_data.ts";
import { loadDigits } from "../data/digits.ts";
import { parseUciDigits } from "../data/uci_digits.ts";
import { decodeModel, type Model } from "../io/model.ts";
import type { FileSource } from "../train/config.ts";
import { onDisk } from "../train/disk.ts";

/** Reads a file; one that cannot be read is the user's mistake. */
function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  return onDisk(path, "read", () => Deno.readFile(path));
}

/** Reads a text file. */
export function readText(path: string): Promise<string> {
  return onDisk(path, "read", () => Deno.readTextFile(path));
}

/** Reads a model file. */
export async function readModel(path: string): Promise<{ bytes: Uint8Array<ArrayBuffer>; model: Model }> {
  const bytes = await readFile(path);
  return { bytes, model: await decodeModel(bytes, path) };
}

/** Throws where `--steps` was given for a generator. */
export function checkSteps(steps: number | undefined, { info }: Model): void {
  if (steps !== undefined && info.kind === "generator") {
    throw new UsageError("--steps goes with a teacher only: a generator takes one step.");
  }
}

/** The images of a UCI text file, or the embedded digits where no path is given. */
export async function readImages(path?: string): Promise<{ data: ImageData8; source?: FileSource }> {
  if (path === undefined) return { data: await loadDigits() };
  const bytes = await readFile(path);
  return { data: parseUciDigits(new TextDecoder().decode(bytes), path), source: await fileSource(path, bytes) };
}

/** A file with the hash of its contents. */
export async function fileSource(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<FileSource> {
  return { path, sha256: new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex() };
}

/** Reads a file named in a run's settings again and makes sure that it is still the same. */
export async function rereadFile({ path, sha256 }: FileSource): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await readFile(path);
  if ((await fileSource(path, bytes)).sha256 !== sha256) {
    throw new FileError(`The file ${path} is not the one this run was begun with (its SHA-256 should be ${sha256}).`);
  }
  return bytes;
}

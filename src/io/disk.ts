/** The disk: whole files or none, and errors a user can read. */

import { dirname, join } from "@std/path";
import { FileError } from "../gpu/errors.ts";

/**
 * Does something with a file or folder; what the system refuses becomes a sentence.
 *
 * @param done what could not be done: "read", "written", "removed".
 * @throws {FileError} naming `path` and the reason.
 */
export async function onDisk<T>(path: string, done: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof FileError || !isSystemError(error)) throw error;
    throw new FileError(`The file ${path} could not be ${done}: ${reason(error, done)}.`, { cause: error });
  }
}

/**
 * Writes a file through a temporary one in the same folder: written, synced to the disk, renamed.
 *
 * @throws {FileError} where the file cannot be written; the temporary one is then removed and the old version stays.
 */
export async function writeFileAtomic(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID()}${TEMPORARY}`;
  await onDisk(path, "written", async () => {
    try {
      await writeSynced(temporary, bytes);
      await Deno.rename(temporary, path);
    } catch (error) {
      await Deno.remove(temporary).catch(() => {}); // it may never have come to be
      throw error;
    }
  });
}

/** Ending of files that are not yet whole. */
const TEMPORARY = ".tmp";

/** What the system says of a file or folder; undefined where there is none of that name. */
export function statIfThere(path: string): Promise<Deno.FileInfo | undefined> {
  return onDisk(path, "looked at", async () => {
    try {
      return await Deno.stat(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  });
}

/** Names of what lies in a folder. */
export async function namesIn(folder: string): Promise<string[]> {
  const entries = await onDisk(folder, "read", () => Array.fromAsync(Deno.readDir(folder)));
  return entries.map(({ name }) => name);
}

/** Removes the temporary files that a killed process left in a folder. */
export async function removeTemporaryFiles(folder: string): Promise<void> {
  for (const name of await namesIn(folder)) {
    const path = join(folder, name);
    if (name.endsWith(TEMPORARY)) await onDisk(path, "removed", () => Deno.remove(path));
  }
}

/** Name of the file that is locked while a process works in its folder; it stays there. */
const LOCK = ".lock";

/**
 * Keeps other processes out of a folder until the result is disposed of or the process ends, however it ends; undefined
 * where one is in there. Who waits `amongOthers` shares the folder with those that do so too, and waits for all others.
 *
 * @throws {FileError} where the folder cannot be written to, or its file system has no locks.
 */
export function lockFolder(folder: string): Promise<Disposable | undefined>;
export function lockFolder(folder: string, how: "amongOthers"): Promise<Disposable>;
export function lockFolder(folder: string, how?: "amongOthers"): Promise<Disposable | undefined> {
  const path = join(folder, LOCK);
  return onDisk(path, "locked", async () => {
    // Over NFS a lock that is shared asks for a file that can be read.
    const file = await Deno.open(path, { create: true, read: true, write: true });
    try {
      if (how === "amongOthers") await file.lock(false);
      else if (!await file.tryLock(true)) {
        file.close();
        return undefined;
      }
      return file;
    } catch (error) {
      file.close();
      throw error;
    }
  });
}

/**
 * Makes sure, before any work is done, that a file can be written later.
 *
 * @throws {FileError} where its folder is missing or not writable, or `path` is a folder.
 */
export async function expectWritable(path: string): Promise<void> {
  const probe = join(dirname(path), `.${crypto.randomUUID()}${TEMPORARY}`);
  await onDisk(path, "written", async () => {
    await Deno.writeFile(probe, new Uint8Array());
    await Deno.remove(probe);
    const there = await Deno.stat(path).catch(() => undefined);
    if (there?.isDirectory) throw new Deno.errors.IsADirectory();
  });
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let written = 0; written < bytes.length;) written += await file.write(bytes.subarray(written));
  await file.sync();
}

function isSystemError(error: unknown): error is Error {
  return error instanceof Error &&
    ("code" in error || Object.values(Deno.errors).some((kind) => error instanceof kind));
}

function reason(error: Error, done: string): string {
  const writes = done !== "read";
  if (error instanceof Deno.errors.NotFound) return writes ? "its folder does not exist" : "it does not exist";
  if (error instanceof Deno.errors.NotADirectory) return "its folder is a file";
  if (error instanceof Deno.errors.IsADirectory) {
    return writes ? "a folder of that name is in the way" : "it is a folder";
  }
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return writes ? "its folder is not writable" : "it may not be read";
  }
  return error.message;
}

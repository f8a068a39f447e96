/** Files that are either the old version or the new one, whatever happens while they are written. */

import { FileError } from "../gpu/errors.ts";

/**
 * Writes a file through a temporary one in the same folder: written, synced to the disk, renamed.
 *
 * @throws {FileError} where the file cannot be written; the temporary one is then removed and the old version stays.
 */
export async function writeFileAtomic(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID()}.tmp`;
  try {
    await writeSynced(temporary, bytes);
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {}); // it may never have come to be
    throw new FileError(`The file ${path} could not be written: ${reason(error)}.`, { cause: error });
  }
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let written = 0; written < bytes.length;) written += await file.write(bytes.subarray(written));
  await file.sync();
}

function reason(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "its folder does not exist";
  if (error instanceof Deno.errors.NotADirectory) return "its folder is a file";
  if (error instanceof Deno.errors.IsADirectory) return "a folder of that name is in the way";
  if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) {
    return "its folder is not writable";
  }
  return (error as Error).message;
}

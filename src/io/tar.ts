/** Archives of tar, read from their beginning to their end. */

import { FileError } from "../gpu/errors.ts";
import { ByteReader, type ByteStream } from "./bytes.ts";

/** A file within an archive, to be read while it is the current one. */
export interface TarEntry {
  /** Its path in the archive. */
  readonly path: string;
  /** Length in bytes. */
  readonly size: number;
  /** Fills `target` with its next bytes; no more than `size` in all may be asked for. */
  read(target: Uint8Array): Promise<void>;
}

/** Headers and contents fill whole blocks of so many bytes. */
const BLOCK = 512;
/** Where a header's fields lie. */
const NAME = [0, 100] as const, SIZE = [124, 136] as const, CHECKSUM = [148, 156] as const, TYPE = 156;
const MAGIC = [257, 262] as const, PREFIX = [345, 500] as const;

/** True for a block that has the checksum of an archive's header. */
export function isTarHeader(block: Uint8Array): boolean {
  return block.length >= BLOCK && block[0] !== 0 && octal(block, CHECKSUM) === checksum(block);
}

/**
 * The plain files of a tar archive (ustar, or older) in order; folders, links and extended headers are passed over.
 *
 * @param name stands for the archive in errors.
 * @throws {FileError} where a header is damaged, or the archive ends before the blocks of zeros that mark its end.
 */
export async function* tarEntries(stream: ByteStream, name: string): AsyncGenerator<TarEntry> {
  const reader = new ByteReader(stream, name);
  try {
    const header = new Uint8Array(BLOCK);
    for (;;) {
      await reader.expect(header);
      if (header.every((byte) => byte === 0)) break;
      const { path, size, isFile } = parseHeader(header, name);
      let left = size;
      const read = async (target: Uint8Array) => {
        await reader.expect(target);
        left -= target.length;
      };
      if (isFile) yield { path, size, read };
      const rest = left + (BLOCK - size % BLOCK) % BLOCK;
      if (await reader.skip(rest) < rest) throw new FileError(`${name} is cut off within its entry "${path}".`);
    }
    await reader.skip(Infinity); // a compressed stream's checksum is at its end
  } finally {
    await reader.close();
  }
}

function parseHeader(header: Uint8Array, name: string): { path: string; size: number; isFile: boolean } {
  if (!isTarHeader(header)) {
    throw new FileError(`${name} is a damaged tar archive: a header in it does not have its checksum.`);
  }
  const prefix = text(header, MAGIC) === "ustar" ? text(header, PREFIX) : "";
  const path = prefix ? `${prefix}/${text(header, NAME)}` : text(header, NAME);
  const size = octal(header, SIZE);
  if (size === undefined) throw new FileError(`${name} has no readable size for its entry "${path}".`);
  const type = header[TYPE]!;
  return { path, size, isFile: type === 0 || type === "0".charCodeAt(0) };
}

/** The sum of a header's bytes, those of the sum itself taken as spaces. */
function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) sum += i >= CHECKSUM[0] && i < CHECKSUM[1] ? 32 : header[i]!;
  return sum;
}

/** A field up to its first zero. */
function text(header: Uint8Array, [from, to]: readonly [number, number]): string {
  const field = header.subarray(from, to);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

/** A field's number. */
function octal(header: Uint8Array, place: readonly [number, number]): number | undefined {
  const digits = text(header, place).trim();
  return /^[0-7]+$/.test(digits) ? parseInt(digits, 8) : undefined;
}

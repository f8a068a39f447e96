/** ZIP archives, in memory or on the disk: one entry at a time is read, and checked by its CRC-32. */

import { FileError } from "../gpu/errors.ts";
import { type ByteFile, type ByteReader, type ByteStream, reading, streamOf, viewOf } from "./bytes.ts";
import { MAX_EXPANSION } from "./compression.ts";
import { crc32 } from "./crc32.ts";

/** A file within an archive. */
export interface ZipEntry {
  /** Its path in the archive. */
  readonly path: string;
  /** Length in bytes of its path. */
  readonly pathBytes: number;
  /** 0: stored; 8: deflated. */
  readonly method: number;
  /** Length in bytes. */
  readonly size: number;
  /** Length in bytes as it lies in the archive. */
  readonly compressedSize: number;
  /** Its CRC-32. */
  readonly crc: number;
  /** Where its local header lies. */
  readonly offset: number;
}

const STORED = 0, DEFLATED = 8;
/** What an archive of n bytes may inflate to where all of it is read into memory: 64 MiB + 16 n. */
const INFLATED_BASE = 1 << 26, INFLATED_RATIO = 16;
const LOCAL = { signature: 0x04034b50, bytes: 30 };
const CENTRAL = { signature: 0x02014b50, bytes: 46 };
const END = { signature: 0x06054b50, bytes: 22, maxComment: 0xffff };
const LOCATOR64 = { signature: 0x07064b50, bytes: 20 };
const END64 = { signature: 0x06064b50, bytes: 56 };
/** Identifies the extra field that holds what does not fit 32 bits. */
const EXTRA64 = 1;

/** True for bytes that begin as a ZIP archive does: with an entry or, where there is none, with its end. */
export function isZip(bytes: Uint8Array): boolean {
  if (bytes.length < 4) return false;
  const signature = viewOf(bytes).getUint32(0, true);
  return signature === LOCAL.signature || signature === END.signature;
}

/**
 * The files of a ZIP archive (ZIP64 as well) by path, in the archive's order; folders are left out.
 *
 * @throws {FileError} where the archive is damaged or cut off, or an entry is encrypted or neither stored nor deflated.
 */
export async function listZip(file: ByteFile): Promise<Map<string, ZipEntry>> {
  const { count, start, size } = await findDirectory(file);
  const bytes = await file.read(start, size);
  const view = viewOf(bytes);
  const unlisted = () => damaged(file, `its directory does not list its ${count} entries`);
  const decoder = new TextDecoder();
  const entries = new Map<string, ZipEntry>();
  let at = 0, compressed = 0;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL.bytes > size || view.getUint32(at, true) !== CENTRAL.signature) throw unlisted();
    const nameEnd = at + CENTRAL.bytes + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    if (extraEnd > size) throw unlisted();
    const path = decoder.decode(bytes.subarray(at + CENTRAL.bytes, nameEnd));
    const [entrySize, compressedSize, offset] = wide(
      [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)],
      viewOf(bytes.subarray(nameEnd, extraEnd)),
    );
    const entry = {
      path,
      pathBytes: nameEnd - at - CENTRAL.bytes,
      method: view.getUint16(at + 10, true),
      size: entrySize,
      compressedSize,
      crc: view.getUint32(at + 16, true),
      offset,
    };
    checkEntry(file, entry, (view.getUint16(at + 8, true) & 1) === 1);
    if (entries.has(path)) throw damaged(file, `it holds "${path}" twice`);
    if (!path.endsWith("/")) entries.set(path, entry);
    compressed += compressedSize;
    at = extraEnd + view.getUint16(at + 32, true);
  }
  if (at !== size) throw unlisted();
  if (compressed > file.size) throw damaged(file, `its entries have ${compressed} bytes, more than it has itself`);
  return entries;
}

/**
 * Bytes of all entries together, for those who hold them all in memory.
 *
 * @throws {FileError} where they are far more than the archive's.
 */
export function inflatedSize(file: ByteFile, entries: ReadonlyMap<string, ZipEntry>): number {
  let size = 0;
  for (const entry of entries.values()) size += entry.size;
  const limit = INFLATED_BASE + INFLATED_RATIO * file.size;
  if (size > limit) throw new FileError(`${file.path} would inflate to ${size} bytes; at most ${limit} are read.`);
  return size;
}

/**
 * The bytes of an entry, whose size and checksum are verified as the last of them is read.
 *
 * @throws {FileError} where the entry's header is not where it should be; the stream fails with one where its bytes are
 * not those that were put in.
 */
export async function streamZipEntry(file: ByteFile, entry: ZipEntry): Promise<ByteStream> {
  const start = await contentStart(file, entry);
  const { path, size } = entry;
  const stored = streamOf(file, start, start + entry.compressedSize);
  const content = entry.method === STORED ? stored : stored.pipeThrough(new DecompressionStream("deflate-raw"));
  let length = 0, crc = 0;
  return content.pipeThrough(
    new TransformStream({
      transform(piece, controller) {
        length += piece.length;
        crc = crc32(piece, crc);
        if (length > size) throw damaged(file, `entry "${path}" has more than its ${size} bytes`);
        controller.enqueue(piece);
      },
      flush() {
        if (length < size) throw damaged(file, `entry "${path}" has ${length} bytes; expected ${size}`);
        if (crc !== entry.crc) throw wrongChecksum(file, entry);
      },
    }),
  );
}

/**
 * All bytes of an entry: a view of the archive where they are stored in memory.
 *
 * @throws {FileError} where they are not those that were put in.
 */
export async function readZipEntry(file: ByteFile, entry: ZipEntry): Promise<Uint8Array<ArrayBuffer>> {
  if (entry.method === STORED) {
    const bytes = await file.read(await contentStart(file, entry), entry.size);
    if (crc32(bytes) !== entry.crc) throw wrongChecksum(file, entry);
    return bytes;
  }
  const name = `${file.path}: entry "${entry.path}"`;
  return await reading(await streamZipEntry(file, entry), name, (reader) => readInflated(reader, entry));
}

/** The directory may lie: memory beyond {@linkcode INFLATED_RATIO} times the entry is taken as bytes come to fill it. */
async function readInflated(
  reader: ByteReader,
  { size, compressedSize }: ZipEntry,
): Promise<Uint8Array<ArrayBuffer>> {
  let bytes = new Uint8Array(Math.min(size, INFLATED_RATIO * compressedSize));
  await reader.expect(bytes);
  while (bytes.length < size) {
    const grown = new Uint8Array(Math.min(size, 2 * bytes.length));
    grown.set(bytes);
    await reader.expect(grown.subarray(bytes.length));
    bytes = grown;
  }
  await reader.expectEnd();
  return bytes;
}

/** Where the directory lies, and how many entries it has. */
interface Directory {
  readonly count: number;
  readonly start: number;
  readonly size: number;
}

async function findDirectory(file: ByteFile): Promise<Directory> {
  const tailStart = Math.max(0, file.size - END.bytes - END.maxComment);
  const tail = await file.read(tailStart, file.size - tailStart);
  const view = viewOf(tail);
  const last = tail.length - END.bytes;
  let end = last;
  // Only a comment follows, whose length is known: what looks like the record within the comment is not it.
  while (end >= 0 && (view.getUint32(end, true) !== END.signature || end + view.getUint16(end + 20, true) !== last)) {
    end--;
  }
  if (end < 0) throw damaged(file, "it has no directory at its end, so it may be cut off");
  const directory = {
    count: view.getUint16(end + 10, true),
    size: view.getUint32(end + 12, true),
    start: view.getUint32(end + 16, true),
  };
  const locator = end - LOCATOR64.bytes;
  const isWide = locator >= 0 && view.getUint32(locator, true) === LOCATOR64.signature;
  const found = isWide ? await readEnd64(file, Number(view.getBigUint64(locator + 8, true))) : directory;
  if (found.start + found.size > tailStart + end) throw misplaced(file);
  return found;
}

async function readEnd64(file: ByteFile, at: number): Promise<Directory> {
  if (at + END64.bytes > file.size) throw misplaced(file);
  const view = viewOf(await file.read(at, END64.bytes));
  if (view.getUint32(0, true) !== END64.signature) throw misplaced(file);
  const [count, size, start] = [32, 40, 48].map((place) => Number(view.getBigUint64(place, true)));
  return { count: count!, size: size!, start: start! };
}

/** Numbers of which those with all 32 bits set stand in the extra field, in the same order. */
function wide(numbers: [number, number, number], extra: DataView): [number, number, number] {
  const values = [...numbers] as [number, number, number];
  for (let at = 0; at + 4 <= extra.byteLength; at += 4 + extra.getUint16(at + 2, true)) {
    if (extra.getUint16(at, true) !== EXTRA64) continue;
    let place = at + 4;
    values.forEach((value, i) => {
      if (value !== 0xffffffff || place + 8 > extra.byteLength) return;
      values[i] = Number(extra.getBigUint64(place, true));
      place += 8;
    });
    break;
  }
  return values;
}

function checkEntry(
  file: ByteFile,
  { path, pathBytes, method, size, compressedSize, offset }: ZipEntry,
  encrypted: boolean,
): void {
  const what = `${file.path}: entry "${path}"`;
  if (encrypted) throw new FileError(`${what} is encrypted; expected a plain one.`);
  if (method !== STORED && method !== DEFLATED) {
    throw new FileError(`${what} is compressed by method ${method}; expected it stored (0) or deflated (8).`);
  }
  const fits = method === STORED ? size === compressedSize : size <= MAX_EXPANSION * compressedSize;
  if (!fits) throw damaged(file, `entry "${path}" cannot have ${size} bytes, compressed to ${compressedSize}`);
  if (offset + LOCAL.bytes + pathBytes + compressedSize > file.size) {
    throw damaged(file, `entry "${path}" ends after the archive`);
  }
}

/** Where an entry's bytes begin: after its own header, which must name it as the directory does. */
async function contentStart(
  file: ByteFile,
  { path, pathBytes, offset, compressedSize }: ZipEntry,
): Promise<number> {
  const bytes = await file.read(offset, LOCAL.bytes + pathBytes);
  const header = viewOf(bytes);
  const start = offset + LOCAL.bytes + header.getUint16(26, true) + header.getUint16(28, true);
  const isThis = header.getUint32(0, true) === LOCAL.signature && header.getUint16(26, true) === pathBytes &&
    new TextDecoder().decode(bytes.subarray(LOCAL.bytes)) === path;
  if (!isThis) throw damaged(file, `entry "${path}" does not begin where the directory says`);
  if (start + compressedSize > file.size) throw damaged(file, `entry "${path}" ends after the archive`);
  return start;
}

function damaged(file: ByteFile, why: string): FileError {
  return new FileError(`${file.path} is a damaged ZIP archive: ${why}.`);
}

function misplaced(file: ByteFile): FileError {
  return damaged(file, "its directory is not where it should be");
}

function wrongChecksum(file: ByteFile, { path }: ZipEntry): FileError {
  return damaged(file, `entry "${path}" does not have its checksum`);
}

/** ZIP archives that stay in their file: one entry at a time is read into memory. */

import { FileError } from "../gpu/errors.ts";
import { type ByteFile, type ByteStream, reading, streamOf } from "./bytes.ts";
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
/** Deflate makes no more bytes of one than this. */
const MAX_EXPANSION = 1032;
const LOCAL = { signature: 0x04034b50, bytes: 30 };
const CENTRAL = { signature: 0x02014b50, bytes: 46 };
const END = { signature: 0x06054b50, bytes: 22, maxComment: 0xffff };
const LOCATOR64 = { signature: 0x07064b50, bytes: 20 };
const END64 = { signature: 0x06064b50, bytes: 56 };
/** Identifies the extra field that holds what does not fit 32 bits. */
const EXTRA64 = 1;

/**
 * The files of a ZIP archive (ZIP64 as well) by path, in the archive's order; folders are left out.
 *
 * @throws {FileError} where the archive is damaged or cut off, or an entry is encrypted or neither stored nor deflated.
 */
export async function listZip(file: ByteFile): Promise<Map<string, ZipEntry>> {
  const { count, start, size } = await findDirectory(file);
  if (start + size > file.size) throw damaged(file, "its directory is not where it should be");
  const bytes = await file.read(start, size);
  const view = viewOf(bytes);
  const decoder = new TextDecoder();
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL.bytes > size || view.getUint32(at, true) !== CENTRAL.signature) {
      throw damaged(file, `its directory does not list its ${count} entries`);
    }
    const nameEnd = at + CENTRAL.bytes + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    if (extraEnd > size) throw damaged(file, `its directory does not list its ${count} entries`);
    const path = decoder.decode(bytes.subarray(at + CENTRAL.bytes, nameEnd));
    const [entrySize, compressedSize, offset] = wide(
      [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)],
      new DataView(bytes.buffer, bytes.byteOffset + nameEnd, extraEnd - nameEnd),
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
    at = extraEnd + view.getUint16(at + 32, true);
  }
  if (at !== size) throw damaged(file, `its directory does not list its ${count} entries`);
  return entries;
}

/**
 * The bytes of an entry, whose size and checksum are verified as the last of them is read.
 *
 * @throws {FileError} where the entry's header is not where it should be; the stream fails with one where its bytes are
 * not those that were put in.
 */
export async function streamZipEntry(file: ByteFile, entry: ZipEntry): Promise<ByteStream> {
  const start = await contentStart(file, entry);
  const stored = streamOf(file, start, start + entry.compressedSize);
  const content = entry.method === STORED ? stored : stored.pipeThrough(new DecompressionStream("deflate-raw"));
  let length = 0, crc = 0;
  return content.pipeThrough(
    new TransformStream({
      transform(piece, controller) {
        length += piece.length;
        crc = crc32(piece, crc);
        if (length > entry.size) throw wrongContent(file, entry);
        controller.enqueue(piece);
      },
      flush() {
        if (length !== entry.size || crc !== entry.crc) throw wrongContent(file, entry);
      },
    }),
  );
}

/** All bytes of an entry; throws a {@linkcode FileError} where they are not those that were put in. */
export async function readZipEntry(file: ByteFile, entry: ZipEntry): Promise<Uint8Array<ArrayBuffer>> {
  if (entry.method === STORED) {
    const bytes = await file.read(await contentStart(file, entry), entry.size);
    if (crc32(bytes) !== entry.crc) throw wrongContent(file, entry);
    return bytes;
  }
  return await reading(await streamZipEntry(file, entry), `${file.path}: entry "${entry.path}"`, async (reader) => {
    const bytes = new Uint8Array(entry.size);
    await reader.expect(bytes);
    await reader.expectEnd();
    return bytes;
  });
}

/** Where the directory lies, and how many entries it has. */
async function findDirectory(file: ByteFile): Promise<{ count: number; start: number; size: number }> {
  const tailStart = Math.max(0, file.size - END.bytes - END.maxComment);
  const tail = await file.read(tailStart, file.size - tailStart);
  const view = viewOf(tail);
  let end = tail.length - END.bytes;
  while (end >= 0 && view.getUint32(end, true) !== END.signature) end--;
  if (end < 0) throw damaged(file, "it has no directory at its end, so it may be cut off");
  const directory = {
    count: view.getUint16(end + 10, true),
    size: view.getUint32(end + 12, true),
    start: view.getUint32(end + 16, true),
  };
  const locator = end - LOCATOR64.bytes;
  if (locator < 0 || view.getUint32(locator, true) !== LOCATOR64.signature) return directory;
  const at = Number(view.getBigUint64(locator + 8, true));
  if (at + END64.bytes > file.size) throw damaged(file, "its directory is not where it should be");
  const end64 = viewOf(await file.read(at, END64.bytes));
  if (end64.getUint32(0, true) !== END64.signature) throw damaged(file, "its directory is not where it should be");
  const [count, size, start] = [32, 40, 48].map((place) => Number(end64.getBigUint64(place, true)));
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
  if (!fits || offset + LOCAL.bytes + pathBytes + compressedSize > file.size) {
    throw damaged(file, `entry "${path}" cannot have the size the directory gives`);
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
  if (!isThis || start + compressedSize > file.size) {
    throw damaged(file, `entry "${path}" is not where it should be`);
  }
  return start;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function damaged(file: ByteFile, why: string): FileError {
  return new FileError(`${file.path} is a damaged ZIP archive: ${why}.`);
}

function wrongContent(file: ByteFile, { path }: ZipEntry): FileError {
  return new FileError(`${file.path} is damaged: entry "${path}" does not have its size and checksum.`);
}

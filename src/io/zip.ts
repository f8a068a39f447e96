/** ZIP archives, read by their directory: stored and deflated entries, each checked by its CRC-32. */

import { FileError } from "../gpu/errors.ts";
import { crc32 } from "./crc32.ts";

/** An archive's entries, which are fetched by name. */
export interface ZipArchive {
  /** The entries' paths. */
  readonly names: readonly string[];
  /** Bytes of all entries once inflated, no more than a small multiple of the archive. */
  readonly size: number;
  /**
   * The content of an entry: a view of the archive where it is stored as it is.
   *
   * @throws {FileError} where there is no such entry, or it is damaged.
   */
  read(name: string): Promise<Uint8Array>;
}

interface Entry {
  readonly name: string;
  readonly method: number;
  readonly crc: number;
  readonly packed: number;
  readonly size: number;
  readonly headerAt: number;
}

const END_BYTES = 22;
const ENTRY_BYTES = 46;
const LOCAL_BYTES = 30;
const STORED = 0;
const DEFLATED = 8;
/** No deflate stream grows to more than this many times its size. */
const MAX_DEFLATE_RATIO = 1032;
/** What an archive of n bytes may inflate to: 64 MiB + 16 n. Weights hardly compress. */
const INFLATED_BASE = 1 << 26;
const INFLATED_RATIO = 16;
/** Deno's stream inflates a whole chunk at once: small chunks bound what a false size can make it allocate. */
const CHUNK_BYTES = 1 << 14;

/** Whether `bytes` begin as a ZIP archive does. */
export function isZip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x50 && bytes[1] === 0x4b &&
    (bytes[2] === 3 && bytes[3] === 4 || bytes[2] === 5 && bytes[3] === 6);
}

/**
 * Reads the directory of a ZIP archive of less than 4 GiB.
 *
 * @param fileName names the archive in errors.
 * @throws {FileError} where the directory is damaged, or the entries would take far more memory than the archive.
 */
export function openZip(bytes: Uint8Array, fileName: string): ZipArchive {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const entries = new Map<string, Entry>();
  let packed = 0, size = 0;
  for (const entry of readDirectory(view, fileName)) {
    if (entries.has(entry.name)) throw new FileError(`${fileName} holds two entries named "${entry.name}".`);
    entries.set(entry.name, entry);
    packed += entry.packed;
    size += entry.size;
  }
  if (packed > bytes.length) {
    throw new FileError(
      `${fileName} is damaged: its entries have ${packed} bytes, more than the ${bytes.length} it has.`,
    );
  }
  const limit = INFLATED_BASE + INFLATED_RATIO * bytes.length;
  if (size > limit) throw new FileError(`${fileName} would inflate to ${size} bytes; at most ${limit} are read.`);
  const read = async (name: string) => {
    const entry = entries.get(name);
    if (!entry) {
      throw new FileError(`${fileName} has no entry "${name}"; it may be cut off or made by another program.`);
    }
    return await readEntry(view, entry, fileName);
  };
  return { names: [...entries.keys()], size, read };
}

function* readDirectory(view: DataView, fileName: string): Generator<Entry> {
  const end = findEnd(view);
  if (end === undefined) throw new FileError(`${fileName} is no ZIP archive or is cut off: it has no directory.`);
  const count = view.getUint16(end + 10, true);
  const size = view.getUint32(end + 12, true);
  let at = view.getUint32(end + 16, true);
  if (at === 0xffffffff || count === 0xffff) throw new FileError(`${fileName} is a ZIP64 archive, which is not read.`);
  const directoryEnd = at + size;
  for (let i = 0; i < count; i++) {
    if (at + ENTRY_BYTES > Math.min(directoryEnd, end) || view.getUint32(at, true) !== 0x02014b50) {
      throw new FileError(`${fileName} is damaged: its ZIP directory does not list its ${count} entries.`);
    }
    const nameBytes = view.getUint16(at + 28, true);
    const next = at + ENTRY_BYTES + nameBytes + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    if (next > end) throw new FileError(`${fileName} is damaged: its ZIP directory runs past its end.`);
    yield readDirectoryEntry(view, at, nameBytes, fileName);
    at = next;
  }
  if (at !== directoryEnd) {
    throw new FileError(`${fileName} is damaged: its ZIP directory lists more than its ${count} entries.`);
  }
}

/** Where the record that ends an archive begins: only a comment of at most 64 KiB follows it. */
function findEnd(view: DataView): number | undefined {
  const last = view.byteLength - END_BYTES;
  for (let at = last; at >= Math.max(0, last - 0xffff); at--) {
    if (view.getUint32(at, true) === 0x06054b50 && at + view.getUint16(at + 20, true) === last) return at;
  }
  return undefined;
}

function readDirectoryEntry(view: DataView, at: number, nameBytes: number, fileName: string): Entry {
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + at + ENTRY_BYTES, nameBytes));
  const fail = (problem: string) => new FileError(`${fileName}: entry "${name}" ${problem}.`);
  const method = view.getUint16(at + 10, true);
  const packed = view.getUint32(at + 20, true);
  const size = view.getUint32(at + 24, true);
  if (view.getUint16(at + 8, true) & 1) throw fail("is encrypted");
  if (method !== STORED && method !== DEFLATED) {
    throw fail(`is packed by method ${method}; expected stored or deflated`);
  }
  const possible = method === STORED ? size === packed : size <= MAX_DEFLATE_RATIO * packed;
  if (!possible) throw fail(`cannot have ${size} bytes, packed in ${packed}`);
  return { name, method, packed, size, crc: view.getUint32(at + 16, true), headerAt: view.getUint32(at + 42, true) };
}

async function readEntry(view: DataView, entry: Entry, fileName: string): Promise<Uint8Array> {
  const { name, method, crc, packed, size, headerAt } = entry;
  const fail = (problem: string) => new FileError(`${fileName} is damaged: entry "${name}" ${problem}.`);
  if (headerAt + LOCAL_BYTES > view.byteLength || view.getUint32(headerAt, true) !== 0x04034b50) {
    throw fail("does not begin where the directory says");
  }
  const start = headerAt + LOCAL_BYTES + view.getUint16(headerAt + 26, true) + view.getUint16(headerAt + 28, true);
  if (start + packed > view.byteLength) throw fail("ends after the archive");
  const content = new Uint8Array(view.buffer, view.byteOffset + start, packed);
  const bytes = method === STORED ? content : await inflated(content, size, fail);
  if (crc32(bytes) !== crc) throw fail("does not have its checksum");
  return bytes;
}

async function inflated(packed: Uint8Array, size: number, fail: (problem: string) => FileError): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  let filled = 0;
  try {
    for await (const chunk of inflate(packed)) {
      if (filled + chunk.length > size) throw fail(`inflates to more than the ${size} bytes that the directory states`);
      bytes.set(chunk, filled);
      filled += chunk.length;
    }
  } catch (error) {
    if (error instanceof FileError) throw error;
    throw fail("is no deflate stream");
  }
  if (filled < size) throw fail(`inflates to ${filled} bytes; expected ${size}`);
  return bytes;
}

function inflate(packed: Uint8Array): ReadableStream<Uint8Array> {
  let at = 0;
  const source = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull: (controller) => {
      if (at >= packed.length) return controller.close();
      controller.enqueue(packed.slice(at, at += CHUNK_BYTES));
    },
  });
  return source.pipeThrough(new DecompressionStream("deflate-raw"));
}

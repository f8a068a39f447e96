/** Bytes that come in pieces: files read from any place, and streams read in chosen lengths. */

import { FileError } from "../gpu/errors.ts";

/** Bytes in the pieces they come in. */
export type ByteStream = ReadableStream<Uint8Array<ArrayBuffer>>;

/** A file that can be read from any place, as often as needed. */
export interface ByteFile {
  /** Names it in errors. */
  readonly path: string;
  /** Length in bytes. */
  readonly size: number;
  /** The `length` bytes from `start` on, which lie within the file. */
  read(start: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A view of `bytes`, to read numbers of several bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** A file in memory. */
export function memoryFile(path: string, bytes: Uint8Array<ArrayBuffer>): ByteFile {
  const read = (start: number, length: number) => Promise.resolve(bytes.subarray(start, start + length));
  return { path, size: bytes.length, read };
}

/** Bytes of a file that a stream of it holds at once; a decompressor makes up to 1,032 times as many at once. */
const BLOCK = 1 << 16;

/** The bytes of a file from `start` to `end`. */
export function streamOf(file: ByteFile, start = 0, end = file.size): ByteStream {
  let at = start;
  return new ReadableStream({
    async pull(controller) {
      const length = Math.min(BLOCK, end - at);
      if (length > 0) controller.enqueue(await file.read(at, length));
      else controller.close();
      at += length;
    },
  }, { highWaterMark: 0 });
}

/** Reads a stream from its beginning to its end; the stream must be closed or read to its end. */
export class ByteReader {
  private readonly source: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  private piece = new Uint8Array();

  /** Reads `stream`; `name` stands for it in errors. */
  constructor(stream: ByteStream, readonly name: string) {
    this.source = stream.getReader();
  }

  /**
   * Fills `target`, or as much of it as there are bytes left, and returns how many that were.
   *
   * @throws {FileError} where the stream fails, as that of a damaged compressed file does.
   */
  async fill(target: Uint8Array): Promise<number> {
    let filled = 0;
    while (filled < target.length && await this.hasMore()) {
      const part = this.piece.subarray(0, target.length - filled);
      target.set(part, filled);
      this.advance(part.length);
      filled += part.length;
    }
    return filled;
  }

  /** Passes over `length` bytes, or as many as there are left, and returns how many that were; throws as `fill`. */
  async skip(length: number): Promise<number> {
    let skipped = 0;
    while (skipped < length && await this.hasMore()) {
      const part = Math.min(this.piece.length, length - skipped);
      this.advance(part);
      skipped += part;
    }
    return skipped;
  }

  /** Fills the whole `target`; throws as `fill`, and where the bytes end before. */
  async expect(target: Uint8Array): Promise<void> {
    const filled = await this.fill(target);
    if (filled < target.length) {
      throw new FileError(`${this.name} is cut off: ${target.length - filled} bytes or more are missing at its end.`);
    }
  }

  /** Throws a {@linkcode FileError} unless all bytes were read. */
  async expectEnd(): Promise<void> {
    if (await this.hasMore()) throw new FileError(`${this.name} goes on after what should be its end.`);
  }

  /** Ends the reading, wherever it is. */
  async close(): Promise<void> {
    await this.source.cancel().catch(() => {}); // a stream that failed fails here again, and was reported before
  }

  private advance(length: number): void {
    this.piece = this.piece.subarray(length);
  }

  private async hasMore(): Promise<boolean> {
    while (this.piece.length === 0) {
      const { value, done } = await this.next();
      if (done) return false;
      this.piece = value;
    }
    return true;
  }

  private async next(): Promise<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>> {
    try {
      return await this.source.read();
    } catch (error) {
      if (error instanceof FileError) throw error;
      throw new FileError(`${this.name} is damaged or cut off: ${(error as Error).message}.`, { cause: error });
    }
  }
}

/** Reads with a stream's reader and closes it, whatever happens. */
export async function reading<T>(
  stream: ByteStream,
  name: string,
  action: (reader: ByteReader) => Promise<T>,
): Promise<T> {
  const reader = new ByteReader(stream, name);
  try {
    return await action(reader);
  } finally {
    await reader.close();
  }
}

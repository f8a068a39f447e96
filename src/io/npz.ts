/** NumPy's npz format: a ZIP archive of named arrays. */

import { zipSync } from "fflate";
import { FileError, UsageError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { memoryFile, viewOf } from "./bytes.ts";
import { latin1Bytes, latin1Text } from "./latin1.ts";
import { inflatedSize, listZip, readZipEntry } from "./zip.ts";

/** The values of an array in host memory, by NumPy's type code without the byte order. */
export interface NpyArrays {
  /** uint8. */
  u1: Uint8Array<ArrayBuffer>;
  /** float32. */
  f4: Float32Array<ArrayBuffer>;
  /** float64. */
  f8: Float64Array<ArrayBuffer>;
  /** int32. */
  i4: Int32Array<ArrayBuffer>;
  /** int64. */
  i8: BigInt64Array<ArrayBuffer>;
}

/** An array of one type: `data` holds the product of `shape` values, the last axis fastest. */
export interface TypedNpyArray<T extends keyof NpyArrays> {
  /** NumPy's type code. */
  readonly dtype: T;
  /** Extents; empty for a single number. */
  readonly shape: readonly number[];
  /** The values. */
  readonly data: NpyArrays[T];
}

/** An array of any type that can be read and written. */
export type NpyArray = { [T in keyof NpyArrays]: TypedNpyArray<T> }[keyof NpyArrays];

const DESCRIPTORS: Readonly<Record<string, keyof NpyArrays>> = {
  "|u1": "u1",
  "<f4": "f4",
  "<f8": "f8",
  "<i4": "i4",
  "<i8": "i8",
};
const MAGIC = "\x93NUMPY";
/** The earliest date ZIP knows: a fixed one, so that the same arrays give the same bytes. */
const ZIP_EPOCH = new Date(1980, 0, 1);

/**
 * Writes arrays as an npz file that `numpy.load` reads; the same arrays give the same bytes.
 *
 * @throws {UsageError} where an array's data does not fit its shape.
 */
export function encodeNpz(arrays: Readonly<Record<string, NpyArray>>): Uint8Array<ArrayBuffer> {
  const files: Record<string, Uint8Array> = {};
  for (const [name, array] of Object.entries(arrays)) files[`${name}.npy`] = encodeNpy(name, array);
  return zipSync(files, { mtime: ZIP_EPOCH });
}

/**
 * Reads the arrays of an npz file: .npy versions 1 to 3, C order, little-endian f4, f8, i4, i8, and u1.
 *
 * @param fileName names the file in errors.
 * @throws {FileError} where the archive or an array is damaged or of another kind.
 */
export async function decodeNpz(
  bytes: Uint8Array<ArrayBuffer>,
  fileName: string,
): Promise<Record<string, NpyArray>> {
  const file = memoryFile(fileName, bytes);
  const entries = await listZip(file);
  inflatedSize(file, entries);
  const arrays: [string, NpyArray][] = [];
  for (const [path, entry] of entries) {
    const content = await readZipEntry(file, entry);
    const name = path.replace(/\.npy$/, "");
    arrays.push([name, decodeNpy(content, `${fileName}: array "${name}"`)]);
  }
  return Object.fromEntries(arrays);
}

function encodeNpy(name: string, { dtype, shape, data }: NpyArray): Uint8Array {
  if (data.length !== elementCount(shape)) {
    throw new UsageError(
      `Array "${name}" has ${data.length} values, which do not fit its shape ${shapeText(shape)}.`,
    );
  }
  const descriptor = dtype === "u1" ? "|u1" : `<${dtype}`;
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const dictionary = `{'descr': '${descriptor}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const prefix = MAGIC.length + 4;
  const headerLength = Math.ceil((prefix + dictionary.length + 1) / 64) * 64 - prefix;
  const bytes = new Uint8Array(prefix + headerLength + data.byteLength);
  const text = `${MAGIC}\x01\x00\0\0${dictionary.padEnd(headerLength - 1)}\n`;
  bytes.set(latin1Bytes(text));
  new DataView(bytes.buffer).setUint16(prefix - 2, headerLength, true);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), prefix + headerLength);
  return bytes;
}

/**
 * Reads a whole .npy file.
 *
 * @param what names the file and the array at the head of an error's sentence.
 * @throws {FileError} as {@linkcode parseNpyHeader} does.
 */
export function decodeNpy(bytes: Uint8Array, what: string): NpyArray {
  const { dtype, shape, dataStart } = parseNpyHeader(bytes, what, bytes.length);
  return arrayOf(dtype, [...shape], bytes.slice(dataStart).buffer);
}

/** What stands before the data of a .npy file. */
export interface NpyHeader {
  /** NumPy's type code. */
  readonly dtype: keyof NpyArrays;
  /** Extents; empty for a single number. */
  readonly shape: readonly number[];
  /** Where the data begin. */
  readonly dataStart: number;
}

/** Bytes within which a header of version 1 ends, and any that NumPy writes. */
export const NPY_HEADER_BYTES: number = 10 + 0xffff;

/**
 * Reads the header of a .npy file of `size` bytes, of which `bytes` are the first ones or all.
 *
 * @param what names the file and the array at the head of an error's sentence.
 * @throws {FileError} where it is damaged, of another kind than {@linkcode decodeNpz} reads, or does not fit the size.
 */
export function parseNpyHeader(bytes: Uint8Array, what: string, size: number): NpyHeader {
  const { dictionary, dataStart } = readNpyHeader(bytes, what);
  const field = (key: string, pattern: string, expected: string) => {
    const value = new RegExp(`'${key}'\\s*:\\s*${pattern}`).exec(dictionary)?.[1];
    if (value === undefined) {
      throw new FileError(`${what} has no readable "${key}" in its header; expected ${expected}.`);
    }
    return value;
  };
  const descriptor = field("descr", "'([^']*)'", "a plain type such as '<f4'");
  const dtype = Object.hasOwn(DESCRIPTORS, descriptor) ? DESCRIPTORS[descriptor] : undefined;
  if (!dtype) {
    throw new FileError(`${what} has type "${descriptor}"; expected one of ${Object.keys(DESCRIPTORS).join(", ")}.`);
  }
  if (field("fortran_order", "(True|False)", "True or False") === "True") {
    throw new FileError(`${what} is in Fortran order; expected C order (numpy.ascontiguousarray gives it).`);
  }
  const shape = field("shape", "\\(([\\d\\s,]*)\\)", "a tuple of whole numbers").split(",").filter((n) => n.trim()).map(
    Number,
  );
  const needed = elementCount(shape) * Number(dtype[1]);
  if (size - dataStart !== needed) {
    throw new FileError(
      `${what} has ${size - dataStart} bytes of data; expected ${needed} for ${dtype} of shape ${shapeText(shape)}.`,
    );
  }
  return { dtype, shape, dataStart };
}

function readNpyHeader(bytes: Uint8Array, what: string): { dictionary: string; dataStart: number } {
  if (bytes.length < 12 || latin1Text(bytes.subarray(0, MAGIC.length)) !== MAGIC) {
    throw new FileError(`${what} is not in the .npy format; expected it to begin with "\\x93NUMPY".`);
  }
  const view = viewOf(bytes);
  const version = bytes[6]!;
  if (version < 1 || version > 3) throw new FileError(`${what} has .npy version ${version}; expected 1, 2 or 3.`);
  const start = version === 1 ? 10 : 12;
  const dataStart = start + (version === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  if (dataStart > bytes.length) {
    throw new FileError(`${what} ends inside its header; expected ${dataStart} bytes or more.`);
  }
  return { dictionary: latin1Text(bytes.subarray(start, Math.min(dataStart, start + 4096))), dataStart };
}

function arrayOf(dtype: keyof NpyArrays, shape: number[], buffer: ArrayBuffer): NpyArray {
  switch (dtype) {
    case "u1":
      return { dtype, shape, data: new Uint8Array(buffer) };
    case "f4":
      return { dtype, shape, data: new Float32Array(buffer) };
    case "f8":
      return { dtype, shape, data: new Float64Array(buffer) };
    case "i4":
      return { dtype, shape, data: new Int32Array(buffer) };
    case "i8":
      return { dtype, shape, data: new BigInt64Array(buffer) };
  }
}

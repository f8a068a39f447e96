/** The safetensors format: named tensors with text metadata, written byte for byte the same and read with full checks. */

import { FileError, UsageError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { bfloatToNumber, halfToNumber } from "./floats.ts";
import { sha256 } from "./sha256.ts";

/** The values of a tensor in host memory, by the type's name in safetensors. */
export interface TensorArrays {
  /** 32-bit floats. */
  F32: Float32Array<ArrayBuffer>;
  /** 8-bit unsigned integers. */
  U8: Uint8Array<ArrayBuffer>;
  /** 32-bit unsigned integers. */
  U32: Uint32Array<ArrayBuffer>;
  /** 32-bit signed integers. */
  I32: Int32Array<ArrayBuffer>;
  /** 64-bit signed integers. */
  I64: BigInt64Array<ArrayBuffer>;
}

/** A tensor of one type: `data` holds the product of `shape` values, the last axis fastest. */
export interface TypedTensor<T extends keyof TensorArrays> {
  /** The type's name in safetensors. */
  readonly dtype: T;
  /** Extents; empty for a single number. */
  readonly shape: readonly number[];
  /** The values. */
  readonly data: TensorArrays[T];
}

/** A tensor in a file, of any type that is kept. */
export type StoredTensor = { [T in keyof TensorArrays]: TypedTensor<T> }[keyof TensorArrays];

/** What a safetensors file holds. */
export interface SafetensorsFile {
  /** The texts under `__metadata__`. */
  metadata: Record<string, string>;
  /** The tensors by name, in the order of their data. */
  tensors: Map<string, StoredTensor>;
}

const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  F32: 4,
  U32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  U8: 1,
};
const MAX_HEADER_BYTES = 100_000_000;
const PREFIX_BYTES = 8;
const METADATA = "__metadata__";
/** Metadata key of the SHA-256, in hexadecimal, of the data section. */
const CHECKSUM = "checksum";

/**
 * Writes tensors as a safetensors file. The same content gives the same bytes in whatever order it is given:
 * wider elements come first, which keeps every tensor aligned, and names are sorted among equals.
 *
 * `metadata` gets a `checksum` (SHA-256 of the data section, hexadecimal) that {@linkcode decodeSafetensors} verifies.
 *
 * @throws {UsageError} where a tensor's data does not fit its shape or a name is reserved.
 */
export async function encodeSafetensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const ordered = [...tensors].sort(([a, s], [b, t]) =>
    t.data.BYTES_PER_ELEMENT - s.data.BYTES_PER_ELEMENT || (a < b ? -1 : 1)
  );
  const entries: [string, unknown][] = [];
  let length = 0;
  for (const [name, { dtype, shape, data }] of ordered) {
    if (name === METADATA) {
      throw new UsageError(`A tensor cannot be named "${METADATA}": the format reserves that name.`);
    }
    if (!isCounts(shape) || elementCount(shape) !== data.length) {
      throw new UsageError(
        `Tensor "${name}" has ${data.length} values, which do not fit its shape ${shapeText(shape)}.`,
      );
    }
    entries.push([name, { dtype, shape, data_offsets: [length, length + data.byteLength] }]);
    length += data.byteLength;
  }
  const section = new Uint8Array(length);
  let offset = 0;
  for (const [, { data }] of ordered) {
    section.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += data.byteLength;
  }
  const texts = Object.entries({ ...metadata, [CHECKSUM]: await sha256(section) }).sort(([a], [b]) => a < b ? -1 : 1);
  const json = JSON.stringify(Object.fromEntries([[METADATA, Object.fromEntries(texts)], ...entries]));
  const header = new TextEncoder().encode(json);
  const headerLength = Math.ceil(header.length / 8) * 8;
  const bytes = new Uint8Array(PREFIX_BYTES + headerLength + length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerLength), true);
  bytes.fill(0x20, PREFIX_BYTES, PREFIX_BYTES + headerLength);
  bytes.set(header, PREFIX_BYTES);
  bytes.set(section, PREFIX_BYTES + headerLength);
  return bytes;
}

/**
 * Reads a safetensors file. F16, BF16 and F64 become F32; U8, U32, I32 and I64 are kept.
 *
 * @param fileName names the file in errors.
 * @throws {FileError} where anything in the file is not as the format demands, or the checksum does not fit.
 */
export async function decodeSafetensors(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<SafetensorsFile> {
  const { header, section } = splitFile(bytes, fileName);
  const { [METADATA]: texts = {}, ...described } = header;
  const metadata = readMetadata(texts, fileName);
  const layouts = Object.entries(described).map(([name, value]) => readLayout(name, value, fileName));
  layouts.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkCoverage(layouts, section.length, fileName);
  const expected = metadata[CHECKSUM];
  if (expected !== undefined && expected !== await sha256(section)) {
    throw new FileError(`${fileName} is damaged: the data does not have the checksum that its metadata states.`);
  }
  const tensors = new Map<string, StoredTensor>();
  for (const { name, dtype, shape, begin, end } of layouts) {
    tensors.set(name, tensorOf(dtype, shape, section.slice(begin, end).buffer));
  }
  return { metadata, tensors };
}

/** Where a tensor lies: bytes `begin` to `end` of the data section. */
interface Layout {
  name: string;
  dtype: string;
  shape: number[];
  begin: number;
  end: number;
}

function splitFile(bytes: Uint8Array<ArrayBuffer>, fileName: string) {
  const fail = (problem: string) => new FileError(`${fileName} is not a safetensors file: ${problem}.`);
  if (bytes.length < PREFIX_BYTES) {
    throw fail(`it has ${bytes.length} bytes, fewer than the ${PREFIX_BYTES} of the header length`);
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw fail(`its header length is ${length} bytes, more than the allowed ${MAX_HEADER_BYTES}`);
  }
  const dataStart = PREFIX_BYTES + Number(length);
  if (dataStart > bytes.length) {
    throw fail(`its header length is ${length} bytes, but only ${bytes.length - PREFIX_BYTES} bytes follow`);
  }
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(PREFIX_BYTES, dataStart));
    header = JSON.parse(text);
  } catch {
    throw fail("its header is not JSON in UTF-8");
  }
  if (!isRecord(header)) throw fail("its header is not a JSON object");
  const twice = repeatedKey(text);
  if (twice !== undefined) {
    throw new FileError(`${fileName}: the header names "${twice}" twice; expected each name once.`);
  }
  return { header, section: bytes.subarray(dataStart) };
}

function readMetadata(value: unknown, fileName: string): Record<string, string> {
  if (!isRecord(value)) throw new FileError(`${fileName}: "${METADATA}" is not an object; expected texts by name.`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") throw new FileError(`${fileName}: metadata "${key}" is not text; expected a string.`);
  }
  return value as Record<string, string>;
}

function readLayout(name: string, value: unknown, fileName: string): Layout {
  const fail = (problem: string) => new FileError(`${fileName}: tensor "${name}" ${problem}.`);
  if (!isRecord(value)) throw fail("is not described by an object; expected dtype, shape and data_offsets");
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    throw fail(`has dtype ${JSON.stringify(dtype)}; expected one of ${Object.keys(ELEMENT_BYTES).join(", ")}`);
  }
  if (!isCounts(shape)) throw fail(`has shape ${JSON.stringify(shape)}; expected whole numbers of at least 0`);
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw fail(`has data_offsets ${JSON.stringify(offsets)}; expected a begin and an end not before it`);
  }
  const [begin, end] = offsets as [number, number];
  const width = ELEMENT_BYTES[dtype]!;
  const needed = elementCount(shape) * width;
  if (end - begin !== needed) {
    throw fail(`has ${end - begin} bytes of data; expected ${needed} for ${dtype} of shape ${shapeText(shape)}`);
  }
  if (begin % width !== 0) {
    throw fail(`begins at byte ${begin} of the data; expected a multiple of ${width} for ${dtype}`);
  }
  return { name, dtype, shape, begin, end };
}

/** The tensors, sorted by place, must cover the data section without overlap, hole or rest. */
function checkCoverage(layouts: readonly Layout[], length: number, fileName: string): void {
  let covered = 0;
  for (const { name, begin, end } of layouts) {
    const fail = (problem: string) => new FileError(`${fileName}: tensor "${name}" ${problem}.`);
    if (end > length) throw fail(`ends at byte ${end} of the data, but the file has ${length}; it may be cut off`);
    if (begin < covered) throw fail(`begins at byte ${begin} of the data, inside another; expected ${covered}`);
    if (begin > covered) throw fail(`begins at byte ${begin} of the data, after a hole; expected ${covered}`);
    covered = end;
  }
  if (covered < length) {
    throw new FileError(
      `${fileName}: ${length - covered} bytes follow the last tensor; expected the file to end there.`,
    );
  }
}

function tensorOf(dtype: string, shape: number[], buffer: ArrayBuffer): StoredTensor {
  switch (dtype) {
    case "U8":
      return { dtype, shape, data: new Uint8Array(buffer) };
    case "U32":
      return { dtype, shape, data: new Uint32Array(buffer) };
    case "I32":
      return { dtype, shape, data: new Int32Array(buffer) };
    case "I64":
      return { dtype, shape, data: new BigInt64Array(buffer) };
    case "F16":
      return { dtype: "F32", shape, data: Float32Array.from(new Uint16Array(buffer), halfToNumber) };
    case "BF16":
      return { dtype: "F32", shape, data: Float32Array.from(new Uint16Array(buffer), bfloatToNumber) };
    case "F64":
      return { dtype: "F32", shape, data: new Float32Array(new Float64Array(buffer)) };
    default:
      return { dtype: "F32", shape, data: new Float32Array(buffer) };
  }
}

/** The first key that stands twice in one object of valid JSON; `JSON.parse` alone would keep the last silently. */
function repeatedKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  const mark = /["{}]/g;
  const colon = /\s*:/y;
  for (let match; (match = mark.exec(json));) {
    if (match[0] === "{") open.push(new Set());
    else if (match[0] === "}") open.pop();
    else {
      mark.lastIndex = colon.lastIndex = stringEnd(json, match.index);
      if (!colon.test(json)) continue;
      const name = JSON.parse(json.slice(match.index, mark.lastIndex)) as string;
      const seen = open.at(-1)!;
      if (seen.has(name)) return name;
      seen.add(name);
    }
  }
  return undefined;
}

/** Where the string of valid JSON that begins at `start` has ended. */
function stringEnd(json: string, start: number): number {
  let end = start + 1;
  while (json[end] !== '"') end += json[end] === "\\" ? 2 : 1;
  return end + 1;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

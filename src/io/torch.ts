/** PyTorch's tensors as `torch.save` and `pickle` write them: ZIP archives, legacy streams and plain pickles. */

import { FileError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { memoryFile, viewOf } from "./bytes.ts";
import { bfloatToNumber, halfToNumber } from "./floats.ts";
import {
  PickleBudget,
  type PickleCall,
  type PickleConstructor,
  PickleName,
  type PickleSource,
  PLAIN_CONSTRUCTORS,
  quoted,
  readPickle,
} from "./pickle.ts";
import { inert, NUMPY_CONSTRUCTORS } from "./pickle_numpy.ts";
import { inflatedSize, isZip, listZip, readZipEntry } from "./zip.ts";

/** A tensor converted to float32, the last axis fastest. */
export interface FloatTensor {
  /** Extents; empty for a single number. */
  readonly shape: readonly number[];
  /** The product of `shape` values. */
  readonly data: Float32Array<ArrayBuffer>;
}

/** A storage of PyTorch: numbers of one type in a row, which tensors are views of. */
export class TorchStorage {
  /** Its content, once that is found. */
  bytes: Uint8Array | undefined;
  /** The order of the bytes in a number. */
  littleEndian = true;

  /** `key` is its name in the file, `size` its count of numbers. */
  constructor(readonly key: string, readonly type: ElementType, readonly size: number) {}
}

/** A tensor of a file, not converted yet: a view of a storage. */
export class TorchTensor {
  /** It begins at element `offset`; neighbours on each axis lie `strides` elements apart. All lies within the storage. */
  constructor(
    readonly storage: TorchStorage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** What a file of PyTorch says. */
export interface TorchData {
  /** The object that was saved, its tensors as {@linkcode TorchTensor}. */
  readonly root: unknown;
  /** Bytes of the file, with what it inflated to: the measure of what may be converted. */
  readonly bytes: number;
}

/** A type of number. */
export interface ElementType {
  /** Bytes of a number. */
  readonly width: number;
  /** The number at byte `at`. */
  readonly get: (view: DataView, at: number, littleEndian: boolean) => number;
}

const FLOAT32: ElementType = { width: 4, get: (view, at, little) => view.getFloat32(at, little) };
const ELEMENT_TYPES: Readonly<Record<string, ElementType>> = {
  FloatStorage: FLOAT32,
  DoubleStorage: { width: 8, get: (view, at, little) => view.getFloat64(at, little) },
  HalfStorage: { width: 2, get: (view, at, little) => halfToNumber(view.getUint16(at, little)) },
  BFloat16Storage: { width: 2, get: (view, at, little) => bfloatToNumber(view.getUint16(at, little)) },
  LongStorage: { width: 8, get: (view, at, little) => Number(view.getBigInt64(at, little)) },
  IntStorage: { width: 4, get: (view, at, little) => view.getInt32(at, little) },
  ShortStorage: { width: 2, get: (view, at, little) => view.getInt16(at, little) },
  CharStorage: { width: 1, get: (view, at) => view.getInt8(at) },
  ByteStorage: { width: 1, get: (view, at) => view.getUint8(at) },
  BoolStorage: { width: 1, get: (view, at) => view.getUint8(at) },
};
/** PyTorch's own names of number types, which files mention beside tensors. */
const DTYPE_NAMES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"];
/** How a pickle that is no single number or text begins: with its protocol, before there was one with ( } ] ) or c. */
const PICKLE_STARTS = [0x80, 0x28, 0x7d, 0x5d, 0x29, 0x63];
const MAGIC = 0x1950a86a20f9469cfc6cn;
const STREAM_VERSION = 1001;
/** PyTorch's own limit on most tensors. */
const MAX_AXES = 64;
/** Characters of a tensor's name; a pickle can join long texts many times over. */
const MAX_NAME = 1000;
/** Elements beyond twice the file's bytes that may be converted: small tensors may well share a storage. */
const SPARE_ELEMENTS = 1 << 20;

const STORAGE_TYPES: ReadonlyMap<string, ElementType> = new Map(
  Object.entries(ELEMENT_TYPES).flatMap(([name, type]): [string, ElementType][] => [
    [`torch.${name}`, type],
    [`torch.cuda.${name}`, type],
  ]),
);
const STORAGE_NAMES: ReadonlyMap<string, null> = new Map([...STORAGE_TYPES.keys()].map((name) => [name, null]));

/** All that a checkpoint of tensors, numbers and plain containers asks for; whole modules of PyTorch are not among it. */
export const TORCH_CONSTRUCTORS: ReadonlyMap<string, PickleConstructor | null> = new Map<
  string,
  PickleConstructor | null
>([
  ...PLAIN_CONSTRUCTORS,
  ...NUMPY_CONSTRUCTORS,
  ...STORAGE_NAMES,
  ...DTYPE_NAMES.map((name): [string, null] => [`torch.${name}`, null]),
  ["torch.Size", ([extents = []]) => extents],
  ["torch.device", inert("torch.device")],
  ["torch._utils._rebuild_tensor", rebuildTensor],
  ["torch._utils._rebuild_tensor_v2", rebuildTensor],
  ["torch._utils._rebuild_parameter", rebuildParameter],
  ["torch.storage._load_from_bytes", loadFromBytes],
]);

/**
 * Reads what `torch.save` wrote, now or before PyTorch 1.6, or a pickle that holds tensors. Nothing in the file is run.
 *
 * @param fileName names the file in errors.
 * @param constructors stand beside {@linkcode TORCH_CONSTRUCTORS}.
 * @throws {FileError} where the file is damaged or of another kind, or names anything else.
 */
export async function readTorchData(
  bytes: Uint8Array<ArrayBuffer>,
  fileName: string,
  constructors: ReadonlyMap<string, PickleConstructor | null> = new Map(),
): Promise<TorchData> {
  const allowed = new Map([...TORCH_CONSTRUCTORS, ...constructors]);
  if (isZip(bytes)) return await readArchive(bytes, fileName, allowed);
  if (!PICKLE_STARTS.includes(bytes[0] ?? -1)) {
    throw new FileError(`${fileName} is neither an archive or stream of PyTorch nor a pickle.`);
  }
  const source = { bytes, what: fileName, budget: new PickleBudget(bytes.length), allowed };
  const first = readPickle(source);
  if (first.value === MAGIC) return { root: readStream(source, first.end), bytes: bytes.length };
  if (first.end < bytes.length) throw trailing(fileName, bytes.length - first.end);
  return { root: first.value, bytes: bytes.length };
}

/**
 * Converts tensors to float32, row by row. Other floats are rounded, integers too (they are exact up to 2^24).
 *
 * @param tensors of one file, by name.
 * @throws {FileError} where they are together far larger than the file they are from.
 */
export function convertTensors(
  tensors: ReadonlyMap<string, TorchTensor>,
  { bytes }: TorchData,
  fileName: string,
): Map<string, FloatTensor> {
  let total = 0;
  for (const { shape } of tensors.values()) total += elements(shape);
  if (total > 2 * bytes + SPARE_ELEMENTS) {
    throw new FileError(
      `${fileName}: its ${tensors.size} tensors have ${total} elements, far more than its ${bytes} bytes can hold: ` +
        `they show the same numbers many times over.`,
    );
  }
  return new Map([...tensors].map(([name, tensor]) => [name, { shape: tensor.shape, data: values(tensor) }]));
}

/**
 * The name of what lies under `key` in `parent`, as `state_dict` joins them; `parent` is empty for the outermost.
 *
 * @throws {FileError} where the key is no name, or the whole too long for one.
 */
export function joinName(parent: string, key: unknown, fileName: string): string {
  if (key === "" || (typeof key !== "string" && typeof key !== "number")) {
    throw new FileError(`${fileName}: a tensor in ${quoted(parent)} has ${quoted(key)} for a name; expected text.`);
  }
  const name = parent ? `${parent}.${key}` : `${key}`;
  if (name.length > MAX_NAME) {
    throw new FileError(`${fileName}: a tensor's name has ${name.length} characters; at most ${MAX_NAME} are read.`);
  }
  return name;
}

function trailing(what: string, count: number): FileError {
  return new FileError(`${what}: ${count} bytes follow the end of what was saved.`);
}

// Where tensors are

/** A ZIP archive's entries, which are fetched by name. */
interface Archive {
  readonly names: readonly string[];
  /** Bytes of all entries together. */
  readonly size: number;
  read(name: string): Promise<Uint8Array>;
}

async function openArchive(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<Archive> {
  const file = memoryFile(fileName, bytes);
  const entries = await listZip(file);
  const read = async (name: string) => {
    const entry = entries.get(name);
    if (!entry) {
      throw new FileError(`${fileName} has no entry "${name}"; it may be cut off or made by another program.`);
    }
    return await readZipEntry(file, entry);
  };
  return { names: [...entries.keys()], size: inflatedSize(file, entries), read };
}

async function readArchive(
  bytes: Uint8Array<ArrayBuffer>,
  fileName: string,
  allowed: PickleSource["allowed"],
): Promise<TorchData> {
  const archive = await openArchive(bytes, fileName);
  const prefix = archivePrefix(archive, fileName);
  const storages = new Map<string, TorchStorage>();
  const total = bytes.length + archive.size;
  const { value: root } = readPickle({
    bytes: await archive.read(`${prefix}data.pkl`),
    what: `${fileName}: ${prefix}data.pkl`,
    budget: new PickleBudget(total),
    allowed,
    persistentLoad: storageLoader(storages),
  });
  const littleEndian = await isLittleEndian(archive, prefix, fileName);
  for (const storage of storages.values()) {
    const content = await archive.read(`${prefix}data/${storage.key}`);
    const needed = storage.size * storage.type.width;
    if (content.length !== needed) {
      throw new FileError(`${fileName}: storage ${storage.key} has ${content.length} bytes; expected ${needed}.`);
    }
    storage.bytes = content;
    storage.littleEndian = littleEndian;
  }
  return { root, bytes: total };
}

/** The folder in an archive, with its slash, that everything lies in. */
function archivePrefix({ names }: Archive, fileName: string): string {
  const pickles = names.filter((name) => /^(.*\/)?data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new FileError(`${fileName} is a ZIP archive, but not of PyTorch: it has ${pickles.length} entries data.pkl.`);
  }
  const prefix = pickles[0]!.slice(0, -"data.pkl".length);
  if (names.includes(`${prefix}constants.pkl`)) {
    throw new FileError(`${fileName} is a TorchScript program; expected tensors that torch.save wrote.`);
  }
  return prefix;
}

async function isLittleEndian(archive: Archive, prefix: string, fileName: string): Promise<boolean> {
  const name = `${prefix}byteorder`;
  // PyTorch before 2.1 did not state it.
  if (!archive.names.includes(name)) return true;
  const order = new TextDecoder().decode(await archive.read(name));
  if (order !== "little" && order !== "big") {
    throw new FileError(`${fileName}: byteorder is ${quoted(order)}; expected "little" or "big".`);
  }
  return order === "little";
}

/** The object in a legacy stream, whose magic number ends at byte `start`. */
function readStream(source: PickleSource, start: number): unknown {
  const { bytes, what } = source;
  const fail = (problem: string) => new FileError(`${what}: ${problem}.`);
  const version = readPickle(source, start);
  if (version.value !== STREAM_VERSION) throw fail(`the stream does not have version ${STREAM_VERSION}`);
  const system = readPickle(source, version.end);
  if (!(system.value instanceof Map)) throw fail("the stream does not describe the system it was written on");
  const storages = new Map<string, TorchStorage>();
  const root = readPickle({ ...source, persistentLoad: storageLoader(storages) }, system.end);
  const keys = readPickle(source, root.end);
  if (!Array.isArray(keys.value)) throw fail("no list of storages follows the object");
  let at = keys.end;
  for (const key of keys.value) {
    const storage = typeof key === "string" ? storages.get(key) : undefined;
    if (!storage || storage.bytes) throw fail(`storage ${quoted(key)} is listed, but not used or listed twice`);
    at = readStorage(storage, bytes, at, fail);
  }
  for (const { key, bytes } of storages.values()) if (!bytes) throw fail(`storage ${quoted(key)} is not in the stream`);
  if (at < bytes.length) throw trailing(what, bytes.length - at);
  return root.value;
}

/** Finds a storage's content behind its count of elements at byte `at`, and where it ends. */
function readStorage(
  storage: TorchStorage,
  bytes: Uint8Array,
  at: number,
  fail: (problem: string) => FileError,
): number {
  const rest = bytes.length - at - 8;
  const needed = storage.size * storage.type.width;
  if (rest < needed) {
    throw fail(`storage ${quoted(storage.key)} is cut off: of ${needed} bytes ${Math.max(rest, 0)} are left`);
  }
  const count = viewOf(bytes).getBigInt64(at, true);
  if (count !== BigInt(storage.size)) {
    throw fail(`storage ${quoted(storage.key)} has ${count} elements; expected ${storage.size}`);
  }
  storage.bytes = bytes.subarray(at + 8, at + 8 + needed);
  return at + 8 + needed;
}

/** Makes storages, each once, from the identifiers that stand for them in a pickle. */
function storageLoader(storages: Map<string, TorchStorage>): (id: unknown, call: PickleCall) => unknown {
  return (id, call) => {
    if (!Array.isArray(id)) throw call.fail("a persistent identifier is not one of PyTorch's");
    const [kind, type, key, , size, view] = id;
    // Legacy streams wrap classes of modules, with their source text, which nothing here looks at.
    if (kind === "module" && type instanceof PickleName) return type;
    const elementType = type instanceof PickleName ? STORAGE_TYPES.get(type.name) : undefined;
    if (kind !== "storage" || !elementType || typeof key !== "string" || !isCount(size)) {
      throw call.fail("a persistent identifier describes no storage of numbers");
    }
    if (view !== undefined && view !== null) {
      throw call.fail("a storage is a view of another, as only PyTorch before 1.0 wrote them; save the file again");
    }
    const known = storages.get(key);
    if (!known) {
      const storage = new TorchStorage(key, elementType, size);
      storages.set(key, storage);
      return storage;
    }
    if (known.type !== elementType || known.size !== size) {
      throw call.fail(`storage ${quoted(key)} is described in two ways`);
    }
    return known;
  };
}

/** A storage in a plain pickle: bytes that hold a legacy stream of it. */
function loadFromBytes(args: readonly unknown[], call: PickleCall): TorchStorage {
  const [bytes] = args;
  if (!(bytes instanceof Uint8Array)) throw call.fail("a storage is not made from bytes");
  const what = `${call.place}: stream in bytes`;
  const source = { bytes, what, budget: call.budget, allowed: STORAGE_NAMES };
  const magic = readPickle(source);
  if (magic.value !== MAGIC) throw call.fail("the bytes of a storage do not begin with PyTorch's magic number");
  const storage = readStream(source, magic.end);
  if (!(storage instanceof TorchStorage)) throw call.fail("the bytes of a storage hold something else");
  return storage;
}

// Tensors

function rebuildTensor(args: readonly unknown[], call: PickleCall): TorchTensor {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof TorchStorage)) throw call.fail("a tensor has no storage");
  if (!isCount(offset) || !isCounts(shape) || !isCounts(strides) || strides.length !== shape.length) {
    throw call.fail(
      `a tensor's offset, shape and strides are not whole numbers of at least 0, for up to ${MAX_AXES} axes`,
    );
  }
  call.budget.spend(shape.length, call);
  const last = shape.reduce((place, extent, axis) => place + (extent - 1) * strides[axis]!, offset);
  if (elements(shape) > 0 && last >= storage.size) {
    throw call.fail(`a tensor of shape ${shapeText(shape)} reaches element ${last} of a storage of ${storage.size}`);
  }
  return new TorchTensor(storage, offset, [...shape], [...strides]);
}

function rebuildParameter(args: readonly unknown[], call: PickleCall): TorchTensor {
  const [tensor] = args;
  if (!(tensor instanceof TorchTensor)) throw call.fail("a parameter is made from what is no tensor");
  return tensor;
}

/** The product of the extents; extents beyond all bounds beside a 0 give 0. */
function elements(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : elementCount(shape);
}

function values({ storage, offset, shape, strides }: TorchTensor): Float32Array<ArrayBuffer> {
  const { bytes = new Uint8Array(), type, littleEndian } = storage;
  const count = elements(shape);
  if (type === FLOAT32 && littleEndian && isContiguous(shape, strides)) {
    return new Float32Array(bytes.slice(offset * type.width, (offset + count) * type.width).buffer);
  }
  const view = viewOf(bytes);
  const data = new Float32Array(count);
  let filled = 0;
  const fill = (axis: number, place: number) => {
    const extent = shape[axis] ?? 1, stride = strides[axis] ?? 0;
    for (let i = 0; i < extent; i++) {
      const element = place + i * stride;
      if (axis + 1 < shape.length) fill(axis + 1, element);
      else data[filled++] = type.get(view, element * type.width, littleEndian);
    }
  };
  if (count > 0) fill(0, offset);
  return data;
}

/** Whether elements that follow each other in a tensor do so in its storage. An axis of one element has no stride. */
function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) return false;
    expected *= shape[axis]!;
  }
  return true;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= MAX_AXES && value.every(isCount);
}

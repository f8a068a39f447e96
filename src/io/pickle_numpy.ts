/** NumPy's numbers in pickles; its arrays and types pass through as inert objects. */

import { viewOf } from "./bytes.ts";
import { halfToNumber } from "./floats.ts";
import { latin1Bytes } from "./latin1.ts";
import { type PickleCall, type PickleConstructor, PickleObject } from "./pickle.ts";

/** What NumPy 1 and 2 write for scalars, types and arrays, in all protocols. Scalars become numbers and booleans. */
export const NUMPY_CONSTRUCTORS: ReadonlyMap<string, PickleConstructor | null> = new Map([
  ["numpy.dtype", inert("numpy.dtype")],
  ["numpy.ndarray", null],
  ...["numpy.core", "numpy._core"].flatMap((module): [string, PickleConstructor][] => [
    [`${module}.multiarray.scalar`, scalar],
    [`${module}.multiarray._reconstruct`, inert("numpy.ndarray")],
    [`${module}.numeric._frombuffer`, inert("numpy.ndarray")],
  ]),
]);

/** A constructor of objects that keep what they were made from. */
export function inert(className: string): PickleConstructor {
  return (args) => new PickleObject(className, args);
}

/** A type's width in bytes, and how its number is read. */
type Reader = [width: number, read: (view: DataView, littleEndian: boolean) => number | boolean];

const READERS: ReadonlyMap<unknown, Reader> = new Map<string, Reader>([
  ["b1", [1, (view) => view.getUint8(0) !== 0]],
  ["i1", [1, (view) => view.getInt8(0)]],
  ["u1", [1, (view) => view.getUint8(0)]],
  ["i2", [2, (view, littleEndian) => view.getInt16(0, littleEndian)]],
  ["u2", [2, (view, littleEndian) => view.getUint16(0, littleEndian)]],
  ["i4", [4, (view, littleEndian) => view.getInt32(0, littleEndian)]],
  ["u4", [4, (view, littleEndian) => view.getUint32(0, littleEndian)]],
  ["i8", [8, (view, littleEndian) => Number(view.getBigInt64(0, littleEndian))]],
  ["u8", [8, (view, littleEndian) => Number(view.getBigUint64(0, littleEndian))]],
  ["f2", [2, (view, littleEndian) => halfToNumber(view.getUint16(0, littleEndian))]],
  ["f4", [4, (view, littleEndian) => view.getFloat32(0, littleEndian)]],
  ["f8", [8, (view, littleEndian) => view.getFloat64(0, littleEndian)]],
]);

/** The number of a type and its bytes. Types this engine has no use for (texts, dates) stay inert. */
function scalar(args: readonly unknown[], call: PickleCall): unknown {
  const [type, content] = args;
  if (!(type instanceof PickleObject) || type.className !== "numpy.dtype") {
    throw call.fail("a NumPy scalar has no type");
  }
  const reader = READERS.get(type.args[0]);
  if (!reader) return new PickleObject("numpy.scalar", args);
  const [width, read] = reader;
  // Python 2 has its bytes in a string.
  const isBytes = typeof content === "string" || content instanceof Uint8Array;
  if (!isBytes || content.length !== width) {
    throw call.fail(`a NumPy scalar of type ${type.args[0]} does not have ${width} bytes`);
  }
  const bytes = typeof content === "string" ? latin1Bytes(content) : content;
  // The type's state is (version, byte order, …); single bytes have none.
  const order = Array.isArray(type.state) ? type.state[1] : "<";
  return read(viewOf(bytes), order !== ">");
}

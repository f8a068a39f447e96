/** The batches of CIFAR's python version: pickled dictionaries. */

import { FileError } from "../gpu/errors.ts";
import { latin1Bytes } from "../io/latin1.ts";
import { PickleBudget, PickleObject, PLAIN_CONSTRUCTORS, readPickle } from "../io/pickle.ts";
import { NUMPY_CONSTRUCTORS } from "../io/pickle_numpy.ts";
import { expectClass } from "./image_data.ts";

/** True for the beginning of a pickle of protocol 2 or more; no record of the binary version begins so. */
export function isCifarPickle(head: Uint8Array): boolean {
  return head[0] === 0x80;
}

/** Images and classes of a batch. */
export interface CifarBatch {
  /** `[count, 3, 32, 32]`. */
  readonly pixels: Uint8Array;
  /** `[count]`. */
  readonly labels: readonly number[];
  /** 10 or 100. */
  readonly classes: number;
}

const ALLOWED = new Map([...PLAIN_CONSTRUCTORS, ...NUMPY_CONSTRUCTORS]);

/** The keys of the classes, and how many there are. */
const LABELS = [["labels", 10], ["fine_labels", 100]] as const;

/**
 * Reads a batch.
 *
 * @param where names the file in errors.
 * @param pixels values of an image.
 * @throws {FileError} where the pickle is damaged or holds anything but a batch.
 */
export function readCifarPickle(bytes: Uint8Array<ArrayBuffer>, where: string, pixels: number): CifarBatch {
  const { value } = readPickle({ bytes, what: where, budget: new PickleBudget(bytes.length), allowed: ALLOWED });
  const batch = byName(value);
  const found = LABELS.find(([key]) => batch.has(key));
  const classes = found?.[1] ?? 0;
  const labels = batch.get(found?.[0] ?? "");
  if (!Array.isArray(labels)) {
    throw new FileError(
      `${where} has no list of classes under the key "labels" (CIFAR-10) or "fine_labels" (CIFAR-100).`,
    );
  }
  const { shape, data } = arrayOf(batch.get("data"), where);
  if (shape.length !== 2 || shape[0] !== labels.length || shape[1] !== pixels || data.length !== shape[0] * pixels) {
    throw new FileError(
      `${where} holds ${data.length} pixels of shape [${shape.join(", ")}] under the key "data"; expected those of ` +
        `${labels.length} images: [${labels.length}, ${pixels}].`,
    );
  }
  return {
    pixels: data,
    labels: labels.map((label, i) => expectClass(label, `${where}: image ${i}`, classes - 1)),
    classes,
  };
}

/** A dictionary's values by the names of its keys, which Python 3 writes as bytes where Python 2 had strings. */
function byName(value: unknown): Map<string, unknown> {
  if (!(value instanceof Map)) return new Map();
  const decoder = new TextDecoder();
  return new Map(
    [...value].map(([key, item]) => [key instanceof Uint8Array ? decoder.decode(key) : String(key), item]),
  );
}

/** The shape and the values of an array of uint8 in C order, in either of the forms that NumPy pickles it. */
function arrayOf(array: unknown, where: string): { shape: readonly unknown[]; data: Uint8Array } {
  const fail = () => new FileError(`${where} has no NumPy array of uint8 in C order under the key "data".`);
  if (!(array instanceof PickleObject) || array.className !== "numpy.ndarray") throw fail();
  const [content, type, shape, order] = Array.isArray(array.state)
    ? [array.state[4], array.state[2], array.state[1], array.state[3] === false ? "C" : "F"]
    : array.args;
  const data = typeof content === "string" ? latin1Bytes(content) : content;
  const isBytes = type instanceof PickleObject && type.className === "numpy.dtype" && type.args[0] === "u1";
  if (!(data instanceof Uint8Array) || !Array.isArray(shape) || order !== "C" || !isBytes) throw fail();
  return { shape, data };
}

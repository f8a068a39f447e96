/** Networks of other programs, whatever file they come in: its kind is found from its content. */

import { FileError } from "../gpu/errors.ts";
import { EDM_CONSTRUCTORS, type EdmNetwork, edmNetwork, findEdmNetwork } from "./edm.ts";
import { quoted } from "./pickle.ts";
import { decodeSafetensors } from "./safetensors.ts";
import { convertTensors, type FloatTensor, joinName, readTorchData, TorchTensor } from "./torch.ts";

/** Tensors by name, without settings of a network. */
export interface StateDict {
  /** Tells it from a network. */
  kind: "state_dict";
  /** Where in the file it was, keys joined by dots; empty where it is all of the file. */
  section: string;
  /** Tensors by PyTorch's names; inner dictionaries' keys are joined by dots. */
  tensors: Map<string, FloatTensor>;
  /** The texts of a safetensors file's metadata; empty for other kinds. */
  metadata: Record<string, string>;
}

/** What a file of another program holds. */
export type TorchFile = { kind: "edm"; network: EdmNetwork } | StateDict;

/** Keys under which checkpoints keep a network beside other things, the ones to prefer first. */
const SECTIONS = ["ema", "model_ema", "state_dict", "model_state_dict", "model", "net"];
const MAX_DEPTH = 64;
/** Entries of dictionaries and lists gone through for names; shared ones count every time. */
const MAX_ENTRIES = 1 << 21;

/**
 * Reads a network of EDM, or the tensors of a file of PyTorch (ZIP archive, legacy stream, plain pickle) or of a
 * safetensors file. Of a checkpoint that holds more than tensors, it is the moving average or the model that counts.
 *
 * @param fileName names the file in errors.
 * @throws {FileError} where the file is damaged, of another kind, without tensors, or names what is not allowed.
 */
export async function readTorchFile(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<TorchFile> {
  if (isSafetensors(bytes)) return await readSafetensors(bytes, fileName);
  const data = await readTorchData(bytes, fileName, EDM_CONSTRUCTORS);
  const network = findEdmNetwork(data.root);
  if (network) return { kind: "edm", network: edmNetwork(network, data, fileName) };
  if (data.root instanceof TorchTensor) {
    throw new FileError(`${fileName} holds one tensor without a name; expected a dictionary of tensors.`);
  }
  const withTensors = findTensors(data.root, fileName);
  if (withTensors.size === 0) throw new FileError(`${fileName} holds no tensors${entriesText(data.root)}.`);
  const { section, content } = findSection(data.root, withTensors);
  const collector = new Collector(withTensors, fileName);
  collector.collect(content, "", 0);
  return { kind: "state_dict", section, tensors: convertTensors(collector.tensors, data, fileName), metadata: {} };
}

/** What there is instead of tensors. */
function entriesText(root: unknown): string {
  return root instanceof Map && root.size > 0
    ? `; its entries are ${[...root.keys()].slice(0, 10).map(quoted).join(", ")}`
    : "";
}

/** Whether `bytes` begin with a length and, for a header of JSON, a brace. */
function isSafetensors(bytes: Uint8Array): boolean {
  return bytes.length > 8 && bytes[8] === 0x7b && bytes.subarray(5, 8).every((byte) => byte === 0);
}

async function readSafetensors(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<StateDict> {
  const { metadata, tensors } = await decodeSafetensors(bytes, fileName);
  const floats = [...tensors].map(([name, { dtype, shape, data }]): [string, FloatTensor] => [
    name,
    {
      shape,
      data: dtype === "F32" ? data : dtype === "I64" ? Float32Array.from(data, Number) : Float32Array.from(data),
    },
  ]);
  return { kind: "state_dict", section: "", tensors: new Map(floats), metadata };
}

/** Goes down into the dictionary that the tensors are in: the only one, or the first of {@linkcode SECTIONS}. */
function findSection(root: unknown, withTensors: ReadonlySet<unknown>): { section: string; content: unknown } {
  const path: string[] = [];
  let content = root;
  while (content instanceof Map && path.length < MAX_DEPTH) {
    const entries = [...content].filter(([, value]) => withTensors.has(value));
    const [key, inner] = entries.length === 1 ? entries[0]! : preferred(entries);
    if (typeof key !== "string" || !(inner instanceof Map)) break;
    path.push(key);
    content = inner;
  }
  return { section: path.join("."), content };
}

function preferred(entries: readonly [unknown, unknown][]): [unknown, unknown] | [] {
  for (const section of SECTIONS) {
    const found = entries.find(([key, value]) => key === section && value instanceof Map);
    if (found) return found;
  }
  return [];
}

/** The tensors below `root`, and every dictionary and list in which there is one. */
function findTensors(root: unknown, fileName: string): Set<unknown> {
  const found = new Set<unknown>(), seen = new Set<unknown>();
  const visit = (value: unknown, depth: number): boolean => {
    if (value instanceof TorchTensor) found.add(value);
    const items = itemsOf(value);
    if (!items || seen.has(value)) return found.has(value);
    if (depth > MAX_DEPTH) throw new FileError(`${fileName}: its data is nested more than ${MAX_DEPTH} levels deep.`);
    seen.add(value);
    // Every item is visited: whether one holds tensors is asked for again later.
    const holds = items.filter(([, item]) => visit(item, depth + 1));
    if (holds.length > 0) found.add(value);
    return holds.length > 0;
  };
  visit(root, 0);
  return found;
}

/** Gathers the tensors below a container by name. */
class Collector {
  readonly tensors = new Map<string, TorchTensor>();
  #entries = 0;

  constructor(readonly withTensors: ReadonlySet<unknown>, readonly fileName: string) {}

  collect(container: unknown, parent: string, depth: number): void {
    if (depth > MAX_DEPTH) throw new FileError(`${this.fileName}: ${quoted(parent)} contains itself.`);
    const items = itemsOf(container) ?? [];
    this.#entries += items.length;
    if (this.#entries > MAX_ENTRIES) throw new FileError(`${this.fileName} has more than ${MAX_ENTRIES} entries.`);
    for (const [key, value] of items) {
      if (!this.withTensors.has(value)) continue;
      const name = joinName(parent, key, this.fileName);
      if (value instanceof TorchTensor) this.#add(name, value);
      else this.collect(value, name, depth + 1);
    }
  }

  #add(name: string, tensor: TorchTensor): void {
    if (this.tensors.has(name)) throw new FileError(`${this.fileName} has two tensors named ${quoted(name)}.`);
    this.tensors.set(name, tensor);
  }
}

/** The keys and values of a dictionary or list; nothing for other values. */
function itemsOf(value: unknown): [unknown, unknown][] | undefined {
  if (value instanceof Map) return [...value];
  return Array.isArray(value) ? value.map((item, i) => [i, item]) : undefined;
}

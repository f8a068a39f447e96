/** EDM's pickled networks: settings and weights, taken from the recorded arguments and states, never from their code. */

import { FileError } from "../gpu/errors.ts";
import { type PickleCall, type PickleConstructor, PickleObject, quoted } from "./pickle.ts";
import { inert } from "./pickle_numpy.ts";
import { convertTensors, type FloatTensor, joinName, readTorchData, type TorchData, TorchTensor } from "./torch.ts";

/** An argument of a constructor as Python wrote it: None is null, tuples are arrays. */
export type EdmArgument = null | boolean | number | string | EdmArgument[] | { [name: string]: EdmArgument };

/** A preconditioned network of EDM. */
export interface EdmNetwork {
  /** The preconditioning's class: "EDMPrecond", "VPPrecond" or "VEPrecond". */
  precondClass: string;
  /** Its recorded arguments by Python's names; those left to their defaults are absent. */
  precondArgs: Record<string, EdmArgument>;
  /** The class of the network inside: "SongUNet". */
  networkClass: string;
  /** Its recorded arguments, likewise. */
  networkArgs: Record<string, EdmArgument>;
  /** Parameters and buffers under the names of the preconditioned module's `state_dict`. */
  tensors: Map<string, FloatTensor>;
}

/** An object of a class whose source text the pickle carries along. Only the class's name is kept of that. */
export class PersistentObject {
  /** `state` holds its attributes by name; null where it has none. */
  constructor(readonly className: string, readonly version: unknown, readonly state: Map<unknown, unknown> | null) {}
}

const PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj";
const CONTAINERS = ["ModuleDict", "ModuleList", "Sequential"].map((name) => `torch.nn.modules.container.${name}`);

/** What EDM's pickles ask for beside plain data and tensors. */
export const EDM_CONSTRUCTORS: ReadonlyMap<string, PickleConstructor | null> = new Map([
  [PERSISTENT, persistentObject],
  ["dnnlib.util.EasyDict", () => new Map()],
  ...CONTAINERS.map((name): [string, PickleConstructor] => [name, inert(name)]),
]);

/** The constructors' parameters in order, for arguments that were given by place. */
const PARAMETERS: Readonly<Record<string, readonly string[]>> = {
  EDMPrecond: "img_resolution img_channels label_dim use_fp16 sigma_min sigma_max sigma_data model_type".split(" "),
  VPPrecond: "img_resolution img_channels label_dim use_fp16 beta_d beta_min M epsilon_t model_type".split(" "),
  VEPrecond: "img_resolution img_channels label_dim use_fp16 sigma_min sigma_max model_type".split(" "),
  SongUNet: [
    ..."img_resolution in_channels out_channels label_dim augment_dim model_channels channel_mult".split(" "),
    ..."channel_mult_emb num_blocks attn_resolutions dropout label_dropout embedding_type".split(" "),
    ..."channel_mult_noise encoder_type decoder_type resample_filter".split(" "),
  ],
};
const PRECONDITIONINGS = ["EDMPrecond", "VPPrecond", "VEPrecond"];
const NETWORKS = ["SongUNet"];
/** Classes of the same code that this engine has no counterpart for. */
const UNSUPPORTED = ["iDDPMPrecond", "DhariwalUNet"];
const LAYERS = [
  "Linear",
  "Conv2d",
  "GroupNorm",
  "AttentionOp",
  "UNetBlock",
  "PositionalEmbedding",
  "FourierEmbedding",
  ...CONTAINERS,
];
/** The version of the records, which EDM's own reader demands too. */
const RECORD_VERSION = 6;
/** Where a preconditioning keeps its network. */
const MODEL = "model";
/** Modules and tensors; the largest published network has about two thousand. */
const MAX_PARTS = 100_000;
const MAX_ARGUMENTS = 10_000;
const MAX_ARGUMENT_DEPTH = 16;

/**
 * Reads a network of EDM: a snapshot (its moving average, `ema`), a dump of a training (`net`), or the network alone.
 *
 * @param fileName names the file in errors.
 * @throws {FileError} where the file is damaged, names anything that is not allowed, or holds another network.
 */
export async function readEdmPickle(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<EdmNetwork> {
  const data = await readTorchData(bytes, fileName, EDM_CONSTRUCTORS);
  const network = findEdmNetwork(data.root);
  if (!network) throw new FileError(`${fileName} holds no network of EDM: it has no object "ema" or "net".`);
  return edmNetwork(network, data, fileName);
}

/** The object that a file of EDM is about; nothing where it is no file of EDM. */
export function findEdmNetwork(root: unknown): PersistentObject | undefined {
  const candidates = root instanceof Map ? [root.get("ema"), root.get("net")] : [root];
  return candidates.find((candidate) => candidate instanceof PersistentObject);
}

/**
 * The settings and weights of a network.
 *
 * @throws {FileError} where it, or a part of it, is of a class that is not known here or not as EDM writes it.
 */
export function edmNetwork(object: PersistentObject, data: TorchData, fileName: string): EdmNetwork {
  expectClass(object, PRECONDITIONINGS, "the network", fileName);
  const modules = object.state?.get("_modules");
  const model = modules instanceof Map ? modules.get(MODEL) : undefined;
  if (!(model instanceof PersistentObject)) throw new FileError(`${fileName}: ${object.className} has no "${MODEL}".`);
  expectClass(model, NETWORKS, `"${MODEL}"`, fileName);
  const walk = new ModuleWalk(fileName);
  walk.walk(object, "");
  return {
    precondClass: object.className,
    precondArgs: recordedArguments(object, fileName),
    networkClass: model.className,
    networkArgs: recordedArguments(model, fileName),
    tensors: convertTensors(walk.tensors, data, fileName),
  };
}

function persistentObject([record]: readonly unknown[], call: PickleCall): PersistentObject {
  const field = (name: string) => record instanceof Map ? record.get(name) : undefined;
  const className = field("class_name"), state = field("state");
  if (field("type") !== "class" || typeof className !== "string" || !(state === null || state instanceof Map)) {
    throw call.fail("a persistent object has no class, name and state");
  }
  return new PersistentObject(className, field("version"), state);
}

function expectClass(object: PersistentObject, known: readonly string[], what: string, fileName: string): void {
  const { className, version } = object;
  if (UNSUPPORTED.includes(className)) {
    throw new FileError(`${fileName}: ${what} is of class ${quoted(className)}, which is not supported.`);
  }
  if (!known.includes(className)) {
    throw new FileError(`${fileName}: ${what} is of class ${quoted(className)}; expected ${known.join(", ")}.`);
  }
  if (version !== RECORD_VERSION) {
    throw new FileError(`${fileName}: ${what} is recorded in version ${quoted(version)}; expected ${RECORD_VERSION}.`);
  }
}

/** Collects parameters and buffers in PyTorch's order: a module's own, then its children's. */
class ModuleWalk {
  readonly tensors = new Map<string, TorchTensor>();
  #parts = 0;

  constructor(readonly fileName: string) {}

  /** `name` is the module's, empty for the whole network. */
  walk(module: unknown, name: string): void {
    const fail = (problem: string) => new FileError(`${this.fileName}: module ${quoted(name)} ${problem}.`);
    const isModule = module instanceof PersistentObject || module instanceof PickleObject;
    if (!isModule || !(module.state instanceof Map)) throw fail("is no module");
    if (name !== "" && name !== MODEL && !LAYERS.includes(module.className)) {
      throw fail(`is of unknown class ${quoted(module.className)}`);
    }
    const state: Map<unknown, unknown> = module.state;
    const field = (key: string): Map<unknown, unknown> => {
      const value = state.get(key);
      if (!(value instanceof Map)) throw fail(`has no dictionary ${key}`);
      this.#parts += value.size;
      if (this.#parts > MAX_PARTS) throw fail("is one of more modules and tensors than any network has");
      return value;
    };
    const transient = state.get("_non_persistent_buffers_set");
    for (const [key, tensor] of field("_parameters")) this.#add(tensor, joinName(name, key, this.fileName));
    for (const [key, tensor] of field("_buffers")) {
      const isTransient = transient instanceof Set && transient.has(key);
      if (!isTransient) this.#add(tensor, joinName(name, key, this.fileName));
    }
    for (const [key, child] of field("_modules")) {
      if (child !== null) this.walk(child, joinName(name, key, this.fileName));
    }
  }

  /** A layer without a bias has None in its place. */
  #add(tensor: unknown, name: string): void {
    if (tensor === null) return;
    if (!(tensor instanceof TorchTensor)) throw new FileError(`${this.fileName}: ${quoted(name)} is no tensor.`);
    this.tensors.set(name, tensor);
  }
}

/** The arguments an object was made with, those given by place under their names. */
function recordedArguments({ className, state }: PersistentObject, fileName: string): Record<string, EdmArgument> {
  const places = state?.get("_init_args");
  const names = state?.get("_init_kwargs");
  if (!Array.isArray(places) || !(names instanceof Map)) {
    throw new FileError(`${fileName}: ${className} does not record the arguments it was made with.`);
  }
  const parameters = PARAMETERS[className]!;
  if (places.length > parameters.length) {
    throw new FileError(`${fileName}: ${className} records ${places.length} arguments; it has ${parameters.length}.`);
  }
  const given = new Map<unknown, unknown>(places.map((value, i) => [parameters[i]!, value]));
  for (const [name, value] of names) given.set(name, value);
  const plain = new ArgumentReader(`${fileName}: argument`, className).read(given, "", 0);
  return plain as Record<string, EdmArgument>;
}

/** Turns recorded values into plain data, however often they refer to each other. */
class ArgumentReader {
  #values = 0;

  constructor(readonly what: string, readonly className: string) {}

  /** `name` is the argument's, with the keys that lead to `value` in it. */
  read(value: unknown, name: string, depth: number): EdmArgument {
    const fail = (problem: string) => new FileError(`${this.what} ${quoted(name)} of ${this.className} ${problem}.`);
    if (depth > MAX_ARGUMENT_DEPTH || ++this.#values > MAX_ARGUMENTS) throw fail("has more values than any network's");
    if (value === null || typeof value === "boolean" || typeof value === "number" || typeof value === "string") {
      return value;
    }
    if (Array.isArray(value)) return value.map((item) => this.read(item, name, depth + 1));
    if (!(value instanceof Map)) throw fail("is neither a number nor a text, a list or a dictionary of these");
    const entries = [...value].map(([key, item]) => {
      if (typeof key !== "string") throw fail("has a key that is no text");
      return [key, this.read(item, name ? `${name}.${key}` : key, depth + 1)] as const;
    });
    return Object.fromEntries(entries);
  }
}

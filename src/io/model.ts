/** Model files: safetensors whose metadata holds all that is needed to use the network. */

import { FileError, NonFiniteError } from "../gpu/errors.ts";
import { elementCount, shapeText } from "../graph/tensor.ts";
import { conditionSizes, createNetwork, type DenoiserConfig, type NetworkConfig } from "../nn/networks.ts";
import { RESAMPLE_BUFFER, resampleBuffers } from "../nn/song_unet.ts";
import { checkNetwork, entryOf, NETWORK_RULES, PRECONDITIONING_RULES } from "./network_rules.ts";
import { checkSettings, choice, type Fail, list, number, type Rules } from "./settings.ts";
import { decodeSafetensors, encodeSafetensors } from "./safetensors.ts";

/** What a trained network is for. */
export type ModelKind = "teacher" | "generator";

/** Everything but the weights. */
export interface ModelInfo extends DenoiserConfig {
  /** A denoiser for many steps, or a generator for one or a few. */
  readonly kind: ModelKind;
  /** Mean of 2 v − 1 over the training images, v in [0, 1]. */
  readonly mean: number;
  /** Standard deviation of 2 v − 1. */
  readonly std: number;
  /** A generator's input noise level. */
  readonly sigmaInit?: number;
  /** The noise levels of a generator of several steps after the first, descending; absent for one step. */
  readonly laterSigmas?: readonly number[];
  /** Of a network that knows classes: each one's share of the training images, by which they are drawn; equal when absent. */
  readonly classShares?: readonly number[];
  /** What it was made from and how: free text by name. */
  readonly provenance: Readonly<Record<string, string>>;
}

/** A model in host memory. */
export interface Model {
  /** Everything but the weights. */
  readonly info: ModelInfo;
  /** Weights by parameter name. */
  readonly weights: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
}

const FORMAT = "dibregman-model-1";

/** Whether `bytes` begin as a model file of this program does, damaged or not. */
export function isModelFile(bytes: Uint8Array): boolean {
  const head = new TextDecoder().decode(bytes.subarray(8, 65_536));
  return head.includes(`"format":"${FORMAT}"`);
}

/**
 * Writes a model file; the same model gives the same bytes. A SongUNet's tensors are those of the `state_dict` of EDM's
 * PyTorch modules, so that these can load the file.
 *
 * @throws {NonFiniteError} where a weight is a NaN or an infinity.
 */
export async function encodeModel({ info, weights }: Model): Promise<Uint8Array<ArrayBuffer>> {
  for (const [name, data] of weights) {
    if (!data.every(Number.isFinite)) {
      throw new NonFiniteError(`The ${info.kind}'s weight ${name} is not finite. Try a lower learning rate.`);
    }
  }
  const shapes = new Map(createNetwork(info).parameters.map(({ name, shape }) => [name, shape]));
  const tensors = new Map(
    [...weights].map(([name, data]) => [name, { dtype: "F32" as const, shape: [...shapes.get(name)!], data }]),
  );
  if (info.network.architecture === "song-unet") {
    const taps = info.network.resampleFilter.length;
    for (const [name, data] of resampleBuffers(info.network)) {
      tensors.set(name, { dtype: "F32", shape: [1, 1, taps, taps], data });
    }
  }
  const { provenance, ...rest } = info;
  return await encodeSafetensors(tensors, { ...provenance, format: FORMAT, model: JSON.stringify(rest) });
}

/**
 * Reads a model file.
 *
 * @throws {FileError} naming the file and what is wrong where it is no model, a tensor is missing, foreign, or of
 * another shape than the network's, or a weight is not finite.
 */
export async function decodeModel(bytes: Uint8Array<ArrayBuffer>, fileName: string): Promise<Model> {
  const { metadata, tensors } = await decodeSafetensors(bytes, fileName);
  const { format, model, checksum: _, ...provenance } = metadata;
  if (format !== FORMAT || model === undefined) {
    throw new FileError(`${fileName}: not a model of this program (metadata "format" should be "${FORMAT}").`);
  }
  const info = { ...checkInfo(parse(model, fileName), fileName), provenance };
  return { info, weights: weightsOf(info, tensors, fileName) };
}

/** A tensor of a file. */
export interface FileTensor {
  /** Type of its elements, as safetensors calls it; f32 when absent. */
  readonly dtype?: string;
  /** Its shape. */
  readonly shape: readonly number[];
  /** Its elements. */
  readonly data: ArrayLike<number | bigint>;
}

/**
 * A network's weights out of a file's tensors, which are no others but for PyTorch's buffers.
 *
 * @throws {FileError} naming the tensor that is missing, foreign, of another type or shape, or not finite.
 */
export function weightsOf(
  config: DenoiserConfig,
  tensors: ReadonlyMap<string, FileTensor>,
  fileName: string,
): Map<string, Float32Array<ArrayBuffer>> {
  const weights = new Map<string, Float32Array<ArrayBuffer>>();
  for (const { name, shape } of createNetwork(config).parameters) {
    const tensor = tensors.get(name);
    if (!tensor) throw new FileError(`${fileName}: tensor "${name}" is missing.`);
    const { dtype, data } = tensor;
    const fits = tensor.shape.join() === shape.join() && data.length === elementCount(shape);
    if ((dtype ?? "F32") !== "F32" || !fits) {
      const [wanted, got] = [dtype && "F32", dtype].map((type) => type ? `${type} ` : "");
      throw new FileError(
        `${fileName}: tensor "${name}" should be ${wanted}${shapeText(shape)} but is ${got}${shapeText(tensor.shape)}.`,
      );
    }
    const floats = data as Float32Array<ArrayBuffer>;
    if (!floats.every(Number.isFinite)) throw new FileError(`${fileName}: tensor "${name}" is not finite.`);
    weights.set(name, floats);
  }
  const foreign = [...tensors.keys()].find((name) => !weights.has(name) && !RESAMPLE_BUFFER.test(name));
  if (foreign !== undefined) throw new FileError(`${fileName}: tensor "${foreign}" is not one of the network's.`);
  return weights;
}

function parse(text: string, fileName: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  throw new FileError(`${fileName}: metadata "model" should be a JSON object.`);
}

const COMMON_RULES: Rules = {
  kind: choice(["teacher", "generator"]),
  mean: number({}),
  std: number({ above: 0 }),
  classShares: { ...list(number({ min: 0, max: 1 }), { min: 1 }), optional: true },
};
const LEVELS: Rules = {
  sigmaInit: number({ above: 0 }),
  laterSigmas: { ...list(number({ above: 0 }), { min: 1, max: 15 }), optional: true },
};

function checkInfo(value: Record<string, unknown>, fileName: string): Omit<ModelInfo, "provenance"> {
  const fail: Fail = (message) => {
    throw new FileError(`${fileName}: metadata "model": ${message}${message.endsWith("?") ? "" : "."}`);
  };
  // Files of the first version have no architecture and no preconditioning.
  const network: Record<string, unknown> = { architecture: "unet", ...value.network as object };
  const preconditioning = value.preconditioning as Record<string, unknown> | null | undefined;
  const { chosen, images } = entryOf(NETWORK_RULES, "network.architecture", network.architecture, fail);
  const around = preconditioning !== undefined && {
    preconditioning: entryOf(PRECONDITIONING_RULES, "preconditioning.kind", preconditioning?.kind, fail),
  };
  checkSettings({ ...value, network }, {
    ...COMMON_RULES,
    ...value.kind === "generator" && LEVELS,
    network: { ...chosen, ...images },
    ...around,
  }, fail);
  checkNetwork(network as unknown as NetworkConfig, fail);
  const { classShares } = value as Partial<ModelInfo>,
    { labelDim } = conditionSizes(network as unknown as NetworkConfig);
  const total = classShares?.reduce((sum, share) => sum + share, 0) ?? 1;
  if (classShares && (classShares.length !== labelDim || Math.abs(total - 1) > 1e-6)) {
    fail(`the field "classShares" should hold the shares, of 1 in all, of ${labelDim} classes`);
  }
  return value as unknown as Omit<ModelInfo, "provenance">;
}

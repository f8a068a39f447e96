/** The feature network of a data set, trained once and kept in the user's cache folder. */

import { join } from "@std/path";
import { hashImages } from "../data/hash.ts";
import type { ImageData8 } from "../data/image_data.ts";
import { Evaluator } from "../eval/evaluate.ts";
import { FeatureClassifier } from "../eval/feature_classifier.ts";
import { areDigits } from "../eval/feature_network.ts";
import {
  featureConfig,
  FEATURES_VERSION,
  featureTask,
  type TrainedFeatures,
  trainFeatures,
} from "../eval/feature_training.ts";
import { FileError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Workspace } from "../graph/mod.ts";
import { decodeSafetensors, encodeSafetensors, type StoredTensor } from "../io/safetensors.ts";
import { cacheFolder } from "./cache.ts";
import { onDisk, writeFileAtomic } from "../io/disk.ts";
import { Progress, type ProgressSink, STDERR } from "./progress.ts";
import { sha256 } from "../io/sha256.ts";

/** What {@linkcode cachedFeatures} does otherwise than usual. */
export interface FeatureCacheOptions {
  /** Where the files lie; undefined where nothing is to be kept. */
  readonly folder?: string | undefined;
  /** Where progress and notices go. */
  readonly sink?: ProgressSink;
}

/** Measures against `data`, by features of the digits' network or of the cached one of the data set. */
export async function openEvaluator(workspace: Workspace, data: ImageData8): Promise<Evaluator> {
  const trained = areDigits(data) ? undefined : await cachedFeatures(workspace.gpu, data);
  return await Evaluator.create(workspace, data, trained);
}

/**
 * The feature network of a data set: read from the cache where it is there, else trained and written to it. A file that
 * is damaged or another's is named in a notice and replaced; one that cannot be written is only named.
 */
export async function cachedFeatures(
  gpu: Gpu,
  data: ImageData8,
  options: FeatureCacheOptions = { folder: cacheFolder() },
): Promise<TrainedFeatures> {
  const { folder, sink = STDERR } = options;
  const say = (text: string) => sink.write(`${text}\n`);
  const key = await featureKey(data);
  const path = folder === undefined ? undefined : join(folder, `features-${key}.safetensors`);
  const known = path === undefined ? undefined : await readFeatures(path, data, key, say);
  if (known) return known;
  const trained = await train(gpu, data, sink);
  if (path !== undefined) await keep(path, folder!, await encodeFeatures(data, key, trained), say);
  return trained;
}

/** A hash of the images, their classes and what else the weights depend on. */
async function featureKey(data: ImageData8): Promise<string> {
  return (await sha256(JSON.stringify([FEATURES_VERSION, hashImages(data)]))).slice(0, 16);
}

async function train(gpu: Gpu, data: ImageData8, sink: ProgressSink): Promise<TrainedFeatures> {
  let progress: Progress | undefined;
  const trained = await trainFeatures(gpu, data, {
    start: (total, imagesPerStep) => progress = new Progress({ stage: "features", total, imagesPerStep, sink }),
    update: (step, loss) => progress?.update(step, { loss }),
  });
  progress?.done();
  const right = `${(100 * trained.accuracy).toFixed(1)} % of ${trained.heldOut} held-out images right`;
  progress?.log(
    `features: ${trained.task === "classes" ? "classes" : "quarter turns (there are no classes)"}, ${right}`,
  );
  return trained;
}

function encodeFeatures(data: ImageData8, key: string, trained: TrainedFeatures): Promise<Uint8Array<ArrayBuffer>> {
  const { parameters } = new FeatureClassifier(featureConfig(data));
  const tensors = parameters.map(({ name, shape }): [string, StoredTensor] => [
    name,
    { dtype: "F32", shape, data: trained.weights.get(name)! },
  ]);
  const { task, accuracy, heldOut } = trained;
  return encodeSafetensors(new Map(tensors), {
    kind: "features",
    key,
    task,
    accuracy: String(accuracy),
    heldOut: String(heldOut),
    data: data.name,
    source: "Di-Bregman on WebGPU",
  });
}

/** Reads a file of the cache; one that is not as it was written is none. */
async function readFeatures(
  path: string,
  data: ImageData8,
  key: string,
  say: (text: string) => void,
): Promise<TrainedFeatures | undefined> {
  try {
    const bytes = await onDisk(path, "read", () => readIfThere(path));
    return bytes && await decodeFeatures(bytes, path, data, key);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    say(`features: ${error.message} They are trained anew.`);
    return undefined;
  }
}

async function readIfThere(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function decodeFeatures(
  bytes: Uint8Array<ArrayBuffer>,
  path: string,
  data: ImageData8,
  key: string,
): Promise<TrainedFeatures> {
  const { metadata, tensors } = await decodeSafetensors(bytes, path);
  const task = featureTask(data), accuracy = Number(metadata.accuracy), heldOut = Number(metadata.heldOut);
  const belongs = metadata.kind === "features" && metadata.key === key && metadata.task === task;
  if (!belongs || !(accuracy >= 0 && accuracy <= 1) || !(Number.isInteger(heldOut) && heldOut > 0)) {
    throw new FileError(`${path} does not hold the feature network of ${data.name}.`);
  }
  const weights = new FeatureClassifier(featureConfig(data)).parameters.map(({ name, shape }) => {
    const tensor = tensors.get(name);
    if (tensor?.dtype !== "F32" || tensor.shape.join() !== shape.join() || !tensor.data.every(Number.isFinite)) {
      throw new FileError(`${path}: tensor "${name}" should be F32 [${shape.join(", ")}] and finite.`);
    }
    return [name, tensor.data] as const;
  });
  return { task, accuracy, heldOut, weights: new Map(weights) };
}

/** Writes a file to the cache. What cannot be kept can be made anew: no reason to stop. */
async function keep(path: string, folder: string, bytes: Uint8Array, say: (text: string) => void): Promise<void> {
  try {
    await onDisk(folder, "made", () => Deno.mkdir(folder, { recursive: true }));
    await writeFileAtomic(path, bytes);
    say(`features: kept in ${path}`);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    say(`features: not kept. ${error.message}`);
  }
}

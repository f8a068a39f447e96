/** The training of a data set's feature network: on its classes, or on turned images where it has none. */

import type { ImageData8 } from "../data/image_data.ts";
import { type Seed, shuffledIndex } from "../data/philox.ts";
import { bytesToData } from "../data/scaling.ts";
import { NonFiniteError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { crossEntropy, fromUint8, mean, type Program, type Variable, Workspace } from "../graph/mod.ts";
import { gradientUpdates, Optimizer } from "../optim/adam.ts";
import { initialWeights, Trainable, type WeightArrays } from "../optim/weights.ts";
import { FeatureClassifier, type FeatureClassifierConfig } from "./feature_classifier.ts";

/** Changes with anything that changes the weights: files of other versions are made anew. */
export const FEATURES_VERSION = 1;

/** What a feature network learns to tell: the data set's classes, or by how many quarter turns an image is turned. */
export type FeatureTask = "classes" | "rotations";

/** A feature network that was trained. */
export interface TrainedFeatures {
  /** What it learned to tell. */
  readonly task: FeatureTask;
  /** Share (0 to 1) of the images not trained on that it tells rightly. */
  readonly accuracy: number;
  /** Number of those. */
  readonly heldOut: number;
  /** Its weights. */
  readonly weights: WeightArrays;
}

/** What the training tells as it goes. */
export interface FeatureProgress {
  /** Steps it has, and images a step. */
  start(steps: number, imagesPerStep: number): void;
  /** Steps made, and their mean loss since the last call. */
  update(step: number, loss: number): void;
}

const BATCH = 64;

/** Images of a batch where only features or logits are wanted. */
export const FORWARD_BATCH = 256;

/** Images trained on: so many times all, but within these bounds, and no more than `passes` times all. */
const IMAGES = { times: 4, least: 20_000, most: 200_000, passes: 30 };

/** One of so many images is held out. */
const HELD_OUT = 10;

const LEARNING_RATE = 2e-3;

/** Steps over which the learning rate rises. */
const WARMUP = 20;

/** Steps between two looks at the loss: each waits for the device. */
const READ_EVERY = 20;

const SEED: Seed = [0, 3];

/** Streams of the permutations. */
const STREAM = { split: 0x40, order: 0x41 };

/** Quarter turns there are. */
const TURNS = 4;

/** What the feature network of a data set learns: turns where fewer than two classes occur. */
export function featureTask({ labels }: ImageData8): FeatureTask {
  return labels.every((label) => label === labels[0]) ? "rotations" : "classes";
}

/** The network that is trained. */
export function featureConfig(data: ImageData8): FeatureClassifierConfig {
  const classes = featureTask(data) === "classes" ? data.classes : TURNS;
  return { channels: data.channels, side: data.height, classes };
}

/**
 * Trains the feature network of a data set on nine tenths of its images by Adam, the rest measures it. The same images
 * give the same weights on the same adapter. Where the images have no classes it learns by how many quarter turns they
 * are turned (Gidaris et al. 2018).
 *
 * @throws {NonFiniteError} where the training did not stay finite.
 */
export async function trainFeatures(
  gpu: Gpu,
  data: ImageData8,
  progress?: FeatureProgress,
): Promise<TrainedFeatures> {
  const workspace = new Workspace(gpu);
  try {
    const examples = new Examples(data);
    const network = new FeatureClassifier(featureConfig(data));
    const trainable = new Trainable(workspace, "features", network);
    trainable.start(initialWeights(network.parameters, SEED));
    await descend(trainable, network, examples, progress);
    const weights = await trainable.values.read();
    if (![...weights.values()].every((values) => values.every(Number.isFinite))) {
      throw new NonFiniteError(`The feature network of ${data.name} did not stay finite in its training.`);
    }
    const accuracy = await heldOutAccuracy(trainable, network, examples);
    return { task: examples.task, accuracy, heldOut: examples.heldOut, weights };
  } finally {
    workspace.destroy();
  }
}

async function descend(
  trainable: Trainable,
  network: FeatureClassifier,
  examples: Examples,
  progress?: FeatureProgress,
): Promise<void> {
  const { workspace, values } = trainable;
  const images = imageVariable(workspace, examples.data, BATCH);
  const labels = workspace.variable("features.labels", [BATCH], "u32");
  const x = fromUint8(images.tensor, bytesToData(examples.data));
  const logits = network.logits(values.lookup, network.features(values.lookup, x));
  const loss = mean(crossEntropy(logits, labels.tensor));
  const gradient = await workspace.compile({
    label: "features.gradient",
    updates: gradientUpdates(trainable, [loss]),
    metrics: { loss },
    metricsCapacity: READ_EVERY,
  });
  // The average goes unused: by the rate's fall to 0 the weights come to rest.
  const ema = { halfLife: BATCH, rampRatio: 1 };
  const optimizer = await Optimizer.create(trainable, { batch: BATCH, beta1: 0.9, beta2: 0.999, ema, clipNorm: 1 });
  const { steps } = examples;
  progress?.start(steps, BATCH);
  for (let step = 0; step < steps;) {
    const batch = examples.batch(step * BATCH, BATCH);
    images.write(batch.words);
    labels.write(batch.labels);
    workspace.submit([gradient.at(), optimizer.at(step, learningRate(step, steps))]);
    step++;
    if (step % READ_EVERY !== 0 && step < steps) continue;
    const [losses] = await Promise.all([gradient.readMetrics(), optimizer.readGradNorms()]);
    progress?.update(step, losses.reduce((sum, { loss }) => sum + loss![0]!, 0) / losses.length);
  }
}

/** Up in the first steps, down to 0 by a cosine. */
function learningRate(step: number, steps: number): number {
  return LEARNING_RATE * Math.min(1, (step + 1) / WARMUP, 0.5 + 0.5 * Math.cos(Math.PI * step / steps));
}

async function heldOutAccuracy(trainable: Trainable, network: FeatureClassifier, examples: Examples): Promise<number> {
  const { workspace, values } = trainable;
  const images = imageVariable(workspace, examples.data, FORWARD_BATCH);
  const x = fromUint8(images.tensor, bytesToData(examples.data));
  const logits = network.logits(values.lookup, network.features(values.lookup, x));
  const program = await workspace.compile({ label: "features.logits", outputs: { logits } });
  let right = 0;
  for (let first = 0; first < examples.heldOut; first += FORWARD_BATCH) {
    const { words, labels } = examples.heldOutBatch(first, FORWARD_BATCH);
    images.write(words);
    workspace.submit([program.at()]);
    right += countRight((await program.read()).logits as Float32Array, labels, examples.heldOut - first);
  }
  return right / examples.heldOut;
}

/** How many of the first `count` rows are largest at their label. */
function countRight(logits: Float32Array, labels: Uint32Array, count: number): number {
  const classes = logits.length / labels.length;
  const rows = labels.subarray(0, count);
  return rows.reduce((right, label, i) => {
    const row = logits.subarray(i * classes, (i + 1) * classes);
    return right + Number(row.every((logit, j) => j === label || logit < row[label]!));
  }, 0);
}

/** A batch of images as packed bytes, to be filled at each run. */
export function imageVariable(workspace: Workspace, { channels, height, width }: ImageData8, batch: number): Variable {
  return workspace.variable("features.images", [batch, channels, height, width], "u8");
}

/** The data set as a training sees it: split in two, in the order it is drawn, with labels. */
class Examples {
  readonly task: FeatureTask;
  /** Images not trained on. */
  readonly heldOut: number;
  /** All images in an order of chance, the held-out ones first. */
  private readonly order: Uint32Array;

  constructor(readonly data: ImageData8) {
    const { count } = data;
    this.task = featureTask(data);
    this.heldOut = Math.ceil(count / HELD_OUT);
    this.order = Uint32Array.from({ length: count }, (_, i) => shuffledIndex(SEED, i, count, STREAM.split));
  }

  get steps(): number {
    const { times, least, most, passes } = IMAGES;
    const { count } = this.data;
    return Math.ceil(Math.min(passes * count, most, Math.max(least, times * count)) / BATCH);
  }

  /** The `size` examples from the `first` that is trained on. */
  batch(first: number, size: number) {
    const training = this.data.count - this.heldOut;
    return this.collect(first, size, (i) => this.heldOut + shuffledIndex(SEED, i, training, STREAM.order));
  }

  /** The `size` examples from the `first` that is held out; they begin again after the last. */
  heldOutBatch(first: number, size: number) {
    return this.collect(first, size, (i) => i % this.heldOut);
  }

  private collect(first: number, size: number, place: (i: number) => number) {
    const { pixels, labels, channels, height: side } = this.data;
    const perImage = channels * side * side;
    const bytes = new Uint8Array(size * perImage);
    const classes = new Uint32Array(size);
    for (let i = 0; i < size; i++) {
      const at = place(first + i);
      const index = this.order[at]!;
      const image = pixels.subarray(index * perImage, (index + 1) * perImage);
      // From pass to pass an image is turned further; among held-out ones all turns occur.
      const turns = this.task === "classes" ? 0 : (at + Math.floor((first + i) / (this.data.count - this.heldOut))) % TURNS;
      bytes.set(turn(image, side, turns), i * perImage);
      classes[i] = this.task === "classes" ? labels[index]! : turns;
    }
    return { words: new Uint32Array(bytes.buffer), labels: classes };
  }
}

/** An image [C, side, side] turned by quarter turns. */
function turn(image: Uint8Array, side: number, turns: number): Uint8Array {
  const last = side - 1;
  let turned = image;
  for (; turns > 0; turns--) {
    const from = turned;
    turned = from.map((_, i) => {
      const x = i % side, y = Math.floor(i / side) % side;
      return from[i - y * side - x + x * side + last - y]!;
    });
  }
  return turned;
}

/** The training of a data set's feature network: on its classes, or on turned images where it has none. */

import type { ImageData8 } from "../data/image_data.ts";
import { philox4x32, type Seed, shuffledIndex } from "../data/philox.ts";
import { bytesToData } from "../data/scaling.ts";
import { NonFiniteError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { crossEntropy, fromUint8, mean, type Variable, Workspace } from "../graph/mod.ts";
import { gradientUpdates, Optimizer } from "../optim/adam.ts";
import { initialWeights, Trainable } from "../optim/weights.ts";
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
  readonly weights: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
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
export function forwardBatch({ height }: ImageData8): number {
  return height > 64 ? 64 : 256;
}

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

/** Streams of the permutations and the shifts. */
const STREAM = { split: 0x40, order: 0x41, shift: 0x42 };

/** Images are shifted by up to this share of their side, so that the network does not learn them by heart. */
const SHIFT = 1 / 16;

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
  const batch = forwardBatch(examples.data);
  const images = imageVariable(workspace, examples.data, batch);
  const x = fromUint8(images.tensor, bytesToData(examples.data));
  const logits = network.logits(values.lookup, network.features(values.lookup, x));
  const program = await workspace.compile({ label: "features.logits", outputs: { logits } });
  let right = 0;
  for (let first = 0; first < examples.heldOut; first += batch) {
    const { words, labels } = examples.heldOutBatch(first, batch);
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

  /** The `size` examples from the `first` that is trained on, each shifted by chance. */
  batch(first: number, size: number): Batch {
    const training = this.data.count - this.heldOut;
    return this.collect(size, (i) => {
      const position = first + i;
      const index = this.order[this.heldOut + shuffledIndex(SEED, position, training, STREAM.order)]!;
      const [x, y, turns] = philox4x32([position, 0, 0, STREAM.shift], SEED);
      return { index, turns: turns % TURNS, shift: [this.shift(x), this.shift(y)] };
    });
  }

  /** The `size` examples from the `first` that is held out; they begin again after the last. */
  heldOutBatch(first: number, size: number): Batch {
    return this.collect(size, (i) => {
      const index = this.order[(first + i) % this.heldOut]!;
      return { index, turns: index % TURNS, shift: [0, 0] };
    });
  }

  private shift(word: number): number {
    const most = Math.floor(this.data.height * SHIFT);
    return word % (2 * most + 1) - most;
  }

  private collect(size: number, view: (i: number) => View & { index: number }): Batch {
    const { pixels, labels, channels, height: side } = this.data;
    const perImage = channels * side * side;
    const bytes = new Uint8Array(size * perImage);
    const classes = new Uint32Array(size);
    for (let i = 0; i < size; i++) {
      const { index, turns, shift } = view(i);
      const turned = this.task === "rotations" ? turns : 0;
      const image = pixels.subarray(index * perImage, (index + 1) * perImage);
      drawView(bytes.subarray(i * perImage, (i + 1) * perImage), image, side, { turns: turned, shift });
      classes[i] = this.task === "rotations" ? turned : labels[index]!;
    }
    return { words: new Uint32Array(bytes.buffer), labels: classes };
  }
}

/** Images as packed bytes with their labels. */
interface Batch {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly labels: Uint32Array<ArrayBuffer>;
}

/** How an image is shown to the network. */
interface View {
  /** Quarter turns to the left. */
  readonly turns: number;
  /** Pixels to the left and up. */
  readonly shift: readonly [number, number];
}

/** Fills `target` with an image [C, side, side], shifted and then turned; its edge goes on beyond it. */
function drawView(target: Uint8Array, image: Uint8Array, side: number, { turns, shift: [dx, dy] }: View): void {
  if (turns === 0 && dx === 0 && dy === 0) return target.set(image);
  const last = side - 1;
  const inside = (at: number) => Math.max(0, Math.min(last, at));
  const cos = [1, 0, -1, 0][turns]!, sin = [0, 1, 0, -1][turns]!;
  for (let y = 0, to = 0; y < side; y++) {
    for (let x = 0; x < side; x++, to++) {
      // Twice the distance from the middle.
      const right = 2 * x - last, down = 2 * y - last;
      const u = (last + cos * right - sin * down) / 2, v = (last + sin * right + cos * down) / 2;
      const from = inside(v + dy) * side + inside(u + dx);
      for (let plane = 0; plane < image.length; plane += side * side) target[plane + to] = image[plane + from]!;
    }
  }
}

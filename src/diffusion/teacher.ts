/** The teacher's training step: EDM's denoising loss on shuffled images. */

import {
  add,
  augment,
  constant,
  gatherImages,
  host,
  mul,
  type Program,
  randomNormal,
  type RandomSource,
  shuffledIndices,
  sum,
} from "../graph/mod.ts";
import type { HostValues, Tensor, Variable } from "../graph/mod.ts";
import type { Seed } from "../data/philox.ts";
import { gradientUpdates } from "../optim/adam.ts";
import type { Trainable } from "../optim/weights.ts";
import type { DenoisingNetwork } from "../nn/network.ts";
import { conditionSizes } from "../nn/networks.ts";
import { denoisingLoss, logNormalSigma } from "./edm.ts";
import { oneHot } from "./labels.ts";

/** Images on the device with their scaling to data units. */
export interface ImageSource {
  /** u8 [M, C, H, W], or several of them that are to be taken for one: a device binds no more than so much at once. */
  readonly data: Variable | readonly Variable[];
  /** The images' classes as u8 [M, 2, 1], the low byte first; absent where they do not matter. */
  readonly labels?: Variable | undefined;
  /** True: every image counts twice, the second time mirrored. */
  readonly mirror?: boolean | undefined;
  /** Data unit = byte · scale + shift. */
  readonly scale: number;
  /** See `scale`. */
  readonly shift: number;
}

/** ln σ ~ N(mean, std²). */
export interface LogNormalLaw {
  /** Mean of ln σ. */
  readonly mean: number;
  /** Standard deviation of ln σ. */
  readonly std: number;
}

/** Run-time leaves every training program has. */
export interface StepLeaves {
  /** The source of stream `stream` for this step; `offset` is added to the index of the first sample. */
  random(stream: number, offset?: number): RandomSource;
  /** The next `count` images in shuffled order, and their classes [count] where the source has them. */
  images(source: ImageSource, count: number): { readonly images: Tensor; readonly labels: Tensor | undefined };
}

/** Run-time values of {@linkcode StepLeaves.random}, and what else a step's program is given. */
export interface StepValues extends HostValues {
  /** The random sequence. */
  readonly seed: Seed;
  /** The step. */
  readonly step: number;
  /** Index of the first sample within it. */
  readonly first: number;
}

/** Run-time values of {@linkcode StepLeaves.random} for step `step`, from its sample `first` on. */
export function randomValues(seed: Seed, step: number, first = 0): StepValues {
  return { seed, step, first };
}

/** Run-time values of a program that also takes images: step `step` of batches of `batch`, from sample `first` on. */
export function imageValues(seed: Seed, step: number, batch: number, first = 0): StepValues {
  return { ...randomValues(seed, step, first), position: (step * batch + first) >>> 0 };
}

/** Steps whose metrics a training program holds until they must be read. */
export const METRICS_HELD = 256;

const SHUFFLE_STREAM = 0x100;

/** Leaves `seed`, `step`, `first` (index of the batch's first sample within the step) and `position` (images seen). */
export function stepLeaves(): StepLeaves {
  const seed = host("seed", [2], "u32"), step = host("step", [], "u32"), first = host("first", [], "u32");
  const position = host("position", [], "u32");
  return {
    random: (stream, offset = 0) => ({ seed, step, first, stream, offset }),
    images: ({ data, labels, mirror, scale, shift }, count) => {
      const parts = "tensor" in data ? [data] : data;
      const counts = parts.map(({ tensor }) => tensor.shape[0]!);
      const size = counts.reduce((a, b) => a + b) * (mirror ? 2 : 1);
      const indices = shuffledIndices(count, { seed, first: position, size, stream: SHUFFLE_STREAM });
      const bytes = labels && gatherImages(labels.tensor, indices, { scale: 1, shift: 0, mirror });
      return {
        images: parts.map(({ tensor }, i) => {
          const first = parts.length > 1 ? counts.slice(0, i).reduce((a, b) => a + b, 0) : undefined;
          return gatherImages(tensor, indices, { scale, shift, mirror, first });
        }).reduce(add),
        labels: bytes && sum(mul(bytes, constant([1, 256], [2, 1])), [1, 2]),
      };
    },
  };
}

/** Streams of the random numbers of a step: those of the network's own uses begin at `network`. */
const STREAM = { sigma: 0, noise: 1, augmentUniforms: 2, augmentNormals: 3, network: 0x1000 } as const;

/** Settings of {@linkcode compileTeacherStep}. */
export interface TeacherSettings {
  /** Images a step. */
  readonly batch: number;
  /** Law of σ. */
  readonly sigma: LogNormalLaw;
  /** Probability of each change of EDM's augmentation; 0, when absent, for none. */
  readonly augment?: number;
}

/**
 * Compiles the gradient of the denoising loss of one batch, or of one of the teacher's microbatches of it; metric `loss`.
 * A network with classes or augmentation labels is given them.
 */
export function compileTeacherStep(
  teacher: Trainable,
  source: ImageSource,
  settings: TeacherSettings,
): Promise<Program> {
  const { sigma: law, augment: p = 0 } = settings;
  const network = teacher.network as DenoisingNetwork;
  const { labelDim, augmentDim } = conditionSizes(network.config);
  const batch = teacher.imagesAtOnce(settings.batch);
  const leaves = stepLeaves();
  const { images, labels } = leaves.images(source, batch);
  const draws = { uniforms: leaves.random(STREAM.augmentUniforms), normals: leaves.random(STREAM.augmentNormals) };
  const augmented = p > 0 ? augment(images, { p, ...draws }) : { images, labels: undefined };
  const x0 = augmented.images;
  const sigma = logNormalSigma(randomNormal([batch], leaves.random(STREAM.sigma)), law);
  const noise = randomNormal(x0.shape, leaves.random(STREAM.noise));
  const loss = denoisingLoss(network, teacher.values.lookup, { x0, noise, sigma }, {
    ...labels && labelDim > 0 && { labels: oneHot(labels, labelDim) },
    ...augmentDim > 0 && { augment: augmented.labels },
    random: (use) => leaves.random(STREAM.network + use),
  });
  return teacher.workspace.compile({
    label: "teacher.gradient",
    updates: gradientUpdates(teacher, [loss]),
    metrics: { loss },
    metricsCapacity: METRICS_HELD * teacher.runsAStep,
  });
}

/** The teacher's training step: EDM's denoising loss on shuffled images. */

import { gatherImages, host, type Program, randomNormal, type RandomSource, shuffledIndices } from "../graph/mod.ts";
import type { HostValues, Tensor, Variable } from "../graph/mod.ts";
import type { Seed } from "../data/philox.ts";
import { gradientUpdates } from "../optim/adam.ts";
import type { Trainable } from "../optim/weights.ts";
import type { DenoisingNetwork } from "../nn/network.ts";
import { denoisingLoss, logNormalSigma } from "./edm.ts";

/** Images on the device with their scaling to data units. */
export interface ImageSource {
  /** u8 [M, C, H, W]. */
  readonly data: Variable;
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
  /** The next `count` images in shuffled order. */
  images(source: ImageSource, count: number): Tensor;
}

/** Run-time values of {@linkcode StepLeaves.random} for step `step`, from its sample `first` on. */
export function randomValues(seed: Seed, step: number, first = 0): HostValues {
  return { seed, step, first };
}

/** Run-time values of a program that also takes images: step `step` of batches of `batch`, from sample `first` on. */
export function imageValues(seed: Seed, step: number, batch: number, first = 0): HostValues {
  return { ...randomValues(seed, step, first), position: (step * batch + first) >>> 0 };
}

/** Steps whose metrics a training program holds until they must be read. */
export const METRICS_HELD = 64;

const SHUFFLE_STREAM = 0x100;

/** The first of the streams of the network's own random uses: the last in a training step. */
const NETWORK_STREAM = 0x1000;

/** Leaves `seed`, `step`, `first` (index of the batch's first sample within the step) and `position` (images seen). */
export function stepLeaves(): StepLeaves {
  const seed = host("seed", [2], "u32"), step = host("step", [], "u32"), first = host("first", [], "u32");
  const position = host("position", [], "u32");
  return {
    random: (stream, offset = 0) => ({ seed, step, first, stream, offset }),
    images: ({ data, scale, shift }, count) => {
      const size = data.tensor.shape[0]!;
      const indices = shuffledIndices(count, { seed, first: position, size, stream: SHUFFLE_STREAM });
      return gatherImages(data.tensor, indices, { scale, shift });
    },
  };
}

/**
 * Compiles the gradient of the denoising loss of one batch, or of one of the teacher's microbatches of it; metric `loss`.
 */
export function compileTeacherStep(
  teacher: Trainable,
  images: ImageSource,
  settings: { readonly batch: number; readonly sigma: LogNormalLaw },
): Promise<Program> {
  const { sigma: law } = settings;
  const batch = teacher.imagesAtOnce(settings.batch);
  const leaves = stepLeaves();
  const x0 = leaves.images(images, batch);
  const sigma = logNormalSigma(randomNormal([batch], leaves.random(0)), law);
  const noise = randomNormal(x0.shape, leaves.random(1));
  const loss = denoisingLoss(teacher.network as DenoisingNetwork, teacher.values.lookup, { x0, noise, sigma }, {
    random: (use) => leaves.random(NETWORK_STREAM + use),
  });
  return teacher.workspace.compile({
    label: "teacher.gradient",
    updates: gradientUpdates(teacher, [loss]),
    metrics: { loss },
    metricsCapacity: METRICS_HELD * teacher.runsAStep,
  });
}

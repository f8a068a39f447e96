/** What the programs of a distillation share: networks, random numbers, the generator's images, noise levels. */

import { concat, randomNormal, type RandomSource, randomUniform, type Tensor } from "../graph/mod.ts";
import {
  denoiseWithFeatures,
  generate,
  type GeneratorInputs,
  karrasLimits,
  karrasSigma,
  logNormalSigma,
} from "../diffusion/edm.ts";
import { oneHot, randomLabels } from "../diffusion/labels.ts";
import type { ImageSource, StepLeaves } from "../diffusion/teacher.ts";
import type { Conditions, DenoisingNetwork, Features } from "../nn/network.ts";
import { conditionSizes, imageSize } from "../nn/networks.ts";
import type { Trainable, Weights } from "../optim/weights.ts";
import type { DistillSettings, SigmaLaw } from "./settings.ts";

/** The networks of a distillation. */
export interface DistillNetworks {
  /** z → x. */
  readonly generator: Trainable;
  /** Score of the generator's samples. */
  readonly fakeScore?: Trainable | undefined;
  /** Real or generated; absent also where the classifier has no parameters of its own. */
  readonly classifier?: Trainable | undefined;
  /** Frozen. */
  readonly teacher: Weights;
}

/** Streams of the random numbers of a step, `later` the first of 15; critics and generator draw apart. */
export const STREAM = {
  critic: {
    ...{ latent: 0x10, sigma: 0x11, noise: 0x12, classifierSigma: 0x13, classifierNoise: 0x14, penalty: 0x15 },
    ...{ labels: 0x16, later: 0x40 },
  },
  generator: { latent: 0x20, sigma: 0x21, noise: 0x22, labels: 0x26, later: 0x50 },
  held: { latent: 0x30, sigma: 0x31, noise: 0x32, labels: 0x36, later: 0x60 },
} as const;

/** Which of them a program draws from. */
type Draws = "critic" | "generator" | "held";

/** Noise levels [N] by the law, from the random numbers [N] that `draw` gives. */
export function noiseLevels(
  { law, range, ...normal }: SigmaLaw,
  draw: (random: typeof randomNormal) => Tensor,
): Tensor {
  return law === "karras" ? karrasSigma(draw(randomUniform), range) : logNormalSigma(draw(randomNormal), normal);
}

/** The least and the greatest σ of a law, where most of it lies. */
export function sigmaLimitsOf({ law, range, mean, std }: SigmaLaw): [number, number] {
  if (law === "log-normal") return [Math.exp(mean - 3 * std), Math.exp(mean + 3 * std)];
  return karrasLimits(range);
}

/** A network's denoiser with its weights. */
export function denoiserOf(weights: Weights): DenoisingNetwork {
  return weights.network as DenoisingNetwork;
}

/** Noisy images, where they are, and what is known of them. */
export interface Noisy {
  /** [N, C, H, W] */
  readonly xt: Tensor;
  /** [N] */
  readonly sigma: Tensor;
  /** Their classes. */
  readonly conditions?: Conditions | undefined;
}

/** What a denoiser's weights make of noisy images. */
export function denoiseBy(
  weights: Weights,
  { xt, sigma, conditions }: Noisy,
): { readonly denoised: Tensor; readonly features: Features } {
  return denoiseWithFeatures(denoiserOf(weights), weights.lookup, xt, sigma, conditions);
}

/** Random classes of `batch` images as conditions of the networks, where these have any. */
function drawConditions(
  teacher: Weights,
  { classShares }: Pick<DistillSettings, "classShares">,
  batch: number,
  source: RandomSource,
): Conditions {
  const { labelDim } = conditionSizes(denoiserOf(teacher).config);
  if (labelDim === 0) return {};
  return { labels: oneHot(randomLabels(batch, classShares ?? labelDim, source), labelDim) };
}

/** Two batches' conditions as those of one. */
export function joined(parts: readonly Conditions[]): Conditions {
  const labels = parts.map(({ labels }) => labels);
  return labels[0] ? { labels: concat(labels as Tensor[], 0) } : {};
}

/** What of the settings decides what generated images are made of. */
type InputSettings = Pick<DistillSettings, "sigmaInit" | "laterSigmas" | "classShares">;

/** What a batch of generated images is made of, drawn at random. */
export function inputsOf(
  { generator, teacher }: DistillNetworks,
  settings: InputSettings,
  batch: number,
  leaves: StepLeaves,
  draws: Draws,
): Required<GeneratorInputs> {
  const { imageChannels, resolution } = imageSize((generator.network as DenoisingNetwork).config);
  const { latent, labels, later } = STREAM[draws];
  const normal = (stream: number) =>
    randomNormal([batch, imageChannels, resolution, resolution], leaves.random(stream));
  return {
    z: normal(latent),
    noises: settings.laterSigmas.map((_, i) => normal(later + i)),
    conditions: drawConditions(teacher, settings, batch, leaves.random(labels)),
  };
}

/** The generator's images. */
export function generated(
  { generator: { values } }: DistillNetworks,
  inputs: GeneratorInputs,
  { sigmaInit, laterSigmas }: InputSettings,
): Tensor {
  return generate(denoiserOf(values), values.lookup, inputs, [sigmaInit, ...laterSigmas]);
}

/** The next real images with their classes as conditions. */
export function realImages(
  networks: DistillNetworks,
  source: ImageSource,
  leaves: StepLeaves,
  batch: number,
): { readonly images: Tensor; readonly conditions: Conditions } {
  const { images, labels } = leaves.images(source, batch);
  const { labelDim } = conditionSizes(denoiserOf(networks.teacher).config);
  const conditions: Conditions = labels && labelDim > 0 ? { labels: oneHot(labels, labelDim) } : {};
  return { images, conditions };
}

/** The distillation step as two programs: the critics (fake score and classifier), then the generator. */

import { GraphError } from "../gpu/errors.ts";
import {
  add,
  affine,
  bregmanGradient,
  type BregmanSettings,
  bregmanWeights,
  concat,
  host,
  mean,
  type Program,
  randomNormal,
  type RandomSource,
  randomUniform,
  reshape,
  type Shape,
  slice,
  softplus,
  stopGradient,
  type Tensor,
} from "../graph/mod.ts";
import {
  addNoise,
  denoise,
  denoisingLoss,
  generate,
  karrasSigma,
  logNormalSigma,
  noiseCondition,
  scaleInput,
} from "../diffusion/edm.ts";
import { type ImageSource, type LogNormalLaw, METRICS_HELD, stepLeaves } from "../diffusion/teacher.ts";
import type { ParameterLookup } from "../nn/layers.ts";
import type { DenoisingNetwork } from "../nn/network.ts";
import { imageSize } from "../nn/networks.ts";
import type { Classifier } from "../nn/unet.ts";
import { gradientUpdates } from "../optim/adam.ts";
import type { Trainable, Weights } from "../optim/weights.ts";

/** Settings of the distillation step. */
export interface DistillSettings {
  /** Images a step. */
  readonly batch: number;
  /** Noise level of the generator's input. */
  readonly sigmaInit: number;
  /** Share of Karras's schedule, from its low end, that σ of the generator and the classifier is drawn from. */
  readonly sigmaRange: number;
  /** Law of the fake score's σ. */
  readonly fakeSigma: LogNormalLaw;
  /** The divergence and its safeguards. */
  readonly bregman: BregmanSettings;
  /** Divide each sample's gradient by mean|x − D_teacher| (DMD's normaliser). */
  readonly normaliser: boolean;
}

/** The networks of a distillation. */
export interface DistillNetworks {
  /** z → x. */
  readonly generator: Trainable;
  /** Score of the generator's samples. */
  readonly fakeScore: Trainable;
  /** Real or generated. */
  readonly classifier: Trainable;
  /** Frozen. */
  readonly teacher: Weights;
}

/** Streams of the random numbers of a step; critics and generator draw apart. */
const STREAM = {
  critic: { latent: 0x10, sigma: 0x11, noise: 0x12, classifierSigma: 0x13, classifierNoise: 0x14 },
  generator: { latent: 0x20, sigma: 0x21, noise: 0x22 },
} as const;

/** The classifier's logit log P(real)/P(generated) of noisy images `xt` at `sigma` [N] → [N]. */
export function classify(network: Classifier, p: ParameterLookup, xt: Tensor, sigma: Tensor): Tensor {
  return network.apply(p, scaleInput(xt, sigma), noiseCondition(sigma));
}

/** Logistic loss: mean softplus(−logit) over the real plus mean softplus(logit) over the generated. */
export function classifierLoss(realLogits: Tensor, generatedLogits: Tensor): Tensor {
  return add(mean(softplus(affine(realLogits, -1, 0))), mean(softplus(generatedLogits)));
}

function latents(networks: DistillNetworks, batch: number, source: RandomSource): Tensor {
  const { imageChannels, resolution } = imageSize((networks.generator.network as DenoisingNetwork).config);
  return randomNormal([batch, imageChannels, resolution, resolution], source);
}

/** Images at once, which must be the same for all of `networks`. */
function imagesAtOnce(networks: readonly Trainable[], { batch }: DistillSettings): number {
  const [images, ...others] = networks.map((network) => network.imagesAtOnce(batch));
  if (others.some((other) => other !== images)) {
    throw new GraphError(`Networks trained together need as many microbatches: ${networks.map((n) => n.runsAStep)}.`);
  }
  return images!;
}

/**
 * Compiles the gradients of both critics on fresh samples of the generator, one forward pass for both: of one batch, or
 * of one of the networks' microbatches. Metrics: `fakeLoss`, `classifierLoss`.
 */
export function compileCriticStep(
  networks: DistillNetworks,
  images: ImageSource,
  settings: DistillSettings,
): Promise<Program> {
  const { generator, fakeScore, classifier } = networks;
  const { sigmaInit, sigmaRange, fakeSigma } = settings;
  const batch = imagesAtOnce([fakeScore, classifier], settings);
  const leaves = stepLeaves();
  const draw = STREAM.critic;
  // The classifier's samples are the step's real images, then all of its generated ones.
  const draws = (random: typeof randomNormal, shape: Shape, stream: number) =>
    batch === settings.batch
      ? random([2 * batch, ...shape], leaves.random(stream))
      : concat([0, settings.batch].map((offset) => random([batch, ...shape], leaves.random(stream, offset))), 0);
  const z = latents(networks, batch, leaves.random(draw.latent));
  const x = stopGradient(generate(generator.network as DenoisingNetwork, generator.values.lookup, z, sigmaInit));

  const fakeLoss = denoisingLoss(fakeScore.network as DenoisingNetwork, fakeScore.values.lookup, {
    x0: x,
    noise: randomNormal(x.shape, leaves.random(draw.noise)),
    sigma: logNormalSigma(randomNormal([batch], leaves.random(draw.sigma)), fakeSigma),
  });

  const both = concat([leaves.images(images, batch).images, x], 0);
  const sigma = karrasSigma(draws(randomUniform, [], draw.classifierSigma), sigmaRange);
  const noisy = addNoise(both, draws(randomNormal, both.shape.slice(1), draw.classifierNoise), sigma);
  const logits = classify(classifier.network as Classifier, classifier.values.lookup, noisy, sigma);
  const loss = classifierLoss(slice(logits, 0, 0, batch), slice(logits, 0, batch, 2 * batch));

  return generator.workspace.compile({
    label: "critics.gradient",
    updates: [...gradientUpdates(fakeScore, [fakeLoss]), ...gradientUpdates(classifier, [loss])],
    metrics: { fakeLoss, classifierLoss: loss },
    metricsCapacity: METRICS_HELD * fakeScore.runsAStep,
  });
}

/** What {@linkcode generatorGradient} needs. */
export interface GeneratorInputs {
  /** Standard normal [N, C, H, W]. */
  readonly z: Tensor;
  /** Standard normal [N, C, H, W]. */
  readonly noise: Tensor;
  /** Noise levels [N]. */
  readonly sigma: Tensor;
  /** 0 for c = 1, 1 for c(r). */
  readonly blend: Tensor;
}

/**
 * The Bregman gradient at the generator's output (arXiv 2510.16983, with DMD's normaliser):
 * g = c(r)·(D_fake(x_t, σ) − D_teacher(x_t, σ)) / (mean|x − D_teacher| + ε) / N with x = G(z), x_t = x + σ n.
 */
export function generatorGradient(
  networks: DistillNetworks,
  inputs: GeneratorInputs,
  settings: Pick<DistillSettings, "sigmaInit" | "bregman" | "normaliser">,
): { readonly x: Tensor; readonly g: Tensor; readonly stats: Tensor; readonly weights: Tensor } {
  const { generator, fakeScore, classifier, teacher } = networks;
  const { z, noise, sigma, blend } = inputs;
  const x = generate(generator.network as DenoisingNetwork, generator.values.lookup, z, settings.sigmaInit);
  const xt = addNoise(stopGradient(x), noise, sigma);
  const fake = denoise(fakeScore.network as DenoisingNetwork, fakeScore.values.lookup, xt, sigma);
  const real = denoise(teacher.network as DenoisingNetwork, teacher.lookup, xt, sigma);
  const logits = classify(classifier.network as Classifier, classifier.values.lookup, xt, sigma);
  const { weights, stats } = bregmanWeights({ logits, blend }, settings.bregman);
  const g = bregmanGradient({ weights, x, fake, teacher: real }, { normaliser: settings.normaliser });
  return { x, g, stats, weights };
}

/**
 * Compiles the generator's gradient, of one batch or of one of the generator's microbatches; run-time value `blend` holds
 * the warm-up. Metric `stats`: min, mean, max of the ratio r and of the weight c.
 *
 * What the weights c are to be divided by, their mean over the whole batch, is not known before the last microbatch:
 * those are computed with c as it is, and the step's gradient is divided at its end.
 */
export function compileGeneratorStep(networks: DistillNetworks, settings: DistillSettings): Promise<Program> {
  const { generator } = networks;
  const { sigmaRange } = settings;
  const batch = generator.imagesAtOnce(settings.batch);
  const { normalise } = settings.bregman;
  const deferred = normalise ? generator.microbatches : undefined;
  const leaves = stepLeaves();
  const draw = STREAM.generator;
  const z = latents(networks, batch, leaves.random(draw.latent));
  const { x, g, stats } = generatorGradient(networks, {
    z,
    noise: randomNormal(z.shape, leaves.random(draw.noise)),
    sigma: karrasSigma(randomUniform([batch], leaves.random(draw.sigma)), sigmaRange),
    blend: host("blend"),
  }, { ...settings, bregman: { ...settings.bregman, normalise: normalise && !deferred } });
  const meanWeight = reshape(slice(stats, 0, 4, 5), []);
  return generator.workspace.compile({
    label: "generator.gradient",
    updates: [
      ...gradientUpdates(generator, [x], [g]),
      ...deferred ? [[deferred.weight, meanWeight] as const] : [],
    ],
    metrics: { stats },
    metricsCapacity: METRICS_HELD * generator.runsAStep,
  });
}

/** The distillation step as two programs: the critics (fake score and classifier), then the generator. */

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
import { type ImageSource, type LogNormalLaw, stepLeaves } from "../diffusion/teacher.ts";
import type { ParameterLookup } from "../nn/layers.ts";
import type { Classifier, UNet } from "../nn/unet.ts";
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
  const { imageChannels, resolution } = (networks.generator.network as UNet).config;
  return randomNormal([batch, imageChannels, resolution, resolution], source);
}

/**
 * Compiles the gradients of both critics on fresh samples of the generator, one forward pass for both.
 * Metrics: `fakeLoss`, `classifierLoss`.
 */
export function compileCriticStep(
  networks: DistillNetworks,
  images: ImageSource,
  settings: DistillSettings,
): Promise<Program> {
  const { generator, fakeScore, classifier } = networks;
  const { batch, sigmaInit, sigmaRange, fakeSigma } = settings;
  const leaves = stepLeaves();
  const draw = STREAM.critic;
  const z = latents(networks, batch, leaves.random(draw.latent));
  const x = stopGradient(generate(generator.network as UNet, generator.values.lookup, z, sigmaInit));

  const fakeLoss = denoisingLoss(fakeScore.network as UNet, fakeScore.values.lookup, {
    x0: x,
    noise: randomNormal(x.shape, leaves.random(draw.noise)),
    sigma: logNormalSigma(randomNormal([batch], leaves.random(draw.sigma)), fakeSigma),
  });

  const both = concat([leaves.images(images, batch), x], 0);
  const sigma = karrasSigma(randomUniform([2 * batch], leaves.random(draw.classifierSigma)), sigmaRange);
  const noisy = addNoise(both, randomNormal(both.shape, leaves.random(draw.classifierNoise)), sigma);
  const logits = classify(classifier.network as Classifier, classifier.values.lookup, noisy, sigma);
  const loss = classifierLoss(slice(logits, 0, 0, batch), slice(logits, 0, batch, 2 * batch));

  return generator.workspace.compile({
    label: "critics.gradient",
    updates: [...gradientUpdates(fakeScore, [fakeLoss]), ...gradientUpdates(classifier, [loss])],
    metrics: { fakeLoss, classifierLoss: loss },
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
  const x = generate(generator.network as UNet, generator.values.lookup, z, settings.sigmaInit);
  const xt = addNoise(stopGradient(x), noise, sigma);
  const fake = denoise(fakeScore.network as UNet, fakeScore.values.lookup, xt, sigma);
  const real = denoise(teacher.network as UNet, teacher.lookup, xt, sigma);
  const logits = classify(classifier.network as Classifier, classifier.values.lookup, xt, sigma);
  const { weights, stats } = bregmanWeights(logits, blend, settings.bregman);
  const g = bregmanGradient({ weights, x, fake, teacher: real }, { normaliser: settings.normaliser });
  return { x, g, stats, weights };
}

/**
 * Compiles the generator's gradient; run-time value `blend` holds the warm-up. Metric `stats`: min, mean, max of the
 * ratio r and of the weight c.
 */
export function compileGeneratorStep(networks: DistillNetworks, settings: DistillSettings): Promise<Program> {
  const { generator } = networks;
  const { batch, sigmaRange } = settings;
  const leaves = stepLeaves();
  const draw = STREAM.generator;
  const z = latents(networks, batch, leaves.random(draw.latent));
  const { x, g, stats } = generatorGradient(networks, {
    z,
    noise: randomNormal(z.shape, leaves.random(draw.noise)),
    sigma: karrasSigma(randomUniform([batch], leaves.random(draw.sigma)), sigmaRange),
    blend: host("blend"),
  }, settings);
  return generator.workspace.compile({
    label: "generator.gradient",
    updates: gradientUpdates(generator, [x], [g]),
    metrics: { stats },
  });
}

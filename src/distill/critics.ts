/** The critics' step as a program: gradients of the fake score and of the classifier. */

import { GraphError } from "../gpu/errors.ts";
import {
  add,
  affine,
  concat,
  constant,
  div,
  mean,
  type Program,
  randomNormal,
  type Shape,
  slice,
  square,
  stopGradient,
  sub,
  type Tensor,
  type Variable,
} from "../graph/mod.ts";
import { addNoise, type GeneratorInputs, logNormalSigma, weightedError } from "../diffusion/edm.ts";
import { lossWeight } from "../diffusion/preconditioning.ts";
import { type ImageSource, METRICS_HELD, type StepLeaves, stepLeaves } from "../diffusion/teacher.ts";
import type { Conditions } from "../nn/network.ts";
import { gradientUpdates } from "../optim/adam.ts";
import type { Trainable, Weights } from "../optim/weights.ts";
import { classifierLoss, classifierOutput, perturbed } from "./classifier.ts";
import { type DistillSettings, needs, sharesEncoder } from "./settings.ts";
import {
  denoiseBy,
  denoiserOf,
  type DistillNetworks,
  generated,
  inputsOf,
  joined,
  noiseLevels,
  type Noisy,
  realImages,
  STREAM,
} from "./samples.ts";

/** Images at once, which must be the same for all of `networks`. */
function imagesAtOnce(networks: readonly (Trainable | undefined)[], { batch }: DistillSettings): number {
  const made = networks.filter((network) => network !== undefined);
  const [images, ...others] = made.map((network) => network.imagesAtOnce(batch));
  if (others.some((other) => other !== images)) {
    throw new GraphError(`Networks trained together need as many microbatches: ${made.map((n) => n.runsAStep)}.`);
  }
  return images!;
}

/** Which critics a program computes the gradients of. */
export interface Critics {
  /** The fake score. */
  readonly fakeScore: boolean;
  /** The classifier. */
  readonly classifier: boolean;
}

/**
 * Compiles the gradients of the critics, or of one of them, on fresh samples of the generator, one forward pass for both:
 * of one batch, or of one of the networks' microbatches. Metrics: `fakeLoss`, `classifierLoss`.
 */
export async function compileCriticStep(
  networks: DistillNetworks,
  images: ImageSource,
  settings: DistillSettings,
  critics: Critics = needs(settings),
): Promise<Program> {
  const { generator, fakeScore, classifier } = networks;
  const batch = imagesAtOnce([fakeScore, classifier], settings);
  const leaves = stepLeaves();
  const drawn = inputsOf(networks, settings, batch, leaves, "critic");
  const x = stopGradient(generated(networks, drawn, settings));
  const losses = sharesEncoder(settings.classifier) && critics.classifier
    ? sharedLosses(networks, settings, { images, leaves, x, drawn })
    : {
      ...critics.fakeScore && { fakeLoss: fakeLossOf(networks, settings, { leaves, x, drawn }) },
      ...critics.classifier && {
        classifierLoss: classifierLossOf(networks, settings, { images, leaves, x, drawn }),
      },
    };
  const { fakeLoss, classifierLoss: loss } = losses;
  const updates: (readonly [Variable, Tensor])[] = [];
  if (fakeLoss && loss && sharesEncoder(settings.classifier)) {
    const seeds = [1, settings.classifier.trunkWeight].map((weight) => constant([weight], []));
    updates.push(...gradientUpdates(fakeScore!, [fakeLoss, loss], seeds));
  } else if (fakeLoss) updates.push(...gradientUpdates(fakeScore!, [fakeLoss]));
  if (loss && classifier) updates.push(...gradientUpdates(classifier, [loss]));
  return await generator.workspace.compile({
    label: fakeLoss && loss ? "critics.gradient" : fakeLoss ? "fakeScore.gradient" : "classifier.gradient",
    updates,
    metrics: { ...fakeLoss && { fakeLoss }, ...loss && { classifierLoss: loss } },
    metricsCapacity: METRICS_HELD * (fakeScore ?? classifier)!.runsAStep,
  });
}

/** What a critic's loss is made of. */
interface Samples {
  readonly leaves: StepLeaves;
  /** Generated images. */
  readonly x: Tensor;
  readonly drawn: Required<GeneratorInputs>;
}

/** Generated images at noise levels of the fake score's own law. */
function noisyForScore({ fakeScore: { sigma: law } }: DistillSettings, { leaves, x, drawn }: Samples) {
  const draw = STREAM.critic;
  const sigma = logNormalSigma(randomNormal([x.shape[0]!], leaves.random(draw.sigma)), law);
  const xt = addNoise(x, randomNormal(x.shape, leaves.random(draw.noise)), sigma);
  return { sigma, xt, conditions: drawn.conditions };
}

/** The weight of the fake score's squared errors. */
function fakeWeight(fakeScore: Weights, { fakeScore: { weighting } }: DistillSettings, sigma: Tensor): Tensor {
  switch (weighting) {
    case "edm":
      return lossWeight(denoiserOf(fakeScore).preconditioning, sigma);
    case "noise":
      return div(constant([1], []), square(sigma));
    case "none":
      return affine(sigma, 0, 1);
  }
}

function fakeLossOf(networks: DistillNetworks, settings: DistillSettings, samples: Samples): Tensor {
  const { values } = networks.fakeScore!;
  const noisy = noisyForScore(settings, samples);
  return weightedError(denoiseBy(values, noisy).denoised, samples.x, fakeWeight(values, settings, noisy.sigma));
}

/** The loss of the results on real images, on generated ones, and where it is penalised on real ones that were moved. */
function lossOf(output: Tensor, batch: number, { loss, r1Weight }: DistillSettings["classifier"]): Tensor {
  const part = (i: number) => slice(output, 0, i * batch, (i + 1) * batch);
  const own = classifierLoss(part(0), part(1), loss);
  return r1Weight === 0 ? own : add(own, affine(mean(square(sub(part(0), part(2)))), r1Weight, 0));
}

/** Real images, generated ones and, where the classifier is penalised, the real ones moved. */
function withMoved(
  real: Required<Noisy>,
  fake: Required<Noisy>,
  settings: DistillSettings,
  leaves: StepLeaves,
): Required<Noisy> {
  const parts = [real, fake];
  const { r1Weight, r1Sigma } = settings.classifier;
  if (r1Weight > 0) {
    const noise = randomNormal(real.xt.shape, leaves.random(STREAM.critic.penalty));
    parts.push({ ...real, xt: perturbed(real.xt, real.sigma, noise, r1Sigma) });
  }
  return {
    xt: concat(parts.map(({ xt }) => xt), 0),
    sigma: concat(parts.map(({ sigma }) => sigma), 0),
    conditions: joined(parts.map(({ conditions }) => conditions!)),
  };
}

/** The loss of a classifier that shares no encoder with the fake score, at noise levels of the generator's law. */
function classifierLossOf(
  networks: DistillNetworks,
  settings: DistillSettings,
  { images, leaves, x, drawn }: Samples & { readonly images: ImageSource },
): Tensor {
  const draw = STREAM.critic, batch = x.shape[0]!;
  // The classifier's samples are the step's real images, then all of its generated ones.
  const draws = (random: typeof randomNormal, shape: Shape, stream: number) =>
    batch === settings.batch
      ? random([2 * batch, ...shape], leaves.random(stream))
      : concat([0, settings.batch].map((offset) => random([batch, ...shape], leaves.random(stream, offset))), 0);
  const real = realImages(networks, images, leaves, batch);
  const both = concat([real.images, x], 0);
  const sigma = noiseLevels(settings.sigma, (random) => draws(random, [], draw.classifierSigma));
  const xt = addNoise(both, draws(randomNormal, both.shape.slice(1), draw.classifierNoise), sigma);
  const half = (i: number, conditions: Conditions) => ({
    xt: slice(xt, 0, i * batch, (i + 1) * batch),
    sigma: slice(sigma, 0, i * batch, (i + 1) * batch),
    conditions,
  });
  const all = settings.classifier.r1Weight > 0
    ? withMoved(half(0, real.conditions), half(1, drawn.conditions), settings, leaves)
    : { xt, sigma, conditions: joined([real.conditions, drawn.conditions]) };
  const output = classifierOutput(settings.classifier.kind, networks, all);
  return lossOf(output, batch, settings.classifier);
}

/** Both losses of a fake score whose encoder the classifier reads, of one forward pass at the fake score's noise levels. */
function sharedLosses(
  networks: DistillNetworks,
  settings: DistillSettings,
  samples: Samples & { readonly images: ImageSource },
): { readonly fakeLoss: Tensor; readonly classifierLoss: Tensor } {
  const { images, leaves, x } = samples;
  const draw = STREAM.critic, batch = x.shape[0]!, fakeScore = networks.fakeScore!.values;
  const real = realImages(networks, images, leaves, batch);
  const fake = noisyForScore(settings, samples);
  const law = settings.fakeScore.sigma;
  const sigma = logNormalSigma(randomNormal([batch], leaves.random(draw.classifierSigma)), law);
  const xt = addNoise(real.images, randomNormal(x.shape, leaves.random(draw.classifierNoise)), sigma);
  const all = withMoved({ xt, sigma, conditions: real.conditions }, fake, settings, leaves);
  const { denoised, features } = denoiseBy(fakeScore, all);
  const output = classifierOutput(settings.classifier.kind, networks, all, { fakeScore: features });
  return {
    fakeLoss: weightedError(slice(denoised, 0, batch, 2 * batch), x, fakeWeight(fakeScore, settings, fake.sigma)),
    classifierLoss: lossOf(output, batch, settings.classifier),
  };
}

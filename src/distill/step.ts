/** The distillation step as programs: the critics' gradients (fake score and classifier), and the generator's. */

import { GraphError } from "../gpu/errors.ts";
import {
  abs,
  add,
  affine,
  bregmanGradient,
  bregmanWeights,
  concat,
  constant,
  div,
  host,
  type HostValues,
  mean,
  mul,
  type Program,
  randomNormal,
  type RandomSource,
  randomUniform,
  reshape,
  type Run,
  type Shape,
  slice,
  square,
  stopGradient,
  sub,
  sum,
  type Tensor,
  type Variable,
} from "../graph/mod.ts";
import {
  addNoise,
  denoise,
  denoiseWithFeatures,
  generate,
  guide,
  karrasLimits,
  karrasSigma,
  logNormalSigma,
  sameSigma,
  weightedError,
} from "../diffusion/edm.ts";
import { oneHot, randomLabels } from "../diffusion/labels.ts";
import { lossWeight } from "../diffusion/preconditioning.ts";
import { type ImageSource, METRICS_HELD, type StepLeaves, stepLeaves, type StepValues } from "../diffusion/teacher.ts";
import type { Conditions, DenoisingNetwork } from "../nn/network.ts";
import { conditionSizes, imageSize } from "../nn/networks.ts";
import { gradientUpdates } from "../optim/adam.ts";
import type { Trainable, Weights } from "../optim/weights.ts";
import {
  adversarialLoss,
  classifierLoss,
  classifierOutput,
  type KnownFeatures,
  limit,
  type Noisy,
  perturbed,
  readOut,
} from "./classifier.ts";
import { GeneratorInput } from "../diffusion/few_step.ts";
import type { RatioBins } from "./ratio_bins.ts";
import { type DistillSettings, needs, sharesEncoder, type SigmaLaw } from "./settings.ts";

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

/** Streams of the random numbers of a step; critics and generator draw apart. */
const STREAM = {
  critic: {
    ...{ latent: 0x10, sigma: 0x11, noise: 0x12, classifierSigma: 0x13, classifierNoise: 0x14, penalty: 0x15 },
    ...{ labels: 0x16, level: 0x17, input: 0x40 },
  },
  generator: { latent: 0x20, sigma: 0x21, noise: 0x22, labels: 0x26, level: 0x27, input: 0x50 },
  held: { latent: 0x30, sigma: 0x31, noise: 0x32, labels: 0x36, level: 0x37, input: 0x60 },
} as const;

/** Which of them a program draws from. */
export type Draws = "critic" | "generator" | "held";

/** Noise levels [N] by the law, from numbers of `leaves`' stream. */
function noiseLevels({ law, range, ...normal }: SigmaLaw, draw: (random: typeof randomNormal) => Tensor): Tensor {
  return law === "karras" ? karrasSigma(draw(randomUniform), range) : logNormalSigma(draw(randomNormal), normal);
}

/** A network's denoiser with its weights. */
function denoiserOf(weights: Weights): DenoisingNetwork {
  return weights.network as DenoisingNetwork;
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
function joined(parts: readonly Conditions[]): Conditions {
  const labels = parts.map(({ labels }) => labels);
  return labels[0] ? { labels: concat(labels as Tensor[], 0) } : {};
}

/** What the generator starts a batch from. */
interface Start {
  /** Standard normal [N, C, H, W]. */
  readonly z: Tensor;
  /** Classes. */
  readonly conditions: Conditions;
}

function startOf(
  { generator, teacher }: DistillNetworks,
  settings: Pick<DistillSettings, "classShares">,
  batch: number,
  leaves: StepLeaves,
  draws: Draws,
): Start {
  const { imageChannels, resolution } = imageSize((generator.network as DenoisingNetwork).config);
  const { latent, labels } = STREAM[draws];
  return {
    z: randomNormal([batch, imageChannels, resolution, resolution], leaves.random(latent)),
    conditions: drawConditions(teacher, settings, batch, leaves.random(labels)),
  };
}

/** The generator's images: of z, or of several steps' `input` at the run-time value `level`. */
function generated(
  { generator }: DistillNetworks,
  { z, conditions }: Start,
  sigmaInit: number,
  input: GeneratorInput | undefined,
): Tensor {
  const { values: { lookup }, network } = generator;
  if (!input) return generate(network as DenoisingNetwork, lookup, z, sigmaInit, conditions);
  const { tensor } = input.images;
  const sigma = sameSigma(host("level"), tensor.shape[0]!);
  return denoise(network as DenoisingNetwork, lookup, tensor, sigma, conditions);
}

/** Images at once, which must be the same for all of `networks`. */
function imagesAtOnce(networks: readonly (Trainable | undefined)[], { batch }: DistillSettings): number {
  const made = networks.filter((network) => network !== undefined);
  const [images, ...others] = made.map((network) => network.imagesAtOnce(batch));
  if (others.some((other) => other !== images)) {
    throw new GraphError(`Networks trained together need as many microbatches: ${made.map((n) => n.runsAStep)}.`);
  }
  return images!;
}

/** Compiles what makes the inputs of a generator of several steps; undefined for one step. */
export function compileInput(
  networks: DistillNetworks,
  settings: Pick<DistillSettings, "sigmaInit" | "laterSigmas" | "classShares">,
  batch: number,
  draws: Draws,
): Promise<GeneratorInput> | undefined {
  const { sigmaInit, laterSigmas } = settings;
  if (laterSigmas.length === 0) return undefined;
  const leaves = stepLeaves();
  return GeneratorInput.create({
    weights: networks.generator.values,
    levels: [sigmaInit, ...laterSigmas],
    ...startOf(networks, settings, batch, leaves, draws),
    noise: (index) => leaves.random(STREAM[draws].input + index),
    label: `${draws}.input`,
  });
}

/** A program that works on the generator's images. */
export class GeneratedProgram {
  /** `input` is there for generators of several steps. */
  constructor(readonly program: Program, private readonly draws: Draws, private readonly input?: GeneratorInput) {}

  /** The runs for the run-time values of a step, of which the program takes what it has. */
  runs(values: StepValues): Run[] {
    const { input, program } = this;
    const { seed, step, first } = values;
    const index = input ? input.indexAt(seed, step, STREAM[this.draws].level) : 0;
    const all: HostValues = { ...values, ...input && { level: input.level(index) } };
    return [...input?.runs(index, { seed, step, first }) ?? [], program.at(program.taken(all))];
  }
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
): Promise<GeneratedProgram> {
  const { generator, fakeScore, classifier } = networks;
  const batch = imagesAtOnce([fakeScore, classifier], settings);
  const input = await compileInput(networks, settings, batch, "critic");
  const leaves = stepLeaves();
  const start = startOf(networks, settings, batch, leaves, "critic");
  const x = stopGradient(generated(networks, start, settings.sigmaInit, input));
  const losses = sharesEncoder(settings.classifier) && critics.classifier
    ? sharedLosses(networks, settings, { images, leaves, x, start })
    : {
      ...critics.fakeScore && { fakeLoss: fakeLossOf(networks, settings, { leaves, x, start }) },
      ...critics.classifier && {
        classifierLoss: classifierLossOf(networks, settings, { images, leaves, x, start }),
      },
    };
  const { fakeLoss, classifierLoss: loss } = losses;
  const updates: (readonly [Variable, Tensor])[] = [];
  if (fakeLoss && loss && sharesEncoder(settings.classifier)) {
    const seeds = [1, settings.classifier.trunkWeight].map((weight) => constant([weight], []));
    updates.push(...gradientUpdates(fakeScore!, [fakeLoss, loss], seeds));
  } else if (fakeLoss) updates.push(...gradientUpdates(fakeScore!, [fakeLoss]));
  if (loss && classifier) updates.push(...gradientUpdates(classifier, [loss]));
  const program = await generator.workspace.compile({
    label: fakeLoss && loss ? "critics.gradient" : fakeLoss ? "fakeScore.gradient" : "classifier.gradient",
    updates,
    metrics: { ...fakeLoss && { fakeLoss }, ...loss && { classifierLoss: loss } },
    metricsCapacity: METRICS_HELD * (fakeScore ?? classifier)!.runsAStep,
  });
  return new GeneratedProgram(program, "critic", input);
}

/** What a critic's loss is made of. */
interface Samples {
  readonly leaves: StepLeaves;
  /** Generated images. */
  readonly x: Tensor;
  readonly start: Start;
}

/** Generated images at noise levels of the fake score's own law. */
function noisyForScore({ fakeScore: { sigma: law } }: DistillSettings, { leaves, x }: Samples) {
  const draw = STREAM.critic;
  const sigma = logNormalSigma(randomNormal([x.shape[0]!], leaves.random(draw.sigma)), law);
  return { sigma, xt: addNoise(x, randomNormal(x.shape, leaves.random(draw.noise)), sigma) };
}

/** The weight of the fake score's squared errors. */
function fakeWeight(fakeScore: Trainable, { fakeScore: { weighting } }: DistillSettings, sigma: Tensor): Tensor {
  switch (weighting) {
    case "edm":
      return lossWeight((fakeScore.network as DenoisingNetwork).preconditioning, sigma);
    case "noise":
      return div(constant([1], []), square(sigma));
    case "none":
      return affine(sigma, 0, 1);
  }
}

function fakeLossOf(networks: DistillNetworks, settings: DistillSettings, samples: Samples): Tensor {
  const fakeScore = networks.fakeScore!;
  const { sigma, xt } = noisyForScore(settings, samples);
  const denoised = denoise(
    fakeScore.network as DenoisingNetwork,
    fakeScore.values.lookup,
    xt,
    sigma,
    samples.start.conditions,
  );
  return weightedError(denoised, samples.x, fakeWeight(fakeScore, settings, sigma));
}

/** The next real images with their classes as conditions. */
function realImages(networks: DistillNetworks, source: ImageSource, leaves: StepLeaves, batch: number) {
  const { images, labels } = leaves.images(source, batch);
  const { labelDim } = conditionSizes(denoiserOf(networks.teacher).config);
  const conditions: Conditions = labels && labelDim > 0 ? { labels: oneHot(labels, labelDim) } : {};
  return { images, conditions };
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
  { images, leaves, x, start }: Samples & { readonly images: ImageSource },
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
    ? withMoved(half(0, real.conditions), half(1, start.conditions), settings, leaves)
    : { xt, sigma, conditions: joined([real.conditions, start.conditions]) };
  const output = classifierOutput(settings.classifier.kind, networks, all);
  return lossOf(output, batch, settings.classifier);
}

/** Both losses of a fake score whose encoder the classifier reads, of one forward pass at the fake score's noise levels. */
function sharedLosses(
  networks: DistillNetworks,
  settings: DistillSettings,
  samples: Samples & { readonly images: ImageSource },
): { readonly fakeLoss: Tensor; readonly classifierLoss: Tensor } {
  const { images, leaves, x, start } = samples;
  const draw = STREAM.critic, batch = x.shape[0]!, fakeScore = networks.fakeScore!;
  const real = realImages(networks, images, leaves, batch);
  const fake = { ...noisyForScore(settings, samples), conditions: start.conditions };
  const law = settings.fakeScore.sigma;
  const sigma = logNormalSigma(randomNormal([batch], leaves.random(draw.classifierSigma)), law);
  const xt = addNoise(real.images, randomNormal(x.shape, leaves.random(draw.classifierNoise)), sigma);
  const all = withMoved({ xt, sigma, conditions: real.conditions }, fake, settings, leaves);
  const { denoised, features } = denoiseWithFeatures(
    fakeScore.network as DenoisingNetwork,
    fakeScore.values.lookup,
    all.xt,
    all.sigma,
    all.conditions,
  );
  const output = classifierOutput(settings.classifier.kind, networks, all, { fakeScore: features });
  return {
    fakeLoss: weightedError(slice(denoised, 0, batch, 2 * batch), x, fakeWeight(fakeScore, settings, fake.sigma)),
    classifierLoss: lossOf(output, batch, settings.classifier),
  };
}

/** What {@linkcode generatorGradient} needs. */
export interface GeneratorInputs {
  /** The generator's images [N, C, H, W]. */
  readonly x: Tensor;
  /** Standard normal [N, C, H, W]. */
  readonly noise: Tensor;
  /** Noise levels [N]. */
  readonly sigma: Tensor;
  /** 0 for c = 1, 1 for c(r). */
  readonly blend: Tensor;
  /** Classes. */
  readonly conditions?: Conditions;
  /** Running means of the ratio. */
  readonly bins?: RatioBins | undefined;
}

/** A term of what the generator minimises: `cotangent` enters the graph at `at`. */
export interface GeneratorTerm {
  /** Depends on the generator's images. */
  readonly at: Tensor;
  /** Of the same shape. */
  readonly cotangent: Tensor;
}

/** The terms of the generator's gradient, and what is worth a look. */
export interface GeneratorTerms {
  /** To be summed up. */
  readonly terms: readonly GeneratorTerm[];
  /** Losses among them, before their weights: `sidLoss`, `adversarialLoss`. */
  readonly losses: Readonly<Record<string, Tensor>>;
  /** The weights c [N] of the divergence. */
  readonly weights?: Tensor;
  /** Min, mean and max of r, then of c. */
  readonly stats?: Tensor;
  /** The logit [N], within the ratio's bounds, before it is corrected for its noise level. */
  readonly logit?: Tensor;
}

/** The teacher's denoised images, guided, and its features. */
function teacherOf({ teacher }: DistillNetworks, { xt, sigma, conditions }: Noisy, guidance: number) {
  const own = denoiseWithFeatures(denoiserOf(teacher), teacher.lookup, xt, sigma, conditions);
  if (guidance === 1) return own;
  const free = denoise(denoiserOf(teacher), teacher.lookup, xt, sigma);
  return { ...own, denoised: guide(free, own.denoised, guidance) };
}

/** w(σ)/σ² [N] of a weighting that does not depend on the sample; undefined where it is 1. */
function scoreFactor(
  { teacher }: DistillNetworks,
  { weighting }: Pick<DistillSettings, "weighting">,
  sigma: Tensor,
): Tensor | undefined {
  switch (weighting) {
    case "dmd":
    case "sigma2":
      return undefined;
    case "edm":
      return lossWeight(denoiserOf(teacher).preconditioning, sigma);
    case "none":
      return div(constant([1], []), square(sigma));
  }
}

/** Keeps DMD's normaliser away from zero. */
const EPSILON = 1e-8;

/**
 * The generator's gradient at its images x, with x_t = x + σ n (arXiv 2510.16983).
 *
 * `bregman` in the form `score`: g = w(σ)/σ² · c(r)·(D_fake(x_t, σ) − D_teacher(x_t, σ)) / N at x, where the weighting `dmd`
 * divides by mean|x − D_teacher| + ε instead. In the form `classifier`: −w(σ)·c(r)/N at the logit −log r. `sid` (Zhou et al. 2024,
 * arXiv 2404.04057, α = 1): of w/σ² Σ (D_teacher − D_fake)(D_fake − x), through everything. The adversarial term, times the
 * run-time value `adversarial`, goes through the classifier.
 */
export function generatorGradient(
  networks: DistillNetworks,
  { x, noise, sigma, blend, conditions, bins }: GeneratorInputs,
  settings: DistillSettings,
): GeneratorTerms {
  const { objective, form, classifier, adversarialWeight, bregman } = settings;
  const need = needs(settings), batch = x.shape[0]!;
  const noisy: Noisy = { xt: addNoise(x, noise, sigma), sigma, conditions };
  const teacher = teacherOf(networks, noisy, settings.guidance);
  const score = networks.fakeScore?.values;
  const fake = score && denoiseWithFeatures(denoiserOf(score), score.lookup, noisy.xt, sigma, conditions);
  const known: KnownFeatures = { teacher: teacher.features, fakeScore: fake?.features };
  const output = need.classifier ? classifierOutput(classifier.kind, networks, noisy, known) : undefined;
  const terms: GeneratorTerm[] = [];
  const losses: Record<string, Tensor> = {};
  let ratio: Pick<GeneratorTerms, "weights" | "stats" | "logit"> = {};
  if (objective === "bregman") {
    const raw = need.ratio ? readOut(output!, classifier.loss, bregman.logitClamp)! : undefined;
    const limited = raw && limit(limitedLogit(raw, bregman), -Math.log(bregman.ratioMax), -Math.log(bregman.ratioMin));
    const offsets = bins?.offsets(sigma);
    const found = raw && bregmanWeights({ logits: raw, blend, ...offsets && { offsets } }, bregman);
    const weights = found?.weights ?? affine(sigma, 0, 1);
    ratio = { weights, ...found && { stats: found.stats }, ...limited && { logit: limited } };
    const factor = scoreFactor(networks, settings, sigma);
    const weighted = factor ? mul(weights, factor) : weights;
    if (form === "score") {
      const tensors = { weights: weighted, x, fake: fake!.denoised, teacher: teacher.denoised };
      terms.push({ at: x, cotangent: bregmanGradient(tensors, { normaliser: settings.weighting === "dmd" }) });
    } else {
      const { temperature = 1 } = bregman;
      terms.push({ at: raw!, cotangent: affine(mul(weighted, square(sigma)), -1 / (batch * temperature), 0) });
    }
  } else if (objective === "sid") {
    const factor = scoreFactor(networks, settings, sigma);
    const loss = sidLoss(x, fake!.denoised, teacher.denoised, settings, factor);
    terms.push({ at: losses.sidLoss = loss, cotangent: constant([1], []) });
  }
  if (adversarialWeight > 0) {
    const loss = adversarialLoss(output!, classifier.loss);
    terms.push({ at: losses.adversarialLoss = loss, cotangent: host("adversarial") });
  }
  return { terms, losses, ...ratio };
}

/** A logit as the weights take it, before it is corrected for its noise level. */
export function limitedLogit(
  logit: Tensor,
  { temperature = 1, logitClamp }: DistillSettings["bregman"],
): Tensor {
  return limit(affine(logit, 1 / temperature, 0), -logitClamp, logitClamp);
}

function sidLoss(
  x: Tensor,
  fake: Tensor,
  teacher: Tensor,
  { weighting }: Pick<DistillSettings, "weighting">,
  factor: Tensor | undefined,
): Tensor {
  const each = sum(mul(sub(teacher, fake), sub(fake, x)), [1, 2, 3]);
  if (weighting === "dmd") {
    const distance = affine(mean(abs(stopGradient(sub(x, teacher))), [1, 2, 3]), 1, EPSILON);
    return mean(div(each, distance));
  }
  return mean(factor ? mul(each, factor) : each);
}

/**
 * Compiles the generator's gradient, of one batch or of one of the generator's microbatches. Run-time values: `blend`, the
 * warm-up; `adversarial`, the weight of the adversarial term, where there is one; `keep`, 0 for a step's first
 * microbatch, where the ratio is normalised by noise level. Metrics: `stats`, min, mean, max of the ratio r and of the weight c; `sidLoss`; `adversarialLoss`.
 *
 * What the weights c are to be divided by, their mean over the whole batch, is not known before the last microbatch:
 * those are computed with c as it is, and the step's gradient is divided at its end. An adversarial term would be too.
 *
 * @throws {GraphError} where an adversarial term goes with microbatches whose weights are normalised.
 */
export async function compileGeneratorStep(
  networks: DistillNetworks,
  settings: DistillSettings,
  bins?: RatioBins,
): Promise<GeneratedProgram> {
  const { generator } = networks;
  const batch = generator.imagesAtOnce(settings.batch);
  const { bregman, objective, adversarialWeight } = settings;
  const deferred = bregman.normalise && objective === "bregman" ? generator.microbatches : undefined;
  if (deferred && adversarialWeight > 0) {
    throw new GraphError(
      "The adversarial term cannot go with microbatches, whose divergence is normalised at the end.",
    );
  }
  const input = await compileInput(networks, settings, batch, "generator");
  const leaves = stepLeaves();
  const draw = STREAM.generator;
  const start = startOf(networks, settings, batch, leaves, "generator");
  const x = generated(networks, start, settings.sigmaInit, input);
  const sigma = noiseLevels(settings.sigma, (random) => random([batch], leaves.random(draw.sigma)));
  const { terms, losses, stats, logit } = generatorGradient(networks, {
    ...{ x, sigma, conditions: start.conditions, bins },
    noise: randomNormal(x.shape, leaves.random(draw.noise)),
    blend: host("blend"),
  }, { ...settings, bregman: { ...bregman, normalise: bregman.normalise && !deferred } });
  const program = await generator.workspace.compile({
    label: "generator.gradient",
    updates: [
      ...gradientUpdates(generator, terms.map(({ at }) => at), terms.map(({ cotangent }) => cotangent)),
      ...deferred ? [[deferred.weight, stats ? reshape(slice(stats, 0, 4, 5), []) : constant([1], [])] as const] : [],
      ...bins && logit ? [bins.collect(sigma, logit)] : [],
    ],
    metrics: { ...losses, ...stats && { stats } },
    metricsCapacity: METRICS_HELD * generator.runsAStep,
  });
  return new GeneratedProgram(program, "generator", input);
}

/** The least and the greatest σ of a law, where most of it lies. */
export function sigmaLimitsOf({ law, range, mean, std }: SigmaLaw): [number, number] {
  if (law === "log-normal") return [Math.exp(mean - 3 * std), Math.exp(mean + 3 * std)];
  return karrasLimits(range);
}

/**
 * Compiles what the classifier finds in `images`, which it was not trained with, and in as many generated ones, at noise
 * levels of the generator's law. Outputs, the real ones first: `sigma`, `logit` [2 N]; the logits are limited.
 */
export async function compileHeldOut(
  networks: DistillNetworks,
  images: ImageSource,
  settings: DistillSettings,
  batch: number,
): Promise<GeneratedProgram> {
  const input = await compileInput(networks, settings, batch, "held");
  const leaves = stepLeaves();
  const draw = STREAM.held;
  const start = startOf(networks, settings, batch, leaves, "held");
  const real = realImages(networks, images, leaves, batch);
  const both = concat([real.images, generated(networks, start, settings.sigmaInit, input)], 0);
  const sigma = noiseLevels(settings.sigma, (random) => random([2 * batch], leaves.random(draw.sigma)));
  const xt = addNoise(both, randomNormal(both.shape, leaves.random(draw.noise)), sigma);
  const { kind, loss } = settings.classifier;
  const conditions = joined([real.conditions, start.conditions]);
  const output = classifierOutput(kind, networks, { xt, sigma, conditions });
  const logit = limitedLogit(readOut(output, loss, settings.bregman.logitClamp)!, settings.bregman);
  const program = await networks.generator.workspace.compile({ label: "heldOut", outputs: { sigma, logit } });
  return new GeneratedProgram(program, "held", input);
}

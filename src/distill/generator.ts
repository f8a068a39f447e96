/** The generator's step as a program. */

import { logBounds } from "../../kernels/bregman.ts";
import {
  abs,
  add,
  affine,
  bregmanGradient,
  bregmanWeights,
  constant,
  div,
  host,
  mean,
  mul,
  type Program,
  randomNormal,
  reshape,
  slice,
  square,
  stopGradient,
  sub,
  sum,
  type Tensor,
  type Variable,
  where,
} from "../graph/mod.ts";
import { addNoise, guide } from "../diffusion/edm.ts";
import { lossWeight } from "../diffusion/preconditioning.ts";
import { METRICS_HELD, stepLeaves } from "../diffusion/teacher.ts";
import type { Conditions } from "../nn/network.ts";
import { gradientUpdates } from "../optim/adam.ts";
import { adversarialLoss, classifierOutput, type KnownFeatures, limit, readOut } from "./classifier.ts";
import type { RatioBins } from "./ratio_bins.ts";
import { type DistillSettings, needs, weighsEvenly } from "./settings.ts";
import {
  denoiseBy,
  denoiserOf,
  type DistillNetworks,
  generated,
  inputsOf,
  noiseLevels,
  type Noisy,
  STREAM,
} from "./samples.ts";

/** What {@linkcode generatorGradient} needs. */
export interface GradientInputs {
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
  /** []: what the weights c are divided by, where that is not the mean over these images. */
  readonly meanWeight?: Tensor | undefined;
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
function teacherOf({ teacher }: DistillNetworks, noisy: Noisy, guidance: number) {
  const own = denoiseBy(teacher, noisy);
  if (guidance === 1) return own;
  const free = denoiseBy(teacher, { ...noisy, conditions: undefined });
  return { ...own, denoised: guide(free.denoised, own.denoised, guidance) };
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
  { x, noise, sigma, blend, conditions, bins, meanWeight }: GradientInputs,
  settings: DistillSettings,
): GeneratorTerms {
  const { objective, form, classifier, adversarialWeight, bregman } = settings;
  const need = needs(settings), batch = x.shape[0]!;
  const noisy: Noisy = { xt: addNoise(x, noise, sigma), sigma, conditions };
  const teacher = teacherOf(networks, noisy, settings.guidance);
  const score = networks.fakeScore?.values;
  const fake = score && denoiseBy(score, noisy);
  const known: KnownFeatures = { teacher: teacher.features, fakeScore: fake?.features };
  const output = need.classifier ? classifierOutput(classifier.kind, networks, noisy, known) : undefined;
  const terms: GeneratorTerm[] = [];
  const losses: Record<string, Tensor> = {};
  let ratio: Pick<GeneratorTerms, "weights" | "stats" | "logit"> = {};
  if (objective === "bregman") {
    const raw = need.ratio ? readOut(output!, classifier.loss, bregman.logitClamp)! : undefined;
    const { logRatioMin, logRatioMax } = logBounds(bregman);
    const limited = raw && limit(limitedLogit(raw, bregman), -logRatioMax, -logRatioMin);
    const offsets = bins?.offsets(sigma);
    const found = raw && bregmanWeights({ logits: raw, blend, ...offsets && { offsets } }, bregman);
    const own = found?.weights ?? affine(sigma, 0, 1);
    const weights = meanWeight ? div(own, meanWeight) : own;
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

/** The programs of the generator's step. */
export interface GeneratorStep {
  /** Its gradient. */
  readonly gradient: Program;
  /** The mean of the weights c over a step's microbatches, to be run for all of them first; absent where it is known. */
  readonly meanWeight: Program | undefined;
}

/**
 * Compiles the generator's gradient, of one batch or of one of the generator's microbatches. Run-time values: `blend`, the
 * warm-up; `adversarial`, the weight of the adversarial term, where there is one; `keep`, 0 for a step's first microbatch.
 * Metrics: `stats`, min, mean, max of the ratio r and of the weight c; `sidLoss`; `adversarialLoss`.
 *
 * What the weights c of microbatches are divided by, their mean over the whole batch, is found by a pass of its own.
 */
export async function compileGeneratorStep(
  networks: DistillNetworks,
  settings: DistillSettings,
  bins?: RatioBins,
): Promise<GeneratorStep> {
  const { generator } = networks, { workspace, microbatches } = generator;
  const batch = generator.imagesAtOnce(settings.batch);
  const { bregman } = settings;
  const apart = microbatches && bregman.normalise && needs(settings).ratio && !weighsEvenly(bregman.h)
    ? workspace.variable("generator.meanWeight", [])
    : undefined;
  const terms = (meanWeight?: Tensor) => {
    const leaves = stepLeaves();
    const draw = STREAM.generator;
    const drawn = inputsOf(networks, settings, batch, leaves, "generator");
    const x = generated(networks, drawn, settings);
    const sigma = noiseLevels(settings.sigma, (random) => random([batch], leaves.random(draw.sigma)));
    const inputs = { x, sigma, conditions: drawn.conditions, bins, meanWeight, blend: host("blend") };
    const noise = randomNormal(x.shape, leaves.random(draw.noise));
    const normalise = bregman.normalise && !apart;
    return {
      sigma,
      ...generatorGradient(networks, { ...inputs, noise }, { ...settings, bregman: { ...bregman, normalise } }),
    };
  };
  const meanWeight = async (sum: Variable) => {
    const mean = reshape(slice(terms().stats!, 0, 4, 5), []);
    const before = where(host("keep"), sum.tensor, constant([0], []));
    const updates = [[sum, add(before, affine(mean, 1 / microbatches!.count, 0))]] as const;
    return await workspace.compile({ label: "generator.meanWeight", updates });
  };
  const { terms: all, losses, stats, logit, sigma } = terms(apart?.tensor);
  const gradient = await workspace.compile({
    label: "generator.gradient",
    updates: [
      ...gradientUpdates(generator, all.map(({ at }) => at), all.map(({ cotangent }) => cotangent)),
      ...bins && logit ? [bins.collect(sigma, logit)] : [],
    ],
    metrics: { ...losses, ...stats && { stats } },
    metricsCapacity: METRICS_HELD * generator.runsAStep,
  });
  return { gradient, meanWeight: apart && await meanWeight(apart) };
}

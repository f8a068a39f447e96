/** What the classifier of a distillation does: its calibration on images it was not shown, and the weights it gives. */

import { NonFiniteError } from "../gpu/errors.ts";
import { imageValues } from "../diffusion/teacher.ts";
import { calibration, type Diagnostics, evenness, type WeightHistogram } from "../eval/diagnostics.ts";
import { type DistillParts, distillSeed, HELD_BATCH } from "./stages.ts";
import { sigmaLimitsOf } from "../distill/samples.ts";
import { bregmanOf, type RunConfig } from "./config.ts";

/** Pairs of a held-out and a generated image in a look. */
const PAIRS = 1024;

const SIGMA_BINS = 8, WEIGHT_BINS = 24, LOG_WEIGHTS = [-2.4, 2.4] as const;

/** Runs the classifier on held-out and generated images; undefined where there are none, or no ratio. */
export async function inspectClassifier(
  config: RunConfig,
  parts: DistillParts,
): Promise<Required<Diagnostics> | undefined> {
  const { heldOut, bins, generator: { workspace } } = parts;
  if (!heldOut) return undefined;
  const means = bins && (await bins.means.read()).get("mean")!;
  const real: number[] = [], generated: number[] = [], sigmas: number[] = [];
  for (let batch = 0; real.length < PAIRS; batch++) {
    workspace.submit([heldOut.at(imageValues(distillSeed(config), batch, HELD_BATCH))]);
    const { sigma, logit } = await heldOut.read() as Record<"sigma" | "logit", Float32Array>;
    const half = logit.length / 2;
    real.push(...logit.subarray(0, half));
    generated.push(...logit.subarray(half));
    sigmas.push(...sigma.subarray(half));
  }
  const lost = [...real, ...generated].find((logit) => !Number.isFinite(logit));
  if (lost !== undefined) {
    throw new NonFiniteError(`distill: a logit of the classifier became ${lost}. Try a lower learning rate.`);
  }
  const { min, max } = config.distill.ratio;
  const h = bregmanOf(config);
  const weights = generated.map((logit, i) => {
    const offset = means && bins ? -Math.log(means[bins.binOf(sigmas[i]!)]!) : 0;
    return h.weight(Math.min(-Math.log(min), Math.max(-Math.log(max), logit + offset)));
  });
  return {
    calibration: calibration([...real, ...generated], (i) => i < real.length),
    weights: weightHistogram(sigmas, weights, sigmaLimitsOf(config.distill.sigma)),
    evenness: evenness(weights),
  };
}

/**
 * Counts weights, divided by their mean, by size and by noise level within `limits`; what is beyond the edges falls into the
 * outermost bins.
 */
export function weightHistogram(
  sigmas: readonly number[],
  weights: readonly number[],
  limits: readonly [number, number],
): WeightHistogram {
  const [low, high] = [Math.log(limits[0]), Math.log(limits[1])];
  const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
  const counts = Array.from({ length: SIGMA_BINS }, () => new Array<number>(WEIGHT_BINS).fill(0));
  const binOf = (value: number, [from, to]: readonly [number, number], bins: number) =>
    Math.min(bins - 1, Math.max(0, Math.floor((value - from) / (to - from) * bins)));
  weights.forEach((weight, i) => {
    counts[binOf(Math.log(sigmas[i]!), [low, high], SIGMA_BINS)]![
      binOf(Math.log10(weight / mean), LOG_WEIGHTS, WEIGHT_BINS)
    ]!++;
  });
  const edges = ([from, to]: readonly [number, number], bins: number) =>
    Array.from({ length: bins + 1 }, (_, i) => from + i / bins * (to - from));
  const rounded = (value: number) => Number(value.toPrecision(6));
  return {
    sigmaEdges: edges([low, high], SIGMA_BINS).map((edge) => rounded(Math.exp(edge))),
    logWeightEdges: edges(LOG_WEIGHTS, WEIGHT_BINS).map(rounded),
    counts,
  };
}

/** Float64 references of the Bregman weighting and of the gradient at the generator's output. */

import { type BregmanGradientShape, type BregmanKind, type BregmanShape, LOG_BOUND } from "../../kernels/bregman.ts";
import { bregmanFunction, usesLambda } from "../../src/distill/bregman.ts";

/** Weights, ratios and their statistics [6], as the kernel's buffers of these names. */
export function bregmanWeightsReference(
  logits: ArrayLike<number>,
  blend: number,
  s: BregmanShape,
  { offsets, given }: { offsets?: ArrayLike<number> | undefined; given?: ArrayLike<number> | undefined } = {},
): { weights: number[]; ratios: number[]; stats: number[] } {
  const bounded = Array.from(logits, (logit, i) => {
    const clamped = clamp(clamp(logit / s.temperature, -s.logitClamp, s.logitClamp), -LOG_BOUND, LOG_BOUND);
    const logRatio = clamp(-(clamped + (offsets?.[i] ?? 0)), Math.log(s.ratioMin), Math.log(s.ratioMax));
    return -clamp(logRatio, -LOG_BOUND, LOG_BOUND);
  });
  const weigh = (l: number, i: number) => s.kind === "given" ? given![i]! : knownWeight(s.kind, s.lambda, l);
  const raw = bounded.map((l, i) => (1 - blend) + blend * weigh(l, i));
  const scale = s.normalise ? 1 / mean(raw) : 1;
  const weights = raw.map((c) => c * scale);
  const ratios = bounded.map((l) => Math.exp(-l));
  return { weights, ratios, stats: [...summary(ratios), ...summary(weights)] };
}

/** c(r) with the kernel's bound on exponents. */
function knownWeight(kind: BregmanKind, lambda: number, l: number): number {
  const usable = usesLambda(kind) ? clamp(lambda * l, -LOG_BOUND, LOG_BOUND) / lambda : l;
  return bregmanFunction(kind, lambda).weight(usable);
}

/** g [batch, perSample]. */
export function bregmanGradientReference(
  weights: ArrayLike<number>,
  x: ArrayLike<number>,
  fake: ArrayLike<number>,
  teacher: ArrayLike<number>,
  { batch, perSample, normaliser, epsilon, scale }: BregmanGradientShape,
): number[] {
  const g: number[] = [];
  for (let n = 0; n < batch; n++) {
    const sample = Array.from({ length: perSample }, (_, e) => n * perSample + e);
    const divisor = normaliser ? mean(sample.map((at) => Math.abs(x[at]! - teacher[at]!))) + epsilon : 1;
    for (const at of sample) g.push(scale * weights[n]! * (fake[at]! - teacher[at]!) / divisor);
  }
  return g;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function summary(values: readonly number[]): [number, number, number] {
  return [Math.min(...values), mean(values), Math.max(...values)];
}

/** Descriptors of the Bregman weighting: logits to weights, and the gradient at the generator's output. */

import { GraphError } from "../src/gpu/errors.ts";
import { type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import weightsSource from "./bregman.wgsl" with { type: "text" };
import gradientSource from "./bregman_grad.wgsl" with { type: "text" };

/** Name of a convex function h; `src/distill/bregman.ts` has their formulae. The order is KIND's in the kernel. */
export const BREGMAN_KINDS = [
  "kl",
  "lsif",
  "logistic",
  "itakura-saito",
  "sba",
  "basu",
  "softened-kl",
  "jeffreys",
] as const;

/** Name of a convex function h. */
export type BregmanKind = typeof BREGMAN_KINDS[number];

/** Settings of the weighting. */
export interface BregmanShape {
  /** Samples. */
  readonly batch: number;
  /** Which h, or "given" where c(r) is read from a buffer. */
  readonly kind: BregmanKind | "given";
  /** The parameter of `sba` and `basu`; ignored by the others. */
  readonly lambda: number;
  /** Logits are divided by this. */
  readonly temperature: number;
  /** They are then clamped to +- this. */
  readonly logitClamp: number;
  /** Least density ratio r = q/p, at least 0. */
  readonly ratioMin: number;
  /** Greatest density ratio. */
  readonly ratioMax: number;
  /** Whether weights are divided by their mean over the batch. */
  readonly normalise: boolean;
}

/** Buffers of the weighting, all f32. */
export interface BregmanBuffers<B> {
  /** Classifier's log-odds of "real" [batch]. */
  readonly logits: B;
  /** [1]: 0 for weights of one (warm-up), 1 for c(r), between the two a mixture. */
  readonly blend: B;
  /** Added to the clamped logits [batch]; absent: nothing. */
  readonly offsets?: B | undefined;
  /** c(r) [batch] of the kind "given". */
  readonly given?: B | undefined;
  /** Weights c [batch], written. */
  readonly weights: B;
  /** Bounded density ratios r [batch], written. */
  readonly ratios: B;
  /** [6], written: minimum, mean and maximum of r, then of c. */
  readonly stats: B;
}

/** Bound on |ln r| and |lambda l|: exp(70) times any batch is still an f32. */
export const LOG_BOUND = 70;

/** What a logit is bounded to: ± `logit` before the offset, then [-logRatioMax, -logRatioMin]. */
export function logBounds(
  { logitClamp, ratioMin, ratioMax }: Pick<BregmanShape, "logitClamp" | "ratioMin" | "ratioMax">,
): { readonly logit: number; readonly logRatioMin: number; readonly logRatioMax: number } {
  const bound = (log: number) => Math.min(LOG_BOUND, Math.max(-LOG_BOUND, log));
  return { logit: bound(logitClamp), logRatioMin: bound(Math.log(ratioMin)), logRatioMax: bound(Math.log(ratioMax)) };
}

/** ratios = exp(-l) and weights = c(r) = h''(r) r of bounded logits l, with their statistics. */
export function bregmanWeights<B>(b: BregmanBuffers<B>, s: BregmanShape): Dispatch<B> {
  if ((s.kind === "given") !== (b.given !== undefined)) {
    throw new GraphError(`Weights of the kind ${s.kind} come ${b.given ? "from no" : "from a"} buffer.`);
  }
  const bounds = logBounds(s);
  return {
    label: "bregman.weights",
    source: weightsSource,
    constants: {
      KIND: s.kind === "given" ? BREGMAN_KINDS.length : BREGMAN_KINDS.indexOf(s.kind),
      OFFSETS: Number(b.offsets !== undefined),
      NORMALISE: Number(s.normalise),
    },
    uniforms: [
      s.batch,
      new F32(s.lambda),
      new F32(1 / s.temperature),
      new F32(bounds.logit),
      new F32(bounds.logRatioMin),
      new F32(bounds.logRatioMax),
      0,
    ],
    reads: [b.logits, b.blend, b.offsets ?? b.logits, b.given ?? b.logits],
    writes: [b.weights, b.ratios, b.stats],
    workgroups: [1, 1, 1],
    flops: 20 * s.batch,
    bytes: 4 * ((3 + Number(b.offsets !== undefined) + Number(b.given !== undefined)) * s.batch + 7),
  };
}

/** Settings of the gradient. */
export interface BregmanGradientShape {
  /** Samples. */
  readonly batch: number;
  /** Elements of a sample. */
  readonly perSample: number;
  /** Whether every sample is divided by its mean |x - teacher| + epsilon (DMD's normaliser). */
  readonly normaliser: boolean;
  /** Keeps the normaliser away from zero. */
  readonly epsilon: number;
  /** Factor on everything. */
  readonly scale: number;
}

/** g = scale * weights[n] * (fake - teacher) / (normaliser ? mean |x - teacher| + epsilon : 1), all [batch, perSample]. */
export function bregmanGradient<B>(
  b: { weights: B; x: B; fake: B; teacher: B; g: B },
  s: BregmanGradientShape,
): Dispatch<B> {
  const elements = s.batch * s.perSample;
  const VECTOR = s.perSample % 4 === 0 ? 4 : 1;
  return {
    label: "bregman.gradient",
    source: VECTOR === 4
      ? gradientSource
      : gradientSource.replace("alias Element = vec4<f32>;", "alias Element = f32;"),
    constants: { NORMALISER: Number(s.normaliser), VECTOR },
    uniforms: [s.batch, s.perSample / VECTOR, new F32(s.epsilon), new F32(s.scale)],
    reads: [b.weights, b.x, b.fake, b.teacher],
    writes: [b.g],
    workgroups: spread(s.batch),
    flops: (s.normaliser ? 5 : 2) * elements,
    bytes: 4 * ((s.normaliser ? 4 : 3) * elements + s.batch),
  };
}

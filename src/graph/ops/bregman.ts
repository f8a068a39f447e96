/** The fused Bregman weighting: from classifier logits and two denoised images to the generator's gradient. */

import {
  bregmanGradient as gradientKernel,
  type BregmanKind,
  type BregmanShape,
  bregmanWeights as weightsKernel,
  logBounds,
} from "../../../kernels/bregman.ts";
import { GraphError } from "../../gpu/errors.ts";
import { apply, expectDType, expectShapes, Node, type Op, sameShape, type Tensor } from "../tensor.ts";
import { add, affine, broadcastTo, clamp } from "./pointwise.ts";

/**
 * How c(r) = h″(r)·r is computed: by the kernel for a known h (`lambda` is the parameter of the families `sba` and
 * `basu`, unused by the others), or by a function of pointwise ops from effective logits l = −log r [N] to c [N].
 */
export type BregmanWeighting =
  | { readonly kind: BregmanKind; readonly lambda: number }
  | { readonly weight: (logit: Tensor) => Tensor };

/** Settings of {@linkcode bregmanWeights}. */
export interface BregmanSettings {
  /** The weighting that the convex function h gives. */
  readonly h: BregmanWeighting;
  /** Logits are divided by this; absent: 1. */
  readonly temperature?: number;
  /** They are then limited to ± this. */
  readonly logitClamp: number;
  /** The ratio is clipped to [ratioMin, ratioMax]. */
  readonly ratioMin: number;
  /** See `ratioMin`. */
  readonly ratioMax: number;
  /** Divide c by its batch mean. */
  readonly normalise: boolean;
}

/** Logits, blend, then the offsets (where there are some) and what is given (by a weight function). */
type WeightsAttrs = Omit<BregmanShape, "batch"> & { readonly offsets: boolean };

const weightsOp: Op<WeightsAttrs> = {
  name: "bregmanWeights",
  lower: ({ inputs: [logits, blend, ...more], outputs: [weights, ratios, stats], attrs: { offsets, ...shape } }) => {
    const given = shape.kind === "given" ? more.at(-1) : undefined;
    return [
      weightsKernel({
        ...{ logits: logits!, blend: blend!, offsets: offsets ? more[0] : undefined, given },
        ...{ weights: weights!, ratios: ratios!, stats: stats! },
      }, { batch: logits!.size, ...shape }),
    ];
  },
};

/** What {@linkcode bregmanWeights} reads. */
export interface BregmanTensors {
  /** The classifier's log-odds of "real" [N]. */
  readonly logits: Tensor;
  /** []: 0 gives c = 1, 1 gives c(r). */
  readonly blend: Tensor;
  /** [N], added to the limited logits: with the logarithm of a mean ratio, r is divided by that mean. Absent: 0. */
  readonly offsets?: Tensor;
}

/**
 * c(r) = h″(r)·r for each sample from the effective logit l = −log r: the classifier's divided by the temperature,
 * limited, with its offset, and limited once more so that r is in its bounds. c is blended with 1 and divided by its
 * batch mean. A NaN logit gives a NaN weight; so do an offset that is not finite and a weight function's value that is
 * not positive and finite: no convex h has such weights.
 *
 * `stats` holds min, mean, max of r and min, mean, max of c.
 *
 * @throws {GraphError} where shapes, types or settings do not fit.
 */
export function bregmanWeights(
  { logits, blend, offsets }: BregmanTensors,
  settings: BregmanSettings,
): { readonly weights: Tensor; readonly ratios: Tensor; readonly stats: Tensor } {
  const tensors = [logits, blend, ...offsets ? [offsets] : []];
  expectDType("f32", "bregmanWeights", ...tensors);
  const fits = logits.shape.length === 1 && blend.size === 1 && (!offsets || sameShape(offsets.shape, logits.shape));
  expectShapes(fits, "bregmanWeights", "logits [N], blend [] and, where given, offsets [N]", ...tensors);
  const { h, temperature = 1, ...rest } = settings;
  const { logitClamp, ratioMin, ratioMax, normalise } = rest;
  expectSetting("temperature", temperature, "a positive number", temperature > 0 && 1 / temperature < MOST_F32);
  expectSetting("logitClamp", logitClamp, "positive", logitClamp > 0);
  expectSetting("ratioMin", ratioMin, `less than ratioMax (${ratioMax})`, ratioMin < ratioMax);
  if ("kind" in h) expectSetting("h.lambda", h.lambda, "a finite number", Number.isFinite(h.lambda));
  const attrs: WeightsAttrs = {
    ...{ kind: "given", lambda: 0, ..."kind" in h ? h : {}, temperature },
    ...{ logitClamp, ratioMin, ratioMax, normalise, offsets: offsets !== undefined },
  };
  if ("weight" in h) tensors.push(givenWeights(h.weight, effectiveLogits(logits, offsets, { temperature, ...rest })));
  const node = new Node(weightsOp, attrs, tensors, [logits, logits, { shape: [6], dtype: "f32" }]);
  const [weights, ratios, stats] = node.outputs;
  return { weights: weights!, ratios: ratios!, stats: stats! };
}

/** Greatest f32. */
const MOST_F32 = 3.4028234663852886e38;

function expectSetting(name: string, value: number, expected: string, condition: boolean): void {
  if (!condition) throw new GraphError(`bregmanWeights expects ${name} to be ${expected}; got ${value}.`);
}

/** The bounded logits that the kernel computes as well; what a NaN becomes here does not matter, the kernel sees it. */
function effectiveLogits(
  logits: Tensor,
  offsets: Tensor | undefined,
  settings: Pick<BregmanShape, "temperature" | "logitClamp" | "ratioMin" | "ratioMax">,
): Tensor {
  const { logit, logRatioMin, logRatioMax } = logBounds(settings);
  const limited = clamp(affine(logits, 1 / settings.temperature, 0), -logit, logit);
  return clamp(offsets ? add(limited, offsets) : limited, -logRatioMax, -logRatioMin);
}

function givenWeights(weight: (logit: Tensor) => Tensor, logits: Tensor): Tensor {
  const given = weight(logits);
  expectDType("f32", "bregmanWeights", given);
  return broadcastTo(given, logits.shape);
}

interface GradientAttrs {
  readonly normaliser: boolean;
  readonly epsilon: number;
}

const gradientOp: Op<GradientAttrs> = {
  name: "bregmanGradient",
  lower: ({ inputs: [weights, x, fake, teacher], outputs: [g], attrs }) => {
    const batch = weights!.size;
    return [
      gradientKernel({ weights: weights!, x: x!, fake: fake!, teacher: teacher!, g: g! }, {
        batch,
        perSample: x!.size / batch,
        scale: 1 / batch,
        ...attrs,
      }),
    ];
  },
};

/**
 * Gradient of the batch-mean divergence at the generator's output `x` [N, …]:
 * g = weights / N · (fake − teacher) / (mean|x − teacher| + epsilon), the last factor only with `normaliser` (DMD's).
 */
export function bregmanGradient(
  tensors: { readonly weights: Tensor; readonly x: Tensor; readonly fake: Tensor; readonly teacher: Tensor },
  options: { readonly normaliser: boolean; readonly epsilon?: number },
): Tensor {
  const { weights, x, fake, teacher } = tensors;
  expectDType("f32", "bregmanGradient", weights, x, fake, teacher);
  const fits = weights.size === x.shape[0] && sameShape(x.shape, fake.shape) && sameShape(x.shape, teacher.shape);
  expectShapes(fits, "bregmanGradient", "weights [N] and three tensors [N, …]", weights, x, fake, teacher);
  const { normaliser, epsilon = 1e-8 } = options;
  return apply(gradientOp, { normaliser, epsilon }, [weights, x, fake, teacher], x.shape);
}

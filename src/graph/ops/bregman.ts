/** The fused Bregman weighting: from classifier logits and two denoised images to the generator's gradient. */

import {
  bregmanGradient as gradientKernel,
  type BregmanKind,
  bregmanWeights as weightsKernel,
} from "../../../kernels/bregman.ts";
import { apply, expectDType, expectShapes, Node, type Op, sameShape, type Tensor } from "../tensor.ts";

/** Settings of {@linkcode bregmanWeights}. */
export interface BregmanSettings {
  /** The convex function h. */
  readonly kind: BregmanKind;
  /** Parameter of the families `sba` and `basu`; unused by the others. */
  readonly lambda: number;
  /** Logits are limited to ± this. */
  readonly logitClamp: number;
  /** The ratio is clipped to [ratioMin, ratioMax]. */
  readonly ratioMin: number;
  /** See `ratioMin`. */
  readonly ratioMax: number;
  /** Divide c by its batch mean. */
  readonly normalise: boolean;
}

const weightsOp: Op<BregmanSettings> = {
  name: "bregmanWeights",
  lower: ({ inputs: [logits, blend], outputs: [weights, ratios, stats], attrs }) => [
    weightsKernel({ logits: logits!, blend: blend!, weights: weights!, ratios: ratios!, stats: stats! }, {
      batch: logits!.size,
      ...attrs,
    }),
  ],
};

/**
 * c(r) = h″(r)·r for each sample from the classifier's logit (r = e^(−logit)): clamped, clipped, blended with 1
 * (`blend` [] : 0 is c = 1) and divided by its batch mean.
 *
 * `stats` holds min, mean, max of r and min, mean, max of c.
 */
export function bregmanWeights(
  logits: Tensor,
  blend: Tensor,
  settings: BregmanSettings,
): { readonly weights: Tensor; readonly ratios: Tensor; readonly stats: Tensor } {
  expectDType("f32", "bregmanWeights", logits, blend);
  expectShapes(logits.shape.length === 1 && blend.size === 1, "bregmanWeights", "logits [N], blend []", logits, blend);
  const node = new Node(weightsOp, settings, [logits, blend], [logits, logits, { shape: [6], dtype: "f32" }]);
  const [weights, ratios, stats] = node.outputs;
  return { weights: weights!, ratios: ratios!, stats: stats! };
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

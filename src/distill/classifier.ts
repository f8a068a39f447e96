/** The classifier of real and generated images: what it computes, its losses, and the logit that gives the density ratio. */

import {
  add,
  affine,
  cast,
  clamp,
  isFinite,
  log,
  mean,
  mul,
  relu,
  softplus,
  sqrt,
  square,
  sub,
  type Tensor,
  where,
} from "../graph/mod.ts";
import { noiseCondition, perSample, scaleInput, SIGMA_DATA } from "../diffusion/edm.ts";
import { FeatureHeads } from "../nn/heads.ts";
import type { ParameterLookup } from "../nn/layers.ts";
import type { Conditions, Features, Network, NetworkOptions } from "../nn/network.ts";
import { classifierConfig, createNetwork, type DenoiserConfig } from "../nn/networks.ts";
import { Classifier } from "../nn/unet.ts";
import type { Weights } from "../optim/weights.ts";
import { denoiseBy, type Noisy } from "./samples.ts";
import type { ClassifierKind, ClassifierLoss } from "./settings.ts";

/** Makes the network of a classifier that goes with a teacher; undefined where it has no parameters of its own. */
export function createClassifier(
  kind: ClassifierKind,
  teacher: DenoiserConfig,
  options: NetworkOptions = {},
): Network | undefined {
  if (kind === "own") return new Classifier(classifierConfig(teacher.network), options);
  if (kind === "fake-mean") return undefined;
  const { levels, bottleneck } = createNetwork(teacher).featureChannels;
  return new FeatureHeads(kind === "teacher-heads" ? levels : [bottleneck]);
}

/** What an `own` classifier makes of noisy images `xt` [N, C, H, W] at `sigma` [N] → [N]. */
export function classify(
  network: Classifier,
  p: ParameterLookup,
  xt: Tensor,
  sigma: Tensor,
  conditions?: Conditions,
): Tensor {
  return network.apply(p, scaleInput(xt, sigma), noiseCondition(sigma), conditions);
}

/** The weights that a classifier reads. */
export interface ClassifierNetworks {
  /** Its own; absent for `fake-mean`. */
  readonly classifier?: { readonly values: Weights } | undefined;
  /** The fake score's. */
  readonly fakeScore?: { readonly values: Weights } | undefined;
  /** The teacher's. */
  readonly teacher: Weights;
}

/** Features of `noisy` that are computed anyway, by the network they are of. */
export interface KnownFeatures {
  /** Of the fake score. */
  readonly fakeScore?: Features | undefined;
  /** Of the teacher. */
  readonly teacher?: Features | undefined;
}

/** The classifier's result f [N] for noisy images; what it means depends on the loss. */
export function classifierOutput(
  kind: ClassifierKind,
  networks: ClassifierNetworks,
  noisy: Noisy,
  known: KnownFeatures = {},
): Tensor {
  const { xt, sigma, conditions } = noisy;
  const own = networks.classifier?.values;
  const features = (weights: Weights) => denoiseBy(weights, noisy).features;
  const heads = (maps: readonly Tensor[]) => (own!.network as FeatureHeads).apply(own!.lookup, maps);
  switch (kind) {
    case "own":
      return classify(own!.network as Classifier, own!.lookup, xt, sigma, conditions);
    case "teacher-heads":
      return heads((known.teacher ?? features(networks.teacher)).levels);
    case "fake-head":
      return heads([(known.fakeScore ?? features(networks.fakeScore!.values)).bottleneck]);
    case "fake-mean": {
      const { bottleneck } = known.fakeScore ?? features(networks.fakeScore!.values);
      return mean(cast(bottleneck, "f32"), [1, 2, 3]);
    }
  }
}

/**
 * The classifier's loss of its results on real and on generated images, each [N].
 *
 * `logistic`: mean softplus(−f) + mean softplus(f), least where f = log(p/q). `least-squares` (Mao et al. 2017, targets ±1):
 * ½ mean (f − 1)² + ½ mean (f + 1)², least where f = (p − q)/(p + q). `hinge`: mean max(0, 1 − f) + mean max(0, 1 + f),
 * least where f is the sign of p − q, whatever the ratio.
 */
export function classifierLoss(real: Tensor, generated: Tensor, loss: ClassifierLoss = "logistic"): Tensor {
  switch (loss) {
    case "logistic":
      return add(mean(softplus(affine(real, -1, 0))), mean(softplus(generated)));
    case "least-squares":
      return affine(add(mean(square(affine(real, 1, -1))), mean(square(affine(generated, 1, 1)))), 0.5, 0);
    case "hinge":
      return add(mean(relu(affine(real, -1, 1))), mean(relu(affine(generated, 1, 1))));
  }
}

/**
 * The logit log(p/q) [N] that a trained classifier's result means: f itself under the logistic loss, 2 artanh(f) under least
 * squares, where it is limited to ± `largest`; undefined under the hinge loss, whose minimiser does not tell the ratio.
 */
export function readOut(output: Tensor, loss: ClassifierLoss, largest: number): Tensor | undefined {
  if (loss === "hinge") return undefined;
  if (loss === "logistic") return output;
  const most = Math.tanh(Math.min(largest, LARGEST_READ_OUT) / 2);
  const f = limit(output, -most, most);
  return sub(log(affine(f, 1, 1)), log(affine(f, -1, 1)));
}

/** `x` within [low, high]; what is not finite stays so, where a clamp would hide it. */
export function limit(x: Tensor, low: number, high: number): Tensor {
  return where(isFinite(x), clamp(x, low, high), x);
}

/** Above it 1 − f of least squares has no digits left in f32. */
const LARGEST_READ_OUT = 12;

/** What the generator minimises to be taken for real: mean softplus(−f), ½ mean (f − 1)² or −mean f by the loss. */
export function adversarialLoss(output: Tensor, loss: ClassifierLoss): Tensor {
  switch (loss) {
    case "logistic":
      return mean(softplus(affine(output, -1, 0)));
    case "least-squares":
      return affine(mean(square(affine(output, 1, -1))), 0.5, 0);
    case "hinge":
      return affine(mean(output), -1, 0);
  }
}

/**
 * Noisy images moved by noise of the standard deviation `scale` in units of the network's input: the approximate R1 penalty is
 * the mean of (f(x_t) − f(moved))² (Lin et al. 2025, arXiv 2501.08316), about scale² times the squared norm of f's gradient.
 */
export function perturbed(xt: Tensor, sigma: Tensor, noise: Tensor, scale: number): Tensor {
  const unit = sqrt(affine(square(sigma), 1, SIGMA_DATA ** 2));
  return add(xt, mul(perSample(affine(unit, scale, 0)), noise));
}

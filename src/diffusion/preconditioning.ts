/** The preconditionings' coefficients as tensors (EDM, table 1): D(x, σ) = c_skip x + c_out F(c_in x, c_noise). */

import { affine, constant, div, greater, log, mul, sqrt, square, type Tensor, where } from "../graph/mod.ts";
import type { Preconditioning } from "../nn/preconditioning.ts";
import type { SigmaRange } from "./edm.ts";

/** Coefficients at noise levels `sigma` [N], each [N]; those that are 1 are absent. */
export interface Coefficients {
  /** Factor on the noisy image in the result. */
  readonly cSkip: Tensor | undefined;
  /** Factor on the network's result. */
  readonly cOut: Tensor;
  /** What the noisy image is divided by: 1 / c_in. */
  readonly inputScale: Tensor | undefined;
  /** The network's noise condition. */
  readonly cNoise: Tensor;
}

/** The coefficients of a preconditioning. */
export function coefficients(preconditioning: Preconditioning, sigma: Tensor): Coefficients {
  switch (preconditioning.kind) {
    case "edm": {
      const { sigmaData } = preconditioning;
      const variance = affine(square(sigma), 1, sigmaData ** 2);
      return {
        cSkip: div(affine(sigma, 0, sigmaData ** 2), variance),
        cOut: div(affine(sigma, sigmaData, 0), sqrt(variance)),
        inputScale: sqrt(variance),
        cNoise: affine(log(sigma), 0.25, 0),
      };
    }
    case "vp":
      return {
        cSkip: undefined,
        cOut: affine(sigma, -1, 0),
        inputScale: sqrt(affine(square(sigma), 1, 1)),
        cNoise: affine(vpTime(preconditioning, sigma), preconditioning.M - 1, 0),
      };
    case "ve":
      return {
        cSkip: undefined,
        cOut: sigma,
        inputScale: undefined,
        cNoise: log(affine(sigma, 0.5, 0)),
      };
  }
}

/** The weight of the squared error, 1/c_out² [N], that makes every noise level's loss one of the network's result. */
export function lossWeight(preconditioning: Preconditioning, sigma: Tensor): Tensor {
  if (preconditioning.kind !== "edm") return div(constant([1], []), square(sigma));
  const { sigmaData } = preconditioning;
  return div(affine(square(sigma), 1, sigmaData ** 2), square(affine(sigma, sigmaData, 0)));
}

type Vp = Extract<Preconditioning, { kind: "vp" }>;

/** The time t at which the variance preserving process has the noise level σ(t). */
function vpTime({ betaD, betaMin }: Vp, sigma: Tensor): Tensor {
  const logVariance = log1p(square(sigma));
  return div(affine(logVariance, 2, 0), affine(sqrt(affine(logVariance, 2 * betaD, betaMin ** 2)), 1, betaMin));
}

/** ln(1 + x) of x ≥ 0; of a small one the first terms of 2 artanh(x/(2 + x)), as 1 + x has rounded most of it away. */
function log1p(x: Tensor): Tensor {
  const y = div(x, affine(x, 1, 2)), y2 = square(y);
  const series = mul(y, affine(mul(y2, affine(y2, 1 / 5, 1 / 3)), 2, 2));
  return where(greater(x, constant([0.1], [])), log(affine(x, 1, 1)), series);
}

/** σ(t) = √(exp(½ β_d t² + β_min t) − 1) of the variance preserving process. */
function vpSigma({ betaD, betaMin }: Vp, t: number): number {
  return Math.sqrt(Math.expm1(0.5 * betaD * t ** 2 + betaMin * t));
}

/** The noise levels that a preconditioned network was made for. */
export function sigmaLimits(preconditioning: Preconditioning): SigmaRange {
  switch (preconditioning.kind) {
    case "edm":
      return { sigmaMin: 0, sigmaMax: Infinity };
    case "vp":
      return { sigmaMin: vpSigma(preconditioning, preconditioning.epsilonT), sigmaMax: vpSigma(preconditioning, 1) };
    case "ve":
      return { sigmaMin: 0.02, sigmaMax: 100 };
  }
}

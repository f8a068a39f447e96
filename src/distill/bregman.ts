/** The convex functions h of the Bregman divergence between a density ratio r and 1, in double precision. */

import type { BregmanKind } from "../../kernels/bregman.ts";
import { UsageError } from "../gpu/errors.ts";

/**
 * One h with its derivatives in r = q/p > 0, and the weight c(r) = h''(r) r written in the logit l = -log r, where it
 * neither cancels nor overflows early. `lambda` is the parameter of `sba` and `basu`; the others ignore it.
 */
export interface BregmanFunction {
  /** Whether lambda matters. */
  readonly usesLambda: boolean;
  /** h(r). */
  readonly h: (r: number, lambda: number) => number;
  /** h'(r). */
  readonly dh: (r: number, lambda: number) => number;
  /** h''(r). */
  readonly d2h: (r: number, lambda: number) => number;
  /** c = h''(r) r at r = exp(-logit). */
  readonly weight: (logit: number, lambda: number) => number;
}

const { exp, log, log1p } = Math;
const sigmoid = (l: number) => 1 / (1 + exp(-l));

/** Every h by name ("One-step Diffusion Models with Bregman Density Ratio Matching", arXiv 2510.16983). */
export const BREGMAN: Readonly<Record<BregmanKind, BregmanFunction>> = {
  "kl": {
    usesLambda: false,
    h: (r) => r * log(r) - r,
    dh: (r) => log(r),
    d2h: (r) => 1 / r,
    weight: () => 1,
  },
  "lsif": {
    usesLambda: false,
    h: (r) => (r - 1) ** 2 / 2,
    dh: (r) => r - 1,
    d2h: () => 1,
    weight: (l) => exp(-l),
  },
  "logistic": {
    usesLambda: false,
    h: (r) => r * log(r) - (1 + r) * log1p(r),
    dh: (r) => log(r) - log1p(r),
    d2h: (r) => 1 / (r * (1 + r)),
    weight: sigmoid,
  },
  "itakura-saito": {
    usesLambda: false,
    h: (r) => -log(r),
    dh: (r) => -1 / r,
    d2h: (r) => 1 / r ** 2,
    weight: exp,
  },
  "sba": {
    usesLambda: true,
    h: (r, lambda) => (r ** (1 + lambda) - r) / (lambda * (1 + lambda)),
    dh: (r, lambda) => ((1 + lambda) * r ** lambda - 1) / (lambda * (1 + lambda)),
    d2h: (r, lambda) => r ** (lambda - 1),
    weight: (l, lambda) => exp(-lambda * l),
  },
  "basu": {
    usesLambda: true,
    h: (r, lambda) => (r ** (1 + lambda) - r) / lambda,
    dh: (r, lambda) => ((1 + lambda) * r ** lambda - 1) / lambda,
    d2h: (r, lambda) => (1 + lambda) * r ** (lambda - 1),
    weight: (l, lambda) => (1 + lambda) * exp(-lambda * l),
  },
  "softened-kl": {
    usesLambda: false,
    h: (r) => (1 + r) * log1p(r) - r,
    dh: (r) => log1p(r),
    d2h: (r) => 1 / (1 + r),
    weight: (l) => sigmoid(-l),
  },
  "jeffreys": {
    usesLambda: false,
    h: (r) => r * log(r) - log(r),
    dh: (r) => log(r) + 1 - 1 / r,
    d2h: (r) => 1 / r + 1 / r ** 2,
    weight: (l) => 1 + exp(l),
  },
};

/**
 * Checks lambda for a kind that uses it.
 *
 * @throws {UsageError} unless lambda > -1 and lambda is not 0, where h would not be strictly convex or not defined.
 */
export function checkLambda(kind: BregmanKind, lambda: number): void {
  if (!BREGMAN[kind].usesLambda) return;
  if (!Number.isFinite(lambda) || lambda <= -1 || lambda === 0) {
    throw new UsageError(
      `Lambda of "${kind}" must be a number above -1 and not 0, but it is ${lambda} ` +
        `(its limits are "kl" at 0 and "itakura-saito" at -1).`,
    );
  }
}

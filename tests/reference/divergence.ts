/** D_h(r‖1) between Gaussian mixtures by quadrature, for every h. */

import { BREGMAN_KINDS, type BregmanKind } from "../../kernels/bregman.ts";
import { type BregmanFunction, bregmanFunction, usesLambda } from "../../src/distill/bregman.ts";
import { logDensity, type Mixture, noised, quadrature } from "./gaussians.ts";

/** A convex function by name, with lambda where it has one. */
export interface Divergence {
  /** Its name. */
  readonly kind: BregmanKind;
  /** The parameter of `sba` and `basu`; 0 for the others. */
  readonly lambda: number;
  /** For messages and tables. */
  readonly label: string;
}

/** Every h, the families of lambda with a few. */
export const DIVERGENCES: readonly Divergence[] = BREGMAN_KINDS.flatMap((kind) =>
  usesLambda(kind)
    ? [-0.9, -0.5, 0.5, 2].map((lambda) => ({ kind, lambda, label: `${kind}(${lambda})` }))
    : [{ kind, lambda: 0, label: kind }]
);

/** The functions of a divergence. */
export function convexFunction({ kind, lambda }: Divergence): Required<BregmanFunction> {
  return bregmanFunction(kind, lambda) as Required<BregmanFunction>;
}

/** p_t, r_t and a cell's volume on a grid. */
interface Grid {
  readonly p: Float64Array;
  readonly r: Float64Array;
  readonly volume: number;
}

function ratioGrid(q: Mixture, p: Mixture, sigma: number, count: number): Grid {
  const qt = noised(q, sigma), pt = noised(p, sigma);
  const { points, volume } = quadrature([qt, pt], count);
  const logP = Float64Array.from(points, (x) => logDensity(pt, x));
  return {
    p: logP.map(Math.exp),
    r: Float64Array.from(points, (x, i) => Math.exp(logDensity(qt, x) - logP[i]!)),
    volume,
  };
}

function integrate({ p, r, volume }: Grid, { h, dh }: Required<BregmanFunction>): number {
  const h1 = h(1), slope = dh(1);
  return p.reduce((sum, density, i) => sum + density * (h(r[i]!) - h1 - slope * (r[i]! - 1)), 0) * volume;
}

/** Points an axis by dimension: twice as many change no result of the tests by more than 1e-10. */
const POINTS = [0, 600, 120];

/** D_h(r‖1) = E_{p_t}[h(r) − h(1) − h'(1)(r − 1)] at noise level σ, r = q_t/p_t, for each of `divergences`. */
export function divergences(
  q: Mixture,
  p: Mixture,
  sigma: number,
  wanted: readonly Divergence[] = DIVERGENCES,
  points: number = POINTS[q[0]!.mean.length]!,
): number[] {
  const grid = ratioGrid(q, p, sigma, points);
  return wanted.map((divergence) => integrate(grid, convexFunction(divergence)));
}

/** Step of the central differences: their error is of the order of its square. */
const STEP = 1e-4;

/**
 * Derivatives of D_h in each of `parameters`, from which `q` makes the generator's density: one row a divergence.
 */
export function divergenceGradients(
  q: (parameters: readonly number[]) => Mixture,
  parameters: readonly number[],
  p: Mixture,
  sigma: number,
): number[][] {
  const columns = parameters.map((_, i) => {
    const [above, below] = [STEP, -STEP].map((step) =>
      divergences(q(parameters.map((value, j) => i === j ? value + step : value)), p, sigma)
    );
    return above!.map((value, j) => (value - below![j]!) / (2 * STEP));
  });
  return DIVERGENCES.map((_, row) => columns.map((column) => column[row]!));
}

/** Gaussian mixtures in closed form, in double precision: densities, scores and denoisers at a noise level. */

/** A Gaussian with a diagonal covariance and its share of a mixture. */
export interface Component {
  /** Its mass. */
  readonly weight: number;
  /** [d]. */
  readonly mean: readonly number[];
  /** Standard deviations [d]. */
  readonly std: readonly number[];
}

/** Gaussians whose masses add up to 1. */
export type Mixture = readonly Component[];

/** The density of x + σ n for x of `mixture` and standard normal n. */
export function noised(mixture: Mixture, sigma: number): Mixture {
  return mixture.map(({ weight, mean, std }) => ({ weight, mean, std: std.map((s) => Math.hypot(s, sigma)) }));
}

/** Logarithms of each component's mass times its density at `x` [d]. */
function logTerms(mixture: Mixture, x: readonly number[]): number[] {
  return mixture.map(({ weight, mean, std }) =>
    x.reduce(
      (sum, value, i) => sum - ((value - mean[i]!) / std[i]!) ** 2 / 2 - Math.log(std[i]! * Math.sqrt(2 * Math.PI)),
      Math.log(weight),
    )
  );
}

function logSumExp(terms: readonly number[]): number {
  const most = Math.max(...terms);
  return most + Math.log(terms.reduce((sum, term) => sum + Math.exp(term - most), 0));
}

/** The log density at `x` [d]. */
export function logDensity(mixture: Mixture, x: readonly number[]): number {
  return logSumExp(logTerms(mixture, x));
}

/** The gradient of the log density at `x` [d]. */
export function score(mixture: Mixture, x: readonly number[]): number[] {
  const terms = logTerms(mixture, x);
  const total = logSumExp(terms);
  return x.map((value, i) =>
    mixture.reduce(
      (sum, { mean, std }, k) => sum + Math.exp(terms[k]! - total) * (mean[i]! - value) / std[i]! ** 2,
      0,
    )
  );
}

/** E[x | x_t] for x of `mixture` and x_t = x + σ n: D(x_t, σ) = x_t + σ² ∇log p_t(x_t) (Tweedie). */
export function denoised(mixture: Mixture, xt: readonly number[], sigma: number): number[] {
  const slope = score(noised(mixture, sigma), xt);
  return xt.map((value, i) => value + sigma ** 2 * slope[i]!);
}

/** Points of a grid and the volume that each stands for. */
export interface Quadrature {
  /** Each [d]. */
  readonly points: readonly (readonly number[])[];
  /** Volume of a cell. */
  readonly volume: number;
}

/** Standard deviations beyond which a grid ends: e^(−9²/2) = 3e-18. */
const REACH = 9;

/**
 * The trapezoidal rule over all that `mixtures` hold, `count` points an axis: for analytic integrands that vanish at the
 * ends its error falls faster than any power of the spacing.
 */
export function quadrature(mixtures: readonly Mixture[], count: number): Quadrature {
  const components = mixtures.flat();
  const axes = components[0]!.mean.map((_, i) => {
    const low = Math.min(...components.map(({ mean, std }) => mean[i]! - REACH * std[i]!));
    const high = Math.max(...components.map(({ mean, std }) => mean[i]! + REACH * std[i]!));
    return { low, spacing: (high - low) / (count - 1) };
  });
  let points: number[][] = [[]];
  for (const { low, spacing } of axes) {
    points = points.flatMap((point) => Array.from({ length: count }, (_, k) => [...point, low + k * spacing]));
  }
  return { points, volume: axes.reduce((product, { spacing }) => product * spacing, 1) };
}

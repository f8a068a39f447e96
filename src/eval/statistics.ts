/** Statistics of a few repeated measurements: means, standard errors, Student's tests, corrections for several of them. */

import { GraphError } from "../gpu/errors.ts";

/** A mean over repeats. */
export interface Estimate {
  /** Number of repeats. */
  readonly count: number;
  /** Their mean. */
  readonly mean: number;
  /** Standard error of the mean, s/√n with the divisor n − 1 in s²; null of one value, which says nothing of it. */
  readonly standardError: number | null;
}

/** A two-sided test of whether two means are the same. */
export interface Test {
  /** Difference of the means, the first minus the second. */
  readonly difference: number;
  /** Its standard error. */
  readonly standardError: number;
  /** The difference in standard errors; null where these are 0. */
  readonly t: number | null;
  /** Degrees of freedom of the t-distribution. */
  readonly degreesOfFreedom: number;
  /** Probability of so large a difference either way where there is none; null where the standard error is 0. */
  readonly p: number | null;
}

/**
 * Mean and standard error.
 *
 * @throws {GraphError} where there are no values, or one is not finite.
 */
export function estimate(values: readonly number[]): Estimate {
  const count = values.length;
  if (count === 0) throw new GraphError("A mean needs at least one value.");
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new GraphError(`A mean needs finite values, but one is ${values[bad]}.`);
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { count, mean, standardError: count < 2 ? null : Math.sqrt(squares / (count - 1) / count) };
}

/**
 * Student's test of paired values, `a[i]` measured under the conditions of `b[i]`: one of the mean of their differences.
 * Undefined where there are fewer than two pairs.
 *
 * @throws {GraphError} where there are not as many of one as of the other.
 */
export function pairedTest(a: readonly number[], b: readonly number[]): Test | undefined {
  if (a.length !== b.length) throw new GraphError(`${a.length} values cannot be paired with ${b.length}.`);
  if (a.length < 2) return undefined;
  const { mean, standardError } = estimate(a.map((value, i) => value - b[i]!));
  return test(mean, standardError!, a.length - 1);
}

/**
 * Welch's test of independent values whose variances may differ (Welch 1947), with the degrees of freedom of Welch and
 * Satterthwaite. Undefined where there are fewer than two values of one, or no variance in both.
 */
export function welchTest(a: readonly number[], b: readonly number[]): Test | undefined {
  if (a.length < 2 || b.length < 2) return undefined;
  const one = estimate(a), two = estimate(b);
  const u = one.standardError! ** 2, v = two.standardError! ** 2;
  if (u + v === 0) return undefined;
  return test(
    one.mean - two.mean,
    Math.sqrt(u + v),
    (u + v) ** 2 / (u ** 2 / (a.length - 1) + v ** 2 / (b.length - 1)),
  );
}

function test(difference: number, standardError: number, degreesOfFreedom: number): Test {
  const t = standardError > 0 ? difference / standardError : null;
  return { difference, standardError, t, degreesOfFreedom, p: t === null ? null : studentP(t, degreesOfFreedom) };
}

/** Probability that |T| ≥ |t| where T has Student's distribution (Abramowitz and Stegun 26.7.1). */
export function studentP(t: number, degreesOfFreedom: number): number {
  return incompleteBeta(degreesOfFreedom / 2, 0.5, degreesOfFreedom / (degreesOfFreedom + t * t));
}

/**
 * Holm's correction (Holm 1979) of the p-values of several tests, in their order: where those of true differences only are
 * below a level, the probability of any false one is below it too.
 */
export function holm(ps: readonly number[]): number[] {
  const order = ps.map((_, i) => i).sort((i, j) => ps[i]! - ps[j]!);
  const corrected = new Array<number>(ps.length);
  let least = 0;
  order.forEach((i, rank) => corrected[i] = least = Math.max(least, Math.min(1, (ps.length - rank) * ps[i]!)));
  return corrected;
}

/**
 * The regularised incomplete beta function I_x(a, b), for a, b > 0 and x in [0, 1]: its continued fraction (Abramowitz and
 * Stegun 26.5.8), on the side where that converges fast. Within about 1e-13.
 */
export function incompleteBeta(a: number, b: number, x: number): number {
  if (!(a > 0 && b > 0 && x >= 0 && x <= 1)) {
    throw new GraphError(`The incomplete beta function is not defined at a = ${a}, b = ${b}, x = ${x}.`);
  }
  if (x === 0 || x === 1) return x;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
  const front = Math.exp(
    a * Math.log(x) + b * Math.log1p(-x) + logGamma(a + b) - logGamma(a) - logGamma(b),
  );
  return front * betaFraction(a, b, x) / a;
}

const TINY = 1e-300;

/** 1/(1 + d₁/(1 + d₂/(1 + …))) of {@linkcode incompleteBeta}, by the method of Lentz. */
function betaFraction(a: number, b: number, x: number): number {
  const nonzero = (value: number) => Math.abs(value) < TINY ? TINY : value;
  let c = 1, d = 1 / nonzero(1 - (a + b) * x / (a + 1)), value = d;
  for (let m = 1; m < 10_000; m++) {
    const even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    let last = 1;
    for (const term of [even, odd]) {
      d = 1 / nonzero(1 + term * d);
      c = nonzero(1 + term / c);
      last = c * d;
      value *= last;
    }
    if (Math.abs(last - 1) < 1e-15) return value;
  }
  throw new GraphError(`The incomplete beta function did not converge at a = ${a}, b = ${b}, x = ${x}.`);
}

/** log Γ(x), x > 0, by Stirling's series (Abramowitz and Stegun 6.1.41) from 10 on and the recurrence below it. */
export function logGamma(x: number): number {
  let shift = 0;
  for (; x < 10; x++) shift += Math.log(x);
  const y = 1 / (x * x);
  const series = (1 / 12 + y * (-1 / 360 + y * (1 / 1260 + y * (-1 / 1680 + y * (1 / 1188 - y * 691 / 360_360))))) / x;
  return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series - shift;
}

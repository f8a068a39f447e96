/** The Fréchet distance between two sets of features (Heusel et al. 2017) with its noise floor, in float64. */

import { philox4x32 } from "../data/philox.ts";
import { GraphError, NonFiniteError } from "../gpu/errors.ts";
import { multiplySquare, symmetricEigen, symmetricSqrt } from "./linalg.ts";

/** Mean and covariance of a set of feature vectors. */
export interface Moments {
  /** Mean, `d` values. */
  readonly mean: Float64Array;
  /** Covariance, `[d, d]`, with the unbiased divisor n − 1. */
  readonly covariance: Float64Array;
}

/** A distance's distribution over repeated draws. */
export interface Floor {
  /** Mean over the repeats. */
  readonly mean: number;
  /** Standard deviation over the repeats (divisor repeats − 1). */
  readonly std: number;
}

/**
 * Mean and unbiased covariance of `n` feature vectors of `d` values, in two passes.
 *
 * @throws {GraphError} where `features` does not hold `n * d` values or `n` is below 2.
 * @throws {NonFiniteError} where a feature is a NaN or an infinity.
 */
export function featureMoments(features: Float32Array | Float64Array, n: number, d: number): Moments {
  if (n < 2) throw new GraphError(`A covariance needs at least 2 feature vectors, but there is ${n}.`);
  if (features.length !== n * d) {
    throw new GraphError(`${n} vectors of ${d} features have ${n * d} values, but ${features.length} were given.`);
  }
  const mean = new Float64Array(d), covariance = new Float64Array(d * d), centred = new Float64Array(d);
  for (let i = 0; i < features.length; i++) mean[i % d]! += features[i]!;
  for (let j = 0; j < d; j++) mean[j]! /= n;
  if (!mean.every(Number.isFinite)) throw new NonFiniteError("A feature is a NaN or an infinity.");
  for (let start = 0; start < features.length; start += d) {
    for (let j = 0; j < d; j++) centred[j] = features[start + j]! - mean[j]!;
    addOuterProduct(covariance, centred);
  }
  for (let j = 0; j < d; j++) {
    for (let k = j; k < d; k++) covariance[k * d + j] = covariance[j * d + k] = covariance[j * d + k]! / (n - 1);
  }
  return { mean, covariance };
}

/** Adds `v vᵀ` to the upper triangle of `target`. */
function addOuterProduct(target: Float64Array, v: Float64Array): void {
  const d = v.length;
  for (let j = 0; j < d; j++) {
    const vj = v[j]!;
    for (let k = j, at = j * d + j; k < d; k++, at++) target[at]! += vj * v[k]!;
  }
}

/**
 * The Fréchet distance of two Gaussians, `|μ₁ − μ₂|² + Tr(S₁ + S₂ − 2 (S₁ S₂)^{1/2})`. The last trace is computed as
 * `Tr (S₁^{1/2} S₂ S₁^{1/2})^{1/2}`, whose matrix is symmetric, so that singular covariances need no offset;
 * with them rounding is of the order of 1e-7 of the traces, otherwise much less. Never below zero.
 *
 * @throws {GraphError} where the two differ in dimension.
 * @throws {NonFiniteError} where a covariance holds a NaN or an infinity.
 */
export function frechetDistance(a: Moments, b: Moments): number {
  const d = a.mean.length;
  if (b.mean.length !== d) {
    throw new GraphError(`Features of ${d} and of ${b.mean.length} dimensions cannot be compared.`);
  }
  const root = symmetricSqrt(a.covariance, d);
  const product = multiplySquare(multiplySquare(root, b.covariance, d), root, d);
  let distance = 0;
  for (let i = 0; i < d; i++) {
    distance += (a.mean[i]! - b.mean[i]!) ** 2 + a.covariance[i * d + i]! + b.covariance[i * d + i]!;
  }
  for (const value of symmetricEigen(product, d).values) distance -= 2 * Math.sqrt(Math.max(0, value));
  return Math.max(0, distance);
}

/**
 * The Fréchet distance, at a sample size of `count`, of a model that repeats the real images: that of `count` draws with
 * replacement from the `n` real feature vectors, against all of them. The same `seed` gives the same draws.
 *
 * @throws {GraphError} where `features` does not hold `n * d` values, `count` is below 2 or `repeats` is below 1.
 */
export function resampleFloor(
  features: Float32Array | Float64Array,
  n: number,
  d: number,
  count: number,
  seed: number,
  repeats = 10,
): Floor {
  if (repeats < 1) throw new GraphError(`A noise floor needs at least 1 repeat, but ${repeats} were asked for.`);
  const all = featureMoments(features, n, d);
  const distances = Array.from({ length: repeats }, (_, repeat) => {
    const drawn = new Float64Array(count * d);
    for (let i = 0; i < count; i++) {
      const source = drawIndex(i, repeat, seed, n);
      drawn.set(features.subarray(source * d, (source + 1) * d), i * d);
    }
    return frechetDistance(all, featureMoments(drawn, count, d));
  });
  const mean = distances.reduce((sum, x) => sum + x, 0) / repeats;
  const squares = distances.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / Math.max(1, repeats - 1)) };
}

/** A uniform index below `n` (bias below n / 2³²): a pure function of its place, so that no generator state is kept. */
function drawIndex(draw: number, repeat: number, seed: number, n: number): number {
  const [word] = philox4x32([draw, repeat, 0, 0], [seed >>> 0, 0]);
  return Math.floor(word! / 2 ** 32 * n);
}

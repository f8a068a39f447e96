/** Float64 references of group normalisation. */

import type { GroupNormShape } from "../../kernels/group_norm.ts";

/** Each sample's factor (less 1) and summand after the normalisation, [batch, channels]. */
export interface Modulation {
  readonly scale: ArrayLike<number>;
  readonly shift: ArrayLike<number>;
}

/**
 * y [batch, channels, size] and stats [batch, groups, 2] = mean, 1/sqrt(var + eps); with a modulation, stats go on with
 * [2, batch, channels]: gamma (1 + scale) and beta (1 + scale) + shift.
 */
export function groupNormReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  s: GroupNormShape,
  modulation?: Modulation,
): { y: number[]; stats: number[] } {
  const [slopes, offsets] = coefficients(gamma, beta, s, modulation);
  const y = new Array<number>(s.batch * s.channels * s.size);
  const stats: number[] = [];
  forEachGroup(s, (indices) => {
    let mean = 0, variance = 0;
    for (const i of indices) mean += x[i]! / indices.length;
    for (const i of indices) variance += (x[i]! - mean) ** 2 / indices.length;
    const rstd = 1 / Math.sqrt(variance + s.eps);
    stats.push(mean, rstd);
    for (const i of indices) {
      const own = Math.floor(i / s.size);
      const z = slopes[own]! * (x[i]! - mean) * rstd + offsets[own]!;
      y[i] = s.silu ? z * sigmoid(z) : z;
    }
  });
  return { y, stats: modulation ? [...stats, ...slopes, ...offsets] : stats };
}

/** What multiplies each sample's normalised channels and what is added, [batch, channels] both. */
function coefficients(
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  { batch, channels }: GroupNormShape,
  modulation: Modulation | undefined,
): [slopes: number[], offsets: number[]] {
  const each = (f: (c: number, i: number) => number) =>
    Array.from({ length: batch * channels }, (_, i) => f(i % channels, i));
  const factor = (i: number) => 1 + (modulation ? modulation.scale[i]! : 0);
  return [
    each((c, i) => gamma[c]! * factor(i)),
    each((c, i) => beta[c]! * factor(i) + (modulation ? modulation.shift[i]! : 0)),
  ];
}

/** dx [batch, channels, size], dgamma and dbeta [channels]; with a modulation, dscale and dshift [batch, channels]. */
export function groupNormGradReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  dy: ArrayLike<number>,
  s: GroupNormShape,
  modulation?: Modulation,
): { dx: number[]; dgamma: number[]; dbeta: number[]; dscale: number[]; dshift: number[] } {
  const [slopes, offsets] = coefficients(gamma, beta, s, modulation);
  const { stats } = groupNormReference(x, gamma, beta, s);
  const dx = new Array<number>(s.batch * s.channels * s.size);
  const dgamma = new Array<number>(s.channels).fill(0);
  const dbeta = new Array<number>(s.channels).fill(0);
  const dscale = new Array<number>(s.batch * s.channels).fill(0);
  const dshift = new Array<number>(s.batch * s.channels).fill(0);
  let group = 0;
  forEachGroup(s, (indices) => {
    const mean = stats[2 * group]!, rstd = stats[2 * group + 1]!;
    group++;
    const h = (i: number) => (x[i]! - mean) * rstd;
    const dz = (i: number) => {
      const own = Math.floor(i / s.size);
      const z = slopes[own]! * h(i) + offsets[own]!;
      return s.silu ? dy[i]! * sigmoid(z) * (1 + z * (1 - sigmoid(z))) : dy[i]!;
    };
    let sum = 0, sumH = 0;
    for (const i of indices) {
      const own = Math.floor(i / s.size), c = own % s.channels;
      const factor = 1 + (modulation ? modulation.scale[own]! : 0);
      dbeta[c]! += factor * dz(i);
      dgamma[c]! += factor * dz(i) * h(i);
      dscale[own]! += dz(i) * (gamma[c]! * h(i) + beta[c]!);
      dshift[own]! += dz(i);
      sum += slopes[own]! * dz(i);
      sumH += slopes[own]! * dz(i) * h(i);
    }
    const n = indices.length;
    for (const i of indices) dx[i] = rstd * (slopes[Math.floor(i / s.size)]! * dz(i) - sum / n - h(i) * sumH / n);
  });
  return { dx, dgamma, dbeta, dscale, dshift };
}

function sigmoid(z: number): number {
  return 1 / (1 + Math.exp(-z));
}

/** Calls `visit` with the element indices of every (sample, group) in order. */
function forEachGroup(s: GroupNormShape, visit: (indices: number[]) => void): void {
  const n = s.channels / s.groups * s.size;
  for (let g = 0; g < s.batch * s.groups; g++) visit(Array.from({ length: n }, (_, i) => g * n + i));
}

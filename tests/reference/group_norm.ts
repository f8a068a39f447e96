/** Float64 references of group normalisation. */

import type { GroupNormShape } from "../../kernels/group_norm.ts";

/** y [batch, channels, size] and stats [batch, groups, 2] = mean, 1/sqrt(var + eps). */
export function groupNormReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  s: GroupNormShape,
): { y: number[]; stats: number[] } {
  const y = new Array<number>(s.batch * s.channels * s.size);
  const stats: number[] = [];
  forEachGroup(s, (indices) => {
    let mean = 0, variance = 0;
    for (const i of indices) mean += x[i]! / indices.length;
    for (const i of indices) variance += (x[i]! - mean) ** 2 / indices.length;
    const rstd = 1 / Math.sqrt(variance + s.eps);
    stats.push(mean, rstd);
    for (const i of indices) {
      const c = channelOf(i, s);
      const z = gamma[c]! * (x[i]! - mean) * rstd + beta[c]!;
      y[i] = s.silu ? z * sigmoid(z) : z;
    }
  });
  return { y, stats };
}

/** dx [batch, channels, size] and each sample's share of dgamma and dbeta, [batch, channels]. */
export function groupNormGradReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  dy: ArrayLike<number>,
  s: GroupNormShape,
): { dx: number[]; dgamma: number[]; dbeta: number[] } {
  const { stats } = groupNormReference(x, gamma, beta, s);
  const dx = new Array<number>(s.batch * s.channels * s.size);
  const dgamma = new Array<number>(s.channels).fill(0);
  const dbeta = new Array<number>(s.channels).fill(0);
  let group = 0;
  forEachGroup(s, (indices) => {
    const mean = stats[2 * group]!, rstd = stats[2 * group + 1]!;
    group++;
    const h = (i: number) => (x[i]! - mean) * rstd;
    const dz = (i: number) => {
      const c = channelOf(i, s);
      const z = gamma[c]! * h(i) + beta[c]!;
      return s.silu ? dy[i]! * sigmoid(z) * (1 + z * (1 - sigmoid(z))) : dy[i]!;
    };
    let sum = 0, sumH = 0;
    for (const i of indices) {
      dbeta[channelOf(i, s)]! += dz(i);
      dgamma[channelOf(i, s)]! += dz(i) * h(i);
      sum += gamma[channelOf(i, s)]! * dz(i);
      sumH += gamma[channelOf(i, s)]! * dz(i) * h(i);
    }
    const n = indices.length;
    for (const i of indices) dx[i] = rstd * (gamma[channelOf(i, s)]! * dz(i) - sum / n - h(i) * sumH / n);
  });
  return { dx, dgamma, dbeta };
}

function channelOf(index: number, s: GroupNormShape): number {
  return Math.floor(index / s.size) % s.channels;
}

function sigmoid(z: number): number {
  return 1 / (1 + Math.exp(-z));
}

/** Calls `visit` with the element indices of every (sample, group) in order. */
function forEachGroup(s: GroupNormShape, visit: (indices: number[]) => void): void {
  const n = s.channels / s.groups * s.size;
  for (let g = 0; g < s.batch * s.groups; g++) visit(Array.from({ length: n }, (_, i) => g * n + i));
}

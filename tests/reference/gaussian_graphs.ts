/** Gaussian mixtures as graphs: samples, log densities and denoisers on the device. */

import {
  add,
  affine,
  constant,
  div,
  exp,
  greater,
  log,
  mul,
  randomNormal,
  type RandomSource,
  randomUniform,
  reduceMax,
  reshape,
  softmax,
  square,
  stopGradient,
  sub,
  sum,
  type Tensor,
} from "../../src/graph/mod.ts";
import type { Mixture } from "./gaussians.ts";

/** `count` samples [count, d], drawn by two sources. */
export function mixtureSamples(mixture: Mixture, count: number, choice: RandomSource, noise: RandomSource): Tensor {
  const d = mixture[0]!.mean.length;
  const u = randomUniform([count, 1], choice), z = randomNormal([count, d], noise);
  let before = 0;
  return mixture.map(({ weight, mean, std }) => {
    const above = (bound: number) => greater(u, constant([bound], []));
    const chosen = sub(above(before), above(before += weight));
    return mul(chosen, add(mul(z, constant(std, [d])), constant(mean, [d])));
  }).reduce(add);
}

/** For `xt` [N, d] at noise levels `sigma` [N]: logs of each component's mass times density [N, K], and E[x | xt, k] [N, K, d]. */
function components(mixture: Mixture, xt: Tensor, sigma: Tensor): { readonly logs: Tensor; readonly means: Tensor } {
  const [n, d] = xt.shape as [number, number];
  const k = mixture.length;
  const table = (values: (component: Mixture[number]) => readonly number[]) =>
    constant(mixture.flatMap(values), [k, d]);
  const offset = sub(reshape(xt, [n, 1, d]), table(({ mean }) => mean));
  const own = table(({ std }) => std.map((s) => s ** 2));
  const variance = add(reshape(square(sigma), [n, 1, 1]), own);
  const terms = affine(add(div(square(offset), variance), log(variance)), -0.5, -0.5 * Math.log(2 * Math.PI));
  const logs = add(sum(terms, [2]), constant(mixture.map(({ weight }) => Math.log(weight)), [k]));
  return { logs, means: add(table(({ mean }) => mean), mul(offset, div(own, variance))) };
}

/** log p_t(x_t) [N] of `xt` [N, d] at noise levels `sigma` [N]. */
export function logDensityGraph(mixture: Mixture, xt: Tensor, sigma: Tensor): Tensor {
  return logSumExp(components(mixture, xt, sigma).logs);
}

/** E[x | x_t] [N, d]: the mixture's denoiser at `xt` [N, d] and `sigma` [N]. */
export function denoisedGraph(mixture: Mixture, xt: Tensor, sigma: Tensor): Tensor {
  const { logs, means } = components(mixture, xt, sigma);
  return sum(mul(reshape(softmax(logs), [...logs.shape, 1]), means), [1]);
}

/** log Σ e^x over the last axis of [N, K] → [N]. */
export function logSumExp(x: Tensor): Tensor {
  const n = x.shape[0]!;
  const most = reshape(stopGradient(reduceMax(x, [1])), [n, 1]);
  return reshape(add(log(reshape(sum(exp(sub(x, most)), [1]), [n, 1])), most), [n]);
}

/** Rates of the group norm kernels at the shapes of small U-Nets. */

import { groupNorm, groupNormGrad, type GroupNormShape, groupNormStats } from "../kernels/group_norm.ts";
import { benchFamily } from "./harness.ts";

const PLANES: [channels: number, size: number][] = [[16, 64], [32, 64], [64, 64], [64, 16], [128, 16], [128, 256], [
  64,
  1024,
]];

for (const [channels, size] of PLANES) {
  const groups = Math.min(32, channels / 4);
  const s: GroupNormShape = { batch: 64, channels, groups, size, eps: 1e-5, silu: true };
  const elements = s.batch * channels * size;
  const name = `64x${channels}x${size}, ${groups} groups`;
  const vectors = { gamma: channels, beta: channels, stats: groupNormStats(s, true) };
  const modulation = { scale: s.batch * channels, shift: s.batch * channels };
  const inputs = { x: "x", gamma: "gamma", beta: "beta", stats: "stats" };
  const sizes = { x: elements, y: elements, ...vectors, ...modulation };
  benchFamily("group norm + silu", name, groupNorm, { ...inputs, y: "y" }, s, sizes);
  const modulated = { ...inputs, y: "y", scale: "scale", shift: "shift" };
  benchFamily("group norm + scale and shift + silu", name, groupNorm, modulated, s, sizes);
  const gradients = { dx: "dx", dgamma: "dgamma", dbeta: "dbeta" };
  const gradientSizes = { x: elements, dy: elements, dx: elements, dgamma: channels, dbeta: channels, ...vectors };
  const buffers = { ...inputs, dy: "dy", ...gradients };
  benchFamily("group norm + silu, gradient", name, groupNormGrad, buffers, s, gradientSizes);
}

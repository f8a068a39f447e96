/** Rates of the group norm kernels at the shapes of small U-Nets. */

import { groupNormForward, groupNormGrad, type GroupNormShape } from "../kernels/group_norm.ts";
import { standalone } from "../kernels/standalone.ts";
import { benchDispatch } from "./harness.ts";

const PLANES: [channels: number, size: number][] = [[16, 64], [32, 64], [64, 64], [64, 16], [128, 16], [128, 256], [
  64,
  1024,
]];

for (const [channels, size] of PLANES) {
  const groups = Math.min(32, channels / 4);
  const s: GroupNormShape = { batch: 64, channels, groups, size, eps: 1e-5, silu: true };
  const elements = s.batch * channels * size;
  const name = `64x${channels}x${size}, ${groups} groups`;
  const shared = { x: elements, gamma: channels, beta: channels, stats: 2 * s.batch * groups };
  const forward = groupNormForward({ x: "x", gamma: "gamma", beta: "beta", y: "y", stats: "stats" }, s);
  benchDispatch("group norm + silu", name, [forward], { ...shared, y: elements });
  const buffers = { x: "x", gamma: "gamma", beta: "beta", stats: "stats", dy: "dy" };
  const { dispatches, scratch } = standalone((lowering) =>
    groupNormGrad({ ...buffers, dx: "dx", dgamma: "dgamma", dbeta: "dbeta" }, s, lowering)
  );
  const gradients = { dx: elements, dgamma: channels, dbeta: channels };
  benchDispatch("group norm + silu, gradient", name, dispatches, { ...shared, ...gradients, dy: elements, ...scratch });
}

/** Rates of the attention kernels at the shapes of small and of real U-Nets. */

import { attentionForward, attentionGrad, type AttentionShape } from "../kernels/attention.ts";
import { benchDispatch } from "./harness.ts";

const SHAPES: [batch: number, dim: number, tokens: number][] = [[64, 32, 16], [64, 64, 16], [16, 64, 64], [
  4,
  256,
  256,
]];
const BUFFERS = {
  ...{ q: "q", k: "k", v: "v", o: "o", lse: "lse" } as const,
  ...{ dO: "dO", dq: "dq", dk: "dk", dv: "dv", delta: "delta" } as const,
};

for (const [batch, dim, tokens] of SHAPES) {
  const s: AttentionShape = { batch, dim, queries: tokens, keys: tokens, scale: dim ** -0.5 };
  const n = batch * dim * tokens;
  const rows = batch * tokens;
  const sizes = { q: n, k: n, v: n, o: n, lse: rows, dO: n, dq: n, dk: n, dv: n, delta: rows };
  const name = `${batch} x ${dim} x ${tokens} tokens`;
  benchDispatch("attention", name, [attentionForward(BUFFERS, s)], sizes);
  for (const grad of attentionGrad(BUFFERS, s)) benchDispatch(grad.label, name, [grad], sizes);
}

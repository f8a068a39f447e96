/** Rates of the attention kernels at the shapes of small and of real U-Nets. */

import { attention, attentionGrad, type AttentionShape } from "../kernels/attention.ts";
import { benchFamily } from "./harness.ts";

const SHAPES = [[64, 32, 16], [64, 64, 16], [16, 64, 64], [4, 128, 256], [4, 256, 256]] as const;
const BUFFERS = {
  ...{ q: "qkv", k: "qkv", v: "qkv", o: "o", lse: "lse" },
  ...{ dO: "dO", dq: "dqkv", dk: "dqkv", dv: "dqkv" },
};

for (const [batch, dim, tokens] of SHAPES) {
  const s: AttentionShape = { batch, dim, queries: tokens, keys: tokens, scale: dim ** -0.5, packed: true };
  const n = batch * dim * tokens;
  const sizes = { qkv: 3 * n, o: n, lse: batch * tokens, dO: n, dqkv: 3 * n };
  const shape = `${batch} x ${dim} x ${tokens} tokens`;
  benchFamily("attention", `attention ${shape}`, attention, BUFFERS, s, sizes);
  benchFamily("attention.grad", `attention.grad ${shape}`, attentionGrad, BUFFERS, s, sizes);
}

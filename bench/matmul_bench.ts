/** Matrix product benches: embedding layers, classifier heads, and square products for comparison with other libraries. */

import { matmul, type MatmulShape } from "../kernels/matmul.ts";
import { benchFamily } from "./harness.ts";

/** [batch, m, n, k, transposeA, transposeB] */
const SHAPES = [
  [1, 64, 64, 64, false, true],
  [1, 64, 256, 64, false, true],
  [1, 64, 256, 64, false, false],
  [1, 256, 64, 64, true, false],
  [64, 64, 16, 32, false, false],
  [1, 512, 512, 512, false, false],
  [1, 512, 512, 512, false, true],
  [1, 1024, 1024, 1024, false, false],
] as const;

for (const [batch, m, n, k, transposeA, transposeB] of SHAPES) {
  const s: MatmulShape = { batch, m, n, k, transposeA, transposeB, broadcastA: false, broadcastB: false };
  const name = `matmul ${batch}x${m}x${n}x${k}${transposeA ? " A transposed" : ""}${transposeB ? " B transposed" : ""}`;
  const sizes = { a: batch * m * k, b: batch * k * n, out: batch * m * n };
  benchFamily("matmul", name, matmul, { a: "a", b: "b", out: "out" }, s, sizes);
}

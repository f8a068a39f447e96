/** Float64 references of softmax and cross-entropy over the rows of a matrix. */

import type { SoftmaxShape } from "../../kernels/softmax.ts";

/** y [rows, columns]. */
export function softmaxReference(x: ArrayLike<number>, s: SoftmaxShape): number[] {
  return Array.from({ length: s.rows }, (_, r) => {
    const row = rowOf(x, r, s);
    const lse = logSumExp(row);
    return row.map((v) => Math.exp(v - lse));
  }).flat();
}

/** dx [rows, columns] from the softmax y and dy. */
export function softmaxGradReference(y: ArrayLike<number>, dy: ArrayLike<number>, s: SoftmaxShape): number[] {
  return Array.from({ length: s.rows }, (_, r) => {
    const [p, dp] = [rowOf(y, r, s), rowOf(dy, r, s)];
    const dot = p.reduce((sum, v, i) => sum + v * dp[i]!, 0);
    return p.map((v, i) => v * (dp[i]! - dot));
  }).flat();
}

/** loss [rows]. */
export function crossEntropyReference(
  logits: ArrayLike<number>,
  labels: ArrayLike<number>,
  s: SoftmaxShape,
): number[] {
  return Array.from({ length: s.rows }, (_, r) => {
    const row = rowOf(logits, r, s);
    return logSumExp(row) - row[labels[r]!]!;
  });
}

/** dlogits [rows, columns] from dloss [rows]. */
export function crossEntropyGradReference(
  logits: ArrayLike<number>,
  labels: ArrayLike<number>,
  dloss: ArrayLike<number>,
  s: SoftmaxShape,
): number[] {
  return softmaxReference(logits, s).map((p, index) => {
    const r = Math.floor(index / s.columns);
    return dloss[r]! * (p - (index % s.columns === labels[r] ? 1 : 0));
  });
}

function rowOf(x: ArrayLike<number>, r: number, s: SoftmaxShape): number[] {
  return Array.from({ length: s.columns }, (_, c) => x[r * s.columns + c]!);
}

function logSumExp(row: number[]): number {
  const largest = row.reduce((a, b) => Math.max(a, b));
  return largest + Math.log(row.reduce((sum, v) => sum + Math.exp(v - largest), 0));
}

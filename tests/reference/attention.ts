/** Float64 references of attention over channel-first tensors. */

import type { AttentionShape } from "../../kernels/attention.ts";

type Numbers = ArrayLike<number>;

/** o [batch, dim, queries] and lse [batch, queries]. */
export function attentionReference(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  s: AttentionShape,
): { o: number[]; lse: number[] } {
  const o = zeros(s.batch * s.dim * s.queries);
  const lse: number[] = [];
  for (let n = 0; n < s.batch; n++) {
    for (let i = 0; i < s.queries; i++) {
      const scores = scoresOf(q, k, s, n, i);
      const largest = scores.reduce((a, b) => Math.max(a, b));
      const level = largest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - largest), 0));
      lse.push(level);
      for (let d = 0; d < s.dim; d++) {
        for (let j = 0; j < s.keys; j++) {
          o[(n * s.dim + d) * s.queries + i]! += Math.exp(scores[j]! - level) * v[(n * s.dim + d) * s.keys + j]!;
        }
      }
    }
  }
  return { o, lse };
}

/** dq [batch, dim, queries], dk and dv [batch, dim, keys] from dO [batch, dim, queries]. */
export function attentionGradReference(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  dO: Numbers,
  s: AttentionShape,
): { dq: number[]; dk: number[]; dv: number[] } {
  const dq = zeros(s.batch * s.dim * s.queries);
  const dk = zeros(s.batch * s.dim * s.keys);
  const dv = zeros(s.batch * s.dim * s.keys);
  const { lse } = attentionReference(q, k, v, s);
  for (let n = 0; n < s.batch; n++) {
    for (let i = 0; i < s.queries; i++) {
      const weights = scoresOf(q, k, s, n, i).map((score) => Math.exp(score - lse[n * s.queries + i]!));
      const dWeights = weights.map((_, j) => dotOver(s, n, dO, s.queries, i, v, s.keys, j));
      const delta = weights.reduce((sum, weight, j) => sum + weight * dWeights[j]!, 0);
      weights.forEach((weight, j) => {
        const dScore = s.scale * weight * (dWeights[j]! - delta);
        for (let d = 0; d < s.dim; d++) {
          const atQuery = (n * s.dim + d) * s.queries + i;
          const atKey = (n * s.dim + d) * s.keys + j;
          dq[atQuery]! += dScore * k[atKey]!;
          dk[atKey]! += dScore * q[atQuery]!;
          dv[atKey]! += weight * dO[atQuery]!;
        }
      });
    }
  }
  return { dq, dk, dv };
}

/** Scaled scores of query i of sample n with every key. */
function scoresOf(q: Numbers, k: Numbers, s: AttentionShape, n: number, i: number): number[] {
  return Array.from({ length: s.keys }, (_, j) => s.scale * dotOver(s, n, q, s.queries, i, k, s.keys, j));
}

/** Sum over dim of a[n, :, i] b[n, :, j]. */
function dotOver(
  s: AttentionShape,
  n: number,
  a: Numbers,
  aTokens: number,
  i: number,
  b: Numbers,
  bTokens: number,
  j: number,
): number {
  let sum = 0;
  for (let d = 0; d < s.dim; d++) sum += a[(n * s.dim + d) * aTokens + i]! * b[(n * s.dim + d) * bTokens + j]!;
  return sum;
}

/** q, k and v, each [batch, dim, tokens], as the thirds of one tensor [batch, 3 dim, tokens]. */
export function packThirds(parts: readonly Numbers[], { batch, dim, keys }: AttentionShape): number[] {
  const size = dim * keys;
  return Array.from({ length: 3 * batch * size }, (_, at) => {
    const row = Math.floor(at / size);
    return parts[row % 3]![Math.floor(row / 3) * size + at % size]!;
  });
}

/** The opposite of {@linkcode packThirds}. */
export function unpackThirds(packed: Numbers, { batch, dim, keys }: AttentionShape): number[][] {
  const size = dim * keys;
  return [0, 1, 2].map((i) =>
    Array.from({ length: batch * size }, (_, at) => packed[(3 * Math.floor(at / size) + i) * size + at % size]!)
  );
}

function zeros(length: number): number[] {
  return new Array<number>(length).fill(0);
}

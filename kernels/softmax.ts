/** Descriptors of softmax and of cross-entropy with class labels, with their gradients. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import softmaxSource from "./softmax.wgsl" with { type: "text" };
import crossEntropySource from "./softmax_cross_entropy.wgsl" with { type: "text" };
import crossEntropyGradSource from "./softmax_cross_entropy_grad.wgsl" with { type: "text" };
import softmaxGradSource from "./softmax_grad.wgsl" with { type: "text" };

/** Shape of a matrix whose rows are normalised: [rows, columns]. */
export interface SoftmaxShape {
  /** Independent rows. */
  readonly rows: number;
  /** Elements, or classes, of a row. */
  readonly columns: number;
}

/** y_j = exp(x_j) / sum_i exp(x_i) in every row; x, y [rows, columns]. */
export function softmax<B>(b: { x: B; y: B }, s: SoftmaxShape): Dispatch<B> {
  return byRows("softmax", softmaxSource, [b.x], b.y, s, 8, 2 * s.rows * s.columns);
}

/** dx_j = y_j (dy_j - sum_i y_i dy_i) in every row, from the softmax y and dy; all [rows, columns]. */
export function softmaxGrad<B>(b: { y: B; dy: B; dx: B }, s: SoftmaxShape): Dispatch<B> {
  return byRows("softmax.grad", softmaxGradSource, [b.y, b.dy], b.dx, s, 4, 3 * s.rows * s.columns);
}

/**
 * loss = -log softmax(logits)_label in every row.
 *
 * logits [rows, columns] f32; labels [rows] u32, each below `columns`; loss [rows] f32.
 */
export function crossEntropy<B>(b: { logits: B; labels: B; loss: B }, s: SoftmaxShape): Dispatch<B> {
  const words = s.rows * s.columns + 2 * s.rows;
  return byRows("crossEntropy", crossEntropySource, [b.logits, b.labels], b.loss, s, 4, words);
}

/**
 * dlogits_j = dloss (softmax(logits)_j - [j = label]) in every row.
 *
 * logits, dlogits [rows, columns] f32; labels [rows] u32, each below `columns`; dloss [rows] f32.
 */
export function crossEntropyGrad<B>(
  b: { logits: B; labels: B; dloss: B; dlogits: B },
  s: SoftmaxShape,
): Dispatch<B> {
  const reads = [b.logits, b.labels, b.dloss];
  const words = 2 * s.rows * s.columns + 2 * s.rows;
  return byRows("crossEntropy.grad", crossEntropyGradSource, reads, b.dlogits, s, 9, words);
}

/** Threads of a workgroup of the variant with one thread a row. */
const WIDTH = 16;

/**
 * Short rows take one thread each, longer ones a workgroup, small where possible: barriers among many threads are slow
 * on a CPU adapter. `words` are those that cross memory.
 */
function byRows<B>(
  label: string,
  source: string,
  reads: B[],
  write: B,
  s: SoftmaxShape,
  flopsPerElement: number,
  words: number,
): Dispatch<B> {
  const serial = s.columns <= 64;
  return {
    label,
    source,
    entry: serial ? "serial" : "cooperative",
    constants: serial ? { WIDTH } : { LANES: s.columns <= 512 ? 16 : s.columns <= 4096 ? 64 : 256 },
    uniforms: [s.rows, s.columns],
    reads,
    writes: [write],
    workgroups: spread(serial ? ceilDiv(s.rows, WIDTH) : s.rows),
    flops: flopsPerElement * s.rows * s.columns,
    bytes: 4 * words,
  };
}

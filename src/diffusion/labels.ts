/** Class labels as the networks take them: one-hot vectors. */

import { constant, equal, greater, type RandomSource, randomUniform, reshape, sum, type Tensor } from "../graph/mod.ts";

/** Classes `labels` [N], whole numbers from 0 on as f32, as one-hot vectors [N, classes]; −1 gives zeros, no class. */
export function oneHot(labels: Tensor, classes: number): Tensor {
  const columns = Float32Array.from({ length: classes }, (_, k) => k);
  return equal(reshape(labels, [labels.size, 1]), constant(columns, [1, classes]));
}

/** Classes [N] drawn at random, each with its share; each as likely as the others where `shares` is a number of classes. */
export function randomLabels(batch: number, shares: number | readonly number[], source: RandomSource): Tensor {
  const all = typeof shares === "number" ? new Array<number>(shares).fill(1 / shares) : shares;
  const classes = all.length;
  if (classes === 1) return constant(new Float32Array(batch), [batch]);
  let total = 0;
  const bounds = Float32Array.from({ length: classes - 1 }, (_, k) => total += all[k]!);
  return sum(greater(randomUniform([batch, 1], source), constant(bounds, [1, classes - 1])), [1]);
}

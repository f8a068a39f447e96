/** Class labels as the networks take them: one-hot vectors. */

import { constant, equal, greater, type RandomSource, randomUniform, reshape, sum, type Tensor } from "../graph/mod.ts";

/** Classes `labels` [N], whole numbers from 0 on as f32, as one-hot vectors [N, classes]; −1 gives zeros, no class. */
export function oneHot(labels: Tensor, classes: number): Tensor {
  const columns = Float32Array.from({ length: classes }, (_, k) => k);
  return equal(reshape(labels, [labels.size, 1]), constant(columns, [1, classes]));
}

/** Classes [N] drawn at random, each as likely as the others. */
export function randomLabels(batch: number, classes: number, source: RandomSource): Tensor {
  if (classes === 1) return constant(new Float32Array(batch), [batch]);
  const bounds = Float32Array.from({ length: classes - 1 }, (_, k) => (k + 1) / classes);
  return sum(greater(randomUniform([batch, 1], source), constant(bounds, [1, classes - 1])), [1]);
}

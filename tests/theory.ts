/** Shared by the theory tests: the weighting in its exact form, and random samples of even coverage. */

import { estimate as estimateOfMeans } from "../src/eval/statistics.ts";
import { bregmanWeights, constant, type Tensor } from "../src/graph/mod.ts";
import { uniformSource } from "./gpu.ts";
import type { Divergence } from "./reference/divergence.ts";

/**
 * c(r) of logits [N] as training computes it, but exact: limited only where float32 ends, and not divided by its mean.
 * `settings` restore what training does.
 */
export function bregmanWeight(
  logits: Tensor,
  { kind, lambda }: Pick<Divergence, "kind" | "lambda">,
  settings: { readonly ratioMin?: number; readonly ratioMax?: number; readonly normalise?: boolean } = {},
): Tensor {
  const exact = { logitClamp: 70, ratioMin: 0, ratioMax: Infinity, normalise: false };
  const h = { kind, lambda };
  return bregmanWeights({ logits, blend: constant([1], []) }, { h, ...exact, ...settings }).weights;
}

/** Independent sets of samples, each of which covers the whole distribution evenly. */
export const REPLICATES = 32;

/**
 * Standard normal numbers [REPLICATES, count, dimension] for an even dimension: lattices of additive recurrence, each
 * shifted at random (so that every replicate's mean is unbiased, and their scatter gives the standard error), through Box
 * and Muller's formula.
 */
export function latticeNormals(count: number, dimension: number, seed: number): Float32Array<ArrayBuffer> {
  // The root of φ^(d+1) = φ + 1, whose powers are the steps of Roberts' R_d sequence.
  let root = 2;
  for (let i = 0; i < 50; i++) root = (1 + root) ** (1 / (dimension + 1));
  const steps = Array.from({ length: dimension }, (_, j) => root ** -(j + 1));
  const random = uniformSource(seed);
  const normals = new Float32Array(REPLICATES * count * dimension);
  for (let replicate = 0; replicate < REPLICATES; replicate++) {
    const shift = steps.map(random);
    for (let i = 0; i < count; i++) {
      const u = steps.map((step, j) => (shift[j]! + (i + 0.5) * step) % 1);
      for (let j = 0; j < dimension; j += 2) {
        const radius = Math.sqrt(-2 * Math.log(1 - u[j]!)), angle = 2 * Math.PI * u[j + 1]!;
        const at = (replicate * count + i) * dimension + j;
        normals[at] = radius * Math.cos(angle);
        normals[at + 1] = radius * Math.sin(angle);
      }
    }
  }
  return normals;
}

/** The mean of the replicates' means and its standard error, from all their samples one after another. */
export function estimate(samples: readonly number[]): { readonly mean: number; readonly standardError: number } {
  const count = samples.length / REPLICATES;
  const means = Array.from(
    { length: REPLICATES },
    (_, k) => samples.slice(k * count, (k + 1) * count).reduce((sum, value) => sum + value, 0) / count,
  );
  const { mean, standardError } = estimateOfMeans(means);
  return { mean, standardError: standardError! };
}

/** How far the shares of the classes among generated images are from those among the real ones. */

import { GraphError } from "../gpu/errors.ts";
import { nearestRow } from "./neighbours.ts";

/**
 * Tells the classes of images by their features, as those whose real images' mean is nearest, and compares their shares with
 * those of the real images told in the same way: what a generator gives each mode, whatever its images' quality.
 */
export class ClassShares {
  readonly #means: Float64Array;
  readonly #real: Float64Array;

  /** Of real images' features, `dim` values for each of the `labels`, which are below `classes`. */
  constructor(
    features: Float32Array,
    labels: ArrayLike<number>,
    private readonly classes: number,
    private readonly dim: number,
  ) {
    if (features.length !== labels.length * dim) {
      throw new GraphError(`${labels.length} labels need ${labels.length * dim} features; got ${features.length}.`);
    }
    this.#means = new Float64Array(classes * dim);
    const counts = new Float64Array(classes);
    for (let i = 0; i < labels.length; i++) {
      const label = labels[i]!;
      counts[label]!++;
      for (let j = 0; j < dim; j++) this.#means[label * dim + j]! += features[i * dim + j]!;
    }
    // A class without images is nobody's: its mean is NaN.
    this.#means.forEach((sum, i) => this.#means[i] = sum / counts[Math.floor(i / dim)]!);
    this.#real = this.of(features);
  }

  /** Share of each class. */
  of(features: Float32Array): Float64Array {
    const { classes, dim } = this, count = features.length / dim;
    const shares = new Float64Array(classes);
    for (let i = 0; i < count; i++) {
      shares[nearestRow(this.#means, classes, features, i * dim, dim).row]! += 1 / count;
    }
    return shares;
  }

  /** Total variation between the shares and the real ones, 0 to 1: of so many images the class would have to change. */
  error(features: Float32Array): number {
    return this.of(features).reduce((sum, share, k) => sum + Math.abs(share - this.#real[k]!), 0) / 2;
  }

  /** Its expectation for `samples` real images drawn with replacement, by the normal approximation. */
  floor(samples: number): number {
    return this.#real.reduce((sum, p) => sum + Math.sqrt(2 * p * (1 - p) / (Math.PI * samples)), 0) / 2;
  }
}

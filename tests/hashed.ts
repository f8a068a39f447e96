/** Numbers by the rule that tests/reference/make_song.py has too, so that neither weights nor inputs are stored. */

import { elementCount } from "../src/graph/tensor.ts";
import type { ParameterSpec } from "../src/nn/layers.ts";
import { relativeError } from "./gpu.ts";

/** Numbers in shift ± scale: Murmur's finaliser of the name's FNV-1a hash and the element's index. */
export function hashed(name: string, count: number, scale = 1, shift = 0): Float32Array<ArrayBuffer> {
  let seed = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) seed = Math.imul(seed ^ byte, 0x01000193);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    let h = (Math.imul(i, 0x9e3779b9) + seed) | 0;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
    values[i] = shift + scale * (((h >>> 8) + 0.5) / 2 ** 23 - 1);
  }
  return values;
}

/** Weights of variance 1 / fan-in, gains around 1, biases around 0, and frequencies up to 16. */
export function hashedWeights(parameters: readonly ParameterSpec[]): Map<string, Float32Array<ArrayBuffer>> {
  return new Map(parameters.map(({ name, shape }) => {
    const count = elementCount(shape);
    if (name.endsWith("freqs")) return [name, hashed(name, count, 16)];
    if (shape.length > 1) return [name, hashed(name, count, Math.sqrt(3 / elementCount(shape.slice(1))))];
    return [name, hashed(name, count, 0.2, name.endsWith("weight") ? 1 : 0)];
  }));
}

/** Products of a stored sketch, after the norm. */
const SKETCHES = 8;

/**
 * Compares gradients with their sketches, rows of [norm, ⟨g, v₀⟩, …] in the order of `names`: the largest estimate over the
 * parameters of the error's norm relative to the gradient's, that of all of them, and the largest relative error of a norm.
 */
export function compareSketch(
  gradients: ReadonlyMap<string, Float32Array>,
  names: readonly string[],
  sketch: Float32Array,
): { worst: number; whole: number; norm: number } {
  const columns = SKETCHES + 1;
  if (sketch.length !== names.length * columns) {
    throw new Error(`${names.length} parameters, ${sketch.length} numbers.`);
  }
  let worst = 0, norm = 0, errors = 0, total = 0;
  names.forEach((name, row) => {
    const gradient = gradients.get(name)!;
    const expected = sketch.subarray(row * columns, (row + 1) * columns);
    let squares = 0;
    for (let k = 0; k < SKETCHES; k++) {
      const v = hashed(`${name}/${k}`, gradient.length);
      squares += (gradient.reduce((sum, g, i) => sum + g * v[i]!, 0) - expected[k + 1]!) ** 2;
    }
    // The mean square of ⟨e, v⟩ is |e|²/3.
    const squaredError = 3 * squares / SKETCHES;
    worst = Math.max(worst, Math.sqrt(squaredError) / expected[0]!);
    norm = Math.max(norm, relativeError([Math.hypot(...gradient)], [expected[0]!]));
    errors += squaredError;
    total += expected[0]! ** 2;
  });
  return { worst, whole: Math.sqrt(errors / total), norm };
}

/** Shared by the tests of f16: arrays as buffers hold them, and tests for adapters that have it. */

import { getGpu } from "./gpu.ts";
import type { Gpu } from "../src/gpu/gpu.ts";

const { hasF16 } = await getGpu();

/**
 * A test that stores f16. Not by the name of `gpuTest`, by which the browser's suites are found: SwiftShader, the adapter
 * there, has no f16. Where this adapter has none either, the tests count as ignored.
 */
export function f16Test(name: string, fn: (gpu: Gpu) => Promise<void>): void {
  const run = async () => await fn(await getGpu());
  Deno.test({ name, ignore: !hasF16, sanitizeOps: false, sanitizeResources: false, fn: run });
}

/** `values`, each rounded to the nearest f16. */
export function rounded(values: ArrayLike<number>): Float32Array<ArrayBuffer> {
  return Float32Array.from(Float16Array.from(values));
}

/** Values as f16 in whole words; what fills the last one is a NaN. */
export function toHalf(values: ArrayLike<number>): Uint32Array<ArrayBuffer> {
  const halves = new Float16Array(2 * Math.ceil(values.length / 2)).fill(NaN);
  halves.set(values);
  return new Uint32Array(halves.buffer);
}

/** `count` values from words that hold f16. */
export function fromHalf(words: ArrayLike<number>, count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(new Float16Array(Uint32Array.from(words).buffer, 0, count));
}

/** Shared by the tests: one device a process, random data, relative errors. */

import type { Standalone } from "../kernels/standalone.ts";
import type { Family, Variant } from "../src/gpu/family.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import { type HostArray, runDispatches } from "../src/gpu/run.ts";

if (Deno.build.os === "linux") Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");

let shared: Promise<Gpu> | undefined;

/** The device all tests of this process share. */
export function getGpu(): Promise<Gpu> {
  return shared ??= Gpu.create();
}

/** A test that uses the GPU: the shared device outlives it, so Deno's leak checks are off. */
export function gpuTest(name: string, fn: (gpu: Gpu) => Promise<void>): void {
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn: async () => await fn(await getGpu()) });
}

/** {@linkcode gpuTest} for suites that need files, processes or much time: by its name the browser's are told from them. */
export const deviceTest: typeof gpuTest = gpuTest;

/** Norm-wise relative error ‖a − b‖ / ‖b‖ (‖a‖ where b is all zero). */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`Lengths differ: ${a.length} and ${b.length}.`);
  let difference = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(difference / (norm || 1));
}

/** A small deterministic generator of uniform numbers in (0, 1). */
export function uniformSource(seed: number): () => number {
  let state = (seed * 2654435761 + 1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}

/** `n` standard normal f32 values, the same for the same seed. */
export function randomArray(n: number, seed: number): Float32Array<ArrayBuffer> {
  const uniform = uniformSource(seed);
  const values = new Float32Array(n);
  for (let i = 0; i < n; i++) values[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return values;
}

/** `n` values NaN: what a kernel leaves unwritten shows. */
export function unwritten(n: number): Float32Array<ArrayBuffer> {
  return new Float32Array(n).fill(NaN);
}

/** Runs the dispatches on `data` and gives the buffers' contents after it; scratch starts as NaN. */
export function runStandalone<K extends string>(
  gpu: Gpu,
  { dispatches, scratch, constants }: Standalone,
  data: Readonly<Record<K, HostArray>>,
): Promise<Record<K, HostArray>> {
  const unfilled = Object.fromEntries(Object.entries(scratch).map(([name, n]) => [name, unwritten(n)]));
  return runDispatches(gpu, dispatches, { ...data, ...unfilled, ...constants });
}

/** Runs every variant of a family that fits; at least one does. All at once: each alone waits long for its results. */
export async function forEachVariant<S, K extends string, O extends string>(
  family: Family<S, K, O>,
  s: S,
  run: (variant: Variant<S, K, O>, label: string) => Promise<void>,
): Promise<void> {
  const fitting = Object.entries(family.variants).filter(([, variant]) => variant.fits(s));
  if (fitting.length === 0) throw new Error(`${family.name}: no variant computes ${family.key(s)}.`);
  await Promise.all(fitting.map(([label, variant]) => run(variant, `${family.name} ${label} ${family.key(s)}`)));
}

/** Times dispatches on the GPU: many per wait, so that the wait is not what is measured. */

import { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { prepare } from "../src/gpu/run.ts";

if (Deno.build.os === "linux") Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");

let shared: Promise<Gpu> | undefined;

/** The device all benches of this process share. */
export function getGpu(): Promise<Gpu> {
  return shared ??= Gpu.create();
}

/** Result of {@linkcode timeDispatches}. */
export interface Timing {
  /** Milliseconds for one run of all dispatches: the best of several rounds. */
  readonly ms: number;
  /** GFLOP/s from the dispatches' own counts. */
  readonly gflops: number;
  /** GB/s from the dispatches' own counts. */
  readonly gbps: number;
}

/** Times `dispatches` over buffers of the given element counts (filled with a fixed pattern); warm-up first. */
export async function timeDispatches<K extends string>(
  gpu: Gpu,
  dispatches: readonly Dispatch<K>[],
  sizes: Readonly<Record<K, number>>,
  rounds = 5,
): Promise<Timing> {
  const buffers = new Map<string, GPUBuffer>();
  for (const [name, elements] of Object.entries<number>(sizes)) {
    const buffer = gpu.buffer(elements * 4, name);
    const data = new Float32Array(elements);
    for (let i = 0; i < elements; i++) data[i] = ((i * 7919) % 1009) / 1009 - 0.5;
    gpu.device.queue.writeBuffer(buffer, 0, data);
    buffers.set(name, buffer);
  }
  const prepared = await Promise.all(dispatches.map((d) => prepare(gpu, d, (k) => ({ buffer: buffers.get(k)! }))));
  const run = async (times: number) => {
    const start = performance.now();
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < times; i++) for (const { record } of prepared) record(pass);
    pass.end();
    gpu.device.queue.submit([encoder.finish()]);
    await gpu.idle();
    return performance.now() - start;
  };
  await run(2);
  const once = (await run(4)) / 4;
  const times = Math.max(2, Math.min(400, Math.ceil(150 / Math.max(once, 0.01))));
  let best = Infinity;
  for (let i = 0; i < rounds; i++) best = Math.min(best, (await run(times)) / times);
  for (const buffer of buffers.values()) gpu.free(buffer);
  for (const { uniform } of prepared) if (uniform) gpu.free(uniform);
  const flops = dispatches.reduce((total, d) => total + d.flops, 0);
  const bytes = dispatches.reduce((total, d) => total + d.bytes, 0);
  return { ms: best, gflops: flops / best / 1e6, gbps: bytes / best / 1e6 };
}

/** Registers a bench that times `dispatches` (many runs per wait) and prints milliseconds and rates once. */
export function benchDispatch<K extends string>(
  group: string,
  name: string,
  dispatches: readonly Dispatch<K>[],
  sizes: Readonly<Record<K, number>>,
): void {
  let timing: Timing | undefined;
  Deno.bench({
    group,
    name,
    n: 1,
    warmup: 0,
    fn: async () => {
      // Deno calls a bench several times, whatever `n` says; the rounds within are what is measured.
      if (timing) return;
      timing = await timeDispatches(await getGpu(), dispatches, sizes);
      const { ms, gflops, gbps } = timing;
      console.log(`  ${name}: ${ms.toFixed(3)} ms, ${gflops.toFixed(2)} GFLOP/s, ${gbps.toFixed(2)} GB/s`);
    },
  });
}

/** Times dispatches on the GPU: many per wait, so that the wait is not what is measured. */

import { Gpu } from "../src/gpu/gpu.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import type { Buffers, Family } from "../src/gpu/family.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { prepare } from "../src/gpu/run.ts";

if (Deno.build.os === "linux") Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");

/** The device all benches of this process share. */
const gpu = await Gpu.create();

/** Dispatches with their buffers, ready to be run many times in one submit. */
interface Prepared {
  run(times: number): Promise<void>;
  free(): void;
}

async function prepareAll<K extends string>(
  dispatches: readonly Dispatch<K>[],
  sizes: Readonly<Record<K, number>>,
  constants: Readonly<Record<string, Uint32Array<ArrayBuffer>>>,
): Promise<Prepared> {
  const buffers = new Map<string, GPUBuffer>();
  for (const [name, elements] of Object.entries<number>(sizes)) {
    const buffer = gpu.buffer(elements * 4, name);
    const data = new Float32Array(elements);
    for (let i = 0; i < elements; i++) data[i] = ((i * 7919) % 1009) / 1009 - 0.5;
    if (elements > 0) gpu.device.queue.writeBuffer(buffer, 0, data);
    buffers.set(name, buffer);
  }
  for (const [name, data] of Object.entries(constants)) {
    const buffer = gpu.buffer(data.byteLength, name);
    gpu.device.queue.writeBuffer(buffer, 0, data);
    buffers.set(name, buffer);
  }
  const prepared = await Promise.all(dispatches.map((d) => prepare(gpu, d, (k) => ({ buffer: buffers.get(k)! }))));
  return {
    async run(times) {
      const encoder = gpu.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let i = 0; i < times; i++) for (const { record } of prepared) record(pass);
      pass.end();
      gpu.device.queue.submit([encoder.finish()]);
      await gpu.idle();
    },
    free() {
      for (const buffer of buffers.values()) gpu.free(buffer);
      for (const { uniform } of prepared) if (uniform) gpu.free(uniform);
    },
  };
}

/** Best milliseconds of one run of each bench so far, with its counts. */
const results = new Map<string, { ms: number; flops: number; bytes: number }>();
let current: { name: string; prepared: Prepared } | undefined;

globalThis.addEventListener("unload", () => {
  console.log("\none run, the best of all:");
  for (const [name, { ms, flops, bytes }] of results) {
    const rates = [flops, bytes].map((count) => (count / ms / 1e6).toFixed(2).padStart(8));
    console.log(`  ${name.padEnd(60)} ${ms.toFixed(3).padStart(9)} ms ${rates[0]} GFLOP/s ${rates[1]} GB/s`);
  }
});

/** Runs a bench's iteration holds: about a tenth of a second's work at a few GFLOP/s, so that the wait is not measured. */
function runsFor(flops: number, bytes: number): number {
  const seconds = flops / 10e9 + bytes / 3e9 + 1e-4;
  return Math.max(3, Math.min(100, Math.round(0.1 / seconds)));
}

/** Registers a bench of `dispatches`; its name says how many runs one iteration of Deno's table holds. */
export function benchDispatch<K extends string>(
  group: string,
  name: string,
  dispatches: readonly Dispatch<K>[],
  sizes: Readonly<Record<K, number>>,
  constants: Readonly<Record<string, Uint32Array<ArrayBuffer>>> = {},
): void {
  const flops = dispatches.reduce((total, d) => total + d.flops, 0);
  const bytes = dispatches.reduce((total, d) => total + d.bytes, 0);
  const times = runsFor(flops, bytes);
  Deno.bench({
    group,
    name: `${name} ×${times}`,
    n: 5,
    warmup: 0,
    fn: async (b) => {
      if (current?.name !== name) {
        current?.prepared.free();
        current = { name, prepared: await prepareAll(dispatches, sizes, constants) };
        await current.prepared.run(2);
      }
      const start = performance.now();
      b.start();
      await current.prepared.run(times);
      b.end();
      const ms = (performance.now() - start) / times;
      results.set(name, { ms: Math.min(ms, results.get(name)?.ms ?? Infinity), flops, bytes });
    },
  });
}

/** Registers a bench of the variant that a shape gets on this adapter. */
export function benchFamily<S, K extends string, O extends string>(
  group: string,
  name: string,
  family: Family<S, K, O>,
  buffers: Buffers<string, K, O>,
  s: S,
  sizes: Readonly<Record<string, number>>,
): void {
  const variant = gpu.choices.name(family, s);
  const { dispatches, scratch, constants } = standaloneVariant(family.variants[variant]!, buffers, s);
  benchDispatch(group, `${name} (${variant})`, dispatches, { ...sizes, ...scratch }, constants);
}

/** Times dispatches on the GPU: many per wait, so that the wait is not what is measured. */

import { useTuning } from "../src/cli/tuning.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import type { Buffers, Family } from "../src/gpu/family.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { prepareAll, type Prepared } from "./prepared.ts";
import { measureCeilings } from "./report/ceilings.ts";
import { bindingCeiling, type Ceilings } from "./report/table.ts";

if (Deno.build.os === "linux") Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");

/** The device all benches of this process share. */
const gpu = await Gpu.create();
await useTuning(gpu);

/** Measured once, before the first bench of the process. */
let ceilings: Ceilings | undefined;

/** Best milliseconds of one run of each bench so far, by group and name, with its counts. */
const results = new Map<string, { ms: number; flops: number; bytes: number }>();
let current: { title: string; prepared: Prepared } | undefined;

globalThis.addEventListener("unload", () => {
  if (!ceilings) return;
  const { gflops, gbps } = ceilings;
  console.log(`\none run, the best of all; ceilings ${gflops.toFixed(1)} GFLOP/s, ${gbps.toFixed(2)} GB/s:`);
  for (const [title, { ms, flops, bytes }] of results) {
    const rates = { gflops: flops / ms / 1e6, gbps: bytes / ms / 1e6 };
    const binding = bindingCeiling(flops, bytes, ceilings);
    const [compute, memory] = [rates.gflops, rates.gbps].map((rate) => rate.toFixed(2).padStart(8));
    const percent = (100 * rates[binding] / ceilings[binding]).toFixed(1).padStart(6);
    const time = ms.toFixed(3).padStart(9);
    console.log(`  ${title.padEnd(60)} ${time} ms ${compute} GFLOP/s ${memory} GB/s ${percent} % of ceiling`);
  }
});

/** Runs a bench's iteration holds: about a tenth of a second's work at a few GFLOP/s, so that the wait is not measured. */
function runsFor(flops: number, bytes: number): number {
  const seconds = flops / 10e9 + bytes / 3e9 + 1e-4;
  return Math.max(3, Math.min(100, Math.round(0.1 / seconds)));
}

/** Pseudo-random contents of every buffer, uniform in ±0.5. */
function contents(sizes: Readonly<Record<string, number>>): Record<string, Float32Array<ArrayBuffer>> {
  const vectors = Object.entries(sizes).map(([name, elements]) => [
    name,
    Float32Array.from({ length: elements }, (_, i) => ((i * 7919) % 1009) / 1009 - 0.5),
  ]);
  return Object.fromEntries(vectors);
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
  const title = name.includes(group) ? name : `${group}, ${name}`;
  Deno.bench({
    group,
    name: `${name} ×${times}`,
    n: 5,
    warmup: 0,
    fn: async (b) => {
      if (current?.title !== title) {
        current?.prepared.free();
        ceilings ??= await measureCeilings(gpu);
        current = { title, prepared: await prepareAll(gpu, dispatches, { ...contents(sizes), ...constants }) };
        await current.prepared.run(2);
      }
      const start = performance.now();
      b.start();
      await current.prepared.run(times);
      b.end();
      const ms = (performance.now() - start) / times;
      results.set(title, { ms: Math.min(ms, results.get(title)?.ms ?? Infinity), flops, bytes });
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

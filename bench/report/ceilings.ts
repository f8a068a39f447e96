/** What the adapter can do at most: arithmetic in registers and copying, measured. */

import type { Gpu } from "../../src/gpu/gpu.ts";
import { ceilDiv, type Dispatch, spread } from "../../src/gpu/kernel.ts";
import { prepareAll } from "../prepared.ts";
import copySource from "./copy.wgsl" with { type: "text" };
import fmaSource from "./fma.wgsl" with { type: "text" };
import type { Ceilings } from "./table.ts";
import { timeAll } from "./timing.ts";

/** Threads of the arithmetic kernel: enough to fill a large GPU several times over. */
const THREADS = 1 << 20;
/** Threads on an adapter that computes on the CPU. */
const FEW_THREADS = 1 << 12;
const LOOPS = 64;

/** Of every variant only the best sample matters, and of the variants only the best. */
const TIMING = { sampleMs: 150, rounds: 2, budgetMs: 1000 };

/** Measures both ceilings; each is the best of a few variants of its kernel. */
export async function measureCeilings(gpu: Gpu): Promise<Ceilings> {
  const threads = gpu.adapter.software ? FEW_THREADS : THREADS;
  const inputs = Float32Array.from({ length: 34 }, (_, i) => i === 0 ? 0.75 : i / 10);
  const arithmetic = [1, 2, 3, 4, 6, 8, 16].map((accumulators) => fma(threads, accumulators));
  const gflops = await best(gpu, arithmetic, { x: inputs, y: new Float32Array(4 * threads) });
  const bytes = Math.min(gpu.device.limits.maxStorageBufferBindingSize, gpu.device.limits.maxBufferSize, 1 << 28);
  const vectors = Math.floor(bytes / 16);
  const copies = [1, 2, 4, 8].map((each) => copy(vectors, each));
  const data = new Float32Array(4 * vectors).fill(1);
  const gbps = await best(gpu, copies, { x: data, y: new Float32Array(4 * vectors) });
  return { gflops, gbps };
}

function fma(threads: number, accumulators: number): Dispatch<string> {
  return {
    label: "fma",
    source: fmaSource,
    constants: { ACCUMULATORS: accumulators },
    uniforms: [LOOPS],
    reads: ["x"],
    writes: ["y"],
    workgroups: [threads / 64, 1, 1],
    flops: threads * accumulators * 8 * LOOPS * 8,
    bytes: 16 * threads,
  };
}

function copy(vectors: number, each: number): Dispatch<string> {
  return {
    label: "copy",
    source: copySource,
    constants: { EACH: each },
    uniforms: [vectors],
    reads: ["x"],
    writes: ["y"],
    workgroups: spread(ceilDiv(vectors, 64 * each)),
    flops: 0,
    bytes: 32 * vectors,
  };
}

/** Best GFLOP/s, or GB/s where there is no arithmetic, of all variants. */
async function best(
  gpu: Gpu,
  variants: readonly Dispatch<string>[],
  data: Readonly<Record<string, Float32Array<ArrayBuffer>>>,
): Promise<number> {
  let rate = 0;
  for (const dispatch of variants) {
    const prepared = await prepareAll(gpu, [dispatch], data);
    const ms = (await timeAll(new Map([["", prepared]]), TIMING)).get("")!;
    prepared.free();
    if (ms instanceof Error) throw ms;
    rate = Math.max(rate, (dispatch.flops || dispatch.bytes) / ms / 1e6);
  }
  return rate;
}

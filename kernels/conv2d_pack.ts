/** Descriptor of the rearrangement of convolution weights. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import type { Packing } from "../src/gpu/family.ts";
import source from "./conv2d_pack.wgsl" with { type: "text" };

/** One filter to rearrange. */
export interface PackJob extends Packing {
  /** Element of the weights' buffer at which the filter begins. */
  readonly start: number;
}

/** Elements after which a packed filter may begin: a range of a buffer is bound at multiples of 256 bytes, 128 f16. */
const ALIGNMENT = 128;

/** Elements a workgroup writes: 64 threads, four vec4s each. */
const BLOCK = 1024;

/** Elements of a packed filter. */
export function packedSize({ inChannels, taps, paddedOut }: Packing): number {
  return inChannels * taps * paddedOut;
}

/** Where each packed filter begins, in elements, and how many elements all of them take. */
export function packedLayout(jobs: readonly Packing[]): { offsets: number[]; total: number } {
  const offsets: number[] = [];
  let total = 0;
  for (const job of jobs) {
    offsets.push(total);
    total += ceilDiv(packedSize(job), ALIGNMENT) * ALIGNMENT;
  }
  return { offsets, total };
}

/** The table that {@linkcode pack} reads: a job for every workgroup, then the jobs. */
export function packTable(jobs: readonly PackJob[]): Uint32Array<ArrayBuffer> {
  const { offsets } = packedLayout(jobs);
  const owners: number[] = [], words: number[] = [];
  jobs.forEach((job, i) => {
    const { start, taps, outChannels, paddedOut, strideOut, strideIn, flip } = job;
    const count = packedSize(job);
    const first = owners.length / 4;
    words.push(first, offsets[i]!, start, count / 4, taps, outChannels, paddedOut, strideOut, strideIn, flip, 0, 0);
    for (let block = 0; block < ceilDiv(count, BLOCK); block++) owners.push(i, 0, 0, 0);
  });
  return new Uint32Array([...owners, ...words]);
}

/** packed: every filter of `jobs`, all f16 or none, out of `w`, rearranged, at its offset of {@linkcode packedLayout}. */
export function pack<B>(b: { w: B; table: B; packed: B }, jobs: readonly PackJob[]): Dispatch<B> {
  const blocks = jobs.reduce((total, job) => total + ceilDiv(packedSize(job), BLOCK), 0);
  const elements = jobs.reduce((total, job) => total + packedSize(job), 0);
  const { f16 } = jobs[0]!;
  return {
    label: "conv2d.pack",
    source,
    ...f16 && { f16: ["Quad"] },
    uniforms: [blocks],
    reads: [b.w, b.table],
    writes: [b.packed],
    workgroups: spread(blocks),
    flops: 0,
    bytes: (f16 ? 6 : 8) * elements,
  };
}

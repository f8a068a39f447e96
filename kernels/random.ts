/** Descriptors of the counter-based random numbers; `src/data/philox.ts` computes the same on the CPU. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import source from "./random.wgsl" with { type: "text" };

/** What is drawn: `batch` samples of `perSample` values each, from a stream that nothing else uses. */
export interface RandomShape {
  /** Samples. */
  readonly batch: number;
  /** Values in each sample. */
  readonly perSample: number;
  /** Separates uses of randomness that share seed and step; a u32. */
  readonly stream: number;
  /** Added to the index of the first sample; 0 when absent. */
  readonly offset?: number;
}

/** Buffers: seed u32 [2], step u32 [1], first u32 [1] (global index of the batch's first sample), y f32 [batch, perSample]. */
export interface RandomBuffers<B> {
  /** The key. */
  readonly seed: B;
  /** Step of training or of sampling. */
  readonly step: B;
  /** Global index of the first sample. */
  readonly first: B;
  /** Values drawn. */
  readonly y: B;
}

/** Uniform values in (0, 1). A value depends on seed, step, stream, global sample index and position in the sample only. */
export function randomUniform<B>(b: RandomBuffers<B>, s: RandomShape): Dispatch<B> {
  return fill("random.uniform", b, s, false);
}

/** Standard normal values. A value depends on seed, step, stream, global sample index and position in the sample only. */
export function randomNormal<B>(b: RandomBuffers<B>, s: RandomShape): Dispatch<B> {
  return fill("random.normal", b, s, true);
}

function fill<B>(label: string, b: RandomBuffers<B>, s: RandomShape, normal: boolean): Dispatch<B> {
  return {
    label,
    source,
    entry: "fill",
    constants: { NORMAL: Number(normal) },
    uniforms: [s.batch, s.perSample, s.stream, s.offset ?? 0],
    reads: [b.seed, b.step, b.first],
    writes: [b.y],
    workgroups: spread(ceilDiv(s.batch * ceilDiv(s.perSample, 4), 64)),
    flops: (normal ? 32 : 2) * s.batch * s.perSample,
    bytes: 4 * s.batch * s.perSample,
  };
}

/** What is shuffled: `count` positions from `first` on in a data set of `size` records. */
export interface ShuffleShape {
  /** Indices wanted. */
  readonly count: number;
  /** Records in the data set, 1 to 2^31. */
  readonly size: number;
  /** Separates shuffles that share a seed; a u32. */
  readonly stream: number;
}

/**
 * y u32 [count]: the record at position p = first + i, where epoch floor(p / size) goes through all records once in an
 * order of its own. Buffers: seed u32 [2], first u32 [1].
 */
export function shuffledIndices<B>(b: { seed: B; first: B; y: B }, s: ShuffleShape): Dispatch<B> {
  return {
    label: "random.shuffle",
    source,
    entry: "shuffle",
    uniforms: [s.count, s.size, s.stream, feistelHalfBits(s.size)],
    reads: [b.seed, b.first, b.first],
    writes: [b.y],
    workgroups: spread(ceilDiv(s.count, 64)),
    flops: 0,
    bytes: 4 * s.count,
  };
}

/** Bits in each half of the smallest balanced Feistel network whose domain covers [0, size). */
export function feistelHalfBits(size: number): number {
  return Math.max(1, ceilDiv(Math.ceil(Math.log2(size)), 2));
}

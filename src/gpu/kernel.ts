/** What a kernel descriptor hands to the runtime: one compute dispatch, its buffers named by the caller. */

import { GraphError } from "./errors.ts";

/** A 32-bit float in a uniform block (plain numbers are u32). */
export class F32 {
  /** Wraps the value. */
  constructor(readonly value: number) {}
}

/** One 32-bit word of a uniform block: a plain number is a u32, {@linkcode F32} a float. */
export type Word = number | F32;

/** One compute dispatch. `B` is whatever names a buffer for the caller (a tensor, a GPUBuffer range). */
export interface Dispatch<B> {
  /** Family and variant, as profiles and listings show it: "conv2d", "groupNorm.grad". */
  readonly label: string;
  /** WGSL text as in the kernel's file, before specialisation. */
  readonly source: string;
  /** Entry point; "main" when absent. */
  readonly entry?: string;
  /** Values for the file's `const` and `override` declarations: they specialise the pipeline. */
  readonly constants?: Readonly<Record<string, number>>;
  /** The file's `alias` declarations of storage types that are f16 instead of f32; absent: none, and no f16 at all. */
  readonly f16?: readonly string[];
  /** Words of the uniform block at binding 0, in the order of the WGSL struct; empty: binding 0 is absent. */
  readonly uniforms: readonly Word[];
  /** Storage buffers at bindings 1, 2, …: first those read, then those written. */
  readonly reads: readonly B[];
  /** Buffers written, after `reads` in binding order; `read_write` in WGSL. */
  readonly writes: readonly B[];
  /** Number of workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
  /** Floating-point operations (a fused multiply-add counts two). */
  readonly flops: number;
  /** Bytes that must cross memory at least once: inputs read once, outputs written once. */
  readonly bytes: number;
}

/** Most workgroups WebGPU guarantees per dimension. */
const MAX_WORKGROUPS = 65535;

/** ceil(a / b) for positive integers. */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

/**
 * Spreads `count` workgroups over x and y so that neither exceeds WebGPU's limit; the kernel computes its linear
 * workgroup index as `wid.x + wid.y * num.x` and returns (uniformly) past the end.
 */
export function spread(count: number): [number, number, number] {
  if (count <= MAX_WORKGROUPS) return [Math.max(1, count), 1, 1];
  const y = ceilDiv(count, MAX_WORKGROUPS);
  const x = ceilDiv(count, y);
  if (y > MAX_WORKGROUPS) throw new GraphError(`A dispatch of ${count} workgroups is too large.`);
  return [x, y, 1];
}

/** Packs uniform words into bytes, little-endian. */
export function packWords(words: readonly Word[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(words.length * 4));
  words.forEach((word, i) => {
    if (word instanceof F32) view.setFloat32(i * 4, word.value, true);
    else view.setUint32(i * 4, word >>> 0, true);
  });
  return new Uint8Array(view.buffer);
}

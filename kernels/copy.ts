/** Descriptors of slicing, zero padding and concatenation along one axis, for data of any 32-bit type. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import windowed from "./copy.wgsl" with { type: "text" };
import concat from "./copy_concat.wgsl" with { type: "text" };

/** x [outer, axis, inner] -> y [outer, length, inner]. */
export interface SliceShape {
  /** Product of the extents before the axis. */
  readonly outer: number;
  /** Extent of the axis in x. */
  readonly axis: number;
  /** Product of the extents after the axis. */
  readonly inner: number;
  /** First index taken. */
  readonly start: number;
  /** How many are taken; start + length <= axis. */
  readonly length: number;
}

/** x [outer, axis, inner] -> y [outer, total, inner]. */
export interface PadShape {
  /** Product of the extents before the axis. */
  readonly outer: number;
  /** Extent of the axis in x. */
  readonly axis: number;
  /** Product of the extents after the axis. */
  readonly inner: number;
  /** Zeros before x's first index; before + axis <= total. */
  readonly before: number;
  /** Extent of the axis in y. */
  readonly total: number;
}

/** a [outer, axisA, inner], b [outer, axisB, inner] -> y [outer, axisA + axisB, inner]. */
export interface ConcatShape {
  /** Product of the extents before the axis. */
  readonly outer: number;
  /** Extent of the axis in a. */
  readonly axisA: number;
  /** Extent of the axis in b. */
  readonly axisB: number;
  /** Product of the extents after the axis. */
  readonly inner: number;
}

/** y[:, i, :] = x[:, start + i, :] for i in [0, length). */
export function sliceAxis<B>(b: { x: B; y: B }, { outer, axis, inner, start, length }: SliceShape): Dispatch<B> {
  return copyWindow("copy.slice", b, outer, axis * inner, length * inner, start * inner, length * inner);
}

/** y[:, before + i, :] = x[:, i, :], zeros elsewhere: the transpose of {@linkcode sliceAxis}. */
export function padAxis<B>(b: { x: B; y: B }, { outer, axis, inner, before, total }: PadShape): Dispatch<B> {
  return copyWindow("copy.pad", b, outer, axis * inner, total * inner, -before * inner, axis * inner);
}

/** y = a and b side by side along the axis. */
export function concatAxis<B>(b: { a: B; b: B; y: B }, { outer, axisA, axisB, inner }: ConcatShape): Dispatch<B> {
  const lanes = vectorLanes(axisA * inner, axisB * inner);
  const count = outer * (axisA + axisB) * inner;
  return {
    label: "copy.concat",
    source: withLanes(concat, lanes),
    uniforms: [axisA * inner / lanes, axisB * inner / lanes, count / lanes],
    reads: [b.a, b.b],
    writes: [b.y],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 0,
    bytes: 4 * 2 * count,
  };
}

/** `used` elements of every block of x are read. */
function copyWindow<B>(
  label: string,
  b: { x: B; y: B },
  outer: number,
  xBlock: number,
  yBlock: number,
  offset: number,
  used: number,
): Dispatch<B> {
  const lanes = vectorLanes(xBlock, yBlock, offset);
  const count = outer * yBlock;
  return {
    label,
    source: withLanes(windowed, lanes),
    uniforms: [xBlock / lanes, yBlock / lanes, offset / lanes, count / lanes],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 0,
    bytes: 4 * (outer * used + count),
  };
}

/** 4 where all lengths allow copying four words at a time, else 1. */
function vectorLanes(...lengths: readonly number[]): 1 | 4 {
  return lengths.every((length) => length % 4 === 0) ? 4 : 1;
}

function withLanes(source: string, lanes: 1 | 4): string {
  return lanes === 4 ? source : source.replaceAll("vec4<u32>", "u32");
}

/** Descriptors of what moves data along axes: slices, zero padding, concatenation, swaps; for any type of 32 or 16 bits. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import windowed from "./copy.wgsl" with { type: "text" };
import concat from "./copy_concat.wgsl" with { type: "text" };
import swap from "./copy_swap.wgsl" with { type: "text" };

/** Bytes of an element. */
type ElementBytes = 2 | 4;

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
  /** Bytes of an element; 4 when absent. */
  readonly bytes?: ElementBytes | undefined;
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
  /** Bytes of an element; 4 when absent. */
  readonly bytes?: ElementBytes | undefined;
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
  /** Bytes of an element; 4 when absent. */
  readonly bytes?: ElementBytes | undefined;
}

/** x [outer, a, b, inner] -> y [outer, b, a, inner]. */
export interface SwapShape {
  /** Product of the extents before the axes. */
  readonly outer: number;
  /** Extent of the first axis in x. */
  readonly a: number;
  /** Extent of the second axis in x. */
  readonly b: number;
  /** Product of the extents after the axes. */
  readonly inner: number;
  /** Bytes of an element; 4 when absent. */
  readonly bytes?: ElementBytes | undefined;
}

/** y[:, i, :] = x[:, start + i, :] for i in [0, length). */
export function sliceAxis<B>(b: { x: B; y: B }, { outer, axis, inner, start, length, bytes }: SliceShape): Dispatch<B> {
  return copyWindow("copy.slice", b, outer, [axis * inner, length * inner, start * inner], length * inner, bytes);
}

/** y[:, before + i, :] = x[:, i, :], zeros elsewhere: the transpose of {@linkcode sliceAxis}. */
export function padAxis<B>(b: { x: B; y: B }, { outer, axis, inner, before, total, bytes }: PadShape): Dispatch<B> {
  return copyWindow("copy.pad", b, outer, [axis * inner, total * inner, -before * inner], axis * inner, bytes);
}

/** y = a and b side by side along the axis. */
export function concatAxis<B>(b: { a: B; b: B; y: B }, s: ConcatShape): Dispatch<B> {
  const { outer, axisA, axisB, inner, bytes = 4 } = s;
  const { lanes, ...element } = elementOf(concat, bytes, [axisA * inner, axisB * inner]);
  const count = outer * (axisA + axisB) * inner;
  return {
    label: "copy.concat",
    ...element,
    uniforms: [axisA * inner / lanes, axisB * inner / lanes, count / lanes],
    reads: [b.a, b.b],
    writes: [b.y],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 0,
    bytes: bytes * 2 * count,
  };
}

/** y[:, j, i, :] = x[:, i, j, :]: two neighbouring axes change places. */
export function swapAxes<B>(buffers: { x: B; y: B }, { outer, a, b, inner, bytes = 4 }: SwapShape): Dispatch<B> {
  const { lanes, ...element } = elementOf(swap, bytes, [inner]);
  const count = outer * a * b * inner;
  return {
    label: "copy.swap",
    ...element,
    uniforms: [a, b, inner / lanes, count / lanes],
    reads: [buffers.x],
    writes: [buffers.y],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 0,
    bytes: bytes * 2 * count,
  };
}

/** `used` elements of every block of x are read. */
function copyWindow<B>(
  label: string,
  b: { x: B; y: B },
  outer: number,
  [xBlock, yBlock, offset]: readonly [number, number, number],
  used: number,
  bytes: ElementBytes = 4,
): Dispatch<B> {
  const { lanes, ...element } = elementOf(windowed, bytes, [xBlock, yBlock, offset]);
  const count = outer * yBlock;
  return {
    label,
    ...element,
    uniforms: [xBlock / lanes, yBlock / lanes, offset / lanes, count / lanes],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 0,
    bytes: bytes * (outer * used + count),
  };
}

/** The widest Element that divides all lengths, of which it holds `lanes`, in the source. */
function elementOf(
  source: string,
  bytes: ElementBytes,
  lengths: readonly number[],
): Pick<Dispatch<never>, "source" | "f16"> & { lanes: number } {
  const [size, type] = ([[16, "vec4<u32>"], [4, "u32"], [2, "f32"]] as const).find(([size]) =>
    lengths.every((length) => length * bytes % size === 0)
  )!;
  return {
    source: source.replace("alias Element = vec4<u32>;", `alias Element = ${type};`),
    ...size === 2 && { f16: ["Element"] },
    lanes: size / bytes,
  };
}

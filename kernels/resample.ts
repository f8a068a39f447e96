/** Descriptors of the changes of resolution by two: nearest-neighbour upsampling, 2x2 sum pooling, filters of four taps. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import upsample from "./resample.wgsl" with { type: "text" };
import firDown from "./resample_fir_down.wgsl" with { type: "text" };
import firUp from "./resample_fir_up.wgsl" with { type: "text" };
import pool from "./resample_pool.wgsl" with { type: "text" };

/** Extent of the input and a factor on the output. */
export interface ResampleShape {
  /** Batch times channels. */
  readonly planes: number;
  /** Input height; even for pooling. */
  readonly height: number;
  /** Input width; even for pooling. */
  readonly width: number;
  /** Multiplies every output (1/4 turns the sum over 2x2 into the average). */
  readonly factor: number;
  /** True where x and y are stored as f16, else f32. */
  readonly f16?: boolean | undefined;
}

/** y [planes, 2 height, 2 width] = factor * x [planes, height, width] with every element repeated 2x2. */
export function upsampleNearest2x<B>(b: { x: B; y: B }, s: ResampleShape): Dispatch<B> {
  return dispatch("resample.upsample", upsample, b, s, s.width, s.planes * s.height * s.width, 1);
}

/** y [planes, height / 2, width / 2] = factor * (sum of every 2x2 block of x [planes, height, width]). */
export function sumPool2x<B>(b: { x: B; y: B }, s: ResampleShape): Dispatch<B> {
  return dispatch("resample.sumPool", pool, b, s, s.width / 2, s.planes * (s.height / 2) * (s.width / 2), 4);
}

/** `width` and `count` are the small image's; `flops` are per element of it. */
function dispatch<B>(
  label: string,
  source: string,
  b: { x: B; y: B },
  { factor, f16 }: ResampleShape,
  width: number,
  count: number,
  flops: number,
): Dispatch<B> {
  return {
    label,
    source,
    ...f16 && { f16: ["Scalar", "Pair"] },
    uniforms: [width, count, new F32(factor)],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count, 64)),
    flops: flops * count,
    bytes: (f16 ? 2 : 4) * 5 * count,
  };
}

/** Extents of a change of resolution with a filter; the large image is (2 height + 2 − 2 margin) x (2 width + 2 − 2 margin). */
export interface FilterShape {
  /** Batch times channels. */
  readonly planes: number;
  /** Height of the small image. */
  readonly height: number;
  /** Width of the small image. */
  readonly width: number;
  /** The filter in each direction. */
  readonly taps: readonly [number, number, number, number];
  /** Zeros around the large image that the filter reaches into. */
  readonly margin: 0 | 1;
  /** True where x and y are stored as f16, else f32. */
  readonly f16?: boolean | undefined;
}

/** y (the small image) [i, j] = sum over s, t of taps[s] taps[t] x (the large image) [2 i + s - margin, 2 j + t - margin]. */
export function filterDown2x<B>(b: { x: B; y: B }, s: FilterShape): Dispatch<B> {
  return filtered("resample.filterDown", firDown, b, s, s.planes * s.height * s.width, 40);
}

/** The transpose of {@linkcode filterDown2x}: from the small image x to the large image y. */
export function filterUp2x<B>(b: { x: B; y: B }, s: FilterShape): Dispatch<B> {
  const grow = 2 - 2 * s.margin;
  return filtered("resample.filterUp", firUp, b, s, s.planes * (2 * s.height + grow) * (2 * s.width + grow), 12);
}

/** `count` outputs of `flops` each. */
function filtered<B>(
  label: string,
  source: string,
  b: { x: B; y: B },
  { planes, height, width, taps, margin, f16 }: FilterShape,
  count: number,
  flops: number,
): Dispatch<B> {
  return {
    label,
    source,
    ...f16 && { f16: ["Scalar"] },
    uniforms: [height, width, count, margin, ...taps.map((tap) => new F32(tap))],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count, 64)),
    flops: flops * count,
    bytes: (f16 ? 2 : 4) * 5 * planes * height * width,
  };
}

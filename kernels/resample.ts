/** Descriptors of the changes of resolution by two: nearest-neighbour upsampling and 2x2 sum pooling. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import upsample from "./resample.wgsl" with { type: "text" };
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
}

/** y [planes, 2 height, 2 width] = factor * x [planes, height, width] with every element repeated 2x2. */
export function upsampleNearest2x<B>(b: { x: B; y: B }, { planes, height, width, factor }: ResampleShape): Dispatch<B> {
  return dispatch("resample.upsample", upsample, b, width, planes * height * width, factor, 1);
}

/** y [planes, height / 2, width / 2] = factor * (sum of every 2x2 block of x [planes, height, width]). */
export function sumPool2x<B>(b: { x: B; y: B }, { planes, height, width, factor }: ResampleShape): Dispatch<B> {
  return dispatch("resample.sumPool", pool, b, width / 2, planes * (height / 2) * (width / 2), factor, 4);
}

/** `width` and `count` are the small image's; `flops` are per element of it. */
function dispatch<B>(
  label: string,
  source: string,
  b: { x: B; y: B },
  width: number,
  count: number,
  factor: number,
  flops: number,
): Dispatch<B> {
  return {
    label,
    source,
    uniforms: [width, count, new F32(factor)],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count, 64)),
    flops: flops * count,
    bytes: 4 * 5 * count,
  };
}

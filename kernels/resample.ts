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

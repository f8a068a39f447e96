/** Descriptors of the conversions between 8-bit images, packed four bytes a word, and floats. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import unpack from "./image.wgsl" with { type: "text" };
import pack from "./image_pack.wgsl" with { type: "text" };

/** `count` images of `perImage` bytes each, picked from a data set. */
export interface GatherShape {
  /** Images picked. */
  readonly count: number;
  /** Bytes in an image; any number. */
  readonly perImage: number;
  /** Where present, every image counts twice, the second time mirrored: rows of this many bytes are reversed. */
  readonly mirroredWidth?: number | undefined;
  /** Where present, data holds only these images, and the pixels of the others are 0. */
  readonly part?: { readonly first: number; readonly images: number } | undefined;
  /** Multiplies the byte. */
  readonly scale: number;
  /** Added after scaling. */
  readonly shift: number;
}

/** `count` elements converted in order. */
export interface ConvertShape {
  /** Elements. */
  readonly count: number;
  /** Multiplies the input. */
  readonly scale: number;
  /** Added after scaling. */
  readonly shift: number;
}

/** y f32 [count, perImage] = scale * byte + shift of the images at `indices` u32 [count]; data u32, four bytes a word. */
export function gatherImages<B>(b: { data: B; indices: B; y: B }, s: GatherShape): Dispatch<B> {
  return toFloat("image.gather", { x: b.data, indices: b.indices, y: b.y }, { ...s, count: s.count * s.perImage });
}

/** y f32 [count] = scale * byte + shift; x u32, four bytes a word. */
export function fromUint8<B>(b: { x: B; y: B }, { count, scale, shift }: ConvertShape): Dispatch<B> {
  return toFloat("image.fromUint8", { ...b, indices: undefined }, { perImage: 1, count, scale, shift });
}

function toFloat<B>(
  label: string,
  b: { x: B; indices: B | undefined; y: B },
  { perImage, mirroredWidth, part, count, scale, shift }: GatherShape,
): Dispatch<B> {
  return {
    label,
    source: unpack,
    constants: {
      GATHER: Number(b.indices !== undefined),
      MIRROR: Number(mirroredWidth !== undefined),
      PART: Number(part !== undefined),
    },
    uniforms: [
      perImage,
      mirroredWidth ?? 1,
      count,
      part?.first ?? 0,
      part?.images ?? 0,
      new F32(scale),
      new F32(shift),
    ],
    reads: [b.x, b.indices ?? b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count, 64)),
    flops: 2 * count,
    bytes: 5 * count,
  };
}

/** y u32 [ceil(count / 4)]: bytes clamp(round(scale * x + shift), 0, 255) of x f32 [count], ties to even, four a word. */
export function toUint8<B>(b: { x: B; y: B }, { count, scale, shift }: ConvertShape): Dispatch<B> {
  return {
    label: "image.toUint8",
    source: pack,
    uniforms: [count, new F32(scale), new F32(shift)],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(count, 256)),
    flops: 2 * count,
    bytes: 5 * count,
  };
}

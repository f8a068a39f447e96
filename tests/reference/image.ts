/** References of the conversions between bytes and floats. */

import type { ConvertShape, GatherShape } from "../../kernels/image.ts";

/** y [count, perImage] of bytes packed four a word. */
export function gatherImagesReference(
  data: ArrayLike<number>,
  indices: ArrayLike<number>,
  { count, perImage, scale, shift }: GatherShape,
): number[] {
  const y: number[] = [];
  for (let n = 0; n < count; n++) {
    for (let e = 0; e < perImage; e++) y.push(byteAt(data, indices[n]! * perImage + e) * scale + shift);
  }
  return y;
}

/** y [count] of bytes packed four a word. */
export function fromUint8Reference(x: ArrayLike<number>, { count, scale, shift }: ConvertShape): number[] {
  return Array.from({ length: count }, (_, t) => byteAt(x, t) * scale + shift);
}

/** Words [ceil(count / 4)] of x [count], rounded half to even. */
export function toUint8Reference(x: ArrayLike<number>, { count, scale, shift }: ConvertShape): number[] {
  const words = new Array<number>(Math.ceil(count / 4)).fill(0);
  for (let t = 0; t < count; t++) {
    const byte = Math.min(255, Math.max(0, roundHalfEven(x[t]! * scale + shift)));
    words[t >> 2] = words[t >> 2]! + byte * 256 ** (t & 3);
  }
  return words;
}

function byteAt(words: ArrayLike<number>, at: number): number {
  return (words[at >> 2]! >>> (8 * (at & 3))) & 0xff;
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

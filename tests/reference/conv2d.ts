/** Float64 references of the convolution and its two gradients. */

import { convOutputSize, type ConvShape } from "../../kernels/conv2d.ts";

/** Calls `visit` with the flat indices of every product y[yi] += x[xi] * w[wi] of the convolution. */
function forEachProduct(s: ConvShape, visit: (yi: number, xi: number, wi: number) => void): void {
  const { inChannels, outChannels, height, width, kernel, stride } = s;
  const padding = (kernel - 1) / 2;
  const outHeight = convOutputSize(height, kernel, stride), outWidth = convOutputSize(width, kernel, stride);
  for (let n = 0; n < s.batch; n++) {
    for (let o = 0; o < outChannels; o++) {
      for (let oy = 0; oy < outHeight; oy++) {
        for (let ox = 0; ox < outWidth; ox++) {
          const yi = ((n * outChannels + o) * outHeight + oy) * outWidth + ox;
          for (let c = 0; c < inChannels; c++) {
            for (let ky = 0; ky < kernel; ky++) {
              const iy = oy * stride + ky - padding;
              if (iy < 0 || iy >= height) continue;
              for (let kx = 0; kx < kernel; kx++) {
                const ix = ox * stride + kx - padding;
                if (ix < 0 || ix >= width) continue;
                const xi = ((n * inChannels + c) * height + iy) * width + ix;
                visit(yi, xi, ((o * inChannels + c) * kernel + ky) * kernel + kx);
              }
            }
          }
        }
      }
    }
  }
}

/** What is added to a convolution's result before it is scaled. */
export interface ConvTerms {
  /** [out] */
  readonly bias?: ArrayLike<number> | undefined;
  /** [batch, out] */
  readonly shift?: ArrayLike<number> | undefined;
  /** Of the result's shape. */
  readonly residual?: ArrayLike<number> | undefined;
}

/** y [batch, out, OH, OW] of x [batch, in, H, W], w [out, in, K, K] and what is added to it. */
export function conv2dReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  { bias, shift, residual }: ConvTerms,
  s: ConvShape,
): number[] {
  const plane = convOutputSize(s.height, s.kernel, s.stride) * convOutputSize(s.width, s.kernel, s.stride);
  const y = Array.from({ length: s.batch * s.outChannels * plane }, (_, i) => {
    const channel = Math.floor(i / plane);
    return (bias?.[channel % s.outChannels] ?? 0) + (shift?.[channel] ?? 0) + (residual?.[i] ?? 0);
  });
  forEachProduct(s, (yi, xi, wi) => y[yi]! += x[xi]! * w[wi]!);
  return y.map((value) => s.scale * value);
}

/** dx [batch, in, H, W] of dy [batch, out, OH, OW] and w. */
export function conv2dInputGradReference(dy: ArrayLike<number>, w: ArrayLike<number>, s: ConvShape): number[] {
  const dx = new Array<number>(s.batch * s.inChannels * s.height * s.width).fill(0);
  forEachProduct(s, (yi, xi, wi) => dx[xi]! += s.scale * dy[yi]! * w[wi]!);
  return dx;
}

/** dw [out, in, K, K] of dy [batch, out, OH, OW] and x. */
export function conv2dWeightGradReference(dy: ArrayLike<number>, x: ArrayLike<number>, s: ConvShape): number[] {
  const dw = new Array<number>(s.outChannels * s.inChannels * s.kernel * s.kernel).fill(0);
  forEachProduct(s, (yi, xi, wi) => dw[wi]! += s.scale * dy[yi]! * x[xi]!);
  return dw;
}

/** db [out] of dy [batch, out, OH, OW]. */
export function conv2dBiasGradReference(dy: ArrayLike<number>, s: ConvShape): number[] {
  const db = new Array<number>(s.outChannels).fill(0);
  const plane = dy.length / (s.batch * s.outChannels);
  for (let i = 0; i < dy.length; i++) db[Math.floor(i / plane) % s.outChannels]! += s.scale * dy[i]!;
  return db;
}

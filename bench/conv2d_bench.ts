/** Convolution benches: forward, input gradient and weight gradient on the shapes of small and larger UNets. */

import {
  conv2d,
  conv2dWeightGrad,
  convolution,
  convOutputSize,
  type ConvShape,
  inputGradient,
} from "../kernels/conv2d.ts";
import { benchFamily } from "./harness.ts";

/** [in, out, side, kernel, stride] at batch 64: the network for 8x8 digits. */
const SMALL = [
  [16, 16, 8, 3, 1],
  [32, 32, 8, 3, 1],
  [64, 32, 8, 3, 1],
  [96, 32, 8, 3, 1],
  [16, 32, 4, 3, 1],
  [32, 32, 4, 3, 1],
  [32, 64, 4, 3, 1],
  [64, 64, 4, 3, 1],
  [128, 64, 4, 3, 1],
  [32, 32, 8, 3, 2],
  [64, 192, 4, 1, 1],
] as const;

/** The same at batch 2: images of 32x32. */
const LARGE = [[128, 128, 32, 3, 1], [128, 384, 32, 1, 1]] as const;

for (const [batch, shapes] of [[64, SMALL], [2, LARGE]] as const) {
  for (const [inChannels, outChannels, side, kernel, stride] of shapes) {
    const s: ConvShape = { batch, inChannels, outChannels, height: side, width: side, kernel, stride, scale: 1 };
    const outputs = batch * outChannels * convOutputSize(side, kernel, stride) ** 2;
    const x = batch * inChannels * side * side, w = outChannels * inChannels * kernel * kernel;
    const group = `${kernel}x${kernel}/${stride} ${inChannels}->${outChannels} at ${side}x${side}, batch ${batch}`;
    const sizes = { x, w, y: outputs, bias: outChannels };
    benchFamily(group, `conv2d ${group}`, conv2d, { x: "x", w: "w", bias: "bias", y: "y" }, convolution(s), sizes);
    benchFamily(group, `conv2d.inputGrad ${group}`, conv2d, { x: "y", w: "w", y: "x" }, inputGradient(s), sizes);
    const gradient = { dy: "y", x: "x", dw: "w", db: "bias" };
    benchFamily(group, `conv2d.weightGrad ${group}`, conv2dWeightGrad, gradient, s, sizes);
  }
}

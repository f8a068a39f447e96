/** Convolution benches: forward, input gradient and weight gradient on the shapes of small and larger UNets. */

import {
  conv2dForward,
  conv2dInputGrad,
  conv2dWeightGrad,
  conv2dWeightGradScratch,
  convOutputSize,
  type ConvShape,
} from "../kernels/conv2d.ts";
import { benchDispatch } from "./harness.ts";

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
    const s: ConvShape = { batch, inChannels, outChannels, height: side, width: side, kernel, stride };
    const outputs = batch * outChannels * convOutputSize(side, kernel, stride) ** 2;
    const x = batch * inChannels * side * side, w = outChannels * inChannels * kernel * kernel;
    const group = `${kernel}x${kernel}/${stride} ${inChannels}->${outChannels} at ${side}x${side}, batch ${batch}`;
    const forward = conv2dForward<"x" | "w" | "bias" | "y">({ x: "x", w: "w", bias: "bias", y: "y" }, s);
    benchDispatch(group, `conv2d ${group}`, [forward], { x, w, bias: outChannels, y: outputs });
    const inputGrad = conv2dInputGrad({ dy: "dy", w: "w", dx: "dx" }, s);
    benchDispatch(group, `conv2d.inputGrad ${group}`, [inputGrad], { dy: outputs, w, dx: x });
    const weightGrad = conv2dWeightGrad<"dy" | "x" | "dw" | "scratch">(
      { dy: "dy", x: "x", dw: "dw", scratch: "scratch" },
      s,
    );
    const scratch = Math.max(1, conv2dWeightGradScratch(s));
    benchDispatch(group, `conv2d.weightGrad ${group}`, weightGrad, { dy: outputs, x, dw: w, scratch });
  }
}

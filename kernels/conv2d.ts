/** Descriptors of the 2-D convolution, its input gradient and its weight gradient. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import general from "./conv2d.wgsl" with { type: "text" };
import strip from "./conv2d_strip.wgsl" with { type: "text" };
import sumSplits from "./conv2d_sum_splits.wgsl" with { type: "text" };
import generalWeightGrad from "./conv2d_weight_grad.wgsl" with { type: "text" };
import stripWeightGrad from "./conv2d_weight_grad_strip.wgsl" with { type: "text" };

/** Shape of a convolution: NCHW images, OIHW weights, padding (kernel − 1) / 2. */
export interface ConvShape {
  /** Number of images. */
  readonly batch: number;
  /** Channels of x. */
  readonly inChannels: number;
  /** Channels of y. */
  readonly outChannels: number;
  /** Rows of x. */
  readonly height: number;
  /** Columns of x. */
  readonly width: number;
  /** Side of the filter. */
  readonly kernel: 1 | 3;
  /** Step between outputs, in pixels of x. */
  readonly stride: 1 | 2;
}

/** Side of a convolution's output: floor((size + 2 padding − kernel) / stride) + 1 with padding (kernel − 1) / 2. */
export function convOutputSize(size: number, kernel: number, stride: number): number {
  return Math.floor((size + 2 * Math.floor(kernel / 2) - kernel) / stride) + 1;
}

/** Threads of a workgroup in every kernel of the family but the sum. */
const GROUP = 32;

/** y [batch, out, OH, OW] of x [batch, in, H, W], w [out, in, K, K] and bias [out]. */
export function conv2dForward<B>(b: { x: B; w: B; bias: B | undefined; y: B }, s: ConvShape): Dispatch<B> {
  const taps = s.kernel * s.kernel;
  return correlation(b, s, {
    label: "conv2d",
    ...size(s),
    stride: s.stride,
    dilation: 1,
    weightOut: s.inChannels * taps,
    weightIn: taps,
    flip: 0,
  });
}

/** dx [batch, in, H, W], the gradient with respect to the input, of dy [batch, out, OH, OW] and w. */
export function conv2dInputGrad<B>(b: { dy: B; w: B; dx: B }, s: ConvShape): Dispatch<B> {
  const taps = s.kernel * s.kernel;
  const { inChannels, inHeight, inWidth, outChannels, outHeight, outWidth } = size(s);
  return correlation({ x: b.dy, w: b.w, bias: undefined, y: b.dx }, s, {
    label: "conv2d.inputGrad",
    inChannels: outChannels,
    inHeight: outHeight,
    inWidth: outWidth,
    outChannels: inChannels,
    outHeight: inHeight,
    outWidth: inWidth,
    stride: 1,
    dilation: s.stride,
    weightOut: taps,
    weightIn: inChannels * taps,
    flip: 1,
  });
}

/** Sides and channels of both ends of a correlation. */
interface Size {
  readonly inChannels: number;
  readonly inHeight: number;
  readonly inWidth: number;
  readonly outChannels: number;
  readonly outHeight: number;
  readonly outWidth: number;
}

/** The one computation behind the convolution and its input gradient; see conv2d.wgsl. */
interface Correlation extends Size {
  readonly label: string;
  readonly stride: number;
  readonly dilation: number;
  readonly weightOut: number;
  readonly weightIn: number;
  readonly flip: 0 | 1;
}

function size(s: ConvShape): Size {
  return {
    inChannels: s.inChannels,
    inHeight: s.height,
    inWidth: s.width,
    outChannels: s.outChannels,
    outHeight: convOutputSize(s.height, s.kernel, s.stride),
    outWidth: convOutputSize(s.width, s.kernel, s.stride),
  };
}

/** Multiply-adds as floating-point operations, padding counted as in the usual formula. */
function flops(s: ConvShape): number {
  const { outHeight, outWidth } = size(s);
  return 2 * s.batch * outHeight * outWidth * s.outChannels * s.inChannels * s.kernel * s.kernel;
}

/** Bytes of x, y, w and `extra` further elements. */
function bytes(s: ConvShape, extra: number): number {
  const { outHeight, outWidth } = size(s);
  const images = s.batch * (s.inChannels * s.height * s.width + s.outChannels * outHeight * outWidth);
  return 4 * (images + s.outChannels * s.inChannels * s.kernel * s.kernel + extra);
}

/**
 * Height and width as the strip kernels take them, where they apply: stride 1, rows of whole vec4s. A 1x1 filter
 * does not see rows, so the whole image is one.
 */
function stripSides(s: ConvShape): { height: number; width: number } | undefined {
  const { height, width } = s.kernel === 1 ? { height: 1, width: s.height * s.width } : s;
  return s.stride === 1 && width % 4 === 0 ? { height, width } : undefined;
}

/** Output channels and strips of four pixels a thread of the strip kernel computes. */
const STRIP_TILE = { CHANNELS: 8, STRIPS: 4 } as const;
/** Output channels and pixels a thread of the general kernel computes. */
const PIXEL_TILE = { CHANNELS: 8, PIXELS: 8 } as const;

function correlation<B>(b: { x: B; w: B; bias: B | undefined; y: B }, s: ConvShape, c: Correlation): Dispatch<B> {
  const common = {
    label: c.label,
    flops: flops(s),
    bytes: bytes(s, b.bias === undefined ? 0 : s.outChannels),
    writes: [b.y],
  };
  const bias = b.bias ?? b.w;
  const hasBias = b.bias === undefined ? 0 : 1;
  const sides = stripSides(s);
  if (sides) {
    const { CHANNELS, STRIPS } = STRIP_TILE;
    const strips = s.batch * sides.height * sides.width / 4;
    const blocks = ceilDiv(strips, STRIPS * GROUP);
    return {
      ...common,
      source: strip,
      constants: { KERNEL: s.kernel, CHANNELS, STRIPS },
      uniforms: [
        blocks,
        strips,
        sides.width / 4,
        c.inChannels,
        c.outChannels,
        sides.height,
        sides.width,
        c.weightOut,
        c.weightIn,
        c.flip,
        hasBias,
      ],
      reads: [b.x, b.x, b.w, bias],
      workgroups: spread(blocks * ceilDiv(c.outChannels, CHANNELS)),
    };
  }
  const { CHANNELS, PIXELS } = PIXEL_TILE;
  const phaseHeight = ceilDiv(c.outHeight, c.dilation), phaseWidth = ceilDiv(c.outWidth, c.dilation);
  const pixels = s.batch * c.dilation * c.dilation * phaseHeight * phaseWidth;
  const blocks = ceilDiv(pixels, PIXELS * GROUP);
  return {
    ...common,
    source: general,
    constants: { CHANNELS, PIXELS },
    uniforms: [
      blocks,
      pixels,
      s.batch,
      c.inChannels,
      c.outChannels,
      c.inHeight,
      c.inWidth,
      c.outHeight,
      c.outWidth,
      phaseHeight,
      phaseWidth,
      s.kernel,
      c.stride,
      c.dilation,
      c.weightOut,
      c.weightIn,
      c.flip,
      hasBias,
    ],
    reads: [b.x, b.w, bias],
    workgroups: spread(blocks * ceilDiv(c.outChannels, CHANNELS)),
  };
}

/** How the weight gradient's sum over pixels is divided. */
interface WeightGradPlan {
  /** Rows and columns as the strip kernel takes them; undefined: the general kernel. */
  readonly sides: { height: number; width: number } | undefined;
  /** Workgroups one split needs. */
  readonly blocks: number;
  /** Units (columns of a strip's width, or rows) of the sum over pixels. */
  readonly units: number;
  readonly unitsPerSplit: number;
  readonly splits: number;
}

/** Output and input channels a thread of the strip weight-gradient kernel holds. */
const TILE = { 1: { OUTS: 8, INS: 8 }, 3: { OUTS: 4, INS: 2 } } as const;
/** Output channels and filter entries a thread of the general weight-gradient kernel holds. */
const GENERAL_TILE = { CHANNELS: 8, ENTRIES: 8 } as const;
/** A split sums at least this many pixels: fewer, and writing its part costs as much as computing it. */
const MIN_PIXELS_PER_SPLIT = 256;
/** Workgroups beyond which further splits only add traffic. */
const ENOUGH_WORKGROUPS = 1024;

function weightGradPlan(s: ConvShape): WeightGradPlan {
  const sides = stripSides(s);
  const { outHeight, outWidth } = size(s);
  const { OUTS, INS } = TILE[s.kernel];
  const { CHANNELS, ENTRIES } = GENERAL_TILE;
  const blocks = sides
    ? ceilDiv(ceilDiv(s.outChannels, OUTS) * ceilDiv(s.inChannels, INS), GROUP)
    : ceilDiv(ceilDiv(s.outChannels, CHANNELS) * ceilDiv(s.inChannels * s.kernel * s.kernel, ENTRIES), GROUP);
  const units = s.batch * (sides ? sides.width / 4 : outHeight);
  const pixelsPerUnit = sides ? 4 * sides.height : outWidth;
  const wanted = Math.max(1, Math.floor(ENOUGH_WORKGROUPS / blocks));
  const unitsPerSplit = Math.max(ceilDiv(units, wanted), ceilDiv(MIN_PIXELS_PER_SPLIT, pixelsPerUnit));
  return { sides, blocks, units, unitsPerSplit, splits: ceilDiv(units, unitsPerSplit) };
}

/** Elements of scratch {@linkcode conv2dWeightGrad} needs; 0: none, the scratch is not bound. */
export function conv2dWeightGradScratch(s: ConvShape): number {
  const { splits } = weightGradPlan(s);
  return splits === 1 ? 0 : splits * s.outChannels * s.inChannels * s.kernel * s.kernel;
}

/**
 * dw [out, in, K, K], the gradient with respect to the weights, of dy [batch, out, OH, OW] and x [batch, in, H, W]: parts of
 * the sum over pixels in scratch, then their sum in a fixed order.
 */
export function conv2dWeightGrad<B>(b: { dy: B; x: B; dw: B; scratch: B }, s: ConvShape): Dispatch<B>[] {
  const plan = weightGradPlan(s);
  if (plan.splits === 1) return [weightGradParts(b, b.dw, s, plan)];
  const count = s.outChannels * s.inChannels * s.kernel * s.kernel;
  return [weightGradParts(b, b.scratch, s, plan), {
    label: "conv2d.weightGrad.sum",
    source: sumSplits,
    uniforms: [count, plan.splits],
    reads: [b.scratch],
    writes: [b.dw],
    workgroups: spread(ceilDiv(count, 64)),
    flops: count * plan.splits,
    bytes: 4 * count * (plan.splits + 1),
  }];
}

function weightGradParts<B>(b: { dy: B; x: B }, part: B, s: ConvShape, plan: WeightGradPlan): Dispatch<B> {
  const { sides, blocks, units, unitsPerSplit, splits } = plan;
  const count = s.outChannels * s.inChannels * s.kernel * s.kernel;
  const common = {
    label: "conv2d.weightGrad",
    writes: [part],
    workgroups: spread(splits * blocks),
    flops: flops(s),
    bytes: bytes(s, (splits - 1) * count),
  };
  if (sides) {
    const tile = TILE[s.kernel];
    return {
      ...common,
      source: stripWeightGrad,
      constants: { KERNEL: s.kernel, ...tile },
      uniforms: [
        splits,
        blocks,
        ceilDiv(s.inChannels, tile.INS),
        units,
        unitsPerSplit,
        sides.width / 4,
        s.inChannels,
        s.outChannels,
        sides.height,
        sides.width,
      ],
      reads: [b.dy, b.x, b.x],
    };
  }
  const { outHeight, outWidth } = size(s);
  const entries = s.inChannels * s.kernel * s.kernel;
  return {
    ...common,
    source: generalWeightGrad,
    constants: GENERAL_TILE,
    uniforms: [
      splits,
      blocks,
      ceilDiv(entries, GENERAL_TILE.ENTRIES),
      entries,
      units,
      unitsPerSplit,
      s.inChannels,
      s.outChannels,
      s.height,
      s.width,
      outHeight,
      outWidth,
      s.kernel,
      s.stride,
    ],
    reads: [b.dy, b.x],
  };
}

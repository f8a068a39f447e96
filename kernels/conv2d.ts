/** Families of the 2-D convolution with its input gradient, and of its weight and bias gradient. */

import type { AdapterKind, Buffers, Family, Lowering, Packing, Variant } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import general from "./conv2d.wgsl" with { type: "text" };
import rows from "./conv2d_rows.wgsl" with { type: "text" };
import tiled from "./conv2d_tiled.wgsl" with { type: "text" };
import tiledAny from "./conv2d_tiled_any.wgsl" with { type: "text" };
import { type Products, winogradDispatches, winogradFits } from "./conv2d_winograd.ts";
import generalWeightGrad from "./conv2d_weight_grad.wgsl" with { type: "text" };
import { sumPair } from "./reduce.ts";
import tiledWeightGrad from "./conv2d_weight_grad_tiled.wgsl" with { type: "text" };
import rowsWeightGrad from "./conv2d_weight_grad_rows.wgsl" with { type: "text" };

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
  /** Factor on the result; of a gradient, on the incoming one. */
  readonly scale: number;
  /** True where images and packed weights are stored as f16, else f32; bias, shift and weight gradients are f32. */
  readonly f16?: boolean | undefined;
}

/** Side of a convolution's output: floor((size + 2 padding − kernel) / stride) + 1 with padding (kernel − 1) / 2. */
export function convOutputSize(size: number, kernel: number, stride: number): number {
  return Math.floor((size + 2 * Math.floor(kernel / 2) - kernel) / stride) + 1;
}

/** The one computation behind the convolution and its input gradient; see conv2d.wgsl. */
export interface Correlation {
  /** "conv2d" or "conv2d.inputGrad". */
  readonly label: string;
  /** Images. */
  readonly batch: number;
  /** Channels that are summed over. */
  readonly inChannels: number;
  /** Rows of the input. */
  readonly inHeight: number;
  /** Columns of the input. */
  readonly inWidth: number;
  /** Channels that are computed. */
  readonly outChannels: number;
  /** Rows of the output. */
  readonly outHeight: number;
  /** Columns of the output. */
  readonly outWidth: number;
  /** Side of the filter. */
  readonly kernel: 1 | 3;
  /** Step between outputs, in pixels of the input. */
  readonly stride: number;
  /** Step between inputs, in pixels of the output. */
  readonly dilation: number;
  /** Elements between two computed channels of the weights. */
  readonly weightOut: number;
  /** Elements between two summed channels of the weights. */
  readonly weightIn: number;
  /** 1 where the filter is turned around. */
  readonly flip: 0 | 1;
  /** Factor on the correlation with what is added to it, the residual apart. */
  readonly scale: number;
  /** Factor on the residual. */
  readonly residualScale: number;
  /** True where images and packed weights are stored as f16, else f32. */
  readonly f16?: boolean | undefined;
}

/** y [batch, out, OH, OW] from x [batch, in, H, W] and w [out, in, K, K]. */
export function convolution(s: ConvShape): Correlation {
  const { batch, kernel, stride, scale, f16 } = s;
  const taps = kernel * kernel;
  return {
    label: "conv2d",
    ...{ batch, kernel, scale, f16, residualScale: scale, ...size(s) },
    stride,
    dilation: 1,
    weightOut: s.inChannels * taps,
    weightIn: taps,
    flip: 0,
  };
}

/** dx [batch, in, H, W] from dy [batch, out, OH, OW] and w [out, in, K, K]; a residual is added as it is. */
export function inputGradient(s: ConvShape): Correlation {
  const { batch, kernel, stride, scale, f16 } = s;
  const taps = kernel * kernel;
  const { inChannels, inHeight, inWidth, outChannels, outHeight, outWidth } = size(s);
  return {
    label: "conv2d.inputGrad",
    ...{ batch, kernel, scale, f16, residualScale: 1 },
    ...{ inChannels: outChannels, inHeight: outHeight, inWidth: outWidth },
    ...{ outChannels: inChannels, outHeight: inHeight, outWidth: inWidth },
    stride: 1,
    dilation: stride,
    weightOut: taps,
    weightIn: inChannels * taps,
    flip: 1,
  };
}

function size(s: ConvShape) {
  return {
    inChannels: s.inChannels,
    inHeight: s.height,
    inWidth: s.width,
    outChannels: s.outChannels,
    outHeight: convOutputSize(s.height, s.kernel, s.stride),
    outWidth: convOutputSize(s.width, s.kernel, s.stride),
  };
}

type ImageBuffers<B> = Buffers<B, "x" | "w" | "y", "bias" | "shift" | "residual">;
type CorrelationVariant = Variant<Correlation, "x" | "w" | "y", "bias" | "shift" | "residual">;

/** Threads of a workgroup of the register kernels. */
const GROUP = 32;

/**
 * y = scale · (correlation(x, w) + bias[o] + shift[n, o]) + residualScale · residual; what is not given is left out.
 * x [batch, in, IH, IW], y and residual [batch, out, OH, OW], bias [out], shift [batch, out].
 */
export const conv2d: Family<Correlation, "x" | "w" | "y", "bias" | "shift" | "residual"> = {
  name: "conv2d",
  variants: {
    general: { fits: () => true, dispatches: (b, s) => [generalDispatch(b, s)] },
    rows4: rowsVariant(4, 8),
    rows8: rowsVariant(8, 8),
    rows8small: rowsVariant(8, 4),
    rows16: rowsVariant(16, 4),
    tiled128: tiledVariant({ OUT_QUADS: 2, PIXEL_QUADS: 2, DOWN: 16, ACROSS: 16 }, inRows),
    tiled64: tiledVariant({ OUT_QUADS: 2, PIXEL_QUADS: 2, DOWN: 8, ACROSS: 8 }, () => true),
    tiled32: tiledVariant({ OUT_QUADS: 1, PIXEL_QUADS: 1, DOWN: 8, ACROSS: 8 }, () => true),
    tiled32wide: tiledVariant({ OUT_QUADS: 2, PIXEL_QUADS: 2, DOWN: 4, ACROSS: 16 }, inRows),
    winograd: winogradVariant("registers"),
    winogradTiled: winogradVariant("tiled"),
  },
  key: (s) =>
    `${s.kernel}x${s.kernel} ${s.inChannels}->${s.outChannels} ${s.inHeight}x${s.inWidth}->${s.outHeight}x${s.outWidth} ` +
    `batch ${s.batch}${s.f16 ? " f16" : ""}`,
  preferred: (s, adapter) => adapter === "software" ? preferredRegisters(s) : preferredOnHardware(s),
};

function preferredRegisters(s: Correlation): string {
  if (!rowSides(s)) return "general";
  if (Math.min(s.inChannels, s.outChannels) >= 64 && conv2d.variants.winograd!.fits(s)) return "winograd";
  if (s.outChannels <= 4) return "rows4";
  return s.kernel === 1 && s.outChannels >= 16 ? "rows16" : "rows8";
}

/** Workgroups of 256 threads that keep a large GPU busy: two for each of 132 compute units. Of 64 threads, twice as many. */
const BUSY_GROUPS = 264;

/** The largest tile that is mostly filled and leaves every compute unit of a large GPU work. */
function preferredOnHardware(s: Correlation): string {
  const pixels = s.batch * s.outHeight * s.outWidth;
  const tiles = (channels: number, across: number) => ceilDiv(s.outChannels, channels) * ceilDiv(pixels, across);
  const filled = (channels: number) => s.outChannels >= 0.75 * channels * ceilDiv(s.outChannels, channels);
  // The general kernel skips the three quarters of the products that are with zeros.
  if (s.outChannels <= 8 || s.dilation > 1) return preferredRegisters(s);
  if (inRows(s) && filled(128) && tiles(128, 128) >= BUSY_GROUPS) return "tiled128";
  if (filled(64) && tiles(64, 64) >= 2 * BUSY_GROUPS) return "tiled64";
  return inRows(s) && tiles(32, 128) >= 2 * BUSY_GROUPS ? "tiled32wide" : "tiled32";
}

/** Multiply-adds as floating-point operations, padding and zeros between dilated pixels not counted. */
function flops(s: Correlation): number {
  const pixels = Math.min(s.inHeight * s.inWidth, s.outHeight * s.outWidth);
  return 2 * s.batch * pixels * s.outChannels * s.inChannels * s.kernel * s.kernel;
}

/** What every variant's dispatch has in common, with the epilogue's operands in binding order. */
function correlationCommon<B>(b: ImageBuffers<B>, s: Correlation) {
  const given = [b.bias, b.shift, b.residual];
  const terms = given.reduce((bits, buffer, i) => bits + (buffer === undefined ? 0 : 1 << i), 0);
  const output = s.batch * s.outChannels * s.outHeight * s.outWidth;
  const images = s.batch * s.inChannels * s.inHeight * s.inWidth + output * (b.residual === undefined ? 1 : 2);
  const others = s.outChannels * s.inChannels * s.kernel ** 2 + (b.bias === undefined ? 0 : s.outChannels) +
    (b.shift === undefined ? 0 : s.batch * s.outChannels);
  return {
    terms,
    // What is not read is bound to something that is there.
    operands: given.map((buffer) => buffer ?? b.x),
    common: { label: s.label, writes: [b.y], flops: flops(s), bytes: (s.f16 ? 2 : 4) * images + 4 * others },
  };
}

/** Output channels and pixels a thread of the general kernel holds. */
const PIXEL_TILE = { CHANNELS: 8, PIXELS: 8 } as const;

function generalDispatch<B>(b: ImageBuffers<B>, s: Correlation): Dispatch<B> {
  const { CHANNELS, PIXELS } = PIXEL_TILE;
  const { terms, operands, common } = correlationCommon(b, s);
  const phaseHeight = ceilDiv(s.outHeight, s.dilation), phaseWidth = ceilDiv(s.outWidth, s.dilation);
  const pixels = s.batch * s.dilation * s.dilation * phaseHeight * phaseWidth;
  const blocks = ceilDiv(pixels, PIXELS * GROUP);
  return {
    ...common,
    source: general,
    constants: { CHANNELS, PIXELS },
    ...s.f16 && { f16: ["Scalar"] },
    uniforms: [
      ...[blocks, pixels, s.batch, s.inChannels, s.outChannels],
      ...[s.inHeight, s.inWidth, s.outHeight, s.outWidth, phaseHeight, phaseWidth],
      ...[s.kernel, s.stride, s.dilation, s.weightOut, s.weightIn, s.flip, terms],
      new F32(s.scale),
      new F32(s.residualScale),
    ],
    reads: [b.x, b.w, ...operands],
    workgroups: spread(blocks * ceilDiv(s.outChannels, CHANNELS)),
  };
}

/**
 * Height and width as the row kernels take them, where they apply: stride 1, rows of whole vec4s. A 1x1 filter does not
 * see rows, so the whole image is one.
 */
function rowSides(
  s: Pick<Correlation, "kernel" | "stride" | "dilation" | "outHeight" | "outWidth">,
): { height: number; width: number } | undefined {
  if (s.stride !== 1 || s.dilation !== 1) return undefined;
  const sides = s.kernel === 1
    ? { height: 1, width: s.outHeight * s.outWidth }
    : { height: s.outHeight, width: s.outWidth };
  return sides.width % 4 === 0 ? sides : undefined;
}

/** The largest of 4, 2 and 1 vec4s, at most `most`, that divides a row. */
function quadsAcross(width: number, most: number): number {
  return [4, 2, 1].find((quads) => quads <= most && width % (4 * quads) === 0)!;
}

/** Register tiles of `channels` output channels and up to `quads` vec4s of pixels a thread. */
function rowsVariant(channels: number, quads: number): CorrelationVariant {
  return {
    fits: (s) => rowSides(s) !== undefined,
    dispatches: (b, s, lowering) => [rowsDispatch(b, s, lowering, channels, quads)],
  };
}

function packing(s: Correlation, paddedOut: number): Packing {
  return {
    inChannels: s.inChannels,
    taps: s.kernel * s.kernel,
    outChannels: s.outChannels,
    paddedOut,
    strideOut: s.weightOut,
    strideIn: s.weightIn,
    flip: s.flip,
    f16: s.f16,
  };
}

function rowsDispatch<B>(
  b: ImageBuffers<B>,
  s: Correlation,
  lowering: Lowering<B>,
  CHANNELS: number,
  quads: number,
): Dispatch<B> {
  const { height, width } = rowSides(s)!;
  const QUADS = quadsAcross(width, s.kernel === 1 ? 4 : 2);
  const HEIGHT = Math.min(quads / QUADS, 2 ** Math.ceil(Math.log2(height)));
  const tilesDown = ceilDiv(height, HEIGHT), tilesAcross = width / (4 * QUADS);
  const tiles = s.batch * tilesDown * tilesAcross;
  const blocks = ceilDiv(tiles, GROUP);
  const paddedOut = ceilDiv(s.outChannels, CHANNELS) * CHANNELS;
  const { terms, operands, common } = correlationCommon(b, s);
  return {
    ...common,
    source: rows,
    constants: {
      ...{ KERNEL: s.kernel, CHANNELS, HEIGHT, QUADS },
      EDGES: tilesAcross > 1 ? 1 : 0,
      WHOLE: HEIGHT === height ? 1 : 0,
    },
    ...s.f16 && { f16: ["Scalar", "Quad"] },
    uniforms: [
      ...[blocks, tiles, tilesDown, tilesAcross, s.inChannels, s.outChannels, height, width],
      ...[paddedOut / 4, terms],
      new F32(s.scale),
      new F32(s.residualScale),
    ],
    reads: [b.x, b.x, lowering.packed(b.w, packing(s, paddedOut)), ...operands],
    workgroups: spread(blocks * paddedOut / CHANNELS),
  };
}

/** Threads of a tile down and across, and runs of four channels and pixels each holds; see conv2d_tiled.wgsl. */
interface Tile {
  readonly OUT_QUADS: 1 | 2;
  readonly PIXEL_QUADS: 1 | 2;
  readonly DOWN: 4 | 8 | 16;
  readonly ACROSS: 8 | 16;
}

function inRows(s: Correlation): boolean {
  return rowSides(s) !== undefined;
}

function tiledVariant(tile: Tile, fits: (s: Correlation) => boolean): CorrelationVariant {
  return {
    fits,
    dispatches: (b, s, lowering) => [(inRows(s) ? tiledRows : tiledPixels)(b, s, lowering, tile)],
  };
}

/** What the dispatches of both tiled kernels have in common. */
function tiledCommon<B>(b: ImageBuffers<B>, s: Correlation, lowering: Lowering<B>, tile: Tile, step: number) {
  const { OUT_QUADS, PIXEL_QUADS, DOWN, ACROSS } = tile;
  const tilesOut = ceilDiv(s.outChannels, 4 * OUT_QUADS * DOWN);
  const paddedOut = 4 * tilesOut * OUT_QUADS * DOWN;
  const pixels = s.batch * s.outHeight * s.outWidth;
  const { terms, operands, common } = correlationCommon(b, s);
  return {
    tilesOut,
    pixels,
    last: [paddedOut / 4, terms, new F32(s.scale), new F32(s.residualScale)],
    packed: lowering.packed(b.w, packing(s, paddedOut)),
    operands,
    common: { ...common, workgroups: spread(tilesOut * ceilDiv(pixels, 4 * PIXEL_QUADS * ACROSS)) },
    constants: { ...tile, KERNEL: s.kernel, LOADS_W: ceilDiv(step * OUT_QUADS, ACROSS) },
  };
}

function tiledRows<B>(b: ImageBuffers<B>, s: Correlation, lowering: Lowering<B>, tile: Tile): Dispatch<B> {
  const LINES = s.kernel === 1 ? 16 : 4;
  const step = LINES * s.kernel;
  const { tilesOut, pixels, last, packed, operands, common, constants } = tiledCommon(b, s, lowering, tile, step);
  const { height, width } = rowSides(s)!;
  return {
    ...common,
    source: tiled,
    ...s.f16 && { f16: ["Scalar", "Quad"] },
    constants: { ...constants, LINES, LOADS_X: ceilDiv(LINES * tile.PIXEL_QUADS, tile.DOWN) },
    uniforms: [tilesOut, pixels / 4, s.inChannels, s.outChannels, height, width, ...last],
    reads: [b.x, b.x, packed, ...operands],
  };
}

function tiledPixels<B>(b: ImageBuffers<B>, s: Correlation, lowering: Lowering<B>, tile: Tile): Dispatch<B> {
  const STEP = 16;
  const { tilesOut, pixels, last, packed, operands, common, constants } = tiledCommon(b, s, lowering, tile, STEP);
  return {
    ...common,
    source: tiledAny,
    ...s.f16 && { f16: ["Scalar", "Quad"] },
    constants: { ...constants, LOADS_X: STEP * tile.PIXEL_QUADS / tile.DOWN },
    uniforms: [
      ...[tilesOut, pixels, s.inChannels, s.outChannels, s.inHeight, s.inWidth, s.outHeight, s.outWidth],
      ...[s.stride, s.dilation, ...last],
    ],
    reads: [b.x, packed, ...operands],
  };
}

/** Winograd's F(4x4, 3x3), for rows of whole vec4s; rounding errors are two to five times those of the other variants. */
function winogradVariant(products: Products): CorrelationVariant {
  return {
    fits: (s) => s.kernel === 3 && inRows(s) && winogradFits(s),
    dispatches: (b, s, lowering) => winogradDispatches(b, s, lowering, correlationCommon(b, s), products),
  };
}

type GradientBuffers<B> = Buffers<B, "dy" | "x" | "dw", "db">;
type GradientVariant = Variant<ConvShape, "dy" | "x" | "dw", "db">;

/** Threads of a workgroup, and the workgroups after which further splits of the sum over pixels only add traffic. */
const SPLITTING = { few: { GROUP: 8, enough: 4 }, many: { GROUP: 32, enough: 1024 } } as const;
/** The same for the tiled kernel: so many that the last ones to run do not leave a large GPU waiting. */
const ENOUGH_TILES = 2048;
/** A split sums at least this many pixels: fewer, and writing its part costs as much as computing it. */
const MIN_PIXELS_PER_SPLIT = 256;

type Splitting = keyof typeof SPLITTING;

/**
 * dw [out, in, K, K] and db [out], scale · the gradients with respect to weights and bias, of dy [batch, out, OH, OW] and
 * x [batch, in, H, W]: parts of the sums over pixels, then (where there are several) their sum in a fixed order.
 */
export const conv2dWeightGrad: Family<ConvShape, "dy" | "x" | "dw", "db"> = {
  name: "conv2d.weightGrad",
  variants: {
    general: generalWeightGradVariant("few"),
    generalSplit: generalWeightGradVariant("many"),
    rows8x2: rowsWeightGradVariant(8, 2, "few"),
    rows8x2split: rowsWeightGradVariant(8, 2, "many"),
    rows4x2: rowsWeightGradVariant(4, 2, "few"),
    rows4x2split: rowsWeightGradVariant(4, 2, "many"),
    rows8x8: rowsWeightGradVariant(8, 8, "few"),
    rows8x8split: rowsWeightGradVariant(8, 8, "many"),
    tiled64: tiledWeightGradVariant(2),
    tiled32: tiledWeightGradVariant(1),
  },
  key: (s) =>
    `${s.kernel}x${s.kernel}/${s.stride} ${s.inChannels}->${s.outChannels} ${s.height}x${s.width} batch ${s.batch}` +
    `${s.f16 ? " f16" : ""}`,
  preferred: (s, adapter: AdapterKind) => {
    if (adapter === "hardware" && Math.min(s.inChannels, s.outChannels) > 8 && inWeightGradTiles(s)) {
      return s.outChannels > 32 ? "tiled64" : "tiled32";
    }
    const split = adapter === "software" ? "" : "Split";
    if (!weightGradSides(s)) return `general${split}`;
    const tile = s.kernel === 1 ? "8x8" : s.inChannels * s.outChannels > 512 ? "8x2" : "4x2";
    return `rows${tile}${split.toLowerCase()}`;
  },
};

/** How a weight gradient's sum over pixels is divided. */
interface Splits {
  readonly splits: number;
  readonly unitsPerSplit: number;
}

function divide(units: number, pixelsPerUnit: number, blocks: number, enough: number): Splits {
  const wanted = Math.max(1, Math.floor(enough / blocks));
  const unitsPerSplit = Math.max(ceilDiv(units, wanted), ceilDiv(MIN_PIXELS_PER_SPLIT, pixelsPerUnit));
  return { splits: ceilDiv(units, unitsPerSplit), unitsPerSplit };
}

/** The parts' dispatch, and the sum's where there are several parts. */
function withSum<B>(
  b: GradientBuffers<B>,
  s: ConvShape,
  lowering: Lowering<B>,
  splits: number,
  parts: Omit<Dispatch<B>, "label" | "writes" | "flops" | "bytes">,
): Dispatch<B>[] {
  const count = s.outChannels * s.inChannels * s.kernel * s.kernel;
  const db = b.db ?? lowering.scratch(s.outChannels);
  const outputs: [B, B] = splits === 1
    ? [b.dw, db]
    : [lowering.scratch(splits * count), lowering.scratch(splits * s.outChannels)];
  const { inHeight, inWidth, outHeight, outWidth } = size(s);
  const images = s.batch * (s.inChannels * inHeight * inWidth + s.outChannels * outHeight * outWidth);
  const first: Dispatch<B> = {
    label: "conv2d.weightGrad",
    ...parts,
    writes: outputs,
    flops: flops(convolution(s)) + s.batch * s.outChannels * outHeight * outWidth,
    bytes: (s.f16 ? 2 : 4) * images + 4 * splits * (count + s.outChannels),
  };
  if (splits === 1) return [first];
  const [a, c] = outputs;
  const columns = { rows: splits, countA: count, countB: s.outChannels, startB: 0 };
  return [first, sumPair({ a, b: c, sumA: b.dw, sumB: db }, columns)];
}

/** Output channels and filter entries a thread of the general weight-gradient kernel holds. */
const ENTRY_TILE = { CHANNELS: 8, ENTRIES: 8 } as const;

function generalWeightGradVariant(splitting: Splitting): GradientVariant {
  return {
    fits: () => true,
    dispatches: (b, s, lowering) => {
      const { CHANNELS, ENTRIES } = ENTRY_TILE, { GROUP, enough } = SPLITTING[splitting];
      const { outHeight, outWidth } = size(s);
      const entries = s.inChannels * s.kernel * s.kernel, lines = s.batch * outHeight;
      const tiles = ceilDiv(entries, ENTRIES);
      const blocks = ceilDiv(ceilDiv(s.outChannels, CHANNELS) * tiles, GROUP);
      const { splits, unitsPerSplit } = divide(lines, outWidth, blocks, enough);
      return withSum(b, s, lowering, splits, {
        source: generalWeightGrad,
        constants: { ...ENTRY_TILE, GROUP },
        ...s.f16 && { f16: ["Scalar"] },
        uniforms: [
          ...[splits, blocks, tiles, entries, lines, unitsPerSplit, s.inChannels, s.outChannels],
          ...[s.height, s.width, outHeight, outWidth, s.kernel, s.stride],
          new F32(s.scale),
        ],
        reads: [b.dy, b.x],
        workgroups: spread(splits * blocks),
      });
    },
  };
}

function weightGradSides(s: ConvShape): { height: number; width: number } | undefined {
  return rowSides(convolution(s));
}

/** Register tiles of `outs` output channels x `ins` input channels, all taps. */
function rowsWeightGradVariant(OUTS: number, INS: number, splitting: Splitting): GradientVariant {
  return {
    // A thread holds at most 144 sums.
    fits: (s) => weightGradSides(s) !== undefined && OUTS * INS * s.kernel * s.kernel <= 144,
    dispatches: (b, s, lowering) => {
      const { height, width } = weightGradSides(s)!;
      const { GROUP, enough } = SPLITTING[splitting];
      const QUADS = s.kernel === 1 ? 1 : quadsAcross(width, 4);
      const across = width / (4 * QUADS), columns = s.batch * across;
      const tilesIn = ceilDiv(s.inChannels, INS);
      const blocks = ceilDiv(tilesIn * ceilDiv(s.outChannels, OUTS), GROUP);
      const { splits, unitsPerSplit } = divide(columns, 4 * QUADS * height, blocks, enough);
      return withSum(b, s, lowering, splits, {
        source: rowsWeightGrad,
        constants: { KERNEL: s.kernel, OUTS, INS, QUADS, EDGES: across > 1 ? 1 : 0, GROUP },
        ...s.f16 && { f16: ["Scalar", "Quad"] },
        uniforms: [
          ...[splits, blocks, tilesIn, columns, unitsPerSplit, across, s.inChannels, s.outChannels, height, width],
          new F32(s.scale),
        ],
        reads: [b.dy, b.x, b.x],
        workgroups: spread(splits * blocks),
      });
    },
  };
}

/** True where the images can be bound in vec4s. */
function inWeightGradTiles(s: ConvShape): boolean {
  const { outHeight, outWidth } = size(s);
  return Math.min(s.inChannels * s.height * s.width, s.outChannels * outHeight * outWidth) * s.batch >= 4;
}

/** Tiles of 32 `OUT_QUADS` output channels; see conv2d_weight_grad_tiled.wgsl. */
function tiledWeightGradVariant(OUT_QUADS: 1 | 2): GradientVariant {
  return {
    fits: inWeightGradTiles,
    dispatches: (b, s, lowering) => {
      const STEP = 16, DOWN = 8, IN_QUADS = s.kernel === 1 ? OUT_QUADS : 1;
      const { inHeight, inWidth, outHeight, outWidth } = size(s);
      const rows = weightGradSides(s);
      const { height, width } = rows ?? { height: outHeight, width: outWidth };
      const tilesIn = ceilDiv(s.inChannels, 32 * IN_QUADS);
      const blocks = ceilDiv(s.outChannels, 4 * OUT_QUADS * DOWN) * tilesIn * s.kernel;
      const pixels = s.batch * outHeight * outWidth;
      const { splits, unitsPerSplit } = divide(ceilDiv(pixels, STEP), STEP, blocks, ENOUGH_TILES);
      return withSum(b, s, lowering, splits, {
        source: tiledWeightGrad,
        ...s.f16 && { f16: ["Scalar", "Quad"] },
        constants: { ROWS: rows ? 1 : 0, KERNEL: s.kernel, OUT_QUADS, IN_QUADS, DOWN },
        uniforms: [
          ...[splits, blocks, tilesIn, pixels, unitsPerSplit * STEP, s.inChannels, s.outChannels],
          ...(rows ? [height, width] : [inHeight, inWidth]),
          ...[height, width, s.stride],
          new F32(s.scale),
        ],
        reads: [b.dy, b.dy, b.x, b.x],
        workgroups: spread(splits * blocks),
      });
    },
  };
}

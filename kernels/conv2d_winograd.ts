/** Winograd's F(4x4, 3x3) for convolutions and input gradients of stride 1: a quarter of the multiplications. */

import type { Buffers, Lowering } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import type { Correlation } from "./conv2d.ts";
import winogradInput from "./conv2d_winograd_input.wgsl" with { type: "text" };
import winogradOutput from "./conv2d_winograd_output.wgsl" with { type: "text" };
import winogradProducts from "./conv2d_winograd_products.wgsl" with { type: "text" };
import winogradWeights from "./conv2d_winograd_weights.wgsl" with { type: "text" };
import { matmul } from "./matmul.ts";

/** Numbers of a transformed patch of 6x6: one for each product. */
const PLANES = 36;

/** Threads of a workgroup of the transforms. */
const GROUP = 64;

/** Runs of four output channels and of four tiles that a thread of the products in registers holds. */
const TILE = { OUT_QUADS: 4, TILE_QUADS: 4 } as const;
/** Input channels that they add an iteration. */
const STEP = 4;
/** Threads of a workgroup of the products in registers. */
const PRODUCTS_GROUP = 32;

/** Elements of transformed weights that one binding holds everywhere: 128 MiB. */
const MOST_WEIGHTS = 2 ** 25;

/** How the products are computed: in registers alone, for CPUs, or through workgroup memory, for GPUs. */
export type Products = "registers" | "tiled";

/**
 * About how many elements lie between the steps at a time. They stay in the caches, and the steps of a large batch need no
 * more memory: 8 MiB on a CPU; 32 MiB keep a large GPU busy.
 */
const BETWEEN: Readonly<Record<Products, number>> = { registers: 2 ** 21, tiled: 2 ** 23 };

/** True where the transformed weights can be bound. */
export function winogradFits(s: Correlation): boolean {
  return PLANES * paddedIn(s) * 4 * weightQuads(s) <= MOST_WEIGHTS;
}

/** Input channels, rounded up to what the products add at a time: the filters of the rest are zero. */
function paddedIn({ inChannels }: Correlation): number {
  return ceilDiv(inChannels, STEP) * STEP;
}

/** Runs of four output channels, rounded up to what a thread of the products holds. */
function weightQuads({ outChannels }: Correlation): number {
  return ceilDiv(outChannels, 4 * TILE.OUT_QUADS) * TILE.OUT_QUADS;
}

/** What is added to the sums; see conv2d_winograd_output.wgsl. */
export interface Epilogue<B> {
  /** Bits of what is given. */
  readonly terms: number;
  /** Bias, shift and residual, or anything in the place of what is not given. */
  readonly operands: readonly B[];
}

/** Buffers between the steps. */
interface Planes<B> {
  readonly u: B;
  readonly v: B;
  readonly m: B;
}

/** Tiles that are taken at a time: `quads` runs of four from tile `first` on, of `tiles` in all. */
interface Chunk {
  readonly first: number;
  readonly tiles: number;
  readonly quads: number;
}

/** The weights' transform, then for some tiles at a time: the patches' transform, 36 matrix products, and back to pixels. */
export function winogradDispatches<B>(
  b: Buffers<B, "x" | "w" | "y">,
  s: Correlation,
  lowering: Lowering<B>,
  epilogue: Epilogue<B>,
  products: Products,
): Dispatch<B>[] {
  const tiles = s.batch * ceilDiv(s.outHeight, 4) * (s.outWidth / 4);
  const perTile = PLANES * (paddedIn(s) + 4 * weightQuads(s));
  const chunks = ceilDiv(tiles * perTile, BETWEEN[products]);
  const quads = ceilDiv(ceilDiv(tiles, chunks), 4 * TILE.TILE_QUADS) * TILE.TILE_QUADS;
  const planes = {
    u: lowering.scratch(PLANES * paddedIn(s) * 4 * weightQuads(s)),
    v: lowering.scratch(PLANES * paddedIn(s) * 4 * quads),
    m: lowering.scratch(PLANES * 4 * weightQuads(s) * 4 * quads),
  };
  const dispatches = [weightsDispatch(b.w, planes, s)];
  for (let first = 0; first < tiles; first += 4 * quads) {
    const chunk = { first, tiles, quads: Math.min(quads, ceilDiv(tiles - first, 4)) };
    dispatches.push(
      inputDispatch(b.x, planes, s, chunk),
      ...(products === "registers" ? [registerProducts(planes, s, chunk)] : tiledProducts(planes, s, chunk, lowering)),
      outputDispatch(b.y, planes, s, chunk, epilogue),
    );
  }
  return dispatches;
}

/** The convolution's own operations for some tiles: all variants' work is counted alike, here on the products. */
function directFlops(s: Correlation, { first, tiles, quads }: Chunk): number {
  const share = Math.min(4 * quads, tiles - first) / tiles;
  return 2 * 9 * s.inChannels * s.outChannels * s.batch * s.outHeight * s.outWidth * share;
}

function weightsDispatch<B>(w: B, { u }: Planes<B>, s: Correlation): Dispatch<B> {
  const filters = paddedIn(s) * 4 * weightQuads(s);
  return {
    label: `${s.label}.weights`,
    source: winogradWeights,
    uniforms: [s.inChannels, paddedIn(s), s.outChannels, weightQuads(s), s.weightOut, s.weightIn, s.flip],
    reads: [w],
    writes: [u],
    workgroups: spread(ceilDiv(filters / 4, GROUP)),
    flops: 0,
    bytes: 4 * (9 * s.inChannels * s.outChannels + PLANES * filters),
  };
}

function inputDispatch<B>(x: B, { v }: Planes<B>, s: Correlation, { first, tiles, quads }: Chunk): Dispatch<B> {
  return {
    label: `${s.label}.tiles`,
    source: winogradInput,
    ...s.f16 && { f16: ["Scalar", "Quad"] },
    uniforms: [first, tiles, quads, s.inChannels, paddedIn(s), s.outHeight, s.outWidth],
    reads: [x, x],
    writes: [v],
    workgroups: spread(ceilDiv(paddedIn(s) * quads, GROUP)),
    flops: 0,
    bytes: 4 * quads * s.inChannels * (4 * PLANES + 16 * (s.f16 ? 2 : 4)),
  };
}

function registerProducts<B>({ u, v, m }: Planes<B>, s: Correlation, chunk: Chunk): Dispatch<B> {
  const { quads } = chunk;
  const tilesDown = ceilDiv(s.outChannels, 4 * TILE.OUT_QUADS), tilesAcross = ceilDiv(quads, TILE.TILE_QUADS);
  return {
    label: `${s.label}.products`,
    source: winogradProducts,
    constants: { PLANES, STEP, ...TILE },
    uniforms: [paddedIn(s), weightQuads(s), quads, tilesDown, tilesAcross],
    reads: [u, v],
    writes: [m],
    workgroups: spread(ceilDiv(PLANES * tilesDown * tilesAcross, PRODUCTS_GROUP)),
    flops: directFlops(s, chunk),
    bytes: 4 * PLANES * (s.inChannels * s.outChannels + (s.inChannels + s.outChannels) * 4 * quads),
  };
}

function tiledProducts<B>(
  { u, v, m }: Planes<B>,
  s: Correlation,
  chunk: Chunk,
  lowering: Lowering<B>,
): Dispatch<B>[] {
  const { quads } = chunk;
  const layout = { transposeA: true, transposeB: false, broadcastA: false, broadcastB: false };
  const shape = { batch: PLANES, m: 4 * weightQuads(s), n: 4 * quads, k: paddedIn(s), ...layout };
  const dispatches = matmul.variants.tiled64!.dispatches({ a: u, b: v, out: m }, shape, lowering);
  const flops = directFlops(s, chunk) / dispatches.length;
  return dispatches.map((dispatch) => ({ ...dispatch, label: `${s.label}.products`, flops }));
}

function outputDispatch<B>(
  y: B,
  { m }: Planes<B>,
  s: Correlation,
  { first, tiles, quads }: Chunk,
  { terms, operands }: Epilogue<B>,
): Dispatch<B> {
  return {
    label: s.label,
    source: winogradOutput,
    ...s.f16 && { f16: ["Quad"] },
    uniforms: [
      ...[first, tiles, quads, s.outChannels, weightQuads(s), s.outHeight, s.outWidth, terms],
      new F32(s.scale),
      new F32(s.residualScale),
    ],
    reads: [m, ...operands],
    writes: [y],
    workgroups: spread(ceilDiv(s.outChannels * quads, GROUP)),
    flops: 0,
    bytes: 4 * quads * s.outChannels * (4 * PLANES + 16 * (s.f16 ? 2 : 4)),
  };
}

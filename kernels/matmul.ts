/** Family of the batched matrix product. */

import type { Family, Lowering, Variant } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import general from "./matmul.wgsl" with { type: "text" };
import quads from "./matmul_quads.wgsl" with { type: "text" };
import tiled from "./matmul_tiled.wgsl" with { type: "text" };
import { reduce, reduceScratch, type ReduceShape } from "./reduce.ts";

/** Where the matrices of an operand lie in its buffer; every matrix is contiguous. */
export interface Placement {
  /** Elements before the first matrix. */
  readonly start: number;
  /** Elements from one matrix to the next. */
  readonly stride: number;
}

/** Shape of a batched matrix product. */
export interface MatmulShape {
  /** Number of products. */
  readonly batch: number;
  /** Rows of the result. */
  readonly m: number;
  /** Columns of the result. */
  readonly n: number;
  /** Length of the sum. */
  readonly k: number;
  /** `a` is stored as [batch, k, m] instead of [batch, m, k]. */
  readonly transposeA: boolean;
  /** `b` is stored as [batch, n, k] instead of [batch, k, n]. */
  readonly transposeB: boolean;
  /** `a` is one matrix, shared by all products. */
  readonly broadcastA: boolean;
  /** `b` is one matrix, shared by all products. */
  readonly broadcastB: boolean;
  /** Where the matrices of `a` lie; one after another from the start when absent. */
  readonly placeA?: Placement;
  /** Where the matrices of `b` lie. */
  readonly placeB?: Placement;
  /** Where the results go. */
  readonly placeOut?: Placement;
}

/** Threads of a workgroup of the register kernels. */
const GROUP = 32;
/** Below this many threads of the general kernel's large tile, the small one keeps more of the device busy. */
const FEW_THREADS = 256;

/** Workgroups that keep a large GPU busy: two for each of 132 compute units. */
const BUSY_GROUPS = 264;
/** From this length of the sum on, larger tiles in more splits beat smaller tiles. */
const LONG_SUM = 1024;
/** Splits are made until there are this many workgroups. */
const ENOUGH_GROUPS = 528;
/** A split sums at least this many k: fewer, and its partial sums cost as much as they save. A multiple of 16. */
const MIN_K_PER_SPLIT = 128;

/** out [batch, m, n] = op(a) · op(b) for every batch element; op transposes where the shape says so. */
export const matmul: Family<MatmulShape, "a" | "b" | "out"> = {
  name: "matmul",
  variants: {
    scalars4: { fits: () => true, dispatches: (b, s) => [scalarsDispatch(b, s, 4)] },
    scalars8: { fits: () => true, dispatches: (b, s) => [scalarsDispatch(b, s, 8)] },
    quads: { fits: inQuads, dispatches: (b, s) => [quadsDispatch(b, s)] },
    tiled128: tiledVariant({ QUADS: 2, THREADS: 16 }),
    tiled64: tiledVariant({ QUADS: 2, THREADS: 8 }),
    tiled32: tiledVariant({ QUADS: 1, THREADS: 8 }),
    tiled64split: splitVariant({ QUADS: 2, THREADS: 8 }),
    tiled32split: splitVariant({ QUADS: 1, THREADS: 8 }),
  },
  key: ({ batch, m, n, k, transposeA, transposeB, broadcastA, broadcastB }) =>
    `${batch} x ${m}x${n}x${k}${transposeA ? " At" : ""}${transposeB ? " Bt" : ""}` +
    `${broadcastA ? " A shared" : ""}${broadcastB ? " B shared" : ""}`,
  preferred: (s, adapter) => adapter === "software" ? preferredRegisters(s) : preferredOnHardware(s),
};

function preferredRegisters(s: MatmulShape): string {
  if (inQuads(s)) return "quads";
  return s.batch * ceilDiv(s.m, 8) * ceilDiv(s.n, 8) < FEW_THREADS ? "scalars4" : "scalars8";
}

/** The largest tile that leaves every compute unit of a large GPU work, or else splits of k. */
function preferredOnHardware(s: MatmulShape): string {
  const { tiled64split, tiled32split } = matmul.variants;
  if (!inTiles(s)) return preferredRegisters(s);
  if (tileCount(s, 128) >= BUSY_GROUPS) return "tiled128";
  if (tileCount(s, 64) >= BUSY_GROUPS) return "tiled64";
  if (Math.min(s.m, s.n) > 32 && s.k >= LONG_SUM && tiled64split!.fits(s)) return "tiled64split";
  if (tileCount(s, 32) < BUSY_GROUPS && tiled32split!.fits(s)) return "tiled32split";
  return s.batch * s.m * s.n < 32 * 32 ? preferredRegisters(s) : "tiled32";
}

/** True where the operands' contiguous axes, and k, are whole vec4s. */
function inQuads(s: MatmulShape): boolean {
  const { a, b } = placements(s);
  return s.k % 4 === 0 && (!s.transposeA || s.m % 4 === 0) && (s.transposeB || s.n % 4 === 0) &&
    [a, b].every(({ start, stride }) => start % 4 === 0 && stride % 4 === 0);
}

type MatmulBuffers<B> = { readonly a: B; readonly b: B; readonly out: B };

/** What every variant's dispatch has in common. */
function matmulCommon<B>(b: MatmulBuffers<B>, { batch, m, n, k, broadcastA, broadcastB }: MatmulShape) {
  const elements = (broadcastA ? 1 : batch) * m * k + (broadcastB ? 1 : batch) * k * n + batch * m * n;
  return { label: "matmul", reads: [b.a, b.b], writes: [b.out], flops: 2 * batch * m * n * k, bytes: 4 * elements };
}

/** Where all matrices lie; a stride is 0 where one matrix serves all products. */
function placements(s: MatmulShape): { a: Placement; b: Placement; out: Placement } {
  const { m, n, k, broadcastA, broadcastB } = s;
  return {
    a: s.placeA ?? { start: 0, stride: broadcastA ? 0 : m * k },
    b: s.placeB ?? { start: 0, stride: broadcastB ? 0 : k * n },
    out: s.placeOut ?? { start: 0, stride: m * n },
  };
}

function quadsDispatch<B>(b: MatmulBuffers<B>, s: MatmulShape): Dispatch<B> {
  const { batch, m, n, k, transposeA, transposeB } = s;
  const tilesM = ceilDiv(m, 8), tilesN = ceilDiv(n, 8);
  const place = placements(s);
  const aLine = (transposeA ? m : k) / 4, bLine = (transposeB ? k : n) / 4;
  return {
    ...matmulCommon(b, s),
    source: quads,
    constants: { TRANSPOSE_A: transposeA ? 1 : 0, TRANSPOSE_B: transposeB ? 1 : 0 },
    uniforms: [
      ...[batch, m, n, k, tilesM, tilesN],
      ...[place.a.start / 4, place.a.stride / 4, aLine, place.b.start / 4, place.b.stride / 4, bLine],
      ...[place.out.start, place.out.stride],
    ],
    workgroups: spread(ceilDiv(batch * tilesM * tilesN, GROUP)),
  };
}

function scalarsDispatch<B>(b: MatmulBuffers<B>, s: MatmulShape, tile: number): Dispatch<B> {
  const { batch, m, n, k, transposeA, transposeB } = s;
  const tilesM = ceilDiv(m, tile), tilesN = ceilDiv(n, tile);
  const [aRow, aInner] = transposeA ? [1, m] : [k, 1];
  const [bInner, bColumn] = transposeB ? [1, k] : [n, 1];
  const place = placements(s);
  return {
    ...matmulCommon(b, s),
    source: general,
    constants: { ROWS: tile, COLUMNS: tile },
    uniforms: [
      ...[batch, m, n, k, tilesM, tilesN],
      ...[place.a.start, place.a.stride, aRow, aInner, place.b.start, place.b.stride, bInner, bColumn],
      ...[place.out.start, place.out.stride],
    ],
    workgroups: spread(ceilDiv(batch * tilesM * tilesN, GROUP)),
  };
}

/** Threads of a tile down and across, and runs of four rows and columns each holds; see matmul_tiled.wgsl. */
interface Tile {
  readonly QUADS: 1 | 2;
  readonly THREADS: 8 | 16;
}

/** True where every operand can be bound in vec4s and the matrices of a batch follow one another. */
function inTiles({ m, n, k, placeA, placeB, placeOut }: MatmulShape): boolean {
  return Math.min(m * k, k * n, m * n) >= 4 && !placeA && !placeB && !placeOut;
}

function tileCount({ batch, m, n }: MatmulShape, side: number): number {
  return batch * ceilDiv(m, side) * ceilDiv(n, side);
}

function tiledVariant(tile: Tile): Variant<MatmulShape, "a" | "b" | "out"> {
  return {
    fits: inTiles,
    dispatches: (b, s, lowering) => [tiledDispatch(b, s, lowering, tile, { splits: 1, kPerSplit: s.k })],
  };
}

/** Parts of the sum over k in workgroups of their own, then their sum. */
function splitVariant(tile: Tile): Variant<MatmulShape, "a" | "b" | "out"> {
  return {
    fits: (s) => inTiles(s) && splitsOf(s, tile).splits > 1,
    dispatches: (b, s, lowering) => {
      const split = splitsOf(s, tile);
      const parts: ReduceShape = { k0: 1, r0: split.splits, k1: s.batch * s.m * s.n, r1: 1, op: "sum" };
      const part = lowering.scratch(parts.r0 * parts.k1), elements = reduceScratch(parts);
      const scratch = elements > 0 ? lowering.scratch(elements) : part;
      return [
        tiledDispatch({ ...b, out: part }, s, lowering, tile, split),
        ...reduce({ x: part, y: b.out, scratch }, parts),
      ];
    },
  };
}

/** How the sum over k is divided. */
interface Split {
  readonly splits: number;
  readonly kPerSplit: number;
}

function splitsOf(s: MatmulShape, { QUADS, THREADS }: Tile): Split {
  const wanted = Math.max(1, Math.floor(ENOUGH_GROUPS / tileCount(s, 4 * QUADS * THREADS)));
  const kPerSplit = Math.max(ceilDiv(ceilDiv(s.k, wanted), 16) * 16, MIN_K_PER_SPLIT);
  return { splits: ceilDiv(s.k, kPerSplit), kPerSplit };
}

/** How an operand is read: in vec4s along k or across it, or in scalars. */
function access(k: number, other: number, alongK: boolean): number {
  if (alongK) return k % 4 === 0 ? 1 : 0;
  return other % 4 === 0 ? 2 : 0;
}

function tiledDispatch<B>(
  b: MatmulBuffers<B>,
  s: MatmulShape,
  lowering: Lowering<B>,
  tile: Tile,
  { splits, kPerSplit }: Split,
): Dispatch<B> {
  const { batch, m, n, k, transposeA, transposeB } = s;
  const side = 4 * tile.QUADS * tile.THREADS;
  const tilesM = ceilDiv(m, side), tilesN = ceilDiv(n, side);
  const [aRow, aInner] = transposeA ? [1, m] : [k, 1];
  const [bInner, bColumn] = transposeB ? [1, k] : [n, 1];
  const place = placements(s);
  const whole = n % 4 === 0, unwritten = lowering.scratch(4);
  const common = matmulCommon(b, s);
  return {
    ...common,
    bytes: common.bytes + 4 * (splits - 1) * batch * m * n,
    source: tiled,
    constants: { ...tile },
    uniforms: [
      ...[splits, batch, m, n, k, kPerSplit, tilesM, tilesN],
      ...[place.a.stride, aRow, aInner, place.b.stride, bInner, bColumn],
      ...[access(k, m, !transposeA), access(k, n, transposeB), whole ? 1 : 0],
    ],
    reads: [b.a, b.a, b.b, b.b],
    writes: whole ? [b.out, unwritten] : [unwritten, b.out],
    workgroups: spread(splits * batch * tilesM * tilesN),
  };
}

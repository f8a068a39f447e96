/** Family of the batched matrix product. */

import type { Family } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import general from "./matmul.wgsl" with { type: "text" };
import quads from "./matmul_quads.wgsl" with { type: "text" };

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

/** out [batch, m, n] = op(a) · op(b) for every batch element; op transposes where the shape says so. */
export const matmul: Family<MatmulShape, "a" | "b" | "out"> = {
  name: "matmul",
  variants: {
    scalars4: { fits: () => true, dispatches: (b, s) => [scalarsDispatch(b, s, 4)] },
    scalars8: { fits: () => true, dispatches: (b, s) => [scalarsDispatch(b, s, 8)] },
    quads: { fits: inQuads, dispatches: (b, s) => [quadsDispatch(b, s)] },
  },
  key: ({ batch, m, n, k, transposeA, transposeB, broadcastA, broadcastB }) =>
    `${batch} x ${m}x${n}x${k}${transposeA ? " At" : ""}${transposeB ? " Bt" : ""}` +
    `${broadcastA ? " A shared" : ""}${broadcastB ? " B shared" : ""}`,
  preferred: (s) => {
    if (inQuads(s)) return "quads";
    return s.batch * ceilDiv(s.m, 8) * ceilDiv(s.n, 8) < FEW_THREADS ? "scalars4" : "scalars8";
  },
};

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

/** Descriptor of the batched matrix product. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import general from "./matmul.wgsl" with { type: "text" };
import quads from "./matmul_quads.wgsl" with { type: "text" };

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
}

/** Threads of a workgroup. */
const GROUP = 32;
/** Below this many threads of the general kernel's large tile, the small one keeps more of the device busy. */
const FEW_THREADS = 256;

/** out [batch, m, n] = op(a) · op(b) for every batch element; op transposes where the shape says so. */
export function matmul<B>(b: { a: B; b: B; out: B }, s: MatmulShape): Dispatch<B> {
  const { batch, m, n, k, transposeA, transposeB } = s;
  const aligned = k % 4 === 0 && (!transposeA || m % 4 === 0) && (transposeB || n % 4 === 0);
  const tile = !aligned && batch * ceilDiv(m, 8) * ceilDiv(n, 8) < FEW_THREADS ? 4 : 8;
  const tilesM = ceilDiv(m, tile), tilesN = ceilDiv(n, tile);
  const aBatch = s.broadcastA ? 0 : m * k, bBatch = s.broadcastB ? 0 : k * n;
  const elements = (s.broadcastA ? 1 : batch) * m * k + (s.broadcastB ? 1 : batch) * k * n + batch * m * n;
  const common = {
    label: "matmul",
    reads: [b.a, b.b],
    writes: [b.out],
    workgroups: spread(ceilDiv(batch * tilesM * tilesN, GROUP)),
    flops: 2 * batch * m * n * k,
    bytes: 4 * elements,
  };
  if (aligned) {
    const aLine = (transposeA ? m : k) / 4, bLine = (transposeB ? k : n) / 4;
    return {
      ...common,
      source: quads,
      constants: { TRANSPOSE_A: transposeA ? 1 : 0, TRANSPOSE_B: transposeB ? 1 : 0 },
      uniforms: [batch, m, n, k, tilesM, tilesN, aBatch / 4, aLine, bBatch / 4, bLine],
    };
  }
  const [aRow, aInner] = transposeA ? [1, m] : [k, 1];
  const [bInner, bColumn] = transposeB ? [1, k] : [n, 1];
  return {
    ...common,
    source: general,
    constants: { ROWS: tile, COLUMNS: tile },
    uniforms: [batch, m, n, k, tilesM, tilesN, aBatch, aRow, aInner, bBatch, bInner, bColumn],
  };
}

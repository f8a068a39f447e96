/** Descriptors of the reductions: sum, sum of squares, maximum and minimum over two of four axes. */

import { ceilDiv, type Dispatch, spread } from "../src/gpu/kernel.ts";
import rows from "./reduce.wgsl" with { type: "text" };
import pair from "./reduce_pair.wgsl" with { type: "text" };
import columns from "./reduce_columns.wgsl" with { type: "text" };

/** What a reduction computes of the reduced elements. */
export type ReduceOp = "sum" | "sumSquares" | "max" | "min";

/** x is viewed as [k0, r0, k1, r1]; r0 and r1 are reduced, y is [k0, k1]. All extents are positive. */
export interface ReduceShape {
  /** Kept extent, slowest. */
  readonly k0: number;
  /** Reduced extent between the kept ones. */
  readonly r0: number;
  /** Kept extent. */
  readonly k1: number;
  /** Reduced extent, contiguous. */
  readonly r1: number;
  /** What is computed. */
  readonly op: ReduceOp;
  /** True where x is stored as f16, else f32; y is f32. */
  readonly f16?: boolean | undefined;
}

const OPS: readonly ReduceOp[] = ["sum", "sumSquares", "max", "min"];

/** How a reduction is laid out: which kernel, and into how many splits of `chunk` (elements or rows). */
interface Plan {
  readonly byThread: boolean;
  readonly splits: number;
  readonly chunk: number;
}

/** Threads and workgroups that fill a large GPU; splitting further only costs. */
const ENOUGH_THREADS = 32768;
const ENOUGH_GROUPS = 1024;
/** Least work worth a split of its own: rows for a thread, elements for a workgroup. */
const LEAST_ROWS = 128;
const LEAST_ELEMENTS = 8192;

function plan({ k0, r0, k1, r1 }: ReduceShape): Plan {
  const outputs = k0 * k1, reduced = r0 * r1;
  const byThread = reduced <= 64 || (r1 === 1 && k1 >= 32);
  const [extent, wanted, least] = byThread
    ? [r0, ceilDiv(ENOUGH_THREADS, outputs), LEAST_ROWS]
    : [reduced, ceilDiv(ENOUGH_GROUPS, outputs), LEAST_ELEMENTS];
  const chunk = ceilDiv(extent, Math.max(1, Math.min(wanted, Math.floor(extent / least))));
  return { byThread, splits: ceilDiv(extent, chunk), chunk };
}

/** Elements of scratch that {@linkcode reduce} needs for a shape; 0 where one pass does and `scratch` stays unbound. */
export function reduceScratch(s: ReduceShape): number {
  const { splits } = plan(s);
  return splits === 1 ? 0 : splits * s.k0 * s.k1;
}

/** y [k0, k1] = op over r0 and r1 of x [k0, r0, k1, r1]; order of summation fixed by the shape. */
export function reduce<B>(b: { x: B; y: B; scratch: B }, s: ReduceShape): Dispatch<B>[] {
  const layout = plan(s);
  if (layout.splits === 1) return [pass(b.x, b.y, s, layout)];
  const { splits } = layout;
  const rest: ReduceShape = { k0: 1, r0: splits, k1: s.k0 * s.k1, r1: 1, op: s.op === "sumSquares" ? "sum" : s.op };
  const { byThread } = plan(rest);
  const single: Plan = { byThread, splits: 1, chunk: splits };
  return [pass(b.x, b.scratch, s, layout), pass(b.scratch, b.y, rest, single)];
}

function pass<B>(x: B, y: B, { k0, r0, k1, r1, op, f16 }: ReduceShape, { byThread, splits, chunk }: Plan): Dispatch<B> {
  const outputs = k0 * k1, elements = outputs * r0 * r1;
  return {
    label: `reduce.${op}`,
    source: byThread ? columns : rows,
    constants: { OP: OPS.indexOf(op) },
    ...f16 && { f16: ["Stored"] },
    uniforms: [r0, k1, r1, outputs, splits, chunk],
    reads: [x],
    writes: [y],
    workgroups: spread(splits * (byThread ? ceilDiv(outputs, 64) : outputs)),
    flops: elements * (op === "sumSquares" ? 2 : 1),
    bytes: (f16 ? 2 : 4) * elements + 4 * outputs * splits,
  };
}

/**
 * sumA [countA] and sumB [countB], the column sums of a [rows, countA] and b [rows, countB], in one dispatch. `startB`:
 * element at which b begins in its buffer, which may be a's.
 */
export function sumPair<B>(
  b: { a: B; b: B; sumA: B; sumB: B },
  s: { readonly rows: number; readonly countA: number; readonly countB: number; readonly startB: number },
): Dispatch<B> {
  const columns = s.countA + s.countB;
  return {
    label: "reduce.pair",
    source: pair,
    uniforms: [s.rows, s.countA, s.countB, s.startB],
    reads: [b.a, b.b],
    writes: [b.sumA, b.sumB],
    workgroups: spread(ceilDiv(columns, 64)),
    flops: columns * s.rows,
    bytes: 4 * columns * (s.rows + 1),
  };
}

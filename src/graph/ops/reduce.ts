/** Reductions over axes; f16 data are reduced to f32. */

import { GraphError } from "../../gpu/errors.ts";
import { reduce, reduceScratch, type ReduceShape } from "../../../kernels/reduce.ts";
import { apply, elementCount, expectFloats, type Op, shapeText, type Tensor } from "../tensor.ts";
import { affine, broadcastTo, cast, mul, square } from "./pointwise.ts";
import { reshape } from "./shape.ts";

type Kind = ReduceShape["op"];

const reduceOp: Op<ReduceShape> = {
  name: "reduce",
  vjp: ({ inputs: [x], attrs: { op, k0, k1 } }, [dy]) => {
    if (!dy) return [undefined];
    const spread = broadcastTo(reshape(dy, [k0, 1, k1, 1]), x!.shape);
    if (op === "sum") return [cast(spread, x!.dtype)];
    if (op === "sumSquares") return [cast(mul(affine(cast(x!, "f32"), 2, 0), spread), x!.dtype)];
    throw new GraphError(`A gradient through reduce ${op} is not defined.`);
  },
  lower: ({ inputs: [x], outputs: [y], attrs }, { scratch }) => {
    const elements = reduceScratch(attrs);
    return reduce({ x: x!, y: y!, scratch: elements > 0 ? scratch(elements) : y! }, attrs);
  },
};

function reduceAxes(kind: Kind, x: Tensor, axes: readonly number[]): Tensor {
  expectFloats(kind, x);
  const reduced = new Set(axes);
  for (const axis of reduced) {
    if (!(axis >= 0 && axis < x.shape.length)) {
      throw new GraphError(`${kind} over axis ${axis} does not fit the shape ${shapeText(x.shape)}.`);
    }
  }
  const kept = x.shape.filter((_, i) => !reduced.has(i));
  // Alternating kept and reduced runs, starting with a kept one (possibly of extent 1).
  const runs = [1];
  x.shape.forEach((extent, i) => {
    if (extent === 1) return;
    if (reduced.has(i) !== (runs.length % 2 === 0)) runs.push(extent);
    else runs[runs.length - 1]! *= extent;
  });
  if (runs.length === 1 && kind !== "sumSquares") return cast(reshape(x, kept), "f32");
  if (runs.length > 4) {
    if (kind === "sumSquares") return reduceAxes("sum", square(cast(x, "f32")), axes);
    const last = Math.max(...reduced);
    return reduceAxes(kind, reduceAxes(kind, x, [last]), axes.filter((axis) => axis !== last));
  }
  const [k0 = 1, r0 = 1, k1 = 1, r1 = 1] = runs;
  const viewed = reshape(x, [k0, r0, k1, r1]);
  const attrs: ReduceShape = { k0, r0, k1, r1, op: kind, f16: x.dtype === "f16" };
  return reshape(apply(reduceOp, attrs, [viewed], [k0, k1]), kept);
}

const all = (x: Tensor) => x.shape.map((_, i) => i);

/** Sum over `axes` (all of them when absent); the axes disappear. */
export function sum(x: Tensor, axes: readonly number[] = all(x)): Tensor {
  return reduceAxes("sum", x, axes);
}

/** Sum of squares over `axes` (all of them when absent). */
export function sumSquares(x: Tensor, axes: readonly number[] = all(x)): Tensor {
  return reduceAxes("sumSquares", x, axes);
}

/** Mean over `axes` (all of them when absent). */
export function mean(x: Tensor, axes: readonly number[] = all(x)): Tensor {
  const count = elementCount(x.shape.filter((_, i) => axes.includes(i)));
  return affine(sum(x, axes), 1 / count, 0);
}

/** Largest element over `axes` (all of them when absent); it has no gradient. */
export function reduceMax(x: Tensor, axes: readonly number[] = all(x)): Tensor {
  return reduceAxes("max", x, axes);
}

/** Smallest element over `axes` (all of them when absent); it has no gradient. */
export function reduceMin(x: Tensor, axes: readonly number[] = all(x)): Tensor {
  return reduceAxes("min", x, axes);
}

/** Ops that move data without computing: reshape, stop-gradient, slice, pad, concatenate, swap axes. */

import { GraphError } from "../../gpu/errors.ts";
import { concatAxis, padAxis, sliceAxis, swapAxes as swapKernel } from "../../../kernels/copy.ts";
import {
  apply,
  elementCount,
  expectShapes,
  type Op,
  sameShape,
  type Shape,
  shapeText,
  type Tensor,
} from "../tensor.ts";

const reshapeOp: Op<null> = {
  name: "reshape",
  view: true,
  vjp: ({ inputs: [x] }, [dy]) => [dy && reshape(dy, x!.shape)],
};

const stopGradientOp: Op<null> = { name: "stopGradient", view: true, vjp: () => [undefined] };

/** The same elements under another shape; one extent may be −1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((total, extent) => extent === -1 ? total : total * extent, 1);
  const full = shape.map((extent) => extent === -1 ? x.size / known : extent);
  if (elementCount(full) !== x.size || !full.every(Number.isInteger)) {
    throw new GraphError(`reshape cannot turn ${shapeText(x.shape)} into ${shapeText(shape)}.`);
  }
  return sameShape(full, x.shape) ? x : apply(reshapeOp, null, [x], full, x.dtype);
}

/** The same value, through which no gradient passes. */
export function stopGradient(x: Tensor): Tensor {
  return apply(stopGradientOp, null, [x], x.shape, x.dtype);
}

interface AxisAttrs {
  readonly axis: number;
  readonly start: number;
}

/** Extents before and after `axis`, multiplied. */
function around(shape: Shape, axis: number): { outer: number; inner: number } {
  return { outer: elementCount(shape.slice(0, axis)), inner: elementCount(shape.slice(axis + 1)) };
}

function withExtent(shape: Shape, axis: number, extent: number): number[] {
  return shape.map((old, i) => i === axis ? extent : old);
}

const sliceOp: Op<AxisAttrs> = {
  name: "slice",
  vjp: ({ inputs: [x], attrs }, [dy]) => [dy && pad(dy, attrs.axis, attrs.start, x!.shape[attrs.axis]!)],
  lower: ({ inputs: [x], outputs: [y], attrs: { axis, start } }) => [
    sliceAxis({ x: x!, y: y! }, {
      ...around(x!.shape, axis),
      axis: x!.shape[axis]!,
      start,
      length: y!.shape[axis]!,
      bytes: elementBytes(x!),
    }),
  ],
};

/** Packed bytes cannot be moved one by one. */
function expectMovable(op: string, x: Tensor): void {
  if (x.dtype === "u8") throw new GraphError(`${op} expects elements of 32 or 16 bits; got u8.`);
}

function elementBytes({ dtype }: Tensor): 2 | 4 {
  return dtype === "f16" ? 2 : 4;
}

/** Elements `start` to `end` (exclusive) along `axis`. */
export function slice(x: Tensor, axis: number, start: number, end: number): Tensor {
  const extent = x.shape[axis];
  if (extent === undefined || start < 0 || end > extent || start >= end) {
    throw new GraphError(`slice ${start}…${end} of axis ${axis} does not fit the shape ${shapeText(x.shape)}.`);
  }
  if (start === 0 && end === extent) return x;
  expectMovable("slice", x);
  return apply(sliceOp, { axis, start }, [x], withExtent(x.shape, axis, end - start), x.dtype);
}

const padOp: Op<AxisAttrs> = {
  name: "pad",
  vjp: ({ inputs: [x], attrs: { axis, start } }, [dy]) => [dy && slice(dy, axis, start, start + x!.shape[axis]!)],
  lower: ({ inputs: [x], outputs: [y], attrs: { axis, start } }) => [
    padAxis({ x: x!, y: y! }, {
      ...around(x!.shape, axis),
      axis: x!.shape[axis]!,
      before: start,
      total: y!.shape[axis]!,
      bytes: elementBytes(x!),
    }),
  ],
};

/** `x` placed at `before` along `axis` of a tensor of zeros whose extent there is `total`. */
export function pad(x: Tensor, axis: number, before: number, total: number): Tensor {
  const extent = x.shape[axis];
  if (extent === undefined || before < 0 || before + extent > total) {
    throw new GraphError(
      `pad of axis ${axis} to ${total} from ${before} does not fit the shape ${shapeText(x.shape)}.`,
    );
  }
  expectMovable("pad", x);
  return apply(padOp, { axis, start: before }, [x], withExtent(x.shape, axis, total), x.dtype);
}

const concatOp: Op<{ readonly axis: number }> = {
  name: "concat",
  vjp: ({ inputs: [a, b], attrs: { axis } }, [dy], needs) => {
    const split = a!.shape[axis]!;
    return [
      dy && needs[0] ? slice(dy, axis, 0, split) : undefined,
      dy && needs[1] ? slice(dy, axis, split, split + b!.shape[axis]!) : undefined,
    ];
  },
  lower: ({ inputs: [a, b], outputs: [y], attrs: { axis } }) => [
    concatAxis({ a: a!, b: b!, y: y! }, {
      ...around(a!.shape, axis),
      axisA: a!.shape[axis]!,
      axisB: b!.shape[axis]!,
      bytes: elementBytes(a!),
    }),
  ],
};

/** Joins tensors along `axis`; all other extents agree. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [first, ...rest] = tensors;
  if (!first) throw new GraphError("concat expects at least one tensor.");
  return rest.reduce((a, b) => {
    const fits = axis < a.shape.length && a.dtype === b.dtype &&
      sameShape(withExtent(a.shape, axis, 1), withExtent(b.shape, axis, 1));
    expectShapes(fits, "concat", `shapes that agree but for axis ${axis}`, a, b);
    expectMovable("concat", a);
    return apply(concatOp, { axis }, [a, b], withExtent(a.shape, axis, a.shape[axis]! + b.shape[axis]!), a.dtype);
  }, first);
}

const swapOp: Op<{ readonly axis: number }> = {
  name: "swapAxes",
  vjp: ({ attrs: { axis } }, [dy]) => [dy && swapAxes(dy, axis)],
  lower: ({ inputs: [x], outputs: [y], attrs: { axis } }) => [
    swapKernel({ x: x!, y: y! }, {
      outer: elementCount(x!.shape.slice(0, axis)),
      a: x!.shape[axis]!,
      b: x!.shape[axis + 1]!,
      inner: elementCount(x!.shape.slice(axis + 2)),
      bytes: elementBytes(x!),
    }),
  ],
};

/** `x` with the axes `axis` and `axis` + 1 in each other's place. */
export function swapAxes(x: Tensor, axis: number): Tensor {
  const [a, b] = x.shape.slice(axis, axis + 2);
  if (axis < 0 || a === undefined || b === undefined) {
    throw new GraphError(`swapAxes ${axis} and ${axis + 1} does not fit the shape ${shapeText(x.shape)}.`);
  }
  expectMovable("swapAxes", x);
  return apply(swapOp, { axis }, [x], x.shape.toSpliced(axis, 2, b, a), x.dtype);
}

/** Pointwise ops with broadcasting; the compiler fuses chains of them into one generated kernel. */

import { GraphError } from "../../gpu/errors.ts";
import type { PointwiseFunction } from "../../../kernels/pointwise.ts";
import { apply, type DType, expectFloats, type Op, sameShape, type Shape, shapeText, type Tensor } from "../tensor.ts";
import { reshape } from "./shape.ts";
import { sum } from "./reduce.ts";

/** Attributes of a pointwise node. */
export interface PointwiseAttrs {
  /** What is computed. */
  readonly fn: PointwiseFunction;
  /** Constants of the function (the a and b of a·x + b), passed as uniforms. */
  readonly params: readonly number[];
}

type Vjp = (
  inputs: readonly Tensor[],
  dy: Tensor,
  y: Tensor,
  params: readonly number[],
) => readonly (Tensor | undefined)[];

/** Cotangents before broadcasting is undone; absent entries carry no gradient. */
const VJPS: Record<PointwiseFunction, Vjp> = {
  add: (_, dy) => [dy, dy],
  sub: (_, dy) => [dy, neg(dy)],
  mul: ([a, b], dy) => [mul(dy, b!), mul(dy, a!)],
  div: ([, b], dy, y) => [div(dy, b!), neg(div(mul(dy, y), b!))],
  max: ([a, b], dy) => split(greater(a!, b!), dy),
  min: ([a, b], dy) => split(greater(b!, a!), dy),
  greater: () => [undefined, undefined],
  equal: () => [undefined, undefined],
  where: ([c], dy) => [undefined, ...split(c!, dy)],
  cast: (_, dy) => [dy],
  affine: (_, dy, __, [a]) => [affine(dy, a!, 0)],
  clamp: ([x], dy, y) => [mul(dy, equal(x!, y))],
  exp: (_, dy, y) => [mul(dy, y)],
  log: ([x], dy) => [div(dy, x!)],
  sqrt: (_, dy, y) => [div(affine(dy, 0.5, 0), y)],
  square: ([x], dy) => [mul(dy, affine(x!, 2, 0))],
  abs: ([x], dy) => [mul(dy, sign(x!))],
  sign: () => [undefined],
  step: () => [undefined],
  tanh: (_, dy, y) => [mul(dy, affine(square(y), -1, 1))],
  sigmoid: (_, dy, y) => [mul(dy, mul(y, affine(y, -1, 1)))],
  // d softplus = sigmoid
  softplus: ([x], dy) => [mul(dy, sigmoid(x!))],
  // d silu = s·(1 + x·(1 − s)), s = sigmoid(x)
  silu: ([x], dy) => {
    const s = sigmoid(x!);
    return [mul(dy, mul(s, affine(mul(x!, affine(s, -1, 1)), 1, 1)))];
  },
  relu: ([x], dy) => [mul(dy, step(x!))],
  sin: ([x], dy) => [mul(dy, cos(x!))],
  cos: ([x], dy) => [neg(mul(dy, sin(x!)))],
  isFinite: () => [undefined],
};

/** A cotangent's two halves under a condition of zeros and ones. */
function split(condition: Tensor, dy: Tensor): Tensor[] {
  return [mul(dy, condition), mul(dy, affine(condition, -1, 1))];
}

/** Op of every pointwise node; lowered by the compiler together with its neighbours. */
export const pointwiseOp: Op<PointwiseAttrs> = {
  name: "pointwise",
  vjp: ({ inputs, outputs, attrs }, [dy], needs) => {
    if (!dy) return inputs.map(() => undefined);
    const cotangents = VJPS[attrs.fn](inputs, dy, outputs[0]!, attrs.params);
    return inputs.map((x, i) => {
      const cotangent = cotangents[i];
      return cotangent && needs[i] ? cast(sumTo(cotangent, x.shape), x.dtype) : undefined;
    });
  },
};

/** Sums a broadcast cotangent back to `shape`. */
function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1));
  return reshape(sum(x, axes), shape);
}

/** The shape two tensors broadcast to, by NumPy's rules. */
function broadcastShape(fn: string, tensors: readonly Tensor[]): Shape {
  const rank = Math.max(...tensors.map((t) => t.shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const extents = tensors.map((t) => t.shape[i - rank + t.shape.length] ?? 1);
    const extent = Math.max(...extents);
    if (!extents.every((e) => e === 1 || e === extent)) {
      throw new GraphError(`${fn} cannot broadcast ${tensors.map((t) => shapeText(t.shape)).join(" and ")}.`);
    }
    return extent;
  });
}

/** The result is f16 where all inputs are, else f32. */
function pointwise(fn: PointwiseFunction, inputs: readonly Tensor[], params: readonly number[] = []): Tensor {
  for (const input of inputs) expectFloats(fn, input);
  const dtype = inputs.every((input) => input.dtype === "f16") ? "f16" : "f32";
  return apply(pointwiseOp, { fn, params }, inputs, broadcastShape(fn, inputs), dtype);
}

/** `x` rounded to f16, or f16 data as f32; its gradient is rounded or widened the other way. */
export function cast(x: Tensor, dtype: DType): Tensor {
  expectFloats("cast", x);
  if (dtype !== "f32" && dtype !== "f16") throw new GraphError(`cast gives f32 or f16; ${dtype} was wanted.`);
  return x.dtype === dtype ? x : apply(pointwiseOp, { fn: "cast", params: [] }, [x], x.shape, dtype);
}

/** `x` repeated to `shape` by NumPy's broadcasting rules. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  expectFloats("broadcastTo", x);
  if (sameShape(x.shape, shape)) return x;
  const lead = shape.length - x.shape.length;
  if (lead < 0 || !x.shape.every((extent, i) => extent === 1 || extent === shape[lead + i])) {
    throw new GraphError(`broadcastTo cannot repeat ${shapeText(x.shape)} to ${shapeText(shape)}.`);
  }
  return apply(pointwiseOp, { fn: "affine", params: [1, 0] }, [x], shape, x.dtype);
}

/** a + b */
export const add = (a: Tensor, b: Tensor): Tensor => pointwise("add", [a, b]);
/** a − b */
export const sub = (a: Tensor, b: Tensor): Tensor => pointwise("sub", [a, b]);
/** a · b */
export const mul = (a: Tensor, b: Tensor): Tensor => pointwise("mul", [a, b]);
/** a / b */
export const div = (a: Tensor, b: Tensor): Tensor => pointwise("div", [a, b]);
/** The larger of a and b. */
export const max = (a: Tensor, b: Tensor): Tensor => pointwise("max", [a, b]);
/** The smaller of a and b. */
export const min = (a: Tensor, b: Tensor): Tensor => pointwise("min", [a, b]);
/** 1 where a > b, else 0. */
export const greater = (a: Tensor, b: Tensor): Tensor => pointwise("greater", [a, b]);
/** 1 where a = b, else 0. */
export const equal = (a: Tensor, b: Tensor): Tensor => pointwise("equal", [a, b]);
/** a where the condition is 1, b where it is 0. */
export const where = (condition: Tensor, a: Tensor, b: Tensor): Tensor => pointwise("where", [condition, a, b]);
/** scale · x + shift, with constants. */
export const affine = (x: Tensor, scale: number, shift: number): Tensor => pointwise("affine", [x], [scale, shift]);
/** x limited to [low, high]. */
export const clamp = (x: Tensor, low: number, high: number): Tensor => pointwise("clamp", [x], [low, high]);
/** −x */
export const neg = (x: Tensor): Tensor => affine(x, -1, 0);
/** eˣ */
export const exp = (x: Tensor): Tensor => pointwise("exp", [x]);
/** Natural logarithm. */
export const log = (x: Tensor): Tensor => pointwise("log", [x]);
/** √x */
export const sqrt = (x: Tensor): Tensor => pointwise("sqrt", [x]);
/** x² */
export const square = (x: Tensor): Tensor => pointwise("square", [x]);
/** |x| */
export const abs = (x: Tensor): Tensor => pointwise("abs", [x]);
/** −1, 0 or 1. */
export const sign = (x: Tensor): Tensor => pointwise("sign", [x]);
/** 1 where x > 0, else 0. */
export const step = (x: Tensor): Tensor => pointwise("step", [x]);
/** Hyperbolic tangent. */
export const tanh = (x: Tensor): Tensor => pointwise("tanh", [x]);
/** 1 / (1 + e⁻ˣ) */
export const sigmoid = (x: Tensor): Tensor => pointwise("sigmoid", [x]);
/** log(1 + eˣ), without overflow. */
export const softplus = (x: Tensor): Tensor => pointwise("softplus", [x]);
/** x · sigmoid(x) */
export const silu = (x: Tensor): Tensor => pointwise("silu", [x]);
/** max(x, 0) */
export const relu = (x: Tensor): Tensor => pointwise("relu", [x]);
/** sin x */
export const sin = (x: Tensor): Tensor => pointwise("sin", [x]);
/** cos x */
export const cos = (x: Tensor): Tensor => pointwise("cos", [x]);
/** 1 where x is neither NaN nor infinite, else 0. */
export const isFinite = (x: Tensor): Tensor => pointwise("isFinite", [x], [0]);

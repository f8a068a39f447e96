/** Values of functions of one number that are made of pointwise ops, computed on the host. */

import type { PointwiseFunction } from "../../kernels/pointwise.ts";
import { GraphError } from "../gpu/errors.ts";
import { reachable } from "./gradients.ts";
import { type ConstantAttrs, constantOp, host } from "./ops/leaf.ts";
import { broadcastTo, type PointwiseAttrs, pointwiseOp } from "./ops/pointwise.ts";
import { type Node, shapeText, type Tensor } from "./tensor.ts";

/** The functions in double precision. */
const FUNCTIONS: Readonly<Record<PointwiseFunction, (...args: number[]) => number>> = {
  add: (a, b) => a! + b!,
  sub: (a, b) => a! - b!,
  mul: (a, b) => a! * b!,
  div: (a, b) => a! / b!,
  max: Math.max,
  min: Math.min,
  greater: (a, b) => a! > b! ? 1 : 0,
  equal: (a, b) => a === b ? 1 : 0,
  where: (condition, a, b) => condition === 0 ? b! : a!,
  cast: (x) => x!,
  affine: (x, scale, shift) => x! * scale! + shift!,
  clamp: (x, low, high) => Math.min(high!, Math.max(low!, x!)),
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  square: (x) => x! * x!,
  abs: Math.abs,
  sign: Math.sign,
  step: (x) => x! > 0 ? 1 : 0,
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x!)),
  softplus: (x) => Math.max(x!, 0) + Math.log1p(Math.exp(-Math.abs(x!))),
  silu: (x) => x! / (1 + Math.exp(-x!)),
  relu: (x) => Math.max(x!, 0),
  sin: Math.sin,
  cos: Math.cos,
  isFinite: (x) => Number.isFinite(x) ? 1 : 0,
};

/** Least positive f32 that no adapter takes for 0. */
const LEAST_NORMAL = 2 ** -126;

/** `x` as a device may hold it in f32: rounded, infinite where it is too large, 0 where it is denormal. */
function roundToF32(x: number): number {
  const rounded = Math.fround(x);
  return Math.abs(rounded) < LEAST_NORMAL ? 0 : rounded;
}

/** How a function is computed. */
interface Arithmetic {
  /** The functions of pointwise nodes. */
  readonly functions: typeof FUNCTIONS;
  /** Applied to everything that is computed. */
  readonly round: (x: number) => number;
}

const ARITHMETIC: Readonly<Record<"f64" | "f32", Arithmetic>> = {
  f64: { functions: FUNCTIONS, round: (x) => x },
  f32: {
    functions: {
      ...FUNCTIONS,
      // The kernel's sum with 1 is what loses the digits of small values.
      softplus: (x) => Math.max(x!, 0) + Math.log(Math.fround(1 + Math.exp(-Math.abs(x!)))),
    },
    round: roundToF32,
  },
};

/**
 * `f` as a function of numbers: in double precision, or with everything rounded as on a device.
 *
 * @throws {GraphError} where `f` uses more than pointwise ops, reshaping and constants of one element.
 */
export function scalarFunction(f: (x: Tensor) => Tensor, precision: "f64" | "f32" = "f64"): (x: number) => number {
  // Two elements, always equal: over one, sums would be no ops at all.
  const leaf = host("x", [2]);
  const result = broadcastTo(f(leaf), leaf.shape);
  const nodes = reachable([result]);
  const places = new Map(nodes.map((node, i) => [node, i]));
  const arithmetic = ARITHMETIC[precision];
  const steps = nodes.map((node) => node === leaf.node ? arithmetic.round : step(node, places, arithmetic));
  return (x) => {
    const values: number[] = [];
    for (const compute of steps) values.push(compute(x, values));
    return values[places.get(result.node)!]!;
  };
}

/** Computes a node from the values of those before it. */
function step(
  node: Node,
  places: ReadonlyMap<Node, number>,
  { functions, round }: Arithmetic,
): (x: number, values: readonly number[]) => number {
  const { op, outputs: [output] } = node;
  if (output!.size > (op === constantOp ? 1 : 2)) {
    throw new GraphError(
      `A function of one number holds a tensor ${shapeText(output!.shape)}; its constants should be of one element.`,
    );
  }
  const operands = node.inputs.map((input) => places.get(input.node)!);
  if (op.view) return (_, values) => values[operands[0]!]!;
  if (op === constantOp) {
    const value = round((node.attrs as ConstantAttrs).data[0]!);
    return () => value;
  }
  if (op !== pointwiseOp) {
    throw new GraphError(`A function of one number uses "${op.name}"; it should be of pointwise ops and constants.`);
  }
  const { fn, params } = node.attrs as PointwiseAttrs;
  const compute = functions[fn], constants = params.map(round);
  return (_, values) => round(compute(...operands.map((at) => values[at]!), ...constants));
}

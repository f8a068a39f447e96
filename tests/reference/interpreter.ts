/** Float64 interpreter of the engine's graphs: the reference for ops, their gradients and whole programs. */

import type { AdamShape } from "../../kernels/adam.ts";
import type { AttentionShape } from "../../kernels/attention.ts";
import type { BregmanGradientShape, BregmanShape } from "../../kernels/bregman.ts";
import type { ConvShape } from "../../kernels/conv2d.ts";
import type { EmbeddingShape, FrequencyShape } from "../../kernels/embedding.ts";
import type { GroupNormShape } from "../../kernels/group_norm.ts";
import type { ConvertShape } from "../../kernels/image.ts";
import type { MatmulShape } from "../../kernels/matmul.ts";
import type { PointwiseFunction } from "../../kernels/pointwise.ts";
import type { ReduceShape } from "../../kernels/reduce.ts";
import type { FilterShape } from "../../kernels/resample.ts";
import type { SoftmaxShape } from "../../kernels/softmax.ts";
import { normalArray, shuffledIndex, uniformArray } from "../../src/data/philox.ts";
import {
  type ConstantAttrs,
  elementCount,
  type HostAttrs,
  type HostValues,
  type Node,
  type PointwiseAttrs,
  reachable,
  type Shape,
  type Tensor,
} from "../../src/graph/mod.ts";
import { adamReference } from "./adam.ts";
import { attentionGradReference, attentionReference, packThirds, unpackThirds } from "./attention.ts";
import { bregmanGradientReference, bregmanWeightsReference } from "./bregman.ts";
import {
  conv2dBiasGradReference,
  conv2dInputGradReference,
  conv2dReference,
  conv2dWeightGradReference,
} from "./conv2d.ts";
import { concatReference, padReference, sliceReference, swapReference } from "./copy.ts";
import { embeddingReference, frequencyReference } from "./embedding.ts";
import { groupNormGradReference, groupNormReference } from "./group_norm.ts";
import { fromUint8Reference, gatherImagesReference, toUint8Reference } from "./image.ts";
import { matmulReference } from "./matmul.ts";
import { reduceReference } from "./reduce.ts";
import { filterDownReference, filterUpReference, sumPoolReference, upsampleReference } from "./resample.ts";
import { crossEntropyGradReference, crossEntropyReference, softmaxGradReference, softmaxReference } from "./softmax.ts";

/** Elements of a tensor; u32 data as numbers, packed u8 data as words. */
type Numbers = ArrayLike<number>;

/** Values of leaves: contents of variables, or other values for constants. */
export type LeafValues = ReadonlyMap<Tensor, Numbers>;

/**
 * The values of `tensors`, everything computed in double precision.
 *
 * @param values Run-time values, as for `program.at`.
 * @param leaves Contents of the variables; an entry for a constant replaces its data.
 */
export function interpret<K extends string>(
  tensors: Readonly<Record<K, Tensor>>,
  values: HostValues = {},
  leaves: LeafValues = new Map(),
): Record<K, Float64Array> {
  const known = new Map<Tensor, Numbers>(leaves);
  for (const node of reachable(Object.values(tensors))) {
    if (known.has(node.outputs[0]!)) continue;
    const results = LEAVES.has(node.op.name)
      ? [leafValue(node, values)]
      : opOf(node)(node, node.inputs.map((input) => known.get(input)!));
    node.outputs.forEach((output, i) => known.set(output, results[i]!));
  }
  const entries = Object.entries<Tensor>(tensors).map((
    [name, tensor],
  ) => [name, Float64Array.from(known.get(tensor)!)]);
  return Object.fromEntries(entries);
}

const LEAVES: ReadonlySet<string> = new Set(["constant", "host", "variable"]);

function leafValue(node: Node, values: HostValues): Numbers {
  if (node.op.name === "constant") return (node.attrs as ConstantAttrs).data;
  const { name } = node.attrs as HostAttrs;
  const value = node.op.name === "host" ? values[name] : undefined;
  if (value === undefined) throw new Error(`The interpreter was not given a value for the ${node.op.name} ${name}.`);
  return typeof value === "number" ? [value] : value;
}

type Evaluate = (node: Node, inputs: readonly Numbers[]) => readonly Numbers[];

function opOf(node: Node): Evaluate {
  const op = OPS[node.op.name];
  if (!op) throw new Error(`The interpreter has no op ${node.op.name}.`);
  return op;
}

/** An evaluator whose op has attributes of type A and any number of inputs. */
function op<A>(run: (inputs: Numbers[], attrs: A, node: Node) => readonly Numbers[]): Evaluate {
  return (node, inputs) => run([...inputs], node.attrs as A, node);
}

/** Extents around `axis` of the first input. */
function blocks(node: Node, axis: number): { outer: number; inner: number; extents: number[]; result: number } {
  const shapes = node.inputs.map((input) => input.shape);
  return {
    outer: elementCount(shapes[0]!.slice(0, axis)),
    inner: elementCount(shapes[0]!.slice(axis + 1)),
    extents: shapes.map((shape) => shape[axis]!),
    result: node.outputs[0]!.shape[axis]!,
  };
}

interface AxisAttrs {
  readonly axis: number;
  readonly start: number;
}

type BregmanAttrs = Omit<BregmanShape, "batch"> & { readonly offsets: boolean };

interface DropoutAttrs {
  readonly stream: number;
  readonly offset: number;
  readonly probability: number;
}

/** Planes, height and width of an op's input image. */
function image(node: Node): { planes: number; height: number; width: number } {
  const { shape } = node.inputs[0]!;
  return { planes: elementCount(shape.slice(0, -2)), height: shape.at(-2)!, width: shape.at(-1)! };
}

function random(draw: typeof normalArray): Evaluate {
  return op<{ readonly stream: number; readonly offset: number }>(([seed, step, first], { stream, offset }, node) => {
    const { shape } = node.outputs[0]!;
    const perSample = elementCount(shape.slice(1));
    return [draw([seed![0]!, seed![1]!], step![0]!, first![0]! + offset, shape[0]!, perSample, stream)];
  });
}

const OPS: Readonly<Record<string, Evaluate>> = {
  "reshape": (_, [x]) => [x!],
  "stopGradient": (_, [x]) => [x!],
  "checkpoint": (_, [x]) => [x!],
  "pointwise": op<PointwiseAttrs>((inputs, attrs, node) => [pointwise(inputs, attrs, node)]),
  "slice": op<AxisAttrs>(([x], { axis, start }, node) => {
    const { outer, inner, extents: [extent], result } = blocks(node, axis);
    return [sliceReference(x!, { outer, inner, axis: extent!, start, length: result })];
  }),
  "pad": op<AxisAttrs>(([x], { axis, start }, node) => {
    const { outer, inner, extents: [extent], result } = blocks(node, axis);
    return [padReference(x!, { outer, inner, axis: extent!, before: start, total: result })];
  }),
  "concat": op<AxisAttrs>(([a, b], { axis }, node) => {
    const { outer, inner, extents: [axisA, axisB] } = blocks(node, axis);
    return [concatReference(a!, b!, { outer, inner, axisA: axisA!, axisB: axisB! })];
  }),
  "swapAxes": op<{ readonly axis: number }>(([x], { axis }, node) => {
    const { outer, extents: [a] } = blocks(node, axis);
    const { inner } = blocks(node, axis + 1);
    return [swapReference(x!, { outer, a: a!, b: node.inputs[0]!.shape[axis + 1]!, inner })];
  }),
  "reduce": op<ReduceShape>(([x], s) => [reduceReference(x!, s)]),
  "matmul": op<MatmulShape>(([a, b], s) => [matmulReference(a!, b!, s)]),
  "conv2d": op<ConvShape & { readonly terms: readonly string[] }>(([x, w, ...rest], s) => [
    conv2dReference(x!, w!, Object.fromEntries(s.terms.map((term, i) => [term, rest[i]!])), s),
  ]),
  "conv2d.inputGrad": op<ConvShape>(([dy, w], s) => [conv2dInputGradReference(dy!, w!, s)]),
  "conv2d.weightGrad": op<ConvShape>(([dy, x], s) => [
    conv2dWeightGradReference(dy!, x!, s),
    conv2dBiasGradReference(dy!, s),
  ]),
  "groupNorm": op<GroupNormShape>(([x, gamma, beta, scale, shift], s) => {
    const { y, stats } = groupNormReference(x!, gamma!, beta!, s, scale && shift && { scale, shift });
    return [y, stats];
  }),
  "groupNorm.grad": op<GroupNormShape>(([x, gamma, beta, stats, dy, scale], s) => {
    // The shift is no input: it follows from the offsets at the end of the stats.
    const offset = (i: number) => stats![stats!.length - s.batch * s.channels + i]!;
    const shift = scale && Array.from(scale, (value, i) => offset(i) - beta![i % s.channels]! * (1 + value));
    const modulation = scale && shift && { scale, shift };
    const { dx, dgamma, dbeta, dscale, dshift } = groupNormGradReference(x!, gamma!, beta!, dy!, s, modulation);
    return modulation ? [dx, dgamma, dbeta, dscale, dshift] : [dx, dgamma, dbeta];
  }),
  "attention": op<AttentionShape>((inputs, s) => {
    const [q, k, v] = s.packed ? unpackThirds(inputs[0]!, s) : inputs;
    const { o, lse } = attentionReference(q!, k!, v!, s);
    return [o, lse];
  }),
  "attention.grad": op<AttentionShape>((inputs, s) => {
    const [q, k, v] = s.packed ? unpackThirds(inputs[0]!, s) : inputs;
    const { dq, dk, dv } = attentionGradReference(q!, k!, v!, inputs.at(-1)!, s);
    return s.packed ? [packThirds([dq, dk, dv], s)] : [dq, dk, dv];
  }),
  "softmax": op<SoftmaxShape>(([x], s) => [softmaxReference(x!, s)]),
  "softmax.grad": op<SoftmaxShape>(([y, dy], s) => [softmaxGradReference(y!, dy!, s)]),
  "crossEntropy": op<SoftmaxShape>(([logits, labels], s) => [crossEntropyReference(logits!, labels!, s)]),
  "crossEntropy.grad": op<SoftmaxShape>(([logits, labels, dloss], s) => [
    crossEntropyGradReference(logits!, labels!, dloss!, s),
  ]),
  "upsampleNearest2x": op<{ readonly factor: number }>(([x], s, node) => [
    upsampleReference(x!, { ...image(node), ...s }),
  ]),
  "sumPool2x": op<{ readonly factor: number }>(([x], s, node) => [sumPoolReference(x!, { ...image(node), ...s })]),
  "filterDown2x": op<Pick<FilterShape, "taps" | "margin">>(([x], s, node) => {
    const [height, width] = node.outputs[0]!.shape.slice(-2);
    return [filterDownReference(x!, { planes: image(node).planes, height: height!, width: width!, ...s })];
  }),
  "filterUp2x": op<Pick<FilterShape, "taps" | "margin">>(([x], s, node) => [
    filterUpReference(x!, { ...image(node), ...s }),
  ]),
  "frequencyEmbedding": op<Pick<FrequencyShape, "sinFirst">>(([x, frequencies], s) => [
    frequencyReference(x!, frequencies!, s),
  ]),
  "sinusoidalEmbedding": op<Omit<EmbeddingShape, "batch">>(([x], s) => [
    embeddingReference(x!, { batch: x!.length, ...s }),
  ]),
  "dropout": op<DropoutAttrs>(([x, seed, step, first], { stream, offset, probability }, node) => {
    const { shape } = node.outputs[0]!;
    const perSample = elementCount(shape.slice(1));
    const draws = uniformArray([seed![0]!, seed![1]!], step![0]!, first![0]! + offset, shape[0]!, perSample, stream);
    return [Array.from(x!, (value, i) => draws[i]! >= Math.fround(probability) ? value / (1 - probability) : 0)];
  }),
  "randomNormal": random(normalArray),
  "randomUniform": random(uniformArray),
  "shuffledIndices": op<{ readonly size: number; readonly stream: number }>(([seed, first], { size, stream }, node) => [
    Array.from(
      { length: node.outputs[0]!.size },
      (_, i) => shuffledIndex([seed![0]!, seed![1]!], first![0]! + i, size, stream),
    ),
  ]),
  "gatherImages": op<Omit<ConvertShape, "count">>(([data, indices], s, node) => {
    const count = indices!.length;
    return [gatherImagesReference(data!, indices!, { count, perImage: node.outputs[0]!.size / count, ...s })];
  }),
  "toUint8": op<Omit<ConvertShape, "count">>(([x], s, node) => [
    toUint8Reference(x!, { count: node.outputs[0]!.size, ...s }),
  ]),
  "fromUint8": op<Omit<ConvertShape, "count">>(([x], s, node) => [
    fromUint8Reference(x!, { count: node.outputs[0]!.size, ...s }),
  ]),
  "adamEma": op<Omit<AdamShape, "count">>((inputs, constants) => {
    const [p, m, v, ema, grad, hyper, control] = inputs.map((values) => Array.from(values));
    const state = { p: p!, m: m!, v: v!, ema: ema! };
    const next = adamReference(state, grad!, hyper!, control!, { count: p!.length, ...constants });
    return [next.p, next.m, next.v, next.ema];
  }),
  "accumulate": op<{ readonly share: number }>(([sum, part, keep], { share }) => [
    Array.from(part!, (value, i) => share * value + (keep![0] === 0 ? 0 : sum![i]!)),
  ]),
  "bregmanWeights": op<BregmanAttrs>(([logits, blend, ...more], { offsets, ...settings }) => {
    const { weights, ratios, stats } = bregmanWeightsReference(logits!, blend![0]!, {
      batch: logits!.length,
      ...settings,
    }, { offsets: offsets ? more.shift() : undefined, given: more[0] });
    return [weights, ratios, stats];
  }),
  "bregmanGradient": op<Pick<BregmanGradientShape, "normaliser" | "epsilon">>(([weights, x, fake, teacher], attrs) => {
    const batch = weights!.length;
    const shape = { batch, perSample: x!.length / batch, scale: 1 / batch, ...attrs };
    return [bregmanGradientReference(weights!, x!, fake!, teacher!, shape)];
  }),
};

const FUNCTIONS: Readonly<Record<PointwiseFunction, (...args: number[]) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  greater: (a, b) => Number(a > b),
  equal: (a, b) => Number(a === b),
  where: (condition, a, b) => condition !== 0 ? a : b,
  cast: (x) => x,
  affine: (x, scale, shift) => x * scale + shift,
  clamp: (x, low, high) => Math.min(Math.max(x, low), high),
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  square: (x) => x * x,
  abs: Math.abs,
  sign: Math.sign,
  step: (x) => Number(x > 0),
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  silu: (x) => x / (1 + Math.exp(-x)),
  relu: (x) => Math.max(x, 0),
  sin: Math.sin,
  cos: Math.cos,
  isFinite: (x) => Number(Number.isFinite(x)),
};

function pointwise(inputs: readonly Numbers[], { fn, params }: PointwiseAttrs, node: Node): Float64Array {
  const { shape, size } = node.outputs[0]!;
  const readers = inputs.map((values, i) => broadcastReader(values, node.inputs[i]!.shape, shape));
  const f = FUNCTIONS[fn];
  return Float64Array.from({ length: size }, (_, at) => f(...readers.map((read) => read(at)), ...params));
}

/** Reads `values` of `shape` at a linear index of the shape it is broadcast to. */
function broadcastReader(values: Numbers, shape: Shape, target: Shape): (at: number) => number {
  if (values.length === elementCount(target)) return (at) => values[at]!;
  const strides = target.map((_, axis) => {
    const own = axis - target.length + shape.length;
    return own < 0 || shape[own] === 1 ? 0 : elementCount(shape.slice(own + 1));
  });
  return (at) => {
    let rest = at, index = 0;
    for (let axis = target.length - 1; axis >= 0; axis--) {
      index += (rest % target[axis]!) * strides[axis]!;
      rest = Math.floor(rest / target[axis]!);
    }
    return values[index]!;
  };
}

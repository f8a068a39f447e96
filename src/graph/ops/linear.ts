/** Matrix products and convolutions. */

import { GraphError } from "../../gpu/errors.ts";
import {
  conv2d as conv2dFamily,
  conv2dWeightGrad,
  convolution,
  convOutputSize,
  type ConvShape,
  inputGradient,
} from "../../../kernels/conv2d.ts";
import { matmul as matmulFamily, type MatmulShape } from "../../../kernels/matmul.ts";
import { apply, expectDType, expectFloats, expectShapes, Node, type Op, sameShape, type Tensor } from "../tensor.ts";
import { affine } from "./pointwise.ts";
import { sum } from "./reduce.ts";
import { reshape } from "./shape.ts";

const matmulOp: Op<MatmulShape> = {
  name: "matmul",
  vjp: ({ inputs: [a, b], attrs }, [dy], needs) => {
    if (!dy) return [undefined, undefined];
    const { transposeA: ta, transposeB: tb } = attrs;
    const da = () => ta ? matmul(b!, dy, { transposeA: tb, transposeB: true }) : matmul(dy, b!, { transposeB: !tb });
    const db = () => tb ? matmul(dy, a!, { transposeA: true, transposeB: ta }) : matmul(a!, dy, { transposeA: !ta });
    const shared = (x: Tensor, grad: Tensor) => x.shape.length < grad.shape.length ? sum(grad, [0]) : grad;
    return [needs[0] ? shared(a!, da()) : undefined, needs[1] ? shared(b!, db()) : undefined];
  },
  lower: ({ inputs: [a, b], outputs: [out], attrs }, lowering) =>
    lowering.choices.dispatches(matmulFamily, { a: a!, b: b!, out: out! }, attrs, lowering),
};

/** Which operands of {@linkcode matmul} are transposed. */
export interface MatmulOptions {
  /** `a` is [k, m] instead of [m, k]. */
  readonly transposeA?: boolean;
  /** `b` is [n, k] instead of [k, n]. */
  readonly transposeB?: boolean;
}

/** Matrix product [m, k]·[k, n] → [m, n], or batched [batch, m, k]·[batch, k, n]; a matrix is shared by all batches. */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false } = options;
  expectDType("f32", "matmul", a, b);
  const rankA = a.shape.length, rankB = b.shape.length;
  const matrices = [rankA, rankB].every((rank) => rank === 2 || rank === 3);
  expectShapes(matrices, "matmul", "matrices or batches of matrices", a, b);
  const [rowsA, columnsA] = a.shape.slice(-2) as [number, number];
  const [rowsB, columnsB] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const [kb, n] = transposeB ? [columnsB, rowsB] : [rowsB, columnsB];
  const batchA = rankA === 3 ? a.shape[0]! : 1, batchB = rankB === 3 ? b.shape[0]! : 1;
  const fits = k === kb && (rankA === 2 || rankB === 2 || batchA === batchB);
  expectShapes(fits, "matmul", `equal inner extents and batches (transposed: ${transposeA}, ${transposeB})`, a, b);
  const batch = Math.max(batchA, batchB);
  const broadcastA = rankA === 2, broadcastB = rankB === 2;
  const shape = rankA === 2 && rankB === 2 ? [m, n] : [batch, m, n];
  const attrs: MatmulShape = { batch, m, n, k, transposeA, transposeB, broadcastA, broadcastB };
  return apply(matmulOp, attrs, [a, b], shape);
}

/** What a convolution's inputs are: x and w first, then these, as far as they are given. */
interface ConvAttrs extends ConvShape {
  readonly terms: readonly ("bias" | "shift" | "residual")[];
}

const conv2dOp: Op<ConvAttrs> = {
  name: "conv2d",
  vjp: ({ inputs: [x, w, ...rest], attrs }, [dy], needs) => {
    if (!dy) return [];
    const { terms, ...s } = attrs;
    const biasAt = terms.indexOf("bias");
    const bias = needs[2 + biasAt] ? rest[biasAt] : undefined;
    const needsBias = biasAt >= 0 && bias !== undefined;
    const weightGrad = needs[1] || needsBias
      ? new Node(conv2dWeightGradOp, s, [dy, x!], needsBias ? [w!, bias] : [w!]).outputs
      : [];
    const scaled = () => s.scale === 1 ? dy : affine(dy, s.scale, 0);
    const termGrads = terms.map((term, i) => {
      if (!needs[2 + i]) return undefined;
      if (term === "bias") return weightGrad[1];
      return term === "shift" ? reshape(sum(scaled(), [2, 3]), rest[i]!.shape) : scaled();
    });
    return [
      needs[0] ? apply(conv2dInputGradOp, s, [dy, w!], x!.shape, x!.dtype) : undefined,
      needs[1] ? weightGrad[0] : undefined,
      ...termGrads,
    ];
  },
  lower: ({ inputs: [x, w, ...rest], outputs: [y], attrs }, lowering) => {
    const terms = Object.fromEntries(attrs.terms.map((term, i) => [term, rest[i]]));
    return lowering.choices.dispatches(conv2dFamily, { x: x!, w: w!, y: y!, ...terms }, convolution(attrs), lowering);
  },
};

const conv2dInputGradOp: Op<ConvShape> = {
  name: "conv2d.inputGrad",
  addable: true,
  lower: ({ inputs: [dy, w], outputs: [dx], attrs }, lowering) => {
    const { sum: fused } = lowering;
    const buffers = { x: dy!, w: w!, y: fused?.output ?? dx!, residual: fused?.other };
    return lowering.choices.dispatches(conv2dFamily, buffers, inputGradient(attrs), lowering);
  },
};

const conv2dWeightGradOp: Op<ConvShape> = {
  name: "conv2d.weightGrad",
  lower: ({ inputs: [dy, x], outputs: [dw, db], attrs }, lowering) =>
    lowering.choices.dispatches(conv2dWeightGrad, { dy: dy!, x: x!, dw: dw!, db }, attrs, lowering),
};

/** What {@linkcode conv2d} does beside the product. */
export interface Conv2dOptions {
  /** Step between outputs; 1 when absent. */
  readonly stride?: 1 | 2;
  /** Added to every pixel of a channel: [N, O]. */
  readonly shift?: Tensor;
  /** Added to the result: of its shape. */
  readonly residual?: Tensor;
  /** Factor on the sum of it all; 1 when absent. */
  readonly scale?: number;
}

/**
 * 2-D convolution (cross-correlation, as everywhere in the field), zero padding (kernel − 1)/2:
 * scale · (x ⋆ weight + bias + shift + residual), in one kernel.
 *
 * `x` is [N, C, H, W], `weight` [O, C, k, k] with k 1 or 3, `bias` [O]; stride 1 or 2. x, the residual and the result are
 * of one type, f32 or f16; the others, with their gradients, are f32.
 */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor, options: Conv2dOptions = {}): Tensor {
  const { stride = 1, shift, residual, scale = 1 } = options;
  expectFloats("conv2d", x, ...residual ? [residual] : []);
  expectDType("f32", "conv2d", ...[weight, bias, shift].filter((tensor) => tensor !== undefined));
  const [batch, inChannels, height, width] = x.shape;
  const [outChannels, weightChannels, kernel, kernelX] = weight.shape;
  const fits = x.shape.length === 4 && weight.shape.length === 4 && inChannels === weightChannels && kernel === kernelX;
  expectShapes(fits, "conv2d", "x [N, C, H, W] and weight [O, C, k, k]", x, weight);
  if (kernel !== 1 && kernel !== 3) throw new GraphError(`conv2d has kernels of 1 and 3; got ${kernel}.`);
  const size = [convOutputSize(height!, kernel, stride), convOutputSize(width!, kernel, stride)];
  const shape = [batch!, outChannels!, ...size];
  if (bias) expectShapes(bias.size === outChannels, "conv2d", `a bias [${outChannels}]`, bias);
  if (shift) expectShapes(shift.size === batch! * outChannels!, "conv2d", `a shift [${batch}, ${outChannels}]`, shift);
  if (residual) expectShapes(sameShape(residual.shape, shape), "conv2d", `a residual [${shape}]`, residual);
  const given = Object.entries({ bias, shift, residual }).filter(([, tensor]) => tensor) as [
    ConvAttrs["terms"][number],
    Tensor,
  ][];
  const attrs: ConvAttrs = {
    batch: batch!,
    inChannels: inChannels!,
    outChannels: outChannels!,
    height: height!,
    width: width!,
    kernel,
    stride,
    scale,
    f16: x.dtype === "f16",
    terms: given.map(([term]) => term),
  };
  return apply(conv2dOp, attrs, [x, weight, ...given.map(([, tensor]) => tensor)], shape, x.dtype);
}

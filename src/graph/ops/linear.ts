/** Matrix products and convolutions. */

import { GraphError } from "../../gpu/errors.ts";
import {
  conv2dForward,
  conv2dInputGrad,
  conv2dWeightGrad,
  conv2dWeightGradScratch,
  convOutputSize,
  type ConvShape,
} from "../../../kernels/conv2d.ts";
import { matmul as matmulKernel, type MatmulShape } from "../../../kernels/matmul.ts";
import { apply, expectDType, expectShapes, type Op, type Tensor } from "../tensor.ts";
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
  lower: ({ inputs: [a, b], outputs: [out], attrs }) => [matmulKernel({ a: a!, b: b!, out: out! }, attrs)],
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

const conv2dOp: Op<ConvShape> = {
  name: "conv2d",
  vjp: ({ inputs: [x, w, bias], attrs }, [dy], needs) => {
    if (!dy) return [];
    return [
      needs[0] ? apply(conv2dInputGradOp, attrs, [dy, w!], x!.shape) : undefined,
      needs[1] ? apply(conv2dWeightGradOp, attrs, [dy, x!], w!.shape) : undefined,
      bias && needs[2] ? reshape(sum(dy, [0, 2, 3]), bias.shape) : undefined,
    ];
  },
  lower: ({ inputs: [x, w, bias], outputs: [y], attrs }) => [conv2dForward({ x: x!, w: w!, bias, y: y! }, attrs)],
};

const conv2dInputGradOp: Op<ConvShape> = {
  name: "conv2d.inputGrad",
  lower: ({ inputs: [dy, w], outputs: [dx], attrs }) => [conv2dInputGrad({ dy: dy!, w: w!, dx: dx! }, attrs)],
};

const conv2dWeightGradOp: Op<ConvShape> = {
  name: "conv2d.weightGrad",
  lower: ({ inputs: [dy, x], outputs: [dw], attrs }, scratch) => {
    const elements = conv2dWeightGradScratch(attrs);
    return conv2dWeightGrad({ dy: dy!, x: x!, dw: dw!, scratch: elements > 0 ? scratch(elements) : dw! }, attrs);
  },
};

/**
 * 2-D convolution (cross-correlation, as everywhere in the field), zero padding (kernel − 1)/2.
 *
 * `x` is [N, C, H, W], `weight` [O, C, k, k] with k 1 or 3, `bias` [O]; stride 1 or 2.
 */
export function conv2d(x: Tensor, weight: Tensor, bias?: Tensor, options: { readonly stride?: 1 | 2 } = {}): Tensor {
  const { stride = 1 } = options;
  expectDType("f32", "conv2d", x, weight);
  const [batch, inChannels, height, width] = x.shape;
  const [outChannels, weightChannels, kernel, kernelX] = weight.shape;
  const fits = x.shape.length === 4 && weight.shape.length === 4 && inChannels === weightChannels && kernel === kernelX;
  expectShapes(fits, "conv2d", "x [N, C, H, W] and weight [O, C, k, k]", x, weight);
  if (kernel !== 1 && kernel !== 3) throw new GraphError(`conv2d has kernels of 1 and 3; got ${kernel}.`);
  if (bias) expectShapes(bias.size === outChannels, "conv2d", `a bias [${outChannels}]`, bias);
  const attrs: ConvShape = {
    batch: batch!,
    inChannels: inChannels!,
    outChannels: outChannels!,
    height: height!,
    width: width!,
    kernel,
    stride,
  };
  const size = [convOutputSize(height!, kernel, stride), convOutputSize(width!, kernel, stride)];
  return apply(conv2dOp, attrs, bias ? [x, weight, bias] : [x, weight], [batch!, outChannels!, ...size]);
}

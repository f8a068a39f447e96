/** Group norm, softmax, cross-entropy and attention. */

import { GraphError } from "../../gpu/errors.ts";
import { attention as attentionFamily, attentionGrad, type AttentionShape } from "../../../kernels/attention.ts";
import {
  groupNorm as groupNormFamily,
  groupNormGrad,
  type GroupNormShape,
  groupNormStats,
} from "../../../kernels/group_norm.ts";
import {
  crossEntropy as crossEntropyKernel,
  crossEntropyGrad,
  softmax as softmaxKernel,
  softmaxGrad,
} from "../../../kernels/softmax.ts";
import { apply, elementCount, expectDType, expectFloats, expectShapes, Node, type Op, type Tensor } from "../tensor.ts";
import { reshape } from "./shape.ts";

const groupNormOp: Op<GroupNormShape> = {
  name: "groupNorm",
  vjp: ({ inputs: [x, gamma, beta, scale, shift], outputs: [, stats], attrs }, [dy]) => {
    if (!dy) return [];
    const modulation = scale && shift ? [scale, shift] : [];
    const inputs = [x!, gamma!, beta!, stats!, dy, ...modulation.slice(0, 1)];
    return new Node(groupNormGradOp, attrs, inputs, [x!, gamma!, beta!, ...modulation]).outputs;
  },
  lower: ({ inputs: [x, gamma, beta, scale, shift], outputs: [y, stats], attrs }, lowering) => {
    const buffers = { x: x!, gamma: gamma!, beta: beta!, scale, shift, y: y!, stats: stats! };
    return lowering.choices.dispatches(groupNormFamily, buffers, attrs, lowering);
  },
};

const groupNormGradOp: Op<GroupNormShape> = {
  name: "groupNorm.grad",
  addable: true,
  lower: (
    { inputs: [x, gamma, beta, stats, dy, scale], outputs: [dx, dgamma, dbeta, dscale, dshift], attrs },
    lowering,
  ) => {
    const { sum: fused } = lowering;
    const buffers = {
      ...{ x: x!, gamma: gamma!, beta: beta!, stats: stats!, dy: dy!, scale, residual: fused?.other },
      ...{ dx: fused?.output ?? dx!, dgamma: dgamma!, dbeta: dbeta!, dscale, dshift },
    };
    return lowering.choices.dispatches(groupNormGrad, buffers, attrs, lowering);
  },
};

/** Settings of {@linkcode groupNorm}. */
export interface GroupNormOptions {
  /** Number of groups; divides the channels. */
  readonly groups: number;
  /** Added to the variance. */
  readonly eps: number;
  /** Apply SiLU to the result in the same kernel. */
  readonly silu?: boolean;
  /** With `shift`: each sample's channels are multiplied by 1 + this, [N, C], before the SiLU. */
  readonly scale?: Tensor;
  /** With `scale`: added after it, [N, C]. */
  readonly shift?: Tensor;
}

/**
 * Group normalisation of `x` [N, C, …], f32 or f16, with `gamma`, `beta` [C], then optionally each sample's scale and shift, then
 * optionally SiLU, in one kernel.
 */
export function groupNorm(x: Tensor, gamma: Tensor, beta: Tensor, options: GroupNormOptions): Tensor {
  const { groups, eps, silu = false, scale, shift } = options;
  expectFloats("groupNorm", x);
  expectDType("f32", "groupNorm", gamma, beta);
  const [batch, channels, ...rest] = x.shape;
  if (batch === undefined || channels === undefined || channels % groups !== 0) {
    throw new GraphError(`groupNorm cannot split the shape [${x.shape.join(", ")}] into ${groups} groups.`);
  }
  const fits = gamma.size === channels && beta.size === channels;
  expectShapes(fits, "groupNorm", `gamma and beta [${channels}]`, gamma, beta);
  if (!scale !== !shift) throw new GraphError("groupNorm takes a scale and a shift together; got only one of them.");
  const modulation = scale && shift ? [scale, shift] : [];
  expectDType("f32", "groupNorm", ...modulation);
  const each = modulation.every(({ size }) => size === batch * channels);
  expectShapes(each, "groupNorm", `a scale and a shift [${batch}, ${channels}]`, ...modulation);
  const attrs: GroupNormShape = {
    ...{ batch, channels, groups, size: elementCount(rest), eps, silu },
    f16: x.dtype === "f16",
  };
  const stats = { shape: [groupNormStats(attrs, modulation.length > 0)], dtype: "f32" } as const;
  return new Node(groupNormOp, attrs, [x, gamma, beta, ...modulation], [x, stats]).outputs[0]!;
}

const attentionOp: Op<AttentionShape> = {
  name: "attention",
  vjp: ({ inputs, outputs: [o, lse], attrs }, [dO]) =>
    dO ? new Node(attentionGradOp, attrs, [...inputs, o!, lse!, dO], inputs).outputs : [],
  lower: ({ inputs, outputs: [o, lse], attrs }, lowering) => {
    const [q, k, v] = thirds(inputs, attrs);
    const buffers = { q, k, v, o: o!, lse: lse! };
    return lowering.choices.dispatches(attentionFamily, buffers, attrs, lowering);
  },
};

const attentionGradOp: Op<AttentionShape> = {
  name: "attention.grad",
  lower: ({ inputs, outputs, attrs }, lowering) => {
    const [q, k, v] = thirds(inputs, attrs), [dq, dk, dv] = thirds(outputs, attrs);
    const [o, lse, dO] = inputs.slice(-3);
    const buffers = { q, k, v, o: o!, lse: lse!, dO: dO!, dq, dk, dv };
    return lowering.choices.dispatches(attentionGrad, buffers, attrs, lowering);
  },
};

/** What stands for q, k and v: three tensors, or one thrice. */
function thirds([a, b, c]: readonly Tensor[], { packed }: AttentionShape): [Tensor, Tensor, Tensor] {
  return packed ? [a!, a!, a!] : [a!, b!, c!];
}

/**
 * Scaled dot-product attention softmax(qᵀk / √dim) v, channel-first: `q` [B, dim, queries], `k` and `v` [B, dim, keys]
 * → [B, dim, queries].
 */
export function attention(q: Tensor, k: Tensor, v: Tensor): Tensor {
  expectFloats("attention", q, k, v);
  const [batch, dim, queries] = q.shape;
  const keys = k.shape[2];
  const fits = [q, k, v].every((t) => t.shape.length === 3 && t.shape[0] === batch && t.shape[1] === dim) &&
    v.shape[2] === keys;
  expectShapes(fits, "attention", "q [B, dim, queries], k and v [B, dim, keys]", q, k, v);
  return attend([q, k, v], { batch: batch!, dim: dim!, queries: queries!, keys: keys!, packed: false });
}

/** {@linkcode attention} of the thirds q, k and v of `qkv` [B, 3 dim, tokens] → [B, dim, tokens]. */
export function attentionPacked(qkv: Tensor): Tensor {
  expectFloats("attentionPacked", qkv);
  const [batch, channels, tokens] = qkv.shape;
  const fits = qkv.shape.length === 3 && channels! % 3 === 0;
  expectShapes(fits, "attentionPacked", "qkv [B, 3 dim, tokens]", qkv);
  return attend([qkv], { batch: batch!, dim: channels! / 3, queries: tokens!, keys: tokens!, packed: true });
}

function attend(inputs: readonly Tensor[], shape: Omit<AttentionShape, "scale" | "f16">): Tensor {
  const { batch, dim, queries } = shape;
  const { dtype } = inputs[0]!;
  const o = { shape: [batch, dim, queries], dtype };
  const lse = { shape: [batch, queries], dtype: "f32" } as const;
  return new Node(attentionOp, { ...shape, scale: 1 / Math.sqrt(dim), f16: dtype === "f16" }, inputs, [o, lse])
    .outputs[0]!;
}

interface RowsAttrs {
  readonly rows: number;
  readonly columns: number;
}

const softmaxOp: Op<RowsAttrs> = {
  name: "softmax",
  vjp: ({ outputs: [y], attrs }, [dy]) => [dy && apply(softmaxGradOp, attrs, [y!, dy], y!.shape)],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [softmaxKernel({ x: x!, y: y! }, attrs)],
};

const softmaxGradOp: Op<RowsAttrs> = {
  name: "softmax.grad",
  lower: ({ inputs: [y, dy], outputs: [dx], attrs }) => [softmaxGrad({ y: y!, dy: dy!, dx: dx! }, attrs)],
};

/** Softmax over the last axis. */
export function softmax(x: Tensor): Tensor {
  expectDType("f32", "softmax", x);
  expectShapes(x.shape.length > 0, "softmax", "at least one axis", x);
  const columns = x.shape[x.shape.length - 1]!;
  return apply(softmaxOp, { rows: x.size / columns, columns }, [x], x.shape);
}

const crossEntropyOp: Op<RowsAttrs> = {
  name: "crossEntropy",
  vjp: ({ inputs: [logits, labels], attrs }, [dloss]) => [
    dloss && apply(crossEntropyGradOp, attrs, [logits!, labels!, reshape(dloss, [attrs.rows])], logits!.shape),
    undefined,
  ],
  lower: ({ inputs: [logits, labels], outputs: [loss], attrs }) => [
    crossEntropyKernel({ logits: logits!, labels: labels!, loss: loss! }, attrs),
  ],
};

const crossEntropyGradOp: Op<RowsAttrs> = {
  name: "crossEntropy.grad",
  lower: ({ inputs: [logits, labels, dloss], outputs: [dlogits], attrs }) => [
    crossEntropyGrad({ logits: logits!, labels: labels!, dloss: dloss!, dlogits: dlogits! }, attrs),
  ],
};

/** −log softmax(logits)[label] for each row: `logits` [N, K], `labels` u32 [N] below K → [N]. */
export function crossEntropy(logits: Tensor, labels: Tensor): Tensor {
  expectDType("f32", "crossEntropy", logits);
  expectDType("u32", "crossEntropy", labels);
  const [rows, columns] = logits.shape;
  const fits = logits.shape.length === 2 && labels.shape.length === 1 && labels.shape[0] === rows;
  expectShapes(fits, "crossEntropy", "logits [N, K] and labels [N]", logits, labels);
  return apply(crossEntropyOp, { rows: rows!, columns: columns! }, [logits, labels], [rows!]);
}

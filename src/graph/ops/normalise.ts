/** Group norm, softmax, cross-entropy and attention. */

import { GraphError } from "../../gpu/errors.ts";
import { attentionForward, attentionGrad, type AttentionShape } from "../../../kernels/attention.ts";
import { groupNormForward, groupNormGrad, type GroupNormShape } from "../../../kernels/group_norm.ts";
import {
  crossEntropy as crossEntropyKernel,
  crossEntropyGrad,
  softmax as softmaxKernel,
  softmaxGrad,
} from "../../../kernels/softmax.ts";
import { apply, elementCount, expectDType, expectFloats, expectShapes, Node, type Op, type Tensor } from "../tensor.ts";
import { cast } from "./pointwise.ts";
import { reshape } from "./shape.ts";

const groupNormOp: Op<GroupNormShape> = {
  name: "groupNorm",
  vjp: ({ inputs: [x, gamma, beta], outputs: [, stats], attrs }, [dy]) => {
    if (!dy) return [];
    return new Node(groupNormGradOp, attrs, [x!, gamma!, beta!, stats!, dy], [x!, gamma!, beta!]).outputs;
  },
  lower: ({ inputs: [x, gamma, beta], outputs: [y, stats], attrs }) => [
    groupNormForward({ x: x!, gamma: gamma!, beta: beta!, y: y!, stats: stats! }, attrs),
  ],
};

const groupNormGradOp: Op<GroupNormShape> = {
  name: "groupNorm.grad",
  addable: true,
  lower: ({ inputs: [x, gamma, beta, stats, dy], outputs: [dx, dgamma, dbeta], attrs }, lowering) => {
    const { sum: fused } = lowering;
    return groupNormGrad(
      {
        ...{ x: x!, gamma: gamma!, beta: beta!, stats: stats!, dy: dy!, residual: fused?.other },
        ...{ dx: fused?.output ?? dx!, dgamma: dgamma!, dbeta: dbeta! },
      },
      attrs,
      lowering,
    );
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
}

/** Group normalisation of `x` [N, C, …], f32 or f16, with `gamma`, `beta` f32 [C], then optionally SiLU. */
export function groupNorm(x: Tensor, gamma: Tensor, beta: Tensor, options: GroupNormOptions): Tensor {
  const { groups, eps, silu = false } = options;
  expectFloats("groupNorm", x);
  expectDType("f32", "groupNorm", gamma, beta);
  const [batch, channels, ...rest] = x.shape;
  if (batch === undefined || channels === undefined || channels % groups !== 0) {
    throw new GraphError(`groupNorm cannot split the shape [${x.shape.join(", ")}] into ${groups} groups.`);
  }
  const fits = gamma.size === channels && beta.size === channels;
  expectShapes(fits, "groupNorm", `gamma and beta [${channels}]`, gamma, beta);
  const attrs: GroupNormShape = {
    batch,
    channels,
    groups,
    size: elementCount(rest),
    eps,
    silu,
    f16: x.dtype === "f16",
  };
  const stats = { shape: [batch, groups, 2], dtype: "f32" } as const;
  return new Node(groupNormOp, attrs, [x, gamma, beta], [x, stats]).outputs[0]!;
}

const attentionOp: Op<AttentionShape> = {
  name: "attention",
  vjp: ({ inputs: [q, k, v], outputs: [o, lse], attrs }, [dO]) => {
    if (!dO) return [];
    return new Node(attentionGradOp, attrs, [q!, k!, v!, o!, lse!, dO], [q!, k!, v!]).outputs;
  },
  lower: ({ inputs: [q, k, v], outputs: [o, lse], attrs }) => [
    attentionForward({ q: q!, k: k!, v: v!, o: o!, lse: lse! }, attrs),
  ],
};

const attentionGradOp: Op<AttentionShape> = {
  name: "attention.grad",
  lower: ({ inputs: [q, k, v, o, lse, dO], outputs: [dq, dk, dv], attrs }, { scratch }) => {
    const delta = scratch(attrs.batch * attrs.queries);
    return attentionGrad(
      { q: q!, k: k!, v: v!, o: o!, lse: lse!, dO: dO!, dq: dq!, dk: dk!, dv: dv!, delta },
      attrs,
    );
  },
};

/**
 * Scaled dot-product attention softmax(qᵀk / √dim) v, channel-first: `q` [B, dim, queries], `k` and `v` [B, dim, keys]
 * → [B, dim, queries]. Scores are never stored.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor): Tensor {
  expectFloats("attention", q, k, v);
  if (q.dtype === "f16") return cast(attention(cast(q, "f32"), cast(k, "f32"), cast(v, "f32")), "f16"); // TODO
  const [batch, dim, queries] = q.shape;
  const keys = k.shape[2];
  const fits = [q, k, v].every((t) => t.shape.length === 3 && t.shape[0] === batch && t.shape[1] === dim) &&
    v.shape[2] === keys;
  expectShapes(fits, "attention", "q [B, dim, queries], k and v [B, dim, keys]", q, k, v);
  const attrs: AttentionShape = {
    batch: batch!,
    dim: dim!,
    queries: queries!,
    keys: keys!,
    scale: 1 / Math.sqrt(dim!),
  };
  const lse = { shape: [batch!, queries!], dtype: "f32" } as const;
  return new Node(attentionOp, attrs, [q, k, v], [q, lse]).outputs[0]!;
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

/** Descriptors of attention over channel-first tensors and of its gradients. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import forwardSource from "./attention.wgsl" with { type: "text" };
import deltaSource from "./attention_delta.wgsl" with { type: "text" };
import keySource from "./attention_grad_key.wgsl" with { type: "text" };
import querySource from "./attention_grad_query.wgsl" with { type: "text" };

/** Shape of one attention; several heads are samples of the batch. */
export interface AttentionShape {
  /** Samples times heads. */
  readonly batch: number;
  /** Channels of a query, a key and a value. */
  readonly dim: number;
  /** Queries of a sample. */
  readonly queries: number;
  /** Keys, and values, of a sample. */
  readonly keys: number;
  /** Factor on the scores, as a rule 1 / sqrt(dim). */
  readonly scale: number;
}

/**
 * o = v softmax(scale q^T k)^T, the softmax over the keys (Vaswani et al. 2017, equation 1); the scores never reach
 * memory.
 *
 * q, o [batch, dim, queries]; k, v [batch, dim, keys]; lse [batch, queries] receives the log-sum-exp of the scaled
 * scores for {@linkcode attentionGrad}.
 */
export function attentionForward<B>(b: { q: B; k: B; v: B; o: B; lse: B }, s: AttentionShape): Dispatch<B> {
  return {
    label: "attention",
    ...tiling(forwardSource, s, s.queries),
    reads: [b.q, b.k, b.v],
    writes: [b.o, b.lse],
    flops: 4 * products(s),
    bytes: 4 * s.batch * (s.dim * (2 * s.queries + 2 * s.keys) + s.queries),
  };
}

/**
 * Gradients of {@linkcode attentionForward} from its inputs, its outputs and dO [batch, dim, queries].
 *
 * dq [batch, dim, queries]; dk, dv [batch, dim, keys]; delta [batch, queries] is scratch. The scores are recomputed,
 * once for dq and once for dk and dv (Dao et al. 2022, appendix B).
 */
export function attentionGrad<B>(
  b: { q: B; k: B; v: B; o: B; lse: B; dO: B; dq: B; dk: B; dv: B; delta: B },
  s: AttentionShape,
): Dispatch<B>[] {
  const reads = [b.q, b.k, b.v, b.dO, b.lse, b.delta];
  const delta: Dispatch<B> = {
    label: "attention.delta",
    source: deltaSource,
    uniforms: [s.dim, s.queries, s.batch * s.queries],
    reads: [b.dO, b.o],
    writes: [b.delta],
    workgroups: spread(ceilDiv(s.batch * s.queries, 64)),
    flops: 2 * s.batch * s.dim * s.queries,
    bytes: 4 * s.batch * (2 * s.dim + 1) * s.queries,
  };
  const query: Dispatch<B> = {
    label: "attention.gradQuery",
    ...tiling(querySource, s, s.queries),
    reads,
    writes: [b.dq],
    flops: 6 * products(s),
    bytes: 4 * s.batch * (s.dim * (3 * s.queries + 2 * s.keys) + 2 * s.queries),
  };
  const key: Dispatch<B> = {
    label: "attention.gradKey",
    ...tiling(keySource, s, s.keys),
    reads,
    writes: [b.dk, b.dv],
    flops: 8 * products(s),
    bytes: 4 * s.batch * (s.dim * (2 * s.queries + 4 * s.keys) + 2 * s.queries),
  };
  return [delta, query, key];
}

/** Multiplications of one matrix product in every sample; what later chunks of dim recompute is not counted. */
function products(s: AttentionShape): number {
  return s.batch * s.queries * s.keys * s.dim;
}

/** Source, constants, uniforms and workgroups of a kernel that tiles `tokens` and splits dim. */
function tiling(
  source: string,
  s: AttentionShape,
  tokens: number,
): Pick<Dispatch<never>, "source" | "constants" | "uniforms" | "workgroups"> {
  const SIDE = Math.max(s.queries, s.keys) <= 16 ? 4 : 8;
  let DEPTH = 1;
  while (DEPTH < 4 && 4 * SIDE * DEPTH < s.dim) DEPTH *= 2;
  const STAGE = SIDE * DEPTH > 16 ? 8 : 16; // keeps workgroup memory within 16 KiB
  const tiles = ceilDiv(tokens, 4 * SIDE);
  const chunks = ceilDiv(s.dim, 4 * SIDE * DEPTH);
  const workgroups = s.batch * tiles * chunks;
  const VECTOR = s.queries % 4 === 0 && s.keys % 4 === 0 ? 4 : 1;
  return {
    source: VECTOR === 4 ? source : source.replace("alias Element = vec4<f32>;", "alias Element = f32;"),
    constants: { SIDE, DEPTH, VECTOR, STAGE },
    uniforms: [workgroups, tiles, chunks, s.dim, s.queries, s.keys, new F32(s.scale)],
    workgroups: spread(workgroups),
  };
}

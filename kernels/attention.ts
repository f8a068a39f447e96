/** Families of attention over channel-first tensors and of its gradients. */

import type { Buffers, Family, Lowering, Variant } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, F32, spread, type Word } from "../src/gpu/kernel.ts";
import forwardSource from "./attention.wgsl" with { type: "text" };
import deltaSource from "./attention_delta.wgsl" with { type: "text" };
import keySource from "./attention_grad_key.wgsl" with { type: "text" };
import querySource from "./attention_grad_query.wgsl" with { type: "text" };
import keyRegisterSource from "./attention_grad_register.wgsl" with { type: "text" };
import registerSource from "./attention_register.wgsl" with { type: "text" };
import { matmul, type MatmulShape, type Placement } from "./matmul.ts";

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
  /**
   * q, k and v are the thirds of one tensor [batch, 3 dim, queries], and so are their gradients; then queries = keys, and
   * the one buffer is given under all three names.
   */
  readonly packed: boolean;
  /** True where q, k, v and o, and their gradients, are stored as f16, else f32; lse is f32. */
  readonly f16?: boolean | undefined;
}

type ForwardBuffers<B> = Buffers<B, "q" | "k" | "v" | "o" | "lse">;
type GradBuffers<B> = Buffers<B, "q" | "k" | "v" | "o" | "lse" | "dO" | "dq" | "dk" | "dv">;

/**
 * o = v softmax(scale q^T k)^T, the softmax over the keys (Vaswani et al. 2017, equation 1). The scores never reach
 * memory.
 *
 * q, o [batch, dim, queries]; k, v [batch, dim, keys]; lse [batch, queries] receives the log-sum-exp of the scaled
 * scores for {@linkcode attentionGrad}.
 */
export const attention: Family<AttentionShape, "q" | "k" | "v" | "o" | "lse"> = {
  name: "attention",
  variants: {
    shared: { fits: () => true, dispatches: (b, s) => [forward(b, s, tiling(forwardSource, s, s.queries))] },
    registers2x16: registersVariant(2),
    registers4x16: registersVariant(4),
  },
  key: shapeKey,
  preferred: (s, adapter) => {
    if (adapter === "hardware") return "shared";
    const wanted = s.batch * ceilDiv(s.queries, 16) < FEW_THREADS ? "registers2x16" : "registers4x16";
    return attention.variants[wanted]!.fits(s) ? wanted : "shared";
  },
};

/**
 * Gradients of {@linkcode attention} from its inputs, its outputs and dO [batch, dim, queries]: dq [batch, dim, queries];
 * dk, dv [batch, dim, keys].
 */
export const attentionGrad: Family<AttentionShape, "q" | "k" | "v" | "o" | "lse" | "dO" | "dq" | "dk" | "dv"> = {
  name: "attention.grad",
  variants: {
    shared: { fits: () => true, dispatches: sharedGrad },
    registers2x16: { fits: slopesFit, dispatches: registersGrad },
  },
  key: shapeKey,
  preferred: (s, adapter) => adapter === "software" && slopesFit(s) ? "registers2x16" : "shared",
};

function shapeKey({ batch, dim, queries, keys, packed, f16 }: AttentionShape): string {
  return `${batch} x ${dim} x ${queries}${packed ? " packed" : ` to ${keys}`}${f16 ? " f16" : ""}`;
}

/** Below this many threads of the large register tile, the small one keeps more of the device busy. */
const FEW_THREADS = 64;
/** Threads of a workgroup of the register kernels. */
const GROUP = 8;
/** Keys that a thread of the forward register kernel visits at a time, and queries in that of the gradients. */
const BLOCK = 16;
/** Most elements of a stored matrix of queries and keys: what every adapter can bind, 128 MiB. */
const MAX_SLOPES = 2 ** 25;

/** The sums are kept in memory between blocks of queries, and dq is a matrix product: neither is for f16. */
function slopesFit(s: AttentionShape): boolean {
  return !s.f16 && s.batch * paddedQueries(s) * s.keys <= MAX_SLOPES;
}

/** Rows of a stored matrix of queries and keys: whole blocks of {@linkcode BLOCK}. */
function paddedQueries({ queries }: AttentionShape): number {
  return ceilDiv(queries, BLOCK) * BLOCK;
}

/** Multiply-adds of one matrix product in every sample; what is computed twice is not counted. */
function productSize(s: AttentionShape): number {
  return s.batch * s.queries * s.keys * s.dim;
}

/** Where q, k and v lie in their buffers. */
function placements(s: AttentionShape): { q: Placement; k: Placement; v: Placement } {
  const ofQueries = s.dim * s.queries, ofKeys = s.dim * s.keys;
  if (s.packed) {
    const third = (i: number) => ({ start: i * ofKeys, stride: 3 * ofKeys });
    return { q: third(0), k: third(1), v: third(2) };
  }
  const ofKey = { start: 0, stride: ofKeys };
  return { q: { start: 0, stride: ofQueries }, k: ofKey, v: ofKey };
}

function elementBytes({ f16 }: AttentionShape): number {
  return f16 ? 2 : 4;
}

type Kernel = Pick<Dispatch<never>, "source" | "f16" | "constants" | "uniforms" | "workgroups">;

function forward<B>(b: ForwardBuffers<B>, s: AttentionShape, kernel: Kernel): Dispatch<B> {
  return {
    label: "attention",
    ...kernel,
    reads: [b.q, b.k, b.v],
    writes: [b.o, b.lse],
    flops: 4 * productSize(s),
    bytes: s.batch * (elementBytes(s) * s.dim * (2 * s.queries + 2 * s.keys) + 4 * s.queries),
  };
}

/** Register tiles of `quads` vec4s of queries x BLOCK keys a thread. */
function registersVariant(quads: number): Variant<AttentionShape, "q" | "k" | "v" | "o" | "lse"> {
  return {
    // With a second block of keys the sums of the first would be rounded: they are kept in o.
    fits: (s) => !s.f16 || s.keys <= BLOCK,
    dispatches: (b, s) => [forward(b, s, registers(registerSource, s, s.queries, quads, { KEYS: BLOCK }))],
  };
}

/** The scores are recomputed, once for dq and once for dk and dv (Dao et al. 2022, appendix B). */
function sharedGrad<B>(b: GradBuffers<B>, s: AttentionShape, lowering: Lowering<B>): Dispatch<B>[] {
  const stats = lowering.scratch(2 * s.batch * s.queries);
  const reads = [b.q, b.k, b.v, b.dO, stats];
  return [
    statistics(b, s, stats),
    {
      label: "attention.gradQuery",
      ...tiling(querySource, s, s.queries),
      reads,
      writes: [b.dq],
      flops: 6 * productSize(s),
      bytes: s.batch * (elementBytes(s) * s.dim * (3 * s.queries + 2 * s.keys) + 8 * s.queries),
    },
    {
      label: "attention.gradKey",
      ...tiling(keySource, s, s.keys, { PACKED: s.packed ? 1 : 0 }),
      reads,
      writes: keyGradients(b, s, lowering),
      flops: 8 * productSize(s),
      bytes: s.batch * (elementBytes(s) * s.dim * (2 * s.queries + 4 * s.keys) + 8 * s.queries),
    },
  ];
}

/**
 * dS is stored on the way to dk and dv, which leaves a matrix product for dq: five products, where storing nothing takes
 * seven.
 */
function registersGrad<B>(
  b: GradBuffers<B>,
  s: AttentionShape,
  lowering: Lowering<B>,
): Dispatch<B>[] {
  const stats = lowering.scratch(2 * s.batch * s.queries);
  const ofSlopes = paddedQueries(s) * s.keys;
  const slopes = lowering.scratch(s.batch * ofSlopes);
  const { q, k } = placements(s);
  const product: MatmulShape = {
    ...{ batch: s.batch, m: s.dim, n: s.queries, k: s.keys },
    ...{ transposeA: false, transposeB: true, broadcastA: false, broadcastB: false },
    ...{ placeA: k, placeB: { start: 0, stride: ofSlopes }, placeOut: q },
  };
  return [
    statistics(b, s, stats),
    {
      label: "attention.gradKey",
      ...registers(keyRegisterSource, s, s.keys, 2, { QUERIES: BLOCK, PACKED: s.packed ? 1 : 0 }),
      reads: [b.q, b.k, b.v, b.dO, stats],
      writes: [slopes, ...keyGradients(b, s, lowering)],
      flops: 8 * productSize(s),
      bytes: 4 * s.batch * (s.dim * (2 * s.queries + 4 * s.keys) + s.queries * (2 + s.keys)),
    },
    // Software adapters alone prefer this variant.
    ...matmul.variants[matmul.preferred(product, "software")]!.dispatches(
      { a: b.k, b: slopes, out: b.dq },
      product,
      lowering,
    ),
  ];
}

/** The buffers of dk and dv: WebGPU forbids two writable bindings of one buffer, so a packed dv has none of its own. */
function keyGradients<B>(b: GradBuffers<B>, s: AttentionShape, lowering: Lowering<B>): [B, B] {
  return [b.dk, s.packed ? lowering.scratch(4) : b.dv];
}

/** What both gradient kernels need of every query: its log-sum-exp, and delta = sum over dim of dO o. */
function statistics<B>(b: GradBuffers<B>, s: AttentionShape, stats: B): Dispatch<B> {
  return {
    label: "attention.delta",
    source: deltaSource,
    ...s.f16 && { f16: ["Scalar"] },
    uniforms: [s.dim, s.queries, s.batch * s.queries],
    reads: [b.dO, b.o, b.lse],
    writes: [stats],
    workgroups: spread(ceilDiv(s.batch * s.queries, 64)),
    flops: 2 * s.batch * s.dim * s.queries,
    bytes: s.batch * (elementBytes(s) * 2 * s.dim + 12) * s.queries,
  };
}

/** A kernel whose workgroups share tiles of `tokens`, and split dim. */
function tiling(
  source: string,
  s: AttentionShape,
  tokens: number,
  constants: Readonly<Record<string, number>> = {},
): Kernel {
  const SIDE = Math.max(s.queries, s.keys) <= 16 ? 4 : 8;
  let DEPTH = 1;
  while (DEPTH < 4 && 4 * SIDE * DEPTH < s.dim) DEPTH *= 2;
  const STAGE = SIDE * DEPTH > 16 ? 8 : 16; // keeps workgroup memory within 16 KiB
  const tiles = ceilDiv(tokens, 4 * SIDE);
  const chunks = ceilDiv(s.dim, 4 * SIDE * DEPTH);
  const workgroups = s.batch * tiles * chunks;
  const whole = inQuads(s);
  return {
    source: inElements(source, whole),
    ...s.f16 && { f16: ["Element", "Quad", "Scalar"] },
    constants: { SIDE, DEPTH, VECTOR: whole ? 4 : 1, STAGE, ...constants },
    uniforms: [workgroups, tiles, chunks, ...extents(s)],
    workgroups: spread(workgroups),
  };
}

/** A kernel whose threads hold `quads` vec4s of `tokens` each. */
function registers(
  source: string,
  s: AttentionShape,
  tokens: number,
  QUADS: number,
  constants: Readonly<Record<string, number>>,
): Kernel {
  const tiles = ceilDiv(tokens, 4 * QUADS);
  const whole = inQuads(s);
  return {
    source: inElements(source, whole),
    ...s.f16 && { f16: ["Stored", "Quad"] },
    constants: { VECTOR: whole ? 4 : 1, QUADS, ...constants },
    uniforms: [s.batch * tiles, tiles, ...extents(s)],
    workgroups: spread(ceilDiv(s.batch * tiles, GROUP)),
  };
}

/** The uniforms that all tiled kernels end with. */
function extents(s: AttentionShape): Word[] {
  const { q, k, v } = placements(s);
  return [s.dim, s.queries, s.keys, q.stride, k.stride, k.start, v.start, new F32(s.scale)];
}

/** True where the tokens of a row are whole vec4s. */
function inQuads(s: AttentionShape): boolean {
  return s.queries % 4 === 0 && s.keys % 4 === 0;
}

/** The kernel for vec4s, or for scalars. */
function inElements(source: string, vectors: boolean): string {
  if (vectors) return source;
  return source.replace(/^alias (Element|Stored) = vec4<f32>;/gm, "alias $1 = f32;")
    .replace("return values;", "return values[i];");
}

/** Descriptor of the sinusoidal embedding of one scalar per sample. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import source from "./embedding.wgsl" with { type: "text" };

/** Shape and convention of an embedding. */
export interface EmbeddingShape {
  /** Number of scalars. */
  readonly batch: number;
  /** Length of each embedding; even. */
  readonly channels: number;
  /** The lowest frequency is 1 / maxPositions (reached with `endpoint`, approached without). */
  readonly maxPositions: number;
  /** Whether the lowest frequency is reached: the exponent's divisor is channels / 2 - 1 instead of channels / 2. */
  readonly endpoint: boolean;
  /** Whether the sines come before the cosines. */
  readonly sinFirst: boolean;
  /** Whether d/dx of the embedding is computed instead. */
  readonly derivative: boolean;
}

/**
 * y [batch, channels] = [cos(x f) | sin(x f)] of x [batch], f_i = (1 / maxPositions)^(i / (channels/2 - endpoint)), as
 * EDM's PositionalEmbedding; with `derivative` d/dx of it.
 */
export function sinusoidalEmbedding<B>(b: { x: B; y: B }, s: EmbeddingShape): Dispatch<B> {
  const half = s.channels / 2;
  const divisor = Math.max(1, half - (s.endpoint ? 1 : 0));
  return {
    label: s.derivative ? "embedding.derivative" : "embedding",
    source,
    constants: { SIN_FIRST: Number(s.sinFirst), DERIVATIVE: Number(s.derivative) },
    uniforms: [half, s.batch * half, new F32(Math.log2(s.maxPositions) / divisor)],
    reads: [b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(s.batch * half, 64)),
    flops: 32 * s.batch * half,
    bytes: 4 * s.batch * (1 + s.channels),
  };
}

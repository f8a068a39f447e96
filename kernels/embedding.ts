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

/** Shape of an embedding by given frequencies. */
export interface FrequencyShape {
  /** Number of scalars. */
  readonly batch: number;
  /** Number of frequencies: half the length of each embedding. */
  readonly half: number;
  /** Whether the sines come before the cosines. */
  readonly sinFirst: boolean;
}

/**
 * y [batch, channels] = [cos(x f) | sin(x f)] of x [batch], f_i = (1 / maxPositions)^(i / (channels/2 - endpoint)), as
 * EDM's PositionalEmbedding; with `derivative` d/dx of it.
 */
export function sinusoidalEmbedding<B>(b: { x: B; y: B }, s: EmbeddingShape): Dispatch<B> {
  const half = s.channels / 2;
  const divisor = Math.max(1, half - (s.endpoint ? 1 : 0));
  const constants = { SIN_FIRST: Number(s.sinFirst), DERIVATIVE: Number(s.derivative), TABLE: 0 };
  const step = Math.log2(s.maxPositions) / divisor;
  return embedding(
    s.derivative ? "embedding.derivative" : "embedding",
    [b.x, b.x],
    b.y,
    s.batch,
    half,
    step,
    constants,
  );
}

/** y [batch, 2 half] = [cos(x f) | sin(x f)] of x [batch] for the frequencies f [half], which count in radians. */
export function frequencyEmbedding<B>(b: { x: B; frequencies: B; y: B }, s: FrequencyShape): Dispatch<B> {
  const constants = { SIN_FIRST: Number(s.sinFirst), DERIVATIVE: 0, TABLE: 1 };
  return embedding("embedding.frequencies", [b.x, b.frequencies], b.y, s.batch, s.half, 0, constants);
}

function embedding<B>(
  label: string,
  reads: readonly B[],
  y: B,
  batch: number,
  half: number,
  step: number,
  constants: Readonly<Record<string, number>>,
): Dispatch<B> {
  return {
    label,
    source,
    constants,
    uniforms: [half, batch * half, new F32(step)],
    reads,
    writes: [y],
    workgroups: spread(ceilDiv(batch * half, 64)),
    flops: 32 * batch * half,
    bytes: 4 * batch * (1 + 2 * half),
  };
}

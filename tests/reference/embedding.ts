/** Float64 references of the sinusoidal embeddings. */

import type { EmbeddingShape, FrequencyShape } from "../../kernels/embedding.ts";

/** y [batch, channels] of x [batch]; with `derivative` d/dx of it. */
export function embeddingReference(x: ArrayLike<number>, s: EmbeddingShape): number[] {
  const half = s.channels / 2;
  const divisor = half - (s.endpoint ? 1 : 0);
  const frequencies = Array.from({ length: half }, (_, i) => i === 0 ? 1 : (1 / s.maxPositions) ** (i / divisor));
  return Array.from({ length: s.batch }, (_, n) => {
    const angles = frequencies.map((f) => x[n]! * f);
    const cosines = angles.map((a, i) => s.derivative ? -frequencies[i]! * Math.sin(a) : Math.cos(a));
    const sines = angles.map((a, i) => s.derivative ? frequencies[i]! * Math.cos(a) : Math.sin(a));
    return s.sinFirst ? [...sines, ...cosines] : [...cosines, ...sines];
  }).flat();
}

/** y [batch, 2 half] of x [batch] and frequencies [half]. */
export function frequencyReference(
  x: ArrayLike<number>,
  frequencies: ArrayLike<number>,
  { sinFirst }: Pick<FrequencyShape, "sinFirst">,
): number[] {
  return Array.from(x, (value) => {
    const angles = Array.from(frequencies, (frequency) => value * frequency);
    const [cosines, sines] = [angles.map(Math.cos), angles.map(Math.sin)];
    return sinFirst ? [...sines, ...cosines] : [...cosines, ...sines];
  }).flat();
}

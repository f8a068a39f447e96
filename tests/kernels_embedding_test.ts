/** Tests of the sinusoidal embeddings against the float64 references. */

import { assert } from "@std/assert";
import { type EmbeddingShape, frequencyEmbedding, sinusoidalEmbedding } from "../kernels/embedding.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { embeddingReference, frequencyReference } from "./reference/embedding.ts";

const XY = { x: "x", y: "y" } as const;
const EDM = { channels: 64, maxPositions: 10000, endpoint: true, sinFirst: true, derivative: false };
const SHAPES: EmbeddingShape[] = [
  { ...EDM, batch: 1 },
  { ...EDM, batch: 67 },
  { ...EDM, batch: 5, channels: 2, endpoint: false },
  { ...EDM, batch: 5, channels: 2 },
  { ...EDM, batch: 9, channels: 30, endpoint: false, sinFirst: false },
];

for (const shape of SHAPES) {
  for (const derivative of [false, true]) {
    const s = { ...shape, derivative };
    for (const range of [2, 1000]) {
      // Rounding x f costs |x f| 2^-24, but f_0 = 1, the only frequency of two channels, is exact.
      const tolerance = s.channels === 2 ? 1e-7 : 1e-7 * Math.max(3, range);
      gpuTest(`embedding: ${JSON.stringify(s)}, |x| up to about ${range}`, async (gpu) => {
        const x = randomArray(s.batch, 1).map((value) => value * range);
        const y = new Float32Array(s.batch * s.channels);
        const result = await runDispatches(gpu, [sinusoidalEmbedding(XY, s)], { x, y });
        const error = relativeError(result.y, embeddingReference(x, s));
        assert(error < tolerance, `y is off by ${error}`);
      });
    }
  }
}

for (const [batch, half] of [[1, 1], [5, 13], [67, 32]] as const) {
  for (const sinFirst of [false, true]) {
    gpuTest(`embedding: ${half} frequencies of ${batch}, sines first: ${sinFirst}`, async (gpu) => {
      // Normal times 100, as the Fourier embedding's: angles of several hundred.
      const frequencies = randomArray(half, 1).map((value) => 100 * value), x = randomArray(batch, 2);
      const dispatch = frequencyEmbedding({ x: "x", frequencies: "frequencies", y: "y" } as const, {
        batch,
        half,
        sinFirst,
      });
      const { y } = await runDispatches(gpu, [dispatch], { x, frequencies, y: new Float32Array(2 * batch * half) });
      const error = relativeError(y, frequencyReference(x, frequencies, { sinFirst }));
      assert(error < 3e-5, `y is off by ${error}`);
    });
  }
}

Deno.test("embedding: the reference's derivative agrees with central differences", () => {
  const s: EmbeddingShape = { ...EDM, batch: 3, channels: 12 };
  const x = [-1.2, 0.3, 7.5], h = 1e-5;
  const [above, below] = [h, -h].map((step) => embeddingReference(x.map((value) => value + step), s));
  const differences = above!.map((value, i) => (value - below![i]!) / (2 * h));
  const error = relativeError(embeddingReference(x, { ...s, derivative: true }), differences);
  assert(error < 1e-9, `the derivative is off by ${error}`);
});

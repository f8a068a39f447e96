/** Times the sinusoidal embeddings. */

import { frequencyEmbedding, sinusoidalEmbedding } from "../kernels/embedding.ts";
import { benchDispatch } from "./harness.ts";

for (const [batch, channels] of [[64, 32], [512, 128]] as const) {
  const s = { batch, channels, maxPositions: 10000, endpoint: true, sinFirst: true, derivative: false };
  const dispatch = sinusoidalEmbedding({ x: "x", y: "y" } as const, s);
  benchDispatch("embedding", `[${batch}, ${channels}]`, [dispatch], { x: batch, y: batch * channels });
  const half = channels / 2;
  const given = frequencyEmbedding({ x: "x", frequencies: "f", y: "y" } as const, { batch, half, sinFirst: true });
  benchDispatch("embedding", `[${batch}, ${channels}] by frequencies`, [given], {
    x: batch,
    f: half,
    y: batch * channels,
  });
}

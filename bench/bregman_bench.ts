/** Times the Bregman weighting and the gradient at the generator's output. */

import { bregmanGradient, bregmanWeights } from "../kernels/bregman.ts";
import { benchDispatch } from "./harness.ts";

for (const [batch, perSample] of [[64, 64], [512, 3072]] as const) {
  const settings = { batch, lambda: 0, temperature: 1, logitClamp: 10, ratioMin: 0.05, ratioMax: 10, normalise: true };
  const buffers = { logits: "logits", blend: "blend", weights: "weights", ratios: "ratios", stats: "stats" } as const;
  const vectors = { logits: batch, blend: 1, weights: batch, ratios: batch, stats: 6 };
  const known = bregmanWeights(buffers, { ...settings, kind: "jeffreys" });
  benchDispatch("bregman", `weights [${batch}]`, [known], vectors);
  const more = { offsets: "offsets", given: "given" } as const;
  const given = bregmanWeights({ ...buffers, ...more }, { ...settings, kind: "given" });
  benchDispatch("bregman", `given weights with offsets [${batch}]`, [given], {
    ...vectors,
    offsets: batch,
    given: batch,
  });
  const gradient = bregmanGradient(
    { weights: "weights", x: "x", fake: "fake", teacher: "teacher", g: "g" },
    { batch, perSample, normaliser: true, epsilon: 1e-5, scale: 1 },
  );
  const count = batch * perSample;
  const images = { weights: batch, x: count, fake: count, teacher: count, g: count };
  benchDispatch("bregman", `gradient [${batch}, ${perSample}]`, [gradient], images);
}

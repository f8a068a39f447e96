/** Times the random numbers. */

import { randomNormal, randomUniform, shuffledIndices } from "../kernels/random.ts";
import { benchDispatch } from "./harness.ts";

const buffers = { seed: "seed", step: "step", first: "first", y: "y" } as const;
for (const [batch, perSample] of [[64, 64], [128, 3072]] as const) {
  const s = { batch, perSample, stream: 0 };
  const sizes = { seed: 2, step: 1, first: 1, y: batch * perSample };
  benchDispatch("random", `uniform [${batch}, ${perSample}]`, [randomUniform(buffers, s)], sizes);
  benchDispatch("random", `normal [${batch}, ${perSample}]`, [randomNormal(buffers, s)], sizes);
}
for (const [count, size] of [[64, 1797], [512, 50_000]] as const) {
  const dispatch = shuffledIndices(buffers, { count, size, stream: 0 });
  benchDispatch("random", `${count} shuffled of ${size}`, [dispatch], { seed: 2, first: 1, y: count });
}

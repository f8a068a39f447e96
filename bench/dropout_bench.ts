/** Times dropout. */

import { dropout } from "../kernels/dropout.ts";
import { benchDispatch } from "./harness.ts";

const buffers = { seed: "seed", step: "step", first: "first", x: "x", y: "y" } as const;
for (const [batch, perSample] of [[64, 64 * 64], [16, 128 * 1024]] as const) {
  const s = { batch, perSample, stream: 0, probability: 0.13 };
  const sizes = { seed: 2, step: 1, first: 1, x: batch * perSample, y: batch * perSample };
  benchDispatch("dropout", `[${batch}, ${perSample}]`, [dropout(buffers, s)], sizes);
}

/** Times the optimiser's step. */

import { adamEma } from "../kernels/adam.ts";
import { benchDispatch } from "./harness.ts";

const buffers = {
  ...{ grad: "grad", hyper: "hyper", control: "control" },
  ...{ p: "p", m: "m", v: "v", ema: "ema" },
} as const;
for (const count of [148_096, 585_088, 4_000_001, 8_000_000]) {
  const dispatch = adamEma(buffers, { count, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 });
  const sizes = { grad: count, hyper: 4, control: 2, p: count, m: count, v: count, ema: count };
  benchDispatch("adam", `${count} parameters`, [dispatch], sizes);
}

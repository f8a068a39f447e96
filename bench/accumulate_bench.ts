/** Times the running sum of gradients. */

import { accumulate } from "../kernels/accumulate.ts";
import { benchDispatch } from "./harness.ts";

for (const count of [148_096, 4_000_001, 8_000_000]) {
  const dispatch = accumulate({ part: "part", keep: "keep", sum: "sum" }, { count, share: 0.25 });
  benchDispatch("accumulate", `${count} parameters`, [dispatch], { part: count, keep: 1, sum: count });
}

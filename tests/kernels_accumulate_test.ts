/** Tests of the running sum. */

import { assert } from "@std/assert";
import { accumulate } from "../kernels/accumulate.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";

gpuTest("accumulate: adds, or starts anew whatever the sum held", async (gpu) => {
  for (const count of [1, 64, 67, 70_000]) {
    const part = randomArray(count, 1), sum = randomArray(count, 2);
    const dispatch = accumulate<"part" | "keep" | "sum">({ part: "part", keep: "keep", sum: "sum" }, {
      count,
      share: 0.3,
    });
    const run = async (keep: number, sum: Float32Array) => {
      const data = { part, keep: new Float32Array([keep]), sum };
      return (await runDispatches<keyof typeof data>(gpu, [dispatch], data)).sum;
    };
    const share = Array.from(part, (value) => 0.3 * value);
    assert(relativeError(await run(1, sum), share.map((value, i) => value + sum[i]!)) < 1e-6);
    assert(relativeError(await run(0, new Float32Array(count).fill(NaN)), share) < 1e-6);
  }
});

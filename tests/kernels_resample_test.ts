/** Tests of upsampling and pooling against the float64 references. */

import { assert } from "@std/assert";
import { type ResampleShape, sumPool2x, upsampleNearest2x } from "../kernels/resample.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { sumPoolReference, upsampleReference } from "./reference/resample.ts";

type Name = "small" | "upsampled" | "big" | "pooled";

const SMALL: ResampleShape[] = [
  { planes: 1, height: 1, width: 1, factor: 1 },
  { planes: 3, height: 5, width: 7, factor: 0.25 },
  { planes: 130, height: 4, width: 4, factor: -2 },
  { planes: 2, height: 33, width: 1, factor: 1 },
];

for (const s of SMALL) {
  const { planes, height, width } = s;
  const count = planes * height * width;
  gpuTest(`resample: ${planes}x${height}x${width}`, async (gpu) => {
    const large = { ...s, height: 2 * height, width: 2 * width };
    const [small, big] = [randomArray(count, 1), randomArray(4 * count, 2)];
    const result = await runDispatches(gpu, [
      upsampleNearest2x<Name>({ x: "small", y: "upsampled" }, s),
      sumPool2x<Name>({ x: "big", y: "pooled" }, large),
    ], { small, big, upsampled: new Float32Array(4 * count), pooled: new Float32Array(count) });
    const upError = relativeError(result.upsampled, upsampleReference(small, s));
    const poolError = relativeError(result.pooled, sumPoolReference(big, large));
    assert(upError < 1e-7 && poolError < 1e-6, `upsampled is off by ${upError}, pooled by ${poolError}`);
  });
}

Deno.test("resample: in the reference each is the other's transpose", () => {
  const s: ResampleShape = { planes: 3, height: 5, width: 7, factor: 0.3 };
  const [x, dy] = [randomArray(105, 1), randomArray(420, 2)];
  const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((sum, v, i) => sum + v * b[i]!, 0);
  const forward = dot(upsampleReference(x, s), dy);
  const backward = dot(x, sumPoolReference(dy, { ...s, height: 10, width: 14 }));
  assert(Math.abs(forward - backward) < 1e-12 * Math.abs(forward), `${forward} is not ${backward}`);
});

/** Tests of upsampling, pooling and filters against the float64 references. */

import { assert } from "@std/assert";
import {
  filterDown2x,
  type FilterShape,
  filterUp2x,
  type ResampleShape,
  sumPool2x,
  upsampleNearest2x,
} from "../kernels/resample.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import {
  filterDownReference,
  filterUpReference,
  largeSize,
  sumPoolReference,
  upsampleReference,
} from "./reference/resample.ts";

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((sum, v, i) => sum + v * b[i]!, 0);

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
  const forward = dot(upsampleReference(x, s), dy);
  const backward = dot(x, sumPoolReference(dy, { ...s, height: 10, width: 14 }));
  assert(Math.abs(forward - backward) < 1e-12 * Math.abs(forward), `${forward} is not ${backward}`);
});

const TAPS = [0.3, 1.1, -0.7, 0.2] as const;
const FILTERS: FilterShape[] = [
  { planes: 1, height: 1, width: 1, taps: TAPS, margin: 1 },
  { planes: 1, height: 1, width: 1, taps: TAPS, margin: 0 },
  { planes: 3, height: 5, width: 7, taps: TAPS, margin: 1 },
  { planes: 3, height: 5, width: 7, taps: TAPS, margin: 0 },
  { planes: 66, height: 4, width: 8, taps: [0.125, 0.375, 0.375, 0.125], margin: 1 },
  { planes: 2, height: 1, width: 33, taps: TAPS, margin: 0 },
];

for (const s of FILTERS) {
  const { planes, height, width, margin } = s;
  gpuTest(`resample: filter ${planes}x${height}x${width}, margin ${margin}`, async (gpu) => {
    const { rows, columns } = largeSize(s);
    const [small, big] = [randomArray(planes * height * width, 1), randomArray(planes * rows * columns, 2)];
    const result = await runDispatches(gpu, [
      filterUp2x<Name>({ x: "small", y: "upsampled" }, s),
      filterDown2x<Name>({ x: "big", y: "pooled" }, s),
    ], { small, big, upsampled: new Float32Array(big.length), pooled: new Float32Array(small.length) });
    const upError = relativeError(result.upsampled, filterUpReference(small, s));
    const downError = relativeError(result.pooled, filterDownReference(big, s));
    assert(upError < 1e-6 && downError < 1e-6, `up is off by ${upError}, down by ${downError}`);
  });
}

Deno.test("resample: in the reference, filtering up is the transpose of filtering down", () => {
  for (const s of FILTERS) {
    const { rows, columns } = largeSize(s);
    const [x, dy] = [randomArray(s.planes * rows * columns, 1), randomArray(s.planes * s.height * s.width, 2)];
    const forward = dot(filterDownReference(x, s), dy), backward = dot(x, filterUpReference(dy, s));
    assert(Math.abs(forward - backward) < 1e-11 * (1 + Math.abs(forward)), `${forward} is not ${backward}`);
  }
});

/** Times upsampling, pooling and filters. */

import { filterDown2x, filterUp2x, sumPool2x, upsampleNearest2x } from "../kernels/resample.ts";
import { benchDispatch } from "./harness.ts";

for (const [planes, size] of [[64 * 64, 4], [128 * 128, 16]] as const) {
  const small = planes * size * size;
  const up = { planes, height: size, width: size, factor: 1 };
  const down = { planes, height: 2 * size, width: 2 * size, factor: 0.25 };
  const buffers = { x: "x", y: "y" } as const;
  const name = `${planes} planes, ${size}x${size}`;
  benchDispatch("resample", `upsample ${name}`, [upsampleNearest2x(buffers, up)], { x: small, y: 4 * small });
  benchDispatch("resample", `sum pool to ${name}`, [sumPool2x(buffers, down)], { x: 4 * small, y: small });
  const filter = { planes, height: size, width: size, taps: [0.125, 0.375, 0.375, 0.125], margin: 1 } as const;
  benchDispatch("resample", `filter up ${name}`, [filterUp2x(buffers, filter)], { x: small, y: 4 * small });
  benchDispatch("resample", `filter down to ${name}`, [filterDown2x(buffers, filter)], { x: 4 * small, y: small });
}

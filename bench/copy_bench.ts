/** Times slicing, padding and concatenation of channels, and swaps of axes. */

import { concatAxis, padAxis, sliceAxis, swapAxes } from "../kernels/copy.ts";
import { benchDispatch } from "./harness.ts";

for (const [outer, axis, inner] of [[64, 64, 64], [128, 128, 1024], [4096, 65, 1]] as const) {
  const count = outer * axis * inner;
  const buffers = { a: "a", b: "b", y: "y" } as const;
  const sizes = { a: count, b: count, y: 2 * count };
  const name = `[${outer}, ${axis}, ${inner}]`;
  const concat = concatAxis(buffers, { outer, axisA: axis, axisB: axis, inner });
  benchDispatch("copy", `concat two ${name}`, [concat], sizes);
  const slice = sliceAxis({ x: "x", y: "y" } as const, { outer, axis: 2 * axis, inner, start: axis, length: axis });
  benchDispatch("copy", `slice half to ${name}`, [slice], { x: 2 * count, y: count });
  const pad = padAxis({ x: "x", y: "y" } as const, { outer, axis, inner, before: axis, total: 2 * axis });
  benchDispatch("copy", `pad double ${name}`, [pad], { x: count, y: 2 * count });
  const swap = swapAxes({ x: "x", y: "y" } as const, { outer, a: axis, b: inner, inner: 1 });
  benchDispatch("copy", `swap ${name}`, [swap], { x: count, y: count });
}

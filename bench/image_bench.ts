/** Times the conversions between bytes and floats. */

import { fromUint8, gatherImages, toUint8 } from "../kernels/image.ts";
import { benchDispatch } from "./harness.ts";

for (const [images, count, perImage] of [[1797, 64, 64], [5000, 512, 3072]] as const) {
  const elements = count * perImage;
  const s = { count: elements, scale: 1 / 127.5, shift: -1 };
  const gather = gatherImages({ data: "data", indices: "indices", y: "y" }, { ...s, count, perImage });
  const data = Math.ceil(images * perImage / 4);
  benchDispatch("image", `gather ${count}x${perImage}`, [gather], { data, indices: count, y: elements });
  const from = fromUint8({ x: "x", y: "y" } as const, s);
  benchDispatch("image", `from bytes ${elements}`, [from], { x: elements / 4, y: elements });
  const to = toUint8({ x: "x", y: "y" } as const, s);
  benchDispatch("image", `to bytes ${elements}`, [to], { x: elements, y: elements / 4 });
}

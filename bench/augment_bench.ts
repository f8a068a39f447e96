/** Times EDM's augmentation. */

import { augment, AUGMENT_DRAWS, AUGMENT_LABELS, augmentScratch } from "../kernels/augment.ts";
import { benchDispatch } from "./harness.ts";

for (const [batch, channels, size] of [[64, 1, 8], [64, 3, 32]] as const) {
  const shape = { batch, channels, height: size, width: size, p: 0.12 };
  const elements = batch * channels * size * size;
  const buffers = {
    ...{ x: elements, uniforms: batch * AUGMENT_DRAWS.uniforms, normals: batch * AUGMENT_DRAWS.normals },
    ...{ y: elements, labels: batch * AUGMENT_LABELS, ...augmentScratch(shape) },
  };
  const names = Object.fromEntries(Object.keys(buffers).map((name) => [name, name])) as Record<
    keyof typeof buffers,
    string
  >;
  benchDispatch("augment", `${batch}x${channels}x${size}x${size}`, augment(names, shape), buffers);
}

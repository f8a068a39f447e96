/** The page that trains, and posts the trace as two safetensors files: the metrics, the moves. */

import { Gpu } from "../../src/gpu/gpu.ts";
import { encodeSafetensors } from "../../src/io/safetensors.ts";
import { send } from "./page.ts";
import { train } from "./training.ts";

const { metrics, moved } = await train(await Gpu.create());
for (const part of [metrics, moved]) {
  const tensors = [...part].map(([name, data]) => [name, { dtype: "F32", shape: [data.length], data }] as const);
  await send(await encodeSafetensors(new Map(tensors)));
}

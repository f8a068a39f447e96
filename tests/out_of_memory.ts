/** Asks a device for more memory than its process may have; run by graph_memory_test.ts, prints what came of it as JSON. */

import { OutOfMemoryError } from "../src/gpu/errors.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import { constant, exp, host, randomNormal, sum, type Tensor, Workspace } from "../src/graph/mod.ts";

const gpu = await Gpu.create();
const workspace = new Workspace(gpu);

/** A program that holds `tensors` of 100 MB at once. */
function compile(label: string, tensors: number) {
  const source = {
    seed: constant([1, 2], [2], "u32"),
    step: host("step", [], "u32"),
    first: constant([0], [], "u32"),
    stream: 0,
  };
  const large = Array.from({ length: tensors }, (_, i) => randomNormal([1, 25e6], { ...source, stream: i }));
  const metrics: [string, Tensor][] = large.toReversed().map((tensor, i) => [`${i}`, sum(tensor)]);
  return workspace.compile({ label, metrics: Object.fromEntries(metrics) });
}

async function failure(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    if (error instanceof OutOfMemoryError) return error.message;
    throw error;
  }
  return "";
}

const before = gpu.allocatedBytes;
const program = await failure(() => compile("large", 50));
const left = gpu.allocatedBytes - before;
const variables = await failure(() => {
  for (let i = 0; i < 50; i++) workspace.variable(`v${i}`, [25e6]);
  return gpu.allocated();
});
workspace.destroy();
const after = new Workspace(gpu);
const small = await after.compile({ label: "small", outputs: { y: exp(host("x")) } });
after.submit([small.at({ x: 0 })]);
const [y] = (await small.read()).y!;
console.log(JSON.stringify({ program, left, variables, y }));

/** Classes: one-hot vectors, classes drawn at random, and the classes of the images that a step takes. */

import { assert, assertEquals } from "@std/assert";
import { oneHot, randomLabels } from "../src/diffusion/labels.ts";
import { imageValues, stepLeaves } from "../src/diffusion/teacher.ts";
import { constant, evaluate, type Tensor, Workspace } from "../src/graph/mod.ts";
import type { HostValues } from "../src/graph/mod.ts";
import { gpuTest } from "./gpu.ts";

async function computed(workspace: Workspace, tensor: Tensor, values: HostValues = {}): Promise<number[]> {
  return Array.from((await evaluate(workspace, { tensor }, values)).tensor);
}

gpuTest("labels: one-hot rows, and none for -1", async (gpu) => {
  const workspace = new Workspace(gpu);
  const rows = await computed(workspace, oneHot(constant([2, 0, -1, 1], [4]), 3));
  assertEquals(rows, [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0]);
  assertEquals(await computed(workspace, oneHot(constant([0, -1], [2]), 1)), [1, 0]);
  workspace.destroy();
});

for (const classes of [1, 2, 7, 10]) {
  gpuTest(`labels: ${classes} classes at random are equally likely`, async (gpu) => {
    const workspace = new Workspace(gpu), count = 20_000;
    const labels = randomLabels(count, classes, stepLeaves().random(9));
    const drawn = await computed(workspace, labels, classes === 1 ? {} : { seed: [1, 2], step: 3, first: 0 });
    const counts = new Array<number>(classes).fill(0);
    for (const label of drawn) counts[label]!++;
    assertEquals(counts.reduce((a, b) => a + b), count, "whole numbers below the number of classes");
    const expected = count / classes;
    const chiSquare = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
    // 99.9 % quantile of chi-square with 9 degrees of freedom; with fewer, lower.
    assert(chiSquare < 27.9, `${counts}: chi-square ${chiSquare}`);
    workspace.destroy();
  });
}

gpuTest("labels: classes at random depend on the seed, the step and the sample's index alone", async (gpu) => {
  const workspace = new Workspace(gpu);
  const drawn = (batch: number, first: number, seed = 5, step = 3) =>
    computed(workspace, randomLabels(batch, 10, stepLeaves().random(9)), { seed: [seed, 0], step, first });
  const whole = await drawn(24, 0);
  const parts = await Promise.all([0, 8, 16].map((first) => drawn(8, first)));
  assertEquals(parts.flat(), whole);
  for (const other of [await drawn(24, 0, 6), await drawn(24, 0, 5, 4)]) assert(other.join() !== whole.join());
  workspace.destroy();
});

gpuTest("a step's classes are those of its images, beyond 255 and mirrored too", async (gpu) => {
  const workspace = new Workspace(gpu);
  // Image i is grey of the value i, but for its left column; its class is far above.
  const count = 13, classOf = (i: number) => (i * 5003) % 65536;
  const pixels = Uint8Array.from({ length: 4 * count }, (_, k) => k % 2 === 0 ? 100 : Math.floor(k / 4));
  const bytes = new Uint8Array(28);
  for (let i = 0; i < count; i++) bytes.set([classOf(i) & 255, classOf(i) >> 8], 2 * i);
  const data = workspace.variable("data", [count, 1, 2, 2], "u8");
  const labels = workspace.variable("labels", [count, 2, 1], "u8");
  data.write(new Uint32Array(pixels.buffer));
  labels.write(new Uint32Array(bytes.buffer));
  for (const mirror of [false, true]) {
    const batch = 26, seed = [4, 1] as const;
    const taken = stepLeaves().images({ data, labels, mirror, scale: 1, shift: 0 }, batch);
    const values = { seed, position: imageValues(seed, 1, batch).position! };
    const images = await computed(workspace, taken.images, values);
    const classes = await computed(workspace, taken.labels!, values);
    const size = mirror ? 2 * count : count;
    const seen = new Map<string, number>();
    classes.forEach((label, i) => {
      const [left, right] = images.slice(4 * i, 4 * i + 2) as [number, number];
      const flipped = right === 100;
      const index = flipped ? left : right;
      assertEquals(label, classOf(index), `image ${index}`);
      assertEquals(images.slice(4 * i + 2, 4 * i + 4), [left, right]);
      const key = `${index} ${flipped}`;
      seen.set(key, (seen.get(key) ?? 0) + 1);
    });
    assertEquals(seen.size, size, "an epoch has every image once");
    assert([...seen.values()].every((times) => times === batch / size));
    assertEquals([...seen.keys()].filter((key) => key.endsWith("true")).length, mirror ? count : 0);
  }
  workspace.destroy();
});

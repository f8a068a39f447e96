/** EDM's augmentation against PyTorch, and what it does to simple images. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { augment as augmentKernels, AUGMENT_DRAWS, AUGMENT_LABELS, augmentScratch } from "../kernels/augment.ts";
import { GraphError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { augment, constant, evaluate, host, type Tensor, Workspace } from "../src/graph/mod.ts";
import { readFixture } from "./fixtures.ts";
import { gpuTest, randomArray, relativeError, unwritten } from "./gpu.ts";

/** Runs the kernels on given draws. */
async function run(
  gpu: Gpu,
  [batch, channels, height, width]: readonly [number, number, number, number],
  p: number,
  inputs: { readonly x: Float32Array; readonly uniforms: Float32Array; readonly normals: Float32Array },
): Promise<{ y: Float32Array; labels: Float32Array }> {
  const shape = { batch, channels, height, width, p };
  const { transforms, samples } = augmentScratch(shape);
  const names = {
    ...{ x: "x", uniforms: "uniforms", normals: "normals", y: "y", labels: "labels" },
    ...{ transforms: "transforms", samples: "samples" },
  } as const;
  const { y, labels } = await runDispatches(gpu, augmentKernels(names, shape), {
    ...inputs,
    y: unwritten(inputs.x.length),
    labels: unwritten(batch * AUGMENT_LABELS),
    transforms: unwritten(transforms),
    samples: unwritten(samples),
  });
  return { y: y as Float32Array, labels: labels as Float32Array };
}

for (const name of ["rgb", "grey"]) {
  gpuTest(`augment: ${name} images as by PyTorch in stages, each change alone and all together`, async (gpu) => {
    const fixture = await readFixture("augment");
    const get = (tensor: string) => fixture.get(`${name}.${tensor}`);
    const shape = fixture.shape(`${name}.x`) as [number, number, number, number];
    const { y, labels } = await run(gpu, shape, 0.5, {
      ...{ x: get("x"), uniforms: get("uniforms"), normals: get("normals") },
    });
    assert(relativeError(labels, get("labels")) < 1e-6, `labels off by ${relativeError(labels, get("labels"))}`);
    const perImage = y.length / shape[0];
    for (let n = 0; n < shape[0]; n++) {
      const own = (values: Float32Array) => values.subarray(n * perImage, (n + 1) * perImage);
      const error = relativeError(own(y), own(get("y")));
      assert(error < 2e-5, `image ${n} is off by ${error}`);
    }
  });
}

gpuTest("augment: with no change an image stays as it is", async (gpu) => {
  const shape = [67, 2, 7, 10] as const;
  const x = randomArray(67 * 2 * 70, 1);
  const uniforms = new Float32Array(67 * AUGMENT_DRAWS.uniforms).fill(0.49);
  const { y, labels } = await run(gpu, shape, 0, { x, uniforms, normals: randomArray(67 * AUGMENT_DRAWS.normals, 2) });
  assert(relativeError(y, x) < 1e-6, `off by ${relativeError(y, x)}`);
  assert(labels.every((label) => label === 0));
});

gpuTest("augment: draws of its own for every image, the same in any batch", async (gpu) => {
  const workspace = new Workspace(gpu);
  const values = randomArray(6 * 64, 3);
  const augmented = async (first: number, count: number) => {
    const source = (stream: number) => ({
      seed: constant(Uint32Array.of(7, 8), [2], "u32"),
      step: constant(Uint32Array.of(3), [], "u32"),
      first: constant(Uint32Array.of(first), [], "u32"),
      stream,
    });
    const x = constant(values.subarray(64 * first, 64 * (first + count)), [count, 1, 8, 8]);
    const { images, labels } = augment(x, { p: 0.5, uniforms: source(1), normals: source(2) });
    return await evaluate(workspace, { images, labels }) as { images: Float32Array; labels: Float32Array };
  };
  const whole = await augmented(0, 6), part = await augmented(4, 2);
  assertEquals(part.images, whole.images.subarray(4 * 64));
  assertEquals(part.labels, whole.labels.subarray(4 * 9));
  const rows = Array.from({ length: 6 }, (_, n) => whole.labels.slice(9 * n, 9 * n + 9).join());
  assert(new Set(rows).size > 3, rows.join("; "));
  workspace.destroy();
});

Deno.test("augment: what is no batch of images, or no probability, is refused", () => {
  const source = { seed: host("seed", [2], "u32"), step: host("step", [], "u32"), first: host("first", [], "u32") };
  const options = { p: 0.1, uniforms: { ...source, stream: 1 }, normals: { ...source, stream: 2 } };
  const zeros = (shape: number[]): Tensor => constant(new Float32Array(shape.reduce((a, b) => a * b)), shape);
  assertThrows(() => augment(zeros([3, 8, 8]), options), GraphError, "[3, 8, 8]");
  assertThrows(() => augment(zeros([3, 1, 1, 8]), options), GraphError, "at least 2x2");
  assertThrows(() => augment(zeros([3, 1, 8, 8]), { ...options, p: 1.5 }), GraphError, "got 1.5");
});

/** The images and classes that a training step takes. */

import { assertEquals } from "@std/assert";
import { type ImageSource, stepLeaves } from "../src/diffusion/teacher.ts";
import { Workspace } from "../src/graph/mod.ts";
import { gpuTest } from "./gpu.ts";

const COUNT = 20, PER_IMAGE = 12;

/** Images [20, 1, 3, 4] that can be told apart by every pixel, in parts of these lengths. */
function source(workspace: Workspace, lengths: readonly number[], mirror: boolean): ImageSource {
  const bytes = Uint8Array.from({ length: COUNT * PER_IMAGE }, (_, i) => (i * 7 + 3) % 251);
  let first = 0;
  const data = lengths.map((length, i) => {
    const part = workspace.variable(`images ${i}`, [length, 1, 3, 4], "u8");
    part.write(new Uint32Array(bytes.slice(first * PER_IMAGE, (first + length) * PER_IMAGE).buffer));
    first += length;
    return part;
  });
  const labels = workspace.variable("classes", [COUNT, 2, 1], "u8");
  labels.write(new Uint32Array(Uint16Array.from({ length: COUNT }, (_, i) => 300 * i).buffer));
  return { data, labels, mirror, scale: 1, shift: 0 };
}

/** Images and classes of two epochs. */
async function epochs(
  workspace: Workspace,
  images: ImageSource,
): Promise<{ images: Float32Array; labels: Float32Array }> {
  const count = COUNT * (images.mirror ? 4 : 2);
  const taken = stepLeaves().images(images, count);
  const program = await workspace.compile({ label: "test", outputs: { images: taken.images, labels: taken.labels! } });
  workspace.submit([program.at({ seed: [1, 2], position: 0 })]);
  return await program.read() as { images: Float32Array; labels: Float32Array };
}

for (const mirror of [false, true]) {
  gpuTest(`images in parts are those of the whole, with their classes, mirrored too: ${mirror}`, async (gpu) => {
    const results = [];
    for (const lengths of [[20], [8, 12], [4, 4, 12]]) {
      const workspace = new Workspace(gpu);
      results.push(await epochs(workspace, source(workspace, lengths, mirror)));
      workspace.destroy();
    }
    const [whole, ...parts] = results;
    for (const part of parts) assertEquals(part, whole);
    const { images, labels } = whole!;
    const once = new Set<string>();
    for (let n = 0; n < labels.length / 2; n++) {
      const own = [...images.subarray(n * PER_IMAGE, (n + 1) * PER_IMAGE)];
      const image = labels[n]! / 300,
        at = (row: number, column: number) => (image * PER_IMAGE + 4 * row + column) * 7 + 3;
      const straight = [0, 1, 2].flatMap((row) => [0, 1, 2, 3].map((column) => at(row, column) % 251));
      const turned = [0, 1, 2].flatMap((row) => [3, 2, 1, 0].map((column) => at(row, column) % 251));
      const expected = own[0] === straight[0] ? straight : turned;
      assertEquals(own, expected);
      once.add(`${image} ${expected === turned}`);
    }
    assertEquals(once.size, labels.length / 2, "an epoch holds every image once");
    assertEquals([...once].some((name) => name.endsWith("true")), mirror);
  });
}

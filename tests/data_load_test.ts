/** Data sets on the disk: found beside each other and in folders, held once, and known again. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { gzipSync } from "fflate";
import { readImages, rereadImages } from "../src/cli/files.ts";
import { loadDataset } from "../src/data/load.ts";
import { FileError } from "../src/gpu/errors.ts";
import { type Bytes, cifarBatch, cifarPickle, compress, idx, png, randomBytes, tar, zip } from "./data_files.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

/** Writes files below a new folder and returns its path. */
async function folderOf(name: string, files: Readonly<Record<string, Bytes>>): Promise<string> {
  const folder = `${root}/${name}`;
  for (const [path, bytes] of Object.entries(files)) {
    await Deno.mkdir(`${folder}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
    await Deno.writeFile(`${folder}/${path}`, bytes);
  }
  return folder;
}

const pixels = randomBytes(2 * 3072, 1);
const batch = cifarBatch([3, 9], pixels);

Deno.test("loadDataset: an archive larger than what is read at once, its folder, and one batch", async () => {
  const labels = Array.from({ length: 100 }, (_, i) => i % 10), many = randomBytes(100 * 3072, 2);
  const files = { "c/data_batch_1.bin": cifarBatch(labels, many), "c/test_batch.bin": batch };
  const folder = await folderOf("cifar", { ...files, "c.tar.gz": await compress(tar(files), "gzip") });
  for (
    const [path, name] of [["c.tar.gz", "c.tar.gz"], ["c", "c"], ["c/", "c"], [
      "c/data_batch_1.bin",
      "data_batch_1.bin",
    ]]
  ) {
    const data = await loadDataset(`${folder}/${path}`);
    assertEquals([data.name, data.count], [name, 100]);
    assertEquals(data.pixels, many);
    assertEquals([...data.labels], labels);
  }
});

Deno.test("loadDataset: the labels of IDX lie beside the images", async () => {
  const images = idx([2, 28, 28], randomBytes(1568, 3));
  const folder = await folderOf("idx", { "train-images-idx3-ubyte": images });
  const path = `${folder}/train-images-idx3-ubyte`;
  await assertRejects(() => loadDataset(path), FileError, "train-labels-idx1-ubyte, is not beside it");
  await Deno.writeFile(`${folder}/train-labels-idx1-ubyte.gz`, await compress(idx([2], [5, 6]), "gzip"));
  for (const given of [path, folder]) assertEquals([...(await loadDataset(given)).labels], [5, 6]);
});

Deno.test("loadDataset: folders of PNG within each other, and links", async () => {
  const [a, b] = [await png(randomBytes(48, 3), 4, 4, 3), await png(randomBytes(48, 4), 4, 4, 3)];
  const folder = await folderOf("png", { "x/y/b.png": b, "a.png": a, ".hidden/z": a, "outside/none": a });
  await Deno.rename(`${folder}/outside`, `${root}/outside`);
  const expected = await loadDataset(
    (await folderOf("zip", { "all.zip": zip({ "a.png": a, "x/y/b.png": b }) })) + "/all.zip",
  );
  const { count, pixels } = await loadDataset(folder);
  assertEquals(count, 2);
  assertEquals(pixels, expected.pixels);
  await Deno.symlink(`${root}/outside`, `${folder}/linked`);
  assertEquals((await loadDataset(folder)).count, 3);
  await Deno.symlink(folder, `${folder}/x/again`);
  await assertRejects(() => loadDataset(folder), FileError, "x/again is a link to a folder that it lies in");
});

Deno.test("loadDataset: what is not there, or may not be read, is an error with its path", async () => {
  for (const path of [`${root}/none`, `${root}/none/none.zip`]) {
    const { message } = await assertRejects(() => loadDataset(path), FileError, "could not be read");
    assertStringIncludes(message, path);
  }
  const folder = await folderOf("dangling", { "a.png": await png(randomBytes(16, 1), 4, 4, 1) });
  await Deno.symlink(`${folder}/nowhere`, `${folder}/b.png`);
  await assertRejects(() => loadDataset(folder), FileError, "b.png could not be read: it does not exist");
});

Deno.test("rereadImages: the same images in another kind of file are the same data, others are refused", async () => {
  const python = await folderOf("known", { "data_batch_1": cifarPickle([3, 9], pixels) });
  const path = `${python}/data_batch_1`;
  const { source } = await readImages(path);
  await Deno.writeFile(path, batch);
  assertEquals((await rereadImages(source)).pixels, pixels);
  for (const changed of [batch.with(0, 4), batch.with(100, batch[100]! ^ 1)]) {
    await Deno.writeFile(path, changed);
    await assertRejects(() => rereadImages(source), FileError, `${path} does not hold the images and classes`);
  }
  assertEquals((await rereadImages()).name, "digits");
});

/** Loads its argument and prints the images' bytes and the most memory the process ever had. */
const MEASURE = `
  import { loadDataset } from ${JSON.stringify(new URL("../src/data/load.ts", import.meta.url).href)};
  const { pixels } = await loadDataset(Deno.args[0]);
  const [, kibibytes] = /VmHWM:\\s+(\\d+)/.exec(Deno.readTextFileSync("/proc/self/status"));
  console.log(JSON.stringify({ size: pixels.length, peak: 1024 * kibibytes }));
`;

async function measure(folder: string, file: string): Promise<{ size: number; peak: number }> {
  const config = new URL("../deno.json", import.meta.url).pathname;
  const args = ["run", "-A", "--config", config, `${folder}/measure.js`, `${folder}/${file}`];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, stdin: "null" }).output();
  assertEquals(new TextDecoder().decode(stderr), "");
  return JSON.parse(new TextDecoder().decode(stdout));
}

Deno.test({
  name: "loadDataset: an archive with more images takes less than twice their size of memory more",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    const count = 5000;
    const batch = cifarBatch(new Array(count).fill(1), new Uint8Array(count * 3072));
    for (let at = 0; at < batch.length; at += 3073) crypto.getRandomValues(batch.subarray(at + 1, at + 3073));
    const archive = (batches: number) => {
      const entries = Array.from({ length: batches }, (_, i) => [`c/data_batch_${i}.bin`, batch]);
      return gzipSync(tar(Object.fromEntries(entries)), { level: 0 });
    };
    const folder = await folderOf("memory", {
      "small": archive(1),
      "large": archive(9),
      "measure.js": new TextEncoder().encode(MEASURE),
    });
    const [small, large] = [await measure(folder, "small"), await measure(folder, "large")];
    const size = large.size - small.size, growth = large.peak - small.peak;
    assertEquals(size, 8 * count * 3072);
    assert(growth < 2 * size, `${growth} bytes more for ${size} bytes more of images`);
  },
});

/** Tests of the conversions between bytes and floats. */

import { assert, assertEquals } from "@std/assert";
import { fromUint8, gatherImages, toUint8 } from "../kernels/image.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { fromUint8Reference, gatherImagesReference, toUint8Reference } from "./reference/image.ts";

type Name = "x" | "floats" | "bytes";

function randomBytes(n: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: Math.ceil(n / 4) }, (_, i) => Math.imul(i + 1, 0x9e3779b1));
}

for (const [images, count, perImage] of [[1, 1, 1], [1797, 67, 64], [33, 50, 75], [5, 9, 3]] as const) {
  gpuTest(`image: gather ${count} of ${images} images of ${perImage} bytes`, async (gpu) => {
    const s = { count, perImage, scale: 2 / 255, shift: -1 };
    const data = randomBytes(images * perImage);
    const indices = Uint32Array.from({ length: count }, (_, i) => (i * 7919 + images - 1) % images);
    const y = new Float32Array(count * perImage);
    const buffers = { data: "data", indices: "indices", y: "y" } as const;
    const result = await runDispatches(gpu, [gatherImages(buffers, s)], { data, indices, y });
    const error = relativeError(result.y, gatherImagesReference(data, indices, s));
    assert(error < 1e-6, `y is off by ${error}`);
  });
}

gpuTest("image: every image twice, the second time mirrored", async (gpu) => {
  const images = 9, channels = 2, height = 3, width = 5, perImage = channels * height * width;
  const data = randomBytes(images * perImage);
  const bytes = new Uint8Array(data.buffer);
  const indices = Uint32Array.from({ length: 2 * images + 3 }, (_, i) => (i * 7) % (2 * images));
  const s = { count: indices.length, perImage, mirroredWidth: width, scale: 1, shift: 0 };
  const y = new Float32Array(s.count * perImage);
  const buffers = { data: "data", indices: "indices", y: "y" } as const;
  const result = await runDispatches(gpu, [gatherImages(buffers, s)], { data, indices, y });
  const expected = [...indices].flatMap((index) => {
    const own = [...bytes.subarray((index >> 1) * perImage, ((index >> 1) + 1) * perImage)];
    if (index % 2 === 0) return own;
    return Array.from({ length: channels * height }, (_, row) => own.slice(row * width, (row + 1) * width).reverse())
      .flat();
  });
  assertEquals([...result.y], expected);
});

gpuTest("image: of a part of the images, the others are 0", async (gpu) => {
  const perImage = 3, data = randomBytes(4 * perImage);
  const bytes = new Uint8Array(data.buffer);
  for (const mirroredWidth of [undefined, 3]) {
    const indices = Uint32Array.from({ length: 20 }, (_, i) => i);
    const s = { count: 20, perImage, mirroredWidth, part: { first: 3, images: 4 }, scale: 1, shift: 7 };
    const buffers = { data: "data", indices: "indices", y: "y" } as const;
    const { y } = await runDispatches(gpu, [gatherImages(buffers, s)], {
      data,
      indices,
      y: new Float32Array(60).fill(-1),
    });
    const expected = [...indices].flatMap((index) => {
      const image = (mirroredWidth ? index >> 1 : index) - 3;
      if (image < 0 || image >= 4) return [0, 0, 0];
      const own = [...bytes.subarray(3 * image, 3 * image + 3)].map((byte) => byte + 7);
      return mirroredWidth && index % 2 === 1 ? own.reverse() : own;
    });
    assertEquals([...y], expected);
  }
});

for (const count of [1, 3, 64, 1001]) {
  gpuTest(`image: ${count} bytes to floats and back`, async (gpu) => {
    const x = randomBytes(count);
    const forward = { count, scale: 2 / 255, shift: -1 };
    const result = await runDispatches(gpu, [
      fromUint8<Name>({ x: "x", y: "floats" }, forward),
      toUint8<Name>({ x: "floats", y: "bytes" }, { count, scale: 127.5, shift: 127.5 }),
    ], { x, floats: new Float32Array(count), bytes: new Uint32Array(x.length).fill(0xffffffff) });
    const error = relativeError(result.floats, fromUint8Reference(x, forward));
    assert(error < 1e-6, `floats are off by ${error}`);
    const spare = 8 * (4 * x.length - count);
    x[x.length - 1] = (x.at(-1)! << spare) >>> spare;
    assertEquals(result.bytes, x);
  });
}

gpuTest("image: floats are rounded half to even and clamped", async (gpu) => {
  const special = [-1e30, -3, -0.5, 0.5, 1.5, 2.5, 3.49, 254.5, 255.4, 255.5, 400, 1e30];
  const x = new Float32Array([...special, ...randomArray(1000, 1).map((value) => 128 + 200 * value)]);
  const s = { count: x.length, scale: 1, shift: 0 };
  const y = new Uint32Array(x.length / 4);
  const result = await runDispatches(gpu, [toUint8({ x: "x", y: "y" } as const, s)], { x, y });
  assertEquals([...result.y], toUint8Reference(x, s));
});

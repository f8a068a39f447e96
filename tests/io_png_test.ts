/** PNG files and grids of images, read back by hand. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../src/gpu/errors.ts";
import { inflate } from "../src/io/compression.ts";
import { crc32 } from "../src/io/crc32.ts";
import { encodePng, imageGrid, sideBySide } from "../src/io/png.ts";

/** The chunks of a PNG file; checks signature, lengths and checksums. */
function chunks(png: Uint8Array<ArrayBuffer>): [string, Uint8Array<ArrayBuffer>][] {
  assertEquals([...png.subarray(0, 8)], [137, 80, 78, 71, 13, 10, 26, 10]);
  const view = new DataView(png.buffer);
  const found: [string, Uint8Array<ArrayBuffer>][] = [];
  for (let at = 8; at < png.length;) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...png.subarray(at + 4, at + 8));
    assertEquals(view.getUint32(at + 8 + length), crc32(png.subarray(at + 4, at + 8 + length)));
    found.push([type, png.slice(at + 8, at + 8 + length)]);
    at += 12 + length;
  }
  return found;
}

Deno.test("crc32: the published check value", () => {
  assertEquals(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
});

for (const [channels, colourType] of [[1, 0], [3, 2]] as const) {
  Deno.test(`png: ${channels} channel(s) come back`, async () => {
    const width = 5, height = 3;
    const pixels = Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 37) & 0xff);
    const [header, data, end] = chunks(await encodePng(pixels, width, height, channels));
    assertEquals(header, ["IHDR", new Uint8Array([0, 0, 0, width, 0, 0, 0, height, 8, colourType, 0, 0, 0])]);
    assertEquals(data![0], "IDAT");
    assertEquals(end, ["IEND", new Uint8Array()]);
    const rows = await inflate(data![1]);
    const stride = width * channels;
    assertEquals(rows.length, height * (stride + 1));
    for (let y = 0; y < height; y++) {
      assertEquals(rows[y * (stride + 1)], 0);
      const row = rows.slice(y * (stride + 1) + 1, (y + 1) * (stride + 1));
      assertEquals(row, pixels.slice(y * stride, (y + 1) * stride));
    }
  });
}

Deno.test("imageGrid: three images in two columns, enlarged twice, a gap of one", () => {
  const grid = imageGrid(new Uint8Array([1, 2, 3, 4, 5, 6]), 3, 1, 2, 1, 2, 2, 1);
  assertEquals([grid.width, grid.height, grid.channels], [9, 5, 1]);
  // deno-fmt-ignore
  assertEquals([...grid.pixels], [
    1, 1, 2, 2, 255, 3, 3, 4, 4,
    1, 1, 2, 2, 255, 3, 3, 4, 4,
    255, 255, 255, 255, 255, 255, 255, 255, 255,
    5, 5, 6, 6, 255, 255, 255, 255, 255,
    5, 5, 6, 6, 255, 255, 255, 255, 255,
  ]);
});

Deno.test("imageGrid: colours stay together, and one row is no wider than its images", () => {
  const grid = imageGrid(new Uint8Array([1, 2, 3, 4, 5, 6]), 2, 1, 1, 3, 5);
  assertEquals(grid, { pixels: new Uint8Array([1, 2, 3, 4, 5, 6]), width: 2, height: 1, channels: 3 });
});

Deno.test("sideBySide: tops level, a white divider, white below the lower one", () => {
  const left = imageGrid(new Uint8Array([1, 2]), 2, 1, 1, 1, 1);
  const right = imageGrid(new Uint8Array([3, 4]), 2, 1, 1, 1, 2);
  const joined = sideBySide(left, right, 1);
  assertEquals([joined.width, joined.height], [4, 2]);
  assertEquals([...joined.pixels], [1, 255, 3, 4, 2, 255, 255, 255]);
  assertThrows(() => sideBySide(left, { ...right, channels: 3 }), UsageError, "1 and 3 channels");
});

Deno.test("png: sizes that do not fit are refused", async () => {
  await assertRejects(() => encodePng(new Uint8Array(5), 2, 2, 1), UsageError, "from 5 values");
  await assertRejects(() => encodePng(new Uint8Array(), 0, 0, 1), UsageError, "from 0 values");
  assertThrows(() => imageGrid(new Uint8Array(5), 1, 2, 2, 1, 1), UsageError, "from 5 values");
  assertThrows(() => imageGrid(new Uint8Array(4), 1, 2, 2, 1, 0), UsageError, "0 columns");
});

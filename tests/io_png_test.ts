/** PNG files, read back by hand and by the decoder, and grids of images. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FileError, UsageError } from "../src/gpu/errors.ts";
import { inflate } from "../src/io/compression.ts";
import { crc32 } from "../src/io/crc32.ts";
import { decodePng, encodePng, imageGrid, sideBySide } from "../src/io/png.ts";
import { type Bytes, concat, png, pngPart, randomBytes } from "./data_files.ts";

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

/** A picture of 5x7 pixels with so many bytes each; the last of several is always 255, as the opacity of types 4 and 6. */
function samples(pixelBytes: number, opaque: boolean): Bytes {
  return randomBytes(35 * pixelBytes, pixelBytes).map((byte, i) =>
    opaque && i % pixelBytes === pixelBytes - 1 ? 255 : byte
  );
}

for (const filter of [0, 1, 2, 3, 4]) {
  Deno.test(`decodePng: filter ${filter} of grey, RGB, and both with opacity`, async () => {
    for (const pixelBytes of [1, 2, 3, 4]) {
      const opaque = pixelBytes % 2 === 0;
      const stored = samples(pixelBytes, opaque);
      const file = await png(stored, 5, 7, pixelBytes, { filters: [filter] });
      const channels = pixelBytes < 3 ? 1 : 3;
      const pixels = stored.filter((_, i) => i % pixelBytes < channels);
      assertEquals(await decodePng(file, "x"), { width: 5, height: 7, channels, pixels });
    }
  });
}

Deno.test("decodePng: what encodePng wrote, and parts that may be passed over", async () => {
  const pixels = samples(3, false);
  const picture = { width: 7, height: 5, channels: 3, pixels } as const;
  assertEquals(await decodePng(await encodePng(pixels, 7, 5, 3), "x"), picture);
  const before = [pngPart("gAMA", [0, 0, 177, 143]), pngPart("tEXt", concat("Author\0me"))];
  assertEquals(await decodePng(await png(pixels, 7, 5, 3, { before, filters: [4, 1] }), "x"), picture);
});

Deno.test("decodePng: a palette becomes RGB", async () => {
  const colours = new Uint8Array([1, 2, 3, 40, 50, 60, 255, 0, 128]);
  const options = { colourType: 3, before: [pngPart("PLTE", colours)] };
  const indices = new Uint8Array([2, 0, 1, 1]);
  const { pixels, channels } = await decodePng(await png(indices, 2, 2, 1, options), "x");
  assertEquals([channels, ...pixels], [3, 255, 0, 128, 1, 2, 3, 40, 50, 60, 40, 50, 60]);
  const beyond = await png(indices.with(3, 3), 2, 2, 1, options);
  await assertRejects(() => decodePng(beyond, "x.png"), FileError, "a pixel of colour 3; its palette has 3");
});

Deno.test("decodePng: what cannot be read is named", async () => {
  const grey = samples(1, false);
  const good = await png(grey, 5, 7, 1);
  const cases: [string, Bytes][] = [
    ["is not a PNG file", new Uint8Array()],
    ["is not a PNG file", concat("hello, hello")],
    ["is cut off", good.slice(0, 8)],
    ["is cut off", good.slice(0, -1)],
    ['its part "IDAT" does not have its checksum', good.with(43, good[43]! ^ 1)],
    ["has no header", concat(good.subarray(0, 8), pngPart("IDAT", []), good.subarray(8))],
    ["has 16 bits a channel; expected 8", await png(grey, 5, 7, 1, { depth: 16 })],
    ["has 4 bits a channel", await png(grey, 5, 7, 1, { depth: 4, colourType: 3 })],
    ["is interlaced", await png(grey, 5, 7, 1, { interlaced: 1 })],
    ["colour type 1", await png(grey, 5, 7, 1, { colourType: 1 })],
    ["has transparent pixels", await png(samples(4, true).with(23, 254), 5, 7, 4)],
    ["has transparent pixels", await png(samples(2, true).with(69, 0), 5, 7, 2)],
    ["has transparent colours", await png(grey, 5, 7, 1, { before: [pngPart("tRNS", [0, 1])] })],
    ['the unknown part "ABCD"', await png(grey, 5, 7, 1, { before: [pngPart("ABCD", [])] })],
    ["row 2 has filter 5", await png(grey, 5, 7, 1, { filters: [0, 1, 5] })],
    ["has no pixels: it is 0x7", await png(new Uint8Array(), 0, 7, 1)],
    // The header promises a row more, or less, than there is.
    ["is cut off: 6 bytes or more", concat(good.subarray(0, 8), pngPart("IHDR", header(5, 8)), good.subarray(33))],
    ["goes on after", concat(good.subarray(0, 8), pngPart("IHDR", header(5, 6)), good.subarray(33))],
    ["pixels are missing", concat(good.subarray(0, 8), pngPart("IHDR", header(1 << 30, 1 << 30)), good.subarray(33))],
  ];
  for (const [message, bytes] of cases) {
    const error = await assertRejects(() => decodePng(bytes, "dir/x.png"), FileError, message);
    assert(error.message.startsWith("dir/x.png "), error.message);
  }
});

/** The header of a grey picture. */
function header(width: number, height: number): Bytes {
  const bytes = new Uint8Array(13);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  bytes[8] = 8;
  return bytes;
}

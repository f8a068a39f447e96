/** Every kind of data set in memory: what is read of it, and what is wrong with it where it is damaged. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { ImageData8 } from "../src/data/image_data.ts";
import { loadDigits } from "../src/data/digits.ts";
import { FileError } from "../src/gpu/errors.ts";
import { decodeBase64 } from "../src/io/base64.ts";
import { inflate } from "../src/io/compression.ts";
import { encodeNpz } from "../src/io/npz.ts";
import {
  type Bytes,
  cifarBatch,
  cifarPickle,
  compress,
  concat,
  idx,
  png,
  randomBytes,
  readBytes,
  readFolder,
  readFrom,
  tar,
  zip,
} from "./data_files.ts";

const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

/** Images and classes of two batches and a test batch of CIFAR. */
const PARTS = [[3, 9], [0], [5, 5]].map((labels, i) => ({ labels, pixels: randomBytes(3072 * labels.length, i) }));
const BINARY = PARTS.map(({ labels, pixels }) => cifarBatch(labels, pixels));

/** The first two of PARTS and nothing of the third. */
function assertIsCifar(data: ImageData8, name: string): void {
  assertEquals([data.name, data.count, data.channels, data.height, data.width], [name, 3, 3, 32, 32]);
  assertEquals(data.classes, 10);
  assertEquals([...data.labels], [3, 9, 0]);
  assertEquals(data.pixels, concat(PARTS[0]!.pixels, PARTS[1]!.pixels));
}

/** Expects an error that begins with `path` and holds `message`. */
async function assertRefused(path: string, message: string, read: () => Promise<unknown>): Promise<void> {
  const error = await assertRejects(read, FileError, message);
  assert(error.message.startsWith(path), error.message);
}

Deno.test("CIFAR-10, binary: the training batches of .tar.gz, .tar and folder in the order of their names", async () => {
  const files = {
    "cifar/data_batch_10.bin": BINARY[1]!,
    "cifar/test_batch.bin": BINARY[2]!,
    "cifar/batches.meta.txt": concat("airplane\n"),
    "cifar/data_batch_2.bin": BINARY[0]!,
  };
  const archive = tar(files);
  assertIsCifar(await readBytes(archive, "some/folder/c.tar"), "c.tar");
  assertIsCifar(await readBytes(await compress(archive, "gzip"), "c.tar.gz"), "c.tar.gz");
  assertIsCifar(await readBytes(await compress(archive, "gzip"), "of any name"), "of any name");
  assertIsCifar(await readFolder(files), "folder");
});

Deno.test("CIFAR-10, binary: a single batch, of any name", async () => {
  const data = await readBytes(BINARY[2]!, "test_batch.bin");
  assertEquals([data.count, ...data.labels], [2, 5, 5]);
  assertEquals(data.pixels, PARTS[2]!.pixels);
});

Deno.test("CIFAR-10, python: archive, folder and a single batch", async () => {
  const [first, second, test] = PARTS.map(({ labels, pixels }) => cifarPickle(labels, pixels));
  const files = {
    "py/data_batch_2": second!,
    "py/data_batch_1": first!,
    "py/test_batch": test!,
    "py/batches.meta": concat([0x80, 2], "}q\x01."),
  };
  assertIsCifar(await readBytes(await compress(tar(files), "gzip"), "py.tar.gz"), "py.tar.gz");
  assertIsCifar(await readFolder(files), "folder");
  assertEquals((await readBytes(first!)).pixels, PARTS[0]!.pixels);
});

/**
 * By protocol, `pickle.dumps({b"labels": [3, 9], b"data": d, b"filenames": [b"a.png", b"b.png"]})` of NumPy 2.4, where
 * d[0] is 0 but for d[0, 5] = 7, and d[1] is 200.
 */
const NUMPY_PICKLES: [number, string][] = [
  [
    2,
    `
eNrtmkluwjAYhZ0wlZTO8zzRKqtIXKNRWXiVDUIZ3IIUAi8kC6RW6qYM5+rBWgc4Rfu+T4ri/znPPkA+zQ8IO+yGw0iFY0slxYsFw6sKIWI/UPEY5nqR9Z
MWSlOUJSodVG235NZVz/DKOo38zEetp9MNiXqY5IPRxNGtqXIGeZz1/TT1J1Y3VeEwGWdpHmYWrNU2K4lWKTZd8YWGbjR0Y4Ctom5bYmeGXYk92zVc80U0
pthffxhlk5G+7IFn6v15C4eL+QxHEsf6asuOd5y02+3nH83y4YoMp8FCnyCaYkVNEEIIIYQQQv4B33NKKaWUUkoppZRSSimllP41cVb8YHQucZHhMugZXl
0I8dqPVeIP1BhXRXotcdPBra3Tik59Z5S84a5I7iUe1tNgOW0W00eJJ5U7v9G161s=
`,
  ],
  [
    3,
    `
eNrtzs1Og0AUBeABSitY/3/iI7Ai8RWcnZOy6KqbphlgNE2AcmBYNNHEjda+mW+lpPgWPd/i5ubcs7gf3jtEJMeFTk3RwlnCjZSnAiNHubYaXlZ1Zb2NV9
mmMXHZFXatm0Zvw1Vjsk3V2qbLbIjRUAurfLjCV+ITY+mkmOxwMkcQKUe5MzH9Qvjfze22NiFOF64QonvEdP+9w9kc5/0DC6fP3nCRJMnzb+8wlLC4TPdP
4kEMJoKIiIiIiI7ADxERERERHQ1cWVynMnhZF6bSpWlxs8RtJH0d19Ur7qSfHpZ708V/LOGqLg==
`,
  ],
  [
    4,
    `
eNrt2b9OwzAQBnCnbYgqdUY8QqdIvALesMjAjionMVApcSPXHiKBxMKfSt768U5IPBQUl7fo9xvulu9Ot9/L7PP7QiTPWMqzTtem2+IOSzVVcyNnrfYa8d
yGfhjLVbNxpuxD59faOT0iLlbONBu79S40HnvEPCURC9seI3so8QqZ1XjH7WFtpiY3YvGGxyLmrR8H8zc1CZfYfRwD05g9oaqq65+DVJTwqHdX4v9QUQgi
IiIiIjoBX0REREREdDLgUcv5/bozVvcmPSpkrsvBPkDmdeomlL8obLKU
`,
  ],
  [
    5,
    `
eNrt2T2KwlAUBeDnT2YQ7WxcQqrArOF1BlPYD/KiN0MgiSEmhaBg5Si8zqMbcRPuSjOP2YXnK+65xeVu4By8632inD18/ZGZWLINvuGHvXAgur8ytYEdF0
1eboPFcl1J0O5SpUvY4SKp1nncJIlUuMC/qf9XzqciIiIiIqI38CAiIiIiorcB67nCoM1VvS0FF9hu84Xz6Rfzv2rBdnaIomj6bLkRqhpx2J2p0RG2o1G3
d3qQpJkUJhdXSGjPBGXxA+3FLqUJXsrrp64=
`,
  ],
];

for (const [protocol, text] of NUMPY_PICKLES) {
  Deno.test(`CIFAR-10, python: what NumPy pickles in protocol ${protocol}`, async () => {
    const data = await readBytes(await inflate(decodeBase64(text)));
    assertEquals([data.count, data.classes, ...data.labels], [2, 10, 3, 9]);
    assertEquals(data.pixels, new Uint8Array(6144).fill(200, 3072).with(5, 7));
  });
}

Deno.test("CIFAR-100: binary and python, with the fine classes", async () => {
  const { pixels } = PARTS[0]!;
  for (const batch of [cifarBatch([99, 7], pixels, 19), cifarPickle([99, 7], pixels, "fine_labels")]) {
    for (const data of [await readBytes(batch), await readBytes(tar({ "c/train": batch, "c/test": batch }))]) {
      assertEquals([data.count, data.classes, ...data.labels], [2, 100, 99, 7]);
      assertEquals(data.pixels, pixels);
    }
  }
});

Deno.test("CIFAR: what is wrong is named with the file and the entry", async () => {
  const [batch] = BINARY as [Bytes];
  const { labels, pixels } = PARTS[0]!;
  const c100 = cifarBatch(labels, pixels, 1);
  const whole = tar({ "data_batch_1.bin": batch });
  const badHeader = whole.slice();
  badHeader[512 * 14 + 3] = 1; // the block after the first entry's 13
  const cases: [string, Bytes][] = [
    ["no training batch of CIFAR", tar({ "test_batch.bin": batch })],
    ['x: "data_batch_1.bin" has 6145 bytes; expected a multiple of 3073', tar({ "data_batch_1.bin": batch.slice(1) })],
    ["has 0 bytes", tar({ "data_batch_1.bin": new Uint8Array() })],
    ['"a/data_batch_1.bin" and "b/data_batch_1"', tar({ "a/data_batch_1.bin": batch, "b/data_batch_1": batch })],
    ["mixes CIFAR-10 and CIFAR-100", tar({ "data_batch_1.bin": batch, "train.bin": c100 })],
    ['"data_batch_1.bin": record 1 has the class 10', tar({ "data_batch_1.bin": cifarBatch([3, 10], pixels) })],
    ["x: record 1 has the class 255", cifarBatch([3, 255], pixels)],
    ["x: image 0 has the class 10; expected a whole number from 0 to 9", cifarPickle([10, 1], pixels)],
    ["expected those of 1 images: [1, 3072]", cifarPickle([1], pixels)],
    ['no list of classes under the key "labels"', cifarPickle([1, 2], pixels, "names")],
    ["byte 0: the pickle has protocol 9", concat([0x80, 9], ".")],
    ["cut off", cifarPickle(labels, pixels).slice(0, 4000)],
    ['asks for "os.system", which is not allowed here', concat([0x80, 2], "cos\nsystem\nU\x02ls\x85R.")],
    ["is cut off", whole.slice(0, 4000)],
    ["is cut off", whole.slice(0, -1024)],
    ["a header in it does not have its checksum", badHeader],
    ["damaged or cut off", (await compress(whole, "gzip")).slice(0, -1)],
    ["holds 1 images; expected two or more", BINARY[1]!],
    ["not all alike", new Uint8Array(2 * 3073)],
  ];
  for (const [message, bytes] of cases) await assertRefused("x", message, () => readBytes(bytes));
});

const DIGITS = [new Uint8Array(784).fill(200), randomBytes(784, 3)] as const;
const IDX_IMAGES = idx([2, 28, 28], concat(...DIGITS)), IDX_LABELS = idx([2], [1, 8]);
const IMAGES = "t10k-images-idx3-ubyte", LABELS = "t10k-labels-idx1-ubyte";

Deno.test("IDX: 28x28 get a frame of zeros, the labels are found beside, compressed or not", async () => {
  const [images, labels] = [await compress(IDX_IMAGES, "gzip"), await compress(IDX_LABELS, "gzip")];
  const folders: [string, Record<string, Bytes>][] = [
    [IMAGES, { [IMAGES]: IDX_IMAGES, [LABELS]: IDX_LABELS }],
    [`${IMAGES}.gz`, { [`${IMAGES}.gz`]: images, [`${LABELS}.gz`]: labels }],
    [`${IMAGES}.gz`, { [`${IMAGES}.gz`]: images, [LABELS]: IDX_LABELS }],
    [IMAGES, { [IMAGES]: IDX_IMAGES, [`${LABELS}.gz`]: labels }],
  ];
  for (const [path, folder] of folders) {
    const data = await readFrom(folder, path);
    assertEquals([data.name, data.count, data.channels, data.height, data.width], [path, 2, 1, 32, 32]);
    assertEquals([data.classes, ...data.labels], [9, 1, 8]);
    data.pixels.forEach((pixel, i) => {
      const [image, y, x] = [Math.floor(i / 1024), Math.floor(i / 32) % 32 - 2, i % 32 - 2];
      const inside = x >= 0 && x < 28 && y >= 0 && y < 28;
      assertEquals(pixel, inside ? DIGITS[image]![28 * y + x]! : 0, `image ${image}, row ${y}, column ${x}`);
    });
  }
});

Deno.test("IDX: other sizes stay; of a folder the training images are read", async () => {
  const [few, many] = [idx([2, 4, 4], randomBytes(32, 1)), idx([3, 4, 4], randomBytes(48, 2))];
  const files = {
    "m/t10k-images-idx3-ubyte": few,
    "m/t10k-labels-idx1-ubyte": idx([2], [0, 1]),
    "m/train-images-idx3-ubyte": many,
    "m/train-labels-idx1-ubyte": idx([3], [4, 0, 2]),
  };
  const data = await readFolder(files);
  assertEquals([data.count, data.height, data.width, ...data.labels], [3, 4, 4, 4, 0, 2]);
  assertEquals(data.pixels, many.slice(16));
  await assertRefused("folder", "several files of IDX images", () => readFolder({ ...files, "train-images": many }));
});

Deno.test("IDX: what is wrong is named", async () => {
  const read = (images: Bytes, labels: Bytes) => () => readFrom({ [IMAGES]: images, [LABELS]: labels }, IMAGES);
  const huge = IDX_IMAGES.with(4, 255);
  await assertRefused(IMAGES, "has 1568 bytes of data; expected 3354", read(huge, IDX_LABELS));
  await assertRefused(IMAGES, "has 1567 bytes of data; expected 1568", read(IDX_IMAGES.slice(0, -1), IDX_LABELS));
  await assertRefused(IMAGES, "is cut off", read(IDX_IMAGES.slice(0, 10), IDX_LABELS));
  await assertRefused(LABELS, "has 1 bytes of data; expected 2", read(IDX_IMAGES, IDX_LABELS.slice(0, -1)));
  await assertRefused(LABELS, "holds 3 classes, but", read(IDX_IMAGES, idx([3], [1, 2, 3])));
  await assertRefused(LABELS, "is not a file of classes", read(IDX_IMAGES, IDX_IMAGES));
  await assertRefused(
    IMAGES,
    "images of 28x27 pixels; expected square",
    read(idx([2, 28, 27], new Uint8Array(1512)), IDX_LABELS),
  );
  await assertRefused(IMAGES, LABELS, () => readBytes(IDX_IMAGES, IMAGES));
  await assertRefused("digits", 'expected "images" in its name', () => readBytes(IDX_IMAGES, "digits"));
  await assertRefused(LABELS, "holds no images", () => readBytes(IDX_LABELS, LABELS));
});

/** Three pictures of 4x4 pixels as they are in a data set: planes. */
const PLANES = randomBytes(3 * 48, 7);
const NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png"];

/** PNG files of PLANES with `channels` of their 3 channels. */
async function pictures(channels: 1 | 3): Promise<Record<string, Bytes>> {
  const files: Record<string, Bytes> = {};
  for (const [i, name] of NAMES.entries()) {
    const samples = Uint8Array.from(
      { length: 16 * channels },
      (_, at) => PLANES[48 * i + 16 * (at % channels) + Math.floor(at / channels)]!,
    );
    files[name] = await png(samples, 4, 4, channels, { filters: [0, 1, 2, 3, 4] });
  }
  return files;
}

Deno.test("PNG: a folder and zips, coloured and grey, in the order of their paths", async () => {
  for (const channels of [1, 3] as const) {
    const files = await pictures(channels);
    const shuffled = Object.fromEntries(Object.entries(files).reverse());
    const planes = channels === 3 ? PLANES : concat(...[0, 48, 96].map((at) => PLANES.subarray(at, at + 16)));
    for (const data of [await readFolder(shuffled), await readBytes(zip(shuffled)), await readBytes(zip(files, 0))]) {
      assertEquals([data.count, data.channels, data.height, data.width], [3, channels, 4, 4]);
      assertEquals([data.classes, ...data.labels], [1, 0, 0, 0]);
      assertEquals(data.pixels, planes);
    }
  }
});

Deno.test("PNG: dataset.json gives the classes, or says that there are none", async () => {
  const files = await pictures(3);
  const labels = [[NAMES[2], 999], [NAMES[0]!.replace("/", "\\"), 4], [NAMES[1], 0]];
  const labelled = {
    ...files,
    "dataset.json": encode({ labels }),
    "__MACOSX/._x.png": encode(1),
    ".DS_Store": encode(1),
  };
  for (const data of [await readFolder(labelled), await readBytes(zip(labelled))]) {
    assertEquals([data.classes, ...data.labels], [1000, 4, 0, 999]);
    assertEquals(data.pixels, PLANES);
  }
  const { classes } = await readBytes(zip({ ...files, "dataset.json": encode({ labels: null }) }));
  assertEquals(classes, 1);
});

Deno.test("PNG: a ZIP64 archive", async () => {
  const plain = zip(await pictures(3));
  const end = plain.slice(-22);
  const view = new DataView(end.buffer);
  const record = new DataView(new ArrayBuffer(56)), locator = new DataView(new ArrayBuffer(20));
  record.setUint32(0, 0x06064b50, true);
  [32, 40, 48].forEach((at, i) => {
    const value = [view.getUint16(10, true), view.getUint32(12, true), view.getUint32(16, true)][i]!;
    record.setBigUint64(at, BigInt(value), true);
  });
  locator.setUint32(0, 0x07064b50, true);
  locator.setBigUint64(8, BigInt(plain.length - 22), true);
  end.fill(0xff, 8, 20);
  const wide = concat(plain.subarray(0, -22), new Uint8Array(record.buffer), new Uint8Array(locator.buffer), end);
  assertEquals((await readBytes(wide)).pixels, PLANES);
});

Deno.test("PNG: what is wrong is named with the archive and the entry", async () => {
  const files = await pictures(3);
  const other = await png(randomBytes(15, 1), 5, 1, 3);
  const labelled = (content: unknown) => zip({ ...files, "dataset.json": encode(content) });
  const damaged = zip(files, 0);
  damaged[100]! ^= 1;
  const [encrypted, packed] = [zip(files), zip(files)];
  const directory = encrypted.findIndex((_, i) => [0x50, 0x4b, 1, 2].every((byte, j) => encrypted[i + j] === byte));
  encrypted[directory + 8]! |= 1;
  packed[directory + 10] = 12;
  const cases: [string, Bytes][] = [
    ["holds no pictures", zip({ "dataset.json": encode({ labels: null }) })],
    ["holds no pictures", zip({})],
    ['x: "z.png" is 3x1x5; expected 3x4x4, as "00000/img00000000.png" is', zip({ ...files, "z.png": other })],
    ['x: "z.jpg" is not a PNG file', zip({ ...files, "z.jpg": encode(1) })],
    ['x: "dataset.json" should be JSON', zip({ ...files, "dataset.json": concat("{") })],
    ['a list under the key "labels", or null', labelled({})],
    ['a list under the key "labels", or null', labelled(null)],
    ['entry 1 of "labels" should be a path and a class', labelled({ labels: [[NAMES[0], 1], 5] })],
    ['gives a class to "none.png", which is not there', labelled({ labels: [["none.png", 1]] })],
    [`gives no class to "${NAMES[1]}"`, labelled({ labels: [[NAMES[0], 1]] })],
    [`"${NAMES[0]}" has the class -1; expected a whole number`, labelled({ labels: [[NAMES[0], -1]] })],
    [`"${NAMES[0]}" has the class 1.5`, labelled({ labels: [[NAMES[0], 1.5]] })],
    [`"${NAMES[0]}" has the class 65536`, labelled({ labels: [[NAMES[0], 65536]] })],
    [`"${NAMES[0]}" has the class 1,2`, labelled({ labels: [[NAMES[0], [1, 2]]] })],
    [`entry "${NAMES[0]}" does not have its checksum`, damaged],
    [`entry "${NAMES[0]}" is encrypted`, encrypted],
    [`entry "${NAMES[0]}" is compressed by method 12; expected`, packed],
    ["has no directory at its end", zip(files).slice(0, -1)],
    ["a damaged ZIP archive", concat(zip(files).slice(0, 50), zip(files).slice(60))],
    ["is a single picture", other],
  ];
  for (const [message, bytes] of cases) await assertRefused("x", message, () => readBytes(bytes));
  await assertRefused("folder", "an empty folder", () => readFolder({}));
  await assertRefused('folder: "z.txt"', "is not a PNG", () => readFolder({ ...files, "z.txt": encode(1) }));
});

Deno.test("npz: images as sample writes them, with and without labels", async () => {
  const data = Uint8Array.from(
    { length: 144 },
    (_, i) => PLANES[48 * Math.floor(i / 48) + 16 * (i % 3) + Math.floor(i / 3) % 16]!,
  );
  const images = { dtype: "u1", shape: [3, 4, 4, 3], data } as const;
  const plain = await readBytes(encodeNpz({ images }));
  assertEquals([plain.count, plain.channels, plain.height, plain.width, plain.classes], [3, 3, 4, 4, 1]);
  assertEquals(plain.pixels, PLANES);
  const labels = [
    { dtype: "i8", shape: [3], data: new BigInt64Array([1n, 0n, 300n]) },
    { dtype: "i4", shape: [3], data: new Int32Array([1, 0, 300]) },
  ] as const;
  for (const array of labels) {
    const labelled = await readBytes(encodeNpz({ images, labels: array }));
    assertEquals([labelled.classes, ...labelled.labels], [301, 1, 0, 300]);
    assertEquals(labelled.pixels, PLANES);
  }
});

Deno.test("npz: what is wrong is named with the array", async () => {
  const u1 = (
    ...shape: number[]
  ) => ({ dtype: "u1", shape, data: randomBytes(shape.reduce((a, b) => a * b), 1) } as const);
  const images = u1(2, 4, 4, 3);
  const cases: [string, Bytes][] = [
    ["holds the arrays pictures; expected images, and labels", encodeNpz({ pictures: images })],
    ["holds the arrays images, y; expected images", encodeNpz({ images, y: u1(2) })],
    ['array "images" is u1 of shape [2, 4, 4]; expected u1 of [count', encodeNpz({ images: u1(2, 4, 4) })],
    [
      '"images" is f4 of shape [2, 1, 1, 1]',
      encodeNpz({ images: { dtype: "f4", shape: [2, 1, 1, 1], data: new Float32Array(2) } }),
    ],
    ["images of 4x3 pixels; expected square", encodeNpz({ images: u1(2, 4, 3, 1) })],
    ["images of 4 channels; expected 1 or 3", encodeNpz({ images: u1(2, 4, 4, 4) })],
    ["images of 0 channels; expected 1 or 3", encodeNpz({ images: u1(2, 4, 4, 0) })],
    ['array "labels" has shape [3]; expected [2]', encodeNpz({ images, labels: u1(3) })],
    [
      'array "labels", element 1, has the class -1',
      encodeNpz({ images, labels: { dtype: "i8", shape: [2], data: new BigInt64Array([0n, -1n]) } }),
    ],
    ["not in the .npy format", zip({ "images.npy": randomBytes(200, 1) })],
  ];
  for (const [message, bytes] of cases) await assertRefused("x", message, () => readBytes(bytes));
});

Deno.test("UCI's text is still read, and has 10 classes", async () => {
  const digits = await loadDigits();
  const row = (i: number) => [...digits.pixels.subarray(64 * i, 64 * i + 64)].map((v) => Math.round(16 * v / 255));
  const text = [0, 1, 2].map((i) => [...row(i), digits.labels[i]].join(",")).join("\n");
  const data = await readBytes(concat(text), "any.name");
  assertEquals([data.count, data.height, data.classes, digits.classes], [3, 8, 10, 10]);
  assertEquals(data.pixels, digits.pixels.slice(0, 192));
});

Deno.test("what is none of the kinds is said to be so", async () => {
  await assertRefused("x", "x is empty; expected CIFAR-10", () => readBytes(new Uint8Array()));
  await assertRefused("x", "1000 bytes are no whole batch of CIFAR", () => readBytes(randomBytes(1000, 1)));
  const other = await compress(randomBytes(1000, 1), "gzip");
  await assertRefused("x", "is no data set that can be read: it begins as none", () => readBytes(other));
  await assertRefused("x", "line 1 has 1 fields", () => readBytes(concat("hello\n")));
});

Deno.test("mean and standard deviation are those of 2 v - 1 with the divisor n - 1", async () => {
  const { pixels, mean, std } = await readBytes(BINARY[0]!);
  const values = Array.from(pixels, (byte) => 2 * byte / 255 - 1);
  const expected = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - expected) ** 2, 0) / (values.length - 1);
  assert(Math.abs(mean - expected) < 1e-7 && Math.abs(std - Math.sqrt(variance)) < 1e-7, `${mean}, ${std}`);
});

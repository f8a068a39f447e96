/** Damaged data sets: 1,000 copies of each kind give a typed error or a correct read. */

import { assert, assertEquals } from "@std/assert";
import type { ImageData8 } from "../src/data/image_data.ts";
import { FileError } from "../src/gpu/errors.ts";
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
import { uniformSource } from "./gpu.ts";

const COPIES = 1000;

/** A file to be damaged. */
interface Target {
  readonly kind: string;
  readonly bytes: Bytes;
  readonly read: (bytes: Bytes) => Promise<ImageData8>;
  /** Whether checksums cover all images, so that one that is read must be the one that was written. */
  readonly checked: boolean;
}

const pixels = randomBytes(2 * 3072, 1);
const binary = cifarBatch([3, 9], pixels), pickled = cifarPickle([3, 9], pixels);
const images = idx([3, 28, 28], randomBytes(3 * 784, 2)), labels = idx([3], [7, 0, 2]);
const pictures = {
  "0/a.png": await png(randomBytes(48, 3), 4, 4, 3, { filters: [1, 2, 3, 4] }),
  "0/b.png": await png(randomBytes(48, 4), 4, 4, 3, { filters: [4, 3] }),
};
const json = concat(JSON.stringify({ labels: [["0/a.png", 1], ["0/b.png", 0]] }));
const arrays = encodeNpz({
  images: { dtype: "u1", shape: [3, 4, 4, 1], data: randomBytes(48, 5) },
  labels: { dtype: "i8", shape: [3], data: new BigInt64Array([0n, 2n, 1n]) },
});
const text = Array.from(
  { length: 20 },
  (_, row) => [...randomBytes(64, row).map((byte) => byte % 17), row % 10].join(),
);

const read = (bytes: Bytes) => readBytes(bytes);
const TARGETS: Target[] = [
  { kind: "CIFAR batch", bytes: binary, read, checked: false },
  { kind: "CIFAR .tar", bytes: tar({ "c/data_batch_1.bin": binary }), read, checked: false },
  { kind: "CIFAR .tar.gz", bytes: await compress(tar({ "c/data_batch_1.bin": binary }), "gzip"), read, checked: true },
  { kind: "CIFAR pickle", bytes: pickled, read, checked: false },
  {
    kind: "CIFAR pickle .tar.gz",
    bytes: await compress(tar({ "c/data_batch_1": pickled }), "gzip"),
    read,
    checked: true,
  },
  {
    kind: "IDX images",
    bytes: images,
    read: (bytes) => readFrom({ "images": bytes, "labels": labels }, "images"),
    checked: false,
  },
  {
    kind: "IDX labels",
    bytes: labels,
    read: (bytes) => readFrom({ "images": images, "labels": bytes }, "images"),
    checked: false,
  },
  {
    kind: "IDX .gz",
    bytes: await compress(images, "gzip"),
    read: (bytes) => readFolder({ "images.gz": bytes, "labels": labels }),
    checked: true,
  },
  {
    kind: "PNG of a folder",
    bytes: pictures["0/b.png"],
    read: (bytes) => readFolder({ ...pictures, "0/b.png": bytes, "dataset.json": json }),
    checked: true,
  },
  { kind: "zip of PNG, deflated", bytes: zip({ ...pictures, "dataset.json": json }), read, checked: true },
  { kind: "zip of PNG, stored", bytes: zip(pictures, 0), read, checked: true },
  {
    kind: "dataset.json",
    bytes: json,
    read: (bytes) => readFolder({ ...pictures, "dataset.json": bytes }),
    checked: false,
  },
  { kind: "npz", bytes: arrays, read, checked: true },
  { kind: "UCI text", bytes: concat(text.join("\n")), read, checked: false },
];

/** A copy with up to three bytes changed, or with its end cut off. */
function damage(bytes: Bytes, uniform: () => number): Bytes {
  const place = () => Math.floor(uniform() * bytes.length);
  if (uniform() < 0.3) return bytes.slice(0, place());
  const copy = bytes.slice();
  for (let changes = 1 + Math.floor(3 * uniform()); changes > 0; changes--) {
    // Half of them near one of the ends, where headers and directories are.
    const near = Math.floor(uniform() * Math.min(bytes.length, 256));
    const at = uniform() < 0.5 ? place() : uniform() < 0.5 ? near : bytes.length - 1 - near;
    copy[at] = Math.floor(256 * uniform());
  }
  return copy;
}

for (const [seed, { kind, bytes, read, checked }] of TARGETS.entries()) {
  Deno.test(`${kind}: ${COPIES} damaged copies give a typed error or a correct read`, async () => {
    const whole = await read(bytes);
    const uniform = uniformSource(seed);
    let refused = 0;
    for (let copy = 0; copy < COPIES; copy++) {
      const damaged = damage(bytes, uniform);
      try {
        assertCorrect(await read(damaged), whole, checked);
      } catch (error) {
        assert(error instanceof FileError, `copy ${copy}: ${(error as Error).stack}`);
        assert(/^(x|images|labels|folder)/.test(error.message) && error.message.endsWith("."), error.message);
        refused++;
      }
    }
    assert(refused > 0.2 * COPIES, `only ${refused} of ${COPIES} copies were refused`);
  });
}

function assertCorrect(data: ImageData8, whole: ImageData8, checked: boolean): void {
  const { count, channels, height, width, classes } = data;
  assertEquals([channels, height, width], [whole.channels, whole.height, whole.width]);
  assert(count <= whole.count && data.labels.length === count, `${count} images, ${data.labels.length} labels`);
  assertEquals(data.pixels.length, count * channels * height * width);
  assert(data.labels.every((label) => label < classes));
  if (!checked) return;
  assertEquals(data.pixels, whole.pixels);
  assertEquals(data.labels, whole.labels);
}

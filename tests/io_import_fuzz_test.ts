/** Damaged copies of every kind of imported file: a typed error or a correct read, in time and within memory. */

import { assert, assertEquals } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import { readTorchFile, type TorchFile } from "../src/io/torch_file.ts";
import { uniformSource } from "./gpu.ts";
import { readImport } from "./pickles.ts";

const COPIES = 1000;
const MAX_SECONDS = 2;
const MAX_GROWTH = 1e9;

type Bytes = Uint8Array<ArrayBuffer>;

/** One to eight bytes replaced, a piece cut out, doubled or overwritten, or the end cut off. */
function damaged(bytes: Bytes, uniform: () => number): Bytes {
  const below = (n: number) => Math.floor(uniform() * n);
  const at = below(bytes.length);
  const piece = 1 + below(64);
  const copy = bytes.slice();
  switch (below(6)) {
    case 0:
      return bytes.slice(0, at);
    case 1:
      return new Uint8Array([...bytes.subarray(0, at), ...bytes.subarray(at + piece)]);
    case 2:
      return new Uint8Array([...bytes.subarray(0, at + piece), ...bytes.subarray(at)]);
    case 3:
      copy.copyWithin(at, below(bytes.length), below(bytes.length));
      return copy;
    default:
      for (let i = 1 + below(8); i > 0; i--) copy[below(bytes.length)] = below(256);
      return copy;
  }
}

/** What any read must be: tensors whose data fit their shapes. */
function assertConsistent(file: TorchFile): void {
  const tensors = file.kind === "edm" ? file.network.tensors : file.tensors;
  for (const [name, { shape, data }] of tensors) assertEquals(data.length, shape.reduce((a, b) => a * b, 1), name);
}

/** `isChecked` says that the kind carries checksums: what is read must be what was written. */
for (
  const [name, isChecked] of [
    ["zip.pt", true],
    ["deflated.pt", true],
    ["legacy.pth", false],
    ["pickle_p2.pkl", false],
    ["pickle_p5.pkl", false],
    ["foreign.safetensors", false],
    ["edm.pkl", false],
    ["vp.pkl", false],
    ["edm_training.pt", true],
  ] as const
) {
  Deno.test(`import: ${COPIES} damaged copies of ${name} give a FileError or a correct read`, async () => {
    const bytes = await readImport(name);
    const whole = await readTorchFile(bytes, name);
    const uniform = uniformSource(11);
    const before = Deno.memoryUsage().rss;
    let errors = 0, slowest = 0, largest = 0;
    for (let i = 0; i < COPIES; i++) {
      const copy = damaged(bytes, uniform);
      const start = performance.now();
      try {
        const file = await readTorchFile(copy, name);
        if (isChecked) assertEquals(file, whole);
        else assertConsistent(file);
      } catch (error) {
        if (!(error instanceof FileError)) throw error;
        assert(error.message.startsWith(name), error.message);
        errors++;
      }
      slowest = Math.max(slowest, (performance.now() - start) / 1000);
      largest = Math.max(largest, Deno.memoryUsage().rss - before);
    }
    assert(slowest < MAX_SECONDS, `one copy took ${slowest} s`);
    assert(largest < MAX_GROWTH, `memory grew by ${largest} bytes`);
    assert(errors > COPIES / 4, `only ${errors} of ${COPIES} copies were found to be damaged`);
  });
}

/** The npz format, against a file that NumPy wrote. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { strToU8, zipSync } from "fflate";
import { FileError, UsageError } from "../src/gpu/errors.ts";
import { decodeBase64 } from "../src/io/base64.ts";
import { decodeNpz, encodeNpz, type NpyArray } from "../src/io/npz.ts";
import { uniformSource } from "./gpu.ts";

/** By numpy.savez_compressed of the arrays in ARRAYS. */
const NUMPY_FILE = decodeBase64(`
UEsDBBQAAAAIAAAAIQAb9X0SUwAAAJgAAAAGABQAbXUubnB5AQAQAJgAAAAAAAAAUwAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBuk2ahrqOgnpZfVFKU
mBefX5SSChJ3S8wpTgWKF2ckFqQC+RrGOpo6CrUKFAAuBjD4YQ+hGQ4A8Ya+D9JOAFBLAwQUAAAACAAAACEAJbxBr1MAAACgAAAABwAUAGlkcy5ucHkBABAA
oAAAAAAAAABTAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TaaGuo6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GkY6CkaaOgq1CmQDLkYGCPj3
HwKYoXwWKA0AUEsDBBQAAAAIAAAAIQC2bJjaRgAAAIQAAAAJABQAc21hbGwubnB5AQAQAIQAAAAAAAAARgAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBu
k2airqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RqaOgq1ChQBLgaGBjsAUEsDBBQAAAAIAAAAIQCdUziGTwAAAIYAAAAJABQAYnl0ZXMubnB5AQAQ
AIYAAAAAAAAATwAAAAAAAACb7BfqGxDJyFDGUK2eklqcXKRupaBeU2qorqOgnpZfVFKUmBefX5SSChJ3S8wpTgWKF2ckFqQC+RqGOgpGOgrGmjoKtQrkAS4G
RiZmFlYAUEsDBBQAAAAIAAAAIQD7AH4MSQAAAIQAAAAIABQAaW50cy5ucHkBABAAhAAAAAAAAABJAAAAAAAAAJvsF+obEMnIUMZQrZ6SWpxcpG6loG6TaaKu
o6Cell9UUpSYF59flJIKEndLzClOBYoXZyQWpAL5GoY6mjoKtQoUAK6f////BwBQSwECFAMUAAAACAAAACEAG/V9ElMAAACYAAAABgAAAAAAAAAAAAAAgAEA
AAAAbXUubnB5UEsBAhQDFAAAAAgAAAAhACW8Qa9TAAAAoAAAAAcAAAAAAAAAAAAAAIABiwAAAGlkcy5ucHlQSwECFAMUAAAACAAAACEAtmyY2kYAAACEAAAA
CQAAAAAAAAAAAAAAgAEXAQAAc21hbGwubnB5UEsBAhQDFAAAAAgAAAAhAJ1TOIZPAAAAhgAAAAkAAAAAAAAAAAAAAIABmAEAAGJ5dGVzLm5weVBLAQIUAxQA
AAAIAAAAIQD7AH4MSQAAAIQAAAAIAAAAAAAAAAAAAACAASICAABpbnRzLm5weVBLBQYAAAAABQAFAA0BAAClAgAAAAA=
`);

const ARRAYS: Record<string, NpyArray> = {
  mu: { dtype: "f8", shape: [3], data: new Float64Array([1.5, -2, 3e10]) },
  ids: { dtype: "i8", shape: [2, 2], data: new BigInt64Array([1n, -2n, 3n, 4n]) },
  small: { dtype: "f4", shape: [], data: new Float32Array([0.25]) },
  bytes: { dtype: "u1", shape: [1, 2, 3], data: new Uint8Array([0, 1, 2, 3, 4, 5]) },
  ints: { dtype: "i4", shape: [1], data: new Int32Array([-7]) },
};

/** An archive with one array, "a.npy", of the given header text and data. */
function archive(header: string, data: readonly number[] = [], version = 1): Uint8Array<ArrayBuffer> {
  const text = strToU8(header, true);
  const length = version === 1 ? [text.length & 0xff, text.length >> 8] : [text.length & 0xff, text.length >> 8, 0, 0];
  const content = [0x93, ...strToU8("NUMPY"), version, 0, ...length, ...text, ...data];
  return zipSync({ "a.npy": new Uint8Array(content) });
}

Deno.test("npz: NumPy's own file is read", async () => {
  assertEquals(await decodeNpz(NUMPY_FILE, "a"), ARRAYS);
});

Deno.test("npz: what is written comes back, and twice the same bytes", async () => {
  assertEquals(await decodeNpz(encodeNpz(ARRAYS), "a"), ARRAYS);
  assertEquals(encodeNpz(ARRAYS), encodeNpz(ARRAYS));
});

Deno.test("npz: version 2 headers are read", async () => {
  const bytes = archive("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", [7, 8], 2);
  assertEquals(await decodeNpz(bytes, "a"), { a: { dtype: "u1", shape: [2], data: new Uint8Array([7, 8]) } });
});

Deno.test("npz: each way a file can be wrong has its error, naming the file", async () => {
  const header = (descr: string, order = "False", shape = "(1,)") =>
    `{'descr': ${descr}, 'fortran_order': ${order}, 'shape': ${shape}, }\n`;
  const fewer = NUMPY_FILE.slice();
  fewer[fewer.length - 22 + 10] = 4; // the directory's count of its five entries
  const cases: [string, Uint8Array<ArrayBuffer>][] = [
    ["does not list its 4 entries", fewer],
    ["no directory at its end", new Uint8Array()],
    ["no directory at its end", new Uint8Array(1000)],
    ["damaged ZIP archive", NUMPY_FILE.slice(100)],
    ["would inflate to 70000000 bytes", zipSync({ "a.npy": new Uint8Array(70_000_000) })],
    ['array "a" is not in the .npy format', zipSync({ "a.npy": strToU8("hello, hello, hello") })],
    ["has .npy version 9", archive(header("'|u1'"), [1], 9)],
    ['has type "<c8"; expected one of |u1, <f4', archive(header("'<c8'"), [1])],
    ['has type ">f4"', archive(header("'>f4'"), [0, 0, 0, 0])],
    ['has no readable "descr"', archive(header("[('x', '<f4')]"), [1])],
    ["Fortran order", archive(header("'|u1'", "True"), [1])],
    ['has no readable "shape"', archive(header("'|u1'", "False", "(-1,)"), [1])],
    ["has 1 bytes of data; expected 8 for f4 of shape [2]", archive(header("'<f4'", "False", "(2,)"), [1])],
  ];
  for (const [expected, bytes] of cases) {
    const error = await assertRejects(() => decodeNpz(bytes, "stats.npz"), FileError, expected);
    assert(error.message.startsWith("stats.npz"));
  }
});

Deno.test("npz: 300 random mutations and every truncation give an error or the right data", async () => {
  const values = (arrays: Record<string, NpyArray>) => Object.values(arrays);
  const uniform = uniformSource(5);
  const attempt = async (bytes: Uint8Array<ArrayBuffer>) => {
    try {
      assertEquals(values(await decodeNpz(bytes, "a")), values(ARRAYS));
      return 0;
    } catch (error) {
      assert(error instanceof FileError, String(error));
      return 1;
    }
  };
  let errors = 0;
  for (let trial = 0; trial < 300; trial++) {
    const mutated = NUMPY_FILE.slice();
    const at = Math.floor(uniform() * mutated.length);
    mutated[at] = (mutated[at]! + 1 + Math.floor(uniform() * 255)) & 0xff;
    errors += await attempt(mutated);
  }
  assert(errors > 100, `only ${errors} of 300 mutations were found`);
  for (let length = 0; length < NUMPY_FILE.length; length++) {
    assertEquals(await attempt(NUMPY_FILE.slice(0, length)), 1);
  }
});

Deno.test("npz: data that does not fit its shape is refused", () => {
  const array: NpyArray = { dtype: "u1", shape: [2], data: new Uint8Array(3) };
  assertThrows(() => encodeNpz({ a: array }), UsageError, '"a" has 3 values');
});

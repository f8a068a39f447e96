/** The safetensors format: exact round trips, conversions, and an error for every way a file can be wrong. */

import { assert, assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { DIGITS_FEATURES } from "../src/eval/digits_features_data.ts";
import { FileError, UsageError } from "../src/gpu/errors.ts";
import { decodeBase64 } from "../src/io/base64.ts";
import { decodeSafetensors, encodeSafetensors, type StoredTensor } from "../src/io/safetensors.ts";
import { uniformSource } from "./gpu.ts";

const SAMPLE: ReadonlyMap<string, StoredTensor> = new Map<string, StoredTensor>([
  ["mask", { dtype: "U8", shape: [3], data: new Uint8Array([1, 0, 255]) }],
  ["weight", { dtype: "F32", shape: [2, 3], data: new Float32Array([1, -2, 0.5, NaN, Infinity, 1e-40]) }],
  ["step", { dtype: "U32", shape: [], data: new Uint32Array([4294967295]) }],
  ["ids", { dtype: "I64", shape: [2], data: new BigInt64Array([-1n, 2n ** 62n]) }],
  ["signed", { dtype: "I32", shape: [1, 1], data: new Int32Array([-7]) }],
  ["nothing", { dtype: "F32", shape: [0, 4], data: new Float32Array() }],
]);

/** A file of the given header and data section, whatever they are. */
function file(header: unknown, data: readonly number[] = []): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

function tensor(dtype: unknown, shape: unknown, offsets: unknown): Record<string, unknown> {
  return { dtype, shape, data_offsets: offsets };
}

Deno.test("safetensors: every type comes back as it was written", async () => {
  const { metadata, tensors } = await decodeSafetensors(await encodeSafetensors(SAMPLE, { note: 'ä\n"x"' }), "a");
  assertEquals(metadata["note"], 'ä\n"x"');
  assertEquals(new Map([...tensors].sort()), new Map([...SAMPLE].sort()));
});

Deno.test("safetensors: the order of tensors and metadata does not change a byte", async () => {
  const one = await encodeSafetensors(SAMPLE, { a: "1", b: "2" });
  const other = await encodeSafetensors(new Map([...SAMPLE].reverse()), { b: "2", a: "1" });
  assertEquals(one, other);
  const headerLength = Number(new DataView(one.buffer).getBigUint64(0, true));
  assertEquals(headerLength % 8, 0);
  const { tensors } = await decodeSafetensors(one, "a");
  assertEquals([...tensors.keys()], ["ids", "nothing", "signed", "step", "weight", "mask"]);
});

Deno.test("safetensors: a view into a larger buffer is written alone", async () => {
  const data = new Float32Array([9, 1, 2, 9]).subarray(1, 3);
  const bytes = await encodeSafetensors(new Map([["v", { dtype: "F32", shape: [2], data }]]));
  assertEquals((await decodeSafetensors(bytes, "a")).tensors.get("v")?.data, new Float32Array([1, 2]));
});

Deno.test("safetensors: the embedded feature network is read", async () => {
  const { metadata, tensors } = await decodeSafetensors(decodeBase64(DIGITS_FEATURES), "digits_features");
  assertEquals(metadata["mean"], "-0.3894794285297394");
  assertEquals(tensors.get("fc1.weight")?.shape, [64, 256]);
  assertEquals(tensors.size, 10);
});

Deno.test("safetensors: F16, BF16 and F64 become F32", async () => {
  const half = [0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0x00, 0x7c, 0xff, 0x7b, 0x01, 0x7c]; // 1 −2 2^-24 ∞ 65504 NaN
  const header = { h: tensor("F16", [6], [0, 12]), b: tensor("BF16", [2], [12, 16]), d: tensor("F64", [1], [16, 24]) };
  const double = [...new Uint8Array(new Float64Array([0.1]).buffer)];
  const { tensors } = await decodeSafetensors(file(header, [...half, 0x80, 0x3f, 0x49, 0xc0, ...double]), "a");
  assertEquals(tensors.get("h")?.data, new Float32Array([1, -2, 2 ** -24, Infinity, 65504, NaN]));
  assertEquals(tensors.get("b")?.data, new Float32Array([1, -3.140625]));
  assertEquals(tensors.get("d"), { dtype: "F32", shape: [1], data: new Float32Array([0.1]) });
});

Deno.test("safetensors: each way a file can be wrong has its error, naming the file", async () => {
  const four = [0, 0, 0, 0];
  const longHeader = file({});
  new DataView(longHeader.buffer).setBigUint64(0, 100_000_001n, true);
  const beyond = file({});
  new DataView(beyond.buffer).setBigUint64(0, 99n, true);
  const cases: [string, Uint8Array<ArrayBuffer>][] = [
    ["it has 3 bytes, fewer than the 8", new Uint8Array(3)],
    ["more than the allowed 100000000", longHeader],
    ["is 99 bytes, but only 2 bytes follow", beyond],
    ["not JSON", file("{")],
    ["not JSON", file("\ufeff{}")],
    ["not a JSON object", file("[]")],
    ["not a JSON object", file("null")],
    ['names "a" twice', file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}')],
    ['"__metadata__" is not an object', file({ __metadata__: [] })],
    ['metadata "n" is not text', file({ __metadata__: { n: 1 } })],
    ['tensor "a" is not described by an object', file({ a: 1 })],
    ['tensor "a" has dtype "F8"; expected one of F64', file({ a: tensor("F8", [4], [0, 4]) }, four)],
    ['tensor "a" has dtype undefined', file({ a: {} })],
    ['tensor "a" has dtype "toString"', file({ a: tensor("toString", [4], [0, 4]) }, four)],
    ['tensor "a" has shape [-1]', file({ a: tensor("F32", [-1], [0, 4]) }, four)],
    ['tensor "a" has shape [1.5]', file({ a: tensor("F32", [1.5], [0, 6]) }, four)],
    ['tensor "a" has shape "1"', file({ a: tensor("F32", "1", [0, 4]) }, four)],
    ['tensor "a" has data_offsets [4,0]', file({ a: tensor("F32", [1], [4, 0]) }, four)],
    ['tensor "a" has data_offsets [0]', file({ a: tensor("F32", [1], [0]) }, four)],
    ['tensor "a" has 4 bytes of data; expected 8', file({ a: tensor("F32", [2], [0, 4]) }, four)],
    ['tensor "a" ends at byte 8 of the data, but the file has 4', file({ a: tensor("F32", [2], [0, 8]) }, four)],
    ['tensor "a" begins at byte 1 of the data, after a hole', file({ a: tensor("U8", [3], [1, 4]) }, four)],
    [
      'tensor "b" begins at byte 1 of the data, inside another; expected 3',
      file({ a: tensor("U8", [3], [0, 3]), b: tensor("U8", [3], [1, 4]) }, four),
    ],
    [
      'tensor "b" begins at byte 1 of the data; expected a multiple of 2',
      file({ a: tensor("U8", [1], [0, 1]), b: tensor("F16", [1], [1, 3]) }, [0, 0, 0]),
    ],
    ["2 bytes follow the last tensor", file({ a: tensor("U8", [2], [0, 2]) }, four)],
    ["does not have the checksum", file({ __metadata__: { checksum: "00" } })],
  ];
  for (const [expected, bytes] of cases) {
    const error = await assertRejects(() => decodeSafetensors(bytes, "m.safetensors"), FileError, expected);
    assertStringIncludes(error.message, "m.safetensors");
  }
});

Deno.test("safetensors: a changed bit of the data is found by the checksum", async () => {
  const bytes = await encodeSafetensors(SAMPLE);
  bytes[bytes.length - 1]! ^= 1;
  await assertRejects(() => decodeSafetensors(bytes, "a"), FileError, "checksum");
});

Deno.test("safetensors: every truncation is an error", async () => {
  const bytes = await encodeSafetensors(SAMPLE);
  for (let length = 0; length < bytes.length; length++) {
    await assertRejects(() => decodeSafetensors(bytes.slice(0, length), "a"), FileError);
  }
});

Deno.test("safetensors: 300 random mutations give an error or the right data", async () => {
  const bytes = await encodeSafetensors(SAMPLE, { config: '{"seed":1}' });
  const section = (tensors: Iterable<StoredTensor>) =>
    [...tensors].flatMap(({ data }) => [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]);
  const expected = section((await decodeSafetensors(bytes, "a")).tensors.values());
  const uniform = uniformSource(3);
  let errors = 0;
  for (let trial = 0; trial < 300; trial++) {
    const mutated = bytes.slice();
    const at = Math.floor(uniform() * bytes.length);
    mutated[at] = (mutated[at]! + 1 + Math.floor(uniform() * 255)) & 0xff;
    assertNotEquals(mutated[at], bytes[at]);
    try {
      const { tensors } = await decodeSafetensors(mutated, "a");
      assertEquals(section(tensors.values()), expected);
    } catch (error) {
      assert(error instanceof FileError, String(error));
      errors++;
    }
  }
  assert(errors > 150, `only ${errors} of 300 mutations were found`);
});

Deno.test("safetensors: strings of megabytes in the metadata are no problem", async () => {
  const config = '{"a":"b"}'.repeat(200_000);
  const { metadata } = await decodeSafetensors(await encodeSafetensors(new Map(), { config }), "a");
  assertEquals(metadata["config"]?.length, config.length);
});

Deno.test("safetensors: data that does not fit its shape is refused", async () => {
  const data = new Float32Array(6);
  for (const shape of [[5], [-2, -3]]) {
    await assertRejects(() => encodeSafetensors(new Map([["a", { dtype: "F32", shape, data }]])), UsageError, '"a"');
  }
  await assertRejects(
    () => encodeSafetensors(new Map([["__metadata__", { dtype: "F32", shape: [6], data }]])),
    UsageError,
    "reserves",
  );
});

/** PyTorch's files, against what PyTorch makes of them: every container and type, and an error for what is wrong. */

import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { zipSync } from "fflate";
import { FileError } from "../src/gpu/errors.ts";
import { readTorchFile, type StateDict } from "../src/io/torch_file.ts";
import { decodeSafetensors } from "../src/io/safetensors.ts";
import { bytes, bytesOf, HOSTILE, little, readImport, text } from "./pickles.ts";

const MAGIC = "\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
const SYSTEM = "\x80\x02}.";
const REBUILD = "ctorch._utils\n_rebuild_tensor_v2\n";

/** The operation that pushes the storage "0" of a file, of `size` elements. */
function storage(size: number, type = "FloatStorage", view = ""): string {
  return `(${text("storage")}ctorch\n${type}\n${text("0")}${text("cpu")}K${String.fromCharCode(size)}${view}tQ`;
}

/** The operations that push a tensor of a storage that `pushed` pushes. */
function tensor(pushed: string, shape: string, strides: string, offset = "K\0"): string {
  return `${REBUILD}(${pushed}${offset}${shape}${strides}\x89NtR`;
}

/** A legacy stream of an object, its list of storages and their content. */
function stream(object: string, keys = `(${text("0")}l`, content = `${little(2, 8)}\0\0\x80\x3f\0\0\0\x40`): string {
  return `${MAGIC}\x80\x02M\xe9\x03.${SYSTEM}\x80\x02${object}.\x80\x02${keys}.${content}`;
}

/** A dictionary with one tensor, "w". */
function dictionary(tensor: string): string {
  return `}${text("w")}${tensor}s`;
}

const PAIR = tensor(storage(2), "K\x02\x85", "K\x01\x85");
const NESTED_PAIR = (nested: string) =>
  dictionary(tensor(`ctorch.storage\n_load_from_bytes\n${bytes(nested)}\x85R`, "K\x02\x85", "K\x01\x85"));

function archive(object: string, rest: Record<string, string> = { "a/data/0": "\0\0\x80\x3f\0\0\0\x40" }) {
  const files = Object.entries({ "a/data.pkl": `\x80\x02${object}.`, ...rest });
  return zipSync(Object.fromEntries(files.map(([name, content]) => [name, bytesOf(content)])), { level: 0 });
}

async function readStateDict(bytes: Uint8Array): Promise<StateDict> {
  const file = await readTorchFile(new Uint8Array(bytes), "a.pt");
  assert(file.kind === "state_dict");
  return file;
}

const EXPECTED = await decodeSafetensors(await readImport("tensors.safetensors"), "tensors.safetensors");

for (
  const [name, section] of [
    ["zip.pt", ""],
    ["zip_p5.pt", ""],
    ["deflated.pt", ""],
    ["big_endian.pt", ""],
    ["legacy.pth", "state_dict"],
    ["pickle_p2.pkl", ""],
    ["pickle_p3.pkl", ""],
    ["pickle_p4.pkl", ""],
    ["pickle_p5.pkl", ""],
  ] as const
) {
  Deno.test(`torch: ${name} holds what PyTorch reads from it`, async () => {
    const file = await readStateDict(await readImport(name));
    assertEquals(file.section, section);
    assertEquals([...file.tensors.keys()].sort(), [...EXPECTED.tensors.keys()].sort());
    for (const [name, { shape, data }] of EXPECTED.tensors) {
      assertEquals(file.tensors.get(name), { shape, data: data as Float32Array<ArrayBuffer> }, name);
    }
  });
}

Deno.test("torch: a safetensors file of another library is converted, without a checksum", async () => {
  const file = await readStateDict(await readImport("foreign.safetensors"));
  assertEquals(file.metadata, { format: "pt" });
  assertEquals([...file.tensors.keys()].sort(), ["bf16", "f16", "f32", "f64", "i64"]);
  for (const [name, tensor] of file.tensors) {
    assertEquals(tensor.data, EXPECTED.tensors.get(name)!.data as Float32Array<ArrayBuffer>, name);
  }
});

Deno.test("torch: handmade files are read, so that what the next tests change is what matters", async () => {
  const expected = { shape: [2], data: new Float32Array([1, 2]) };
  const files = [
    archive(dictionary(PAIR)),
    bytesOf(stream(dictionary(PAIR))),
    bytesOf("\x80\x02", NESTED_PAIR(stream(storage(2))), "."),
  ];
  for (const file of files) assertEquals((await readStateDict(file)).tensors.get("w"), expected);
});

Deno.test("torch: whatever could run code is refused by name, wherever in a file it stands", async () => {
  for (const [named, operations] of HOSTILE) {
    const files: Record<string, Uint8Array<ArrayBuffer>> = {
      pickle: bytesOf(operations, "."),
      archive: new Uint8Array(archive(`}${text("a")}${operations}s`)),
      "object of a stream": bytesOf(stream(operations)),
      "system of a stream": bytesOf(`${MAGIC}\x80\x02M\xe9\x03.${operations}.`),
      "keys of a stream": bytesOf(stream(dictionary(PAIR), operations)),
      "stream in bytes": bytesOf("\x80\x02", NESTED_PAIR(stream(`${storage(2)}${operations}0`)), "."),
      "keys of a stream in bytes": bytesOf("\x80\x02", NESTED_PAIR(stream(storage(2), operations)), "."),
      "first pickle in bytes": bytesOf("\x80\x02", NESTED_PAIR(`${operations}.`), "."),
    };
    for (const [place, file] of Object.entries(files)) {
      // Inside of bytes nothing but storages may be named, so the changed OrderedDict is refused before.
      const expected = place.includes("bytes") ? named.replace("changes ", "") : named;
      const error = await assertRejects(() => readTorchFile(file, "a.pt"), FileError, expected, `${named} in ${place}`);
      assert(error.message.startsWith("a.pt"), error.message);
    }
  }
});

Deno.test("torch: a refusal inside of bytes tells the byte in both", async () => {
  const nested = stream("cos\nsystem\n");
  const error = await assertRejects(
    () => readTorchFile(bytesOf("\x80\x02ctorch.storage\n_load_from_bytes\n", bytes(nested), "\x85R."), "a.pt"),
    FileError,
  );
  const place = "\x80\x02ctorch.storage\n_load_from_bytes\n".length + bytes(nested).length + 1;
  assert(
    error.message.startsWith(`a.pt, byte ${place}: stream in bytes, byte ${nested.indexOf("cos")}: `),
    error.message,
  );
});

Deno.test("torch: each way a file can be wrong has its error, naming the file", async () => {
  const stored = (object: string, content = "\0\0\x80\x3f\0\0\0\x40") =>
    archive(dictionary(object), { "a/data/0": content });
  const cases: [string, Uint8Array][] = [
    ["nor a pickle", new Uint8Array()],
    ["nor a pickle", bytesOf("hello, hello")],
    ["0xff is no operation", bytesOf("\x80\x02\xff")],
    ["3 bytes follow the end", bytesOf("\x80\x02", NESTED_PAIR(stream(storage(2))), "....")],
    ["holds one tensor without a name", bytesOf(stream(PAIR))],
    ['holds no tensors; its entries are "G", "D"', bytesOf("\x80\x02}(U\x01GK\x01U\x01DNu.")],
    ["holds no tensors.", bytesOf("\x80\x02].")],
    // Archives.
    ["no directory", bytesOf("PK\x03\x04 and no more")],
    ["has 0 entries data.pkl", zipSync({ "dataset.json": bytesOf("{}") })],
    ["has 2 entries data.pkl", zipSync({ "a/data.pkl": bytesOf("N."), "b/data.pkl": bytesOf("N.") })],
    ["is a TorchScript program", archive("N", { "a/constants.pkl": "N." })],
    ['no entry "a/data/0"', archive(dictionary(PAIR), {})],
    ["storage 0 has 4 bytes; expected 8", stored(PAIR, "\0\0\0\0")],
    ['byteorder is "middle"', archive(dictionary(PAIR), { "a/data/0": "\0".repeat(8), "a/byteorder": "middle" })],
    // Streams.
    ["does not have version 1001", bytesOf(`${MAGIC}\x80\x02M\xea\x03.`)],
    ["system it was written on", bytesOf(`${MAGIC}\x80\x02M\xe9\x03.N.`)],
    ["no list of storages", bytesOf(stream(dictionary(PAIR), "N"))],
    ['storage "1" is listed, but not used', bytesOf(stream(dictionary(PAIR), `(${text("1")}l`))],
    ["listed twice", bytesOf(stream(dictionary(PAIR), `(${text("0")}${text("0")}l`))],
    ["is not in the stream", bytesOf(stream(dictionary(PAIR), "]", ""))],
    ["is cut off: of 8 bytes 7 are left", bytesOf(stream(dictionary(PAIR)).slice(0, -1))],
    ["is cut off: of 8 bytes 0 are left", bytesOf(stream(dictionary(PAIR), `(${text("0")}l`, ""))],
    ["has 3 elements; expected 2", bytesOf(stream(dictionary(PAIR), `(${text("0")}l`, `${little(3, 8)}12345678`))],
    ["4 bytes follow the end", bytesOf(stream(dictionary(PAIR)), "\0\0\0\0")],
    // Storages and tensors.
    ["describes no storage", stored(tensor(storage(2).replace("FloatStorage", "float32"), ")", ")"))],
    ["view of another", stored(tensor(storage(2, "FloatStorage", `(${text("1")}K\0K\x01t`), ")", ")"))],
    ["described in two ways", stored(`${storage(3)}0${PAIR}`)],
    ["described in two ways", stored(`${storage(2, "IntStorage")}0${PAIR}`)],
    ["reaches element 2 of a storage of 2", stored(tensor(storage(2), "K\x03\x85", "K\x01\x85"))],
    ["reaches element 2 of a storage of 2", stored(tensor(storage(2), "K\x02\x85", "K\x01\x85", "K\x01"))],
    ["reaches element 2 of a storage of 2", stored(tensor(storage(2), "K\x02\x85", "K\x02\x85"))],
    ["not whole numbers of at least 0", stored(tensor(storage(2), "J\xff\xff\xff\xff\x85", "K\x01\x85"))],
    ["not whole numbers of at least 0", stored(tensor(storage(2), "K\x02\x85", ")"))],
    ["not whole numbers of at least 0", stored(tensor(storage(2), "G?\xe0\0\0\0\0\0\0\x85", "K\x01\x85"))],
    ["up to 64 axes", stored(tensor(storage(2), `(${"K\x01".repeat(65)}t`, `(${"K\x01".repeat(65)}t`))],
    ["has no storage", stored(tensor("N", ")", ")"))],
    ["made from what is no tensor", stored("ctorch._utils\n_rebuild_parameter\n(N\x89NtR")],
    ["same numbers many times", stored(tensor(storage(2), "J\0\0\0\x7f\x85", "K\0\x85"))],
    // Streams in bytes.
    ["not made from bytes", bytesOf("\x80\x02ctorch.storage\n_load_from_bytes\nU\x01a\x85R.")],
    ["magic number", bytesOf("\x80\x02", NESTED_PAIR("N."), ".")],
    ["hold something else", bytesOf("\x80\x02", NESTED_PAIR(stream("]", "]", "")), ".")],
    // Names.
    ["for a name; expected text", stored(`${PAIR}s)${PAIR}`)],
    ['has "" for a name; expected text', stored(`${PAIR}s${text("")}${PAIR}`)],
    ["1001 characters; at most 1000", stored(`${PAIR}sX${little(1001, 4)}${"n".repeat(1001)}${PAIR}`)],
    ['two tensors named "1"', stored(`${PAIR}sK\x01${PAIR}s${text("1")}${PAIR}`)],
    ["contains itself", bytesOf(stream(`]\x94(${PAIR}h\0e`))],
    ["more than 64 levels deep", bytesOf("]".repeat(70), "a".repeat(69), ".")],
  ];
  for (const [expected, file] of cases) {
    const error = await assertRejects(() => readStateDict(file), FileError, expected);
    assert(error.message.startsWith("a.pt"), error.message);
  }
});

Deno.test("torch: dictionaries that multiply by sharing are refused in time", async () => {
  // Each dictionary holds the one before it twice: 2^30 names.
  const level = (n: number) => `}\x94${text("a")}h${String.fromCharCode(n)}s${text("b")}h${String.fromCharCode(n)}s`;
  const levels = Array.from({ length: 30 }, (_, n) => level(n)).join("");
  const start = performance.now();
  await assertRejects(
    () => readTorchFile(bytesOf(stream(`${dictionary(PAIR).replace("}", "}\x94")}${levels}`)), "a.pt"),
    FileError,
    "more than 2097152 entries",
  );
  assert(performance.now() - start < 5000);
});

Deno.test("torch: of a checkpoint the average comes first, then the model; an only section needs no name", async () => {
  const inner = dictionary(PAIR);
  const section = async (content: string) => (await readStateDict(bytesOf(stream(content)))).section;
  const names = async (content: string) => [...(await readStateDict(bytesOf(stream(content)))).tensors.keys()];
  const both = (a: string, b: string) => `}(${text(a)}${inner}${text(b)}${inner}u`;
  assertEquals(await section(both("model", "ema")), "ema");
  assertEquals(await section(both("optimizer", "state_dict")), "state_dict");
  assertEquals(await section(`}(${text("step")}${PAIR}${text("model")}${inner}u`), "model");
  assertEquals(await section(`}${text("weights")}}${text("student")}${inner}ss`), "weights.student");
  assertEquals(await section(both("student", "other")), "");
  assertEquals(await names(both("student", "other")), ["student.w", "other.w"]);
  assertEquals(await names(`}(${text("a")}(${PAIR}${PAIR}l${text("w")}${PAIR}u`), ["a.0", "a.1", "w"]);
});

Deno.test("torch: an archive that would inflate beyond all bounds is refused", async () => {
  const zeros = new Uint8Array(100_000_000);
  const bomb = zipSync({ "a/data.pkl": bytesOf("N."), "a/data/0": zeros }, { level: 9 });
  assert(bomb.length < 200_000);
  await assertRejects(() => readTorchFile(new Uint8Array(bomb), "a.pt"), FileError, "would inflate to 100000002 bytes");
});

Deno.test("torch: an archive's false sizes and checksums are found", async () => {
  const changed = (file: Uint8Array, at: number, value: number, width = 4) => {
    const copy = new Uint8Array(file);
    const view = new DataView(copy.buffer);
    if (width === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    return copy;
  };
  const plain = archive(dictionary(PAIR));
  const packed = zipSync({ "a/data.pkl": bytesOf("N.".padStart(1000, "(0")) }, { level: 9 });
  const directory = (file: Uint8Array) => new DataView(file.buffer).getUint32(file.length - 6, true);
  const size = new DataView(packed.buffer).getUint32(directory(packed) + 24, true);
  const cases: [string, Uint8Array<ArrayBuffer>][] = [
    ["does not have its checksum", changed(plain, directory(plain) + 16, 1)],
    ["is encrypted", changed(plain, directory(plain) + 8, 1, 2)],
    ["is compressed by method 9", changed(plain, directory(plain) + 10, 9, 2)],
    ["cannot have 3 bytes", changed(plain, directory(plain) + 24, 3)],
    ["does not begin where", changed(plain, directory(plain) + 42, 7)],
    ["does not list its 3 entries", changed(plain, plain.length - 12, 3, 2)],
    ["does not list its 1 entries", changed(plain, plain.length - 12, 1, 2)],
    ["directory is not where it should be", changed(plain, plain.length - 6, 0xffffffff)],
    [`has more than its ${size - 1} bytes`, changed(packed, directory(packed) + 24, size - 1)],
    [`has ${size} bytes; expected ${size + 1}`, changed(packed, directory(packed) + 24, size + 1)],
    ["cannot have 4294967295 bytes", changed(packed, directory(packed) + 24, 0xffffffff)],
    [`entry "a/data.pkl" is damaged`, changed(packed, 30 + "a/data.pkl".length, 0xffffffff)],
  ];
  for (const [expected, file] of cases) await assertRejects(() => readTorchFile(file, "a.pt"), FileError, expected);
});

Deno.test("torch: doubles and integers are rounded to float32", async () => {
  const file = await readStateDict(await readImport("zip.pt"));
  assertAlmostEquals(file.tensors.get("f64")!.data[0]!, 1 / 3, 1e-8);
  assertEquals([...file.tensors.get("i64")!.data], [-(2 ** 40), 123456]);
});

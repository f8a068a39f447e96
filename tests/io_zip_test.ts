/** ZIP archives: what their readers rely on beside whole files, above all that sizes in a directory may be false. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import { memoryFile } from "../src/io/bytes.ts";
import { isZip, listZip, readZipEntry } from "../src/io/zip.ts";
import { type Bytes, concat, randomBytes, zip } from "./data_files.ts";

const COMMENT_BYTES = 40;

async function readAll(archive: Bytes): Promise<Record<string, Bytes>> {
  const file = memoryFile("a.zip", archive);
  const read: Record<string, Bytes> = {};
  for (const [path, entry] of await listZip(file)) read[path] = await readZipEntry(file, entry);
  return read;
}

Deno.test("zip: stored, deflated and empty entries, of which some grow far in memory", async () => {
  const files = { "a": randomBytes(100_000, 1), "b/c": new Uint8Array(1_000_000).fill(7), "empty": new Uint8Array() };
  for (const archive of [zip(files, 0), zip(files, 6)]) {
    assert(isZip(archive));
    assertEquals(await readAll(archive), files);
  }
  assert(isZip(zip({})) && !isZip(new Uint8Array([0x50, 0x4b])) && !isZip(randomBytes(100, 2)));
});

Deno.test("zip: the end of an archive within the comment at its end is not taken for it", async () => {
  const files = { "a": randomBytes(10, 3) };
  const plain = zip(files);
  const comment = new Uint8Array(COMMENT_BYTES);
  comment.set(plain.subarray(-22), 5);
  comment[5 + 10] = 9; // its count of entries
  const archive = concat(plain, comment);
  new DataView(archive.buffer).setUint16(plain.length - 2, COMMENT_BYTES, true);
  assertEquals(await readAll(archive), files);
});

Deno.test("zip: sizes and places of 64 bits stand in an entry's extra field", async () => {
  const files = { "a": randomBytes(10, 3), "b": new Uint8Array(1000) };
  const plain = zip(files);
  const end = plain.slice(-22);
  const start = new DataView(end.buffer).getUint32(16, true);
  const entries = [0, 47].map((at) => {
    const entry = plain.slice(start + at, start + at + 47);
    const [view, extra] = [new DataView(entry.buffer), new DataView(new ArrayBuffer(32))];
    extra.setUint16(0, 0x7777, true); // a field of another program comes first
    extra.setUint16(4, 1, true);
    extra.setUint16(6, 24, true);
    [24, 20, 42].forEach((place, i) => {
      extra.setBigUint64(8 + 8 * i, BigInt(view.getUint32(place, true)), true);
      view.setUint32(place, 0xffffffff, true);
    });
    view.setUint16(30, 32, true);
    return concat(entry, new Uint8Array(extra.buffer));
  });
  new DataView(end.buffer).setUint32(12, 2 * (47 + 32), true);
  assertEquals(await readAll(concat(plain.subarray(0, start), ...entries, end)), files);
});

Deno.test("zip: memory is taken for the bytes that there are, not for those a false size promises", async () => {
  const file = memoryFile("a.zip", zip({ "a": new Uint8Array(1_000_000) }));
  const entry = (await listZip(file)).get("a")!;
  const size = 2 ** 52; // no memory of this size can be had
  const expected = `entry "a" has 1000000 bytes; expected ${size}`;
  await assertRejects(() => readZipEntry(file, { ...entry, size }), FileError, expected);
});

Deno.test("zip: entries that lie over each other are refused, since few bytes could become many", async () => {
  const archive = zip({ "a": randomBytes(1000, 5) });
  const end = archive.slice(-22);
  const view = new DataView(end.buffer);
  const second = archive.slice(view.getUint32(16, true), -22);
  second[46] = "b".charCodeAt(0);
  view.setUint16(10, 2, true);
  view.setUint32(12, 2 * second.length, true);
  const overlapping = concat(archive.subarray(0, -22), second, end);
  await assertRejects(() => readAll(overlapping), FileError, "a.zip is a damaged ZIP archive: its entries have 20");
});

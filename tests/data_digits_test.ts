/** The embedded digits and the UCI text format. */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { loadDigits } from "../src/data/digits.ts";
import { parseUciDigits } from "../src/data/uci_digits.ts";
import { FileError } from "../src/gpu/errors.ts";

/** The first digits of the embedded set as UCI writes them. */
async function uciRows(n: number): Promise<string[]> {
  const { pixels, labels } = await loadDigits();
  return Array.from({ length: n }, (_, i) => {
    const counts = Array.from(pixels.subarray(64 * i, 64 * (i + 1)), (pixel) => Math.round(16 * pixel / 255));
    return [...counts, labels[i]!].join(",");
  });
}

Deno.test("loadDigits: sizes, classes and sums are the published set's", async () => {
  const digits = await loadDigits();
  assertEquals([digits.count, digits.channels, digits.height, digits.width], [1797, 1, 8, 8]);
  assertEquals(digits.pixels.length, 1797 * 64);
  const perClass = new Array(10).fill(0);
  for (const label of digits.labels) perClass[label]++;
  assertEquals(perClass, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
  const counts = digits.pixels.map((pixel) => Math.round(16 * pixel / 255));
  assertEquals(counts.reduce((sum, count) => sum + count, 0), 561718);
  assertEquals(counts.reduce((sum, count) => sum + count ** 2, 0), 6907012);
  assertEquals([...counts.slice(0, 16)], [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]);
  assertEquals([...digits.labels.slice(-5)], [9, 0, 8, 9, 8]);
});

Deno.test("loadDigits: pixels are round(255 count / 16)", async () => {
  const values = [...new Set((await loadDigits()).pixels)].sort((a, b) => a - b);
  assertEquals(values, [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]);
});

Deno.test("loadDigits: mean and deviation are the feature network's, to the last bit", async () => {
  const { mean, std } = await loadDigits();
  assertEquals(mean, -0.3894794285297394);
  assertEquals(std, 0.752101719379425);
});

Deno.test("parseUciDigits: with and without a header row, any line ends", async () => {
  const rows = await uciRows(20);
  const { pixels, labels } = await loadDigits();
  const header = Array.from({ length: 65 }, (_, i) => `Block ${i + 1}`).join(",");
  for (const text of [rows.join("\n"), [header, ...rows, ""].join("\r\n"), [header, ...rows, "\n"].join("\n")]) {
    const parsed = parseUciDigits(text, "some/folder/optdigits.tra");
    assertEquals([parsed.name, parsed.count], ["optdigits.tra", 20]);
    assertEquals(parsed.pixels, pixels.slice(0, 20 * 64));
    assertEquals(parsed.labels, labels.slice(0, 20));
  }
});

Deno.test("parseUciDigits: anything else is an error with the line and what was expected", async () => {
  const [row] = await uciRows(1);
  assert(row);
  const header = Array(65).fill("name").join(",");
  const withField = (i: number, value: string) => `${row}\n${row.split(",").with(i, value).join(",")}`;
  const cases: [string, string][] = [
    ["holds no digits", ""],
    ["holds no digits", " \n\n"],
    ["holds no digits", header],
    ["line 2 has 64 fields; expected 64 counts and a class", `${row}\n${row.slice(0, row.lastIndexOf(","))}`],
    ["line 2 has 1 fields", `${row}\n\n${row}`],
    ["line 3 has 66 fields", `${header}\n${row}\n${row},1`],
    ["line 1 has 3 fields", "a,b,c"],
    ['line 2, field 4 is "1.5"; expected a count, a whole number from 0 to 16', withField(3, "1.5")],
    ['line 2, field 4 is "17"; expected a count', withField(3, "17")],
    ['line 2, field 4 is "-1"; expected a count', withField(3, "-1")],
    ['line 2, field 4 is ""; expected a count', withField(3, "")],
    ['line 2, field 1 is "name"; expected a count', `${row}\n${header}`],
    ['line 2, field 65 is "10"; expected a class, a whole number from 0 to 9', withField(64, "10")],
    ["is not a text file", "\0\u0001\u0002"],
    ["is not a text file", new TextDecoder().decode(new Uint8Array([0x1f, 0x8b, 0xff, 0xfe]))],
  ];
  for (const [expected, text] of cases) {
    const error = assertThrows(() => parseUciDigits(text, "x.tra"), FileError, expected);
    assertStringIncludes(error.message, "x.tra");
  }
});

/** Charts and tables: well-formed markup, and every value where it belongs. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { dotChart, heatMap, lineChart } from "../src/report/charts.ts";
import { makeScale, tickText } from "../src/report/scale.ts";
import { element, escapeXml } from "../src/report/svg.ts";
import { columnsOf, tableMarkdown, tableMarkup, tableText } from "../src/report/table.ts";
import { encodeBase64 } from "../src/io/base64.ts";
import { elementsOf, parseXml, type XmlElement } from "./xml.ts";

Deno.test("the reader of XML refuses what is not well-formed", () => {
  parseXml(`<a b="1" c='&lt;'><d/>x &#38; y<!-- - --></a>`);
  const bad = [
    "<a>",
    "<a></b>",
    "<a/><b/>",
    "<a b=1/>",
    '<a b="1" b="2"/>',
    "<a>&</a>",
    "<a>&nbsp</a>",
    "x",
    "<a",
    "<a>]<</a>",
  ];
  for (const text of bad) assertThrows(() => parseXml(text), Error, "", text);
});

Deno.test("markup: special characters are escaped, in text and in attributes", () => {
  const nasty = `<b a="1">&amp;'\u0000`;
  const read = parseXml(element("text", { title: nasty }, escapeXml(nasty)));
  const expected = nasty.replace("\u0000", "\ufffd");
  assertEquals([read.attributes.title, read.text], [expected, expected]);
  assertThrows(() => element("a", { x: NaN }), RangeError, "NaN");
});

Deno.test("scales: places of values, round ticks within the domain", () => {
  const linear = makeScale({ domain: [0.3, 9.7], range: [100, 0] });
  assertAlmostEquals(linear.at(0.3), 100, 1e-12);
  assertAlmostEquals(linear.at(9.7), 0, 1e-12);
  assertAlmostEquals(linear.at(5), 50, 1e-12);
  assertEquals(linear.ticks, [2, 4, 6, 8]);
  assertEquals(makeScale({ domain: [0, 0.3], range: [0, 1] }).ticks, [0, 0.1, 0.2, 0.3]);
  const log = makeScale({ domain: [1, 10_000], range: [0, 400], log: true });
  for (const [value, place] of [[1, 0], [10, 100], [1000, 300], [Math.sqrt(10), 50]] as const) {
    assertAlmostEquals(log.at(value), place, 1e-9);
  }
  assertEquals(log.ticks, [1, 10, 100, 1000, 10_000]);
  assertEquals(makeScale({ domain: [3, 45], range: [0, 1], log: true }).ticks, [5, 10, 20]);
  assertEquals(makeScale({ domain: [2.1, 4.9], range: [0, 1], log: true }).ticks.length >= 2, true);
  assert(makeScale({ domain: [7, 7], range: [0, 10] }).at(7) === 5);
  assertThrows(() => makeScale({ domain: [0, 1], range: [0, 1], log: true }), RangeError);
  assertThrows(() => makeScale({ domain: [NaN, 1], range: [0, 1] }), RangeError);
  assertEquals([0, 0.25, 12_800, 2.5e6, 1e-4].map(tickText), ["0", "0.25", "12.8k", "2.5M", "1e-4"]);
});

/** The place in a picture at which an axis has a value, by a linear fit through its tick labels. */
function axisOf(svg: XmlElement, className: "middle" | "end", coordinate: "x" | "y", log = false) {
  const ticks = elementsOf(svg, "text", "tick").filter((tick) =>
    tick.attributes.class!.split(" ").includes(className) && /^[\d.e-]+[kM]?$/.test(tick.text)
  );
  const value = (text: string) => parseFloat(text) * (text.endsWith("k") ? 1e3 : text.endsWith("M") ? 1e6 : 1);
  // Labels stand 4 below the line they belong to.
  const place = (tick: XmlElement) => Number(tick.attributes[coordinate]) - (coordinate === "y" ? 4 : 0);
  const of = log ? Math.log : (v: number) => v;
  const [first, last] = [ticks[0]!, ticks.at(-1)!], from = of(value(first.text)), to = of(value(last.text));
  return (v: number) => place(first) + (of(v) - from) / (to - from) * (place(last) - place(first));
}

const pathPoints = (d: string) =>
  d.slice(1).replace(/Z$/, "").split("L").map((pair) => pair.split(" ").map(Number) as [number, number]);

Deno.test("line chart: points, bands, dots and references are where the axes say", () => {
  const points = [[1000, 400, 30], [5000, 60, 10], [9000, 20, 2]] as const;
  const svg = parseXml(lineChart({
    title: "a < b & c",
    size: [600, 300],
    x: { label: "images" },
    y: { label: "FD", log: true },
    series: [
      { name: "one", style: 0, dots: true, points: points.map(([x, y, e]) => ({ x, y, band: [y - e, y + e] })) },
      { name: "two", style: 9, points: [{ x: 1000, y: 100 }, { x: 9000, y: 90 }] },
    ],
    references: [{ name: "floor", value: 10, spread: 2 }],
    legend: true,
  }));
  assertEquals([svg.name, svg.attributes["aria-label"], svg.attributes.role], ["svg", "a < b & c", "img"]);
  const x = axisOf(svg, "middle", "x"), y = axisOf(svg, "end", "y", true);
  const [one, two] = elementsOf(svg, "g", "series");
  const near = ([px, py]: readonly number[], vx: number, vy: number) => {
    assertAlmostEquals(px!, x(vx), 0.05);
    assertAlmostEquals(py!, y(vy), 0.05);
  };
  const line = pathPoints(elementsOf(one!, "path", "line")[0]!.attributes.d!);
  assertEquals(line.length, 3);
  points.forEach(([vx, vy], i) => near(line[i]!, vx, vy));
  const band = pathPoints(elementsOf(one!, "path", "band")[0]!.attributes.d!);
  points.forEach(([vx, vy, e], i) => {
    near(band[i]!, vx, vy + e);
    near(band[5 - i]!, vx, vy - e);
  });
  elementsOf(one!, "circle", "dot").forEach(({ attributes }, i) =>
    near([Number(attributes.cx), Number(attributes.cy)], points[i]![0], points[i]![1])
  );
  assertEquals(two!.attributes.class, "series s1", "styles begin anew after the eighth");
  assert(elementsOf(two!, "path", "line")[0]!.attributes["stroke-dasharray"], "told apart without colours");
  const reference = elementsOf(svg, "line", "reference")[0]!;
  assertAlmostEquals(Number(reference.attributes.y1), y(10), 0.05);
  const words = elementsOf(svg, "text").map(({ text }) => text);
  for (const word of ["images", "FD", "floor", "one", "two"]) assert(words.includes(word), word);
});

Deno.test("line chart: dots' areas go by their numbers; a negative edge of a band on a logarithmic axis is below all", () => {
  const svg = parseXml(lineChart({
    title: "dots",
    size: [300, 200],
    x: { label: "x", domain: [0, 1] },
    y: { label: "y", log: true },
    series: [{
      name: "one",
      dots: [0, 25, 100],
      points: [{ x: 0.1, y: 1 }, { x: 0.5, y: 10, band: [-3, 20] }, { x: 0.9, y: 1000, band: [500, 2000] }],
    }],
  }));
  const radii = elementsOf(svg, "circle").map(({ attributes }) => Number(attributes.r));
  assertEquals(radii, [2, 5, 8]);
  const [, , , negative] = pathPoints(elementsOf(svg, "path", "band")[0]!.attributes.d!);
  assert(negative![1] > Number(svg.attributes.height), "out of the picture");
});

Deno.test("dot chart: a ring a seed, mean and standard error, references", () => {
  const svg = parseXml(dotChart({
    title: "dots",
    width: 700,
    x: { label: "FD" },
    rows: [
      {
        name: "kl",
        style: 0,
        values: [10, 14],
        titles: ["kl, seed 0", "kl, seed 1"],
        mean: 12,
        error: 2,
        note: "12 ± 2",
      },
      { name: "one", style: 1, values: [16], titles: ["seed 0"], mean: 16, error: null, note: "16" },
    ],
    references: [{ name: "teacher", value: 4, spread: 1 }],
  }));
  const x = axisOf(svg, "middle", "x");
  const [kl, one] = elementsOf(svg, "g", "series");
  const rings = elementsOf(kl!, "circle").map(({ attributes, text }) => [Number(attributes.cx), text] as const);
  [10, 14].forEach((value, i) => {
    assertAlmostEquals(rings[i]![0], x(value), 0.05);
    assertEquals(rings[i]![1], `kl, seed ${i}`);
  });
  const bar = elementsOf(kl!, "line", "errorBar")[0]!.attributes;
  assertAlmostEquals(Number(bar.x1), x(10), 0.05);
  assertAlmostEquals(Number(bar.x2), x(14), 0.05);
  assertAlmostEquals(Number(elementsOf(kl!, "line", "mean")[0]!.attributes.x1), x(12), 0.05);
  assertEquals(elementsOf(one!, "line", "errorBar").length, 0);
  assertAlmostEquals(Number(elementsOf(svg, "line", "reference")[0]!.attributes.x1), x(4), 0.05);
});

Deno.test("charts: the longest name that a setting may have has its room, and the plot the rest", () => {
  const name = "m".repeat(60), size = [860, 300] as const;
  const points = [{ x: 0, y: 1 }, { x: 1, y: 2 }];
  const x = { label: "x" }, y = { label: "y" };
  const lines = parseXml(lineChart({ title: "t", size, x, y, series: [{ name, style: 0, points }], legend: true }));
  const legend = elementsOf(lines, "text").find(({ text, attributes }) =>
    text === name && attributes.class === "tick"
  )!;
  assert(Number(legend.attributes.x) + 60 * 7 <= 860, "the legend is within the picture");
  const rows = [{ name, style: 0, values: [1], titles: ["0"], note: "1" }, {
    name: "kl",
    values: [2],
    titles: ["0"],
    note: "2",
  }];
  const dots = parseXml(dotChart({ title: "t", width: 860, x, rows, references: [] }));
  const [label] = elementsOf(dots, "text", "name");
  assert(Number(label!.attributes.x) - 60 * 8.5 >= 0, "the name is within the picture");
  const [first, second] = elementsOf(dots, "circle").map(({ attributes }) => Number(attributes.cx));
  assert(Number(label!.attributes.x) < first! && first! + 100 < second! && second! < 860, "values have room");
});

Deno.test("heat map: cells and marks in their columns and rows, nothing where nothing is", () => {
  const svg = parseXml(heatMap({
    title: "weights",
    size: [280, 270],
    x: { label: "σ", edges: [0.01, 0.1, 1] },
    y: { label: "c", edges: [0.1, 1, 10, 100] },
    shades: [[0, 1, 0.5], [0.25, 0, 0]],
    marks: [1.5, null],
  }));
  const places = elementsOf(svg, "rect", "cell").map(({ attributes: { x, y, width, height, ...rest } }) => [
    ...[x, y, width, height].map(Number),
    Number(rest["fill-opacity"]),
  ]);
  // Columns of 100 from 66, rows of 200/3 up from 226.
  const row = 200 / 3;
  const expected = [[66, 226 - 2 * row, 1], [66, 226 - 3 * row, 0.5], [166, 226 - row, 0.25]];
  assertEquals(places.length, 3);
  places.forEach(([x, y, width, height, shade], i) => {
    [[x, expected[i]![0]], [y, expected[i]![1]], [width, 100], [height, row], [shade, expected[i]![2]]].forEach((
      [a, b],
    ) => assertAlmostEquals(a!, b!, 0.011));
  });
  const marks = elementsOf(svg, "line", "mark");
  assertEquals(marks.length, 1);
  assertAlmostEquals(Number(marks[0]!.attributes.y1), 226 - 1.5 * row, 0.011);
});

Deno.test("tables: text in columns, Markdown, markup, parts", () => {
  const table = { columns: ["name", "a", "b"], rows: [["x|y", "1", "–"], ["long <name>", "22", ""]] };
  assertEquals(tableText(table), ["name          a  b", "x|y           1  –", "long <name>  22"].join("\n"));
  assertEquals(
    tableMarkdown(table),
    ["| name | a | b |", "| --- | ---: | ---: |", "| x\\|y | 1 | – |", "| long <name> | 22 |  |"].join("\n"),
  );
  const markup = parseXml(tableMarkup(table, ["<i>s</i>"]));
  assertEquals(elementsOf(markup, "th").map(({ text }) => text), ["name", "a", "b", "sx|y", "long <name>"]);
  assertEquals(elementsOf(markup, "td").map(({ text }) => text), ["1", "–", "22", ""]);
  assertEquals(columnsOf(table, 2), { columns: ["name", "b"], rows: [["x|y", "–"]] });
});

Deno.test("base64: as the platform has it, at any length", () => {
  for (const length of [0, 1, 2, 3, 8191, 8192, 8193, 20_000]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 7919) & 255);
    assertEquals(Uint8Array.from(atob(encodeBase64(bytes)), (c) => c.charCodeAt(0)), bytes);
  }
});

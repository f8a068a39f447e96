/** Charts as SVG: lines with bands, dots with error bars, heat maps. Colours and fonts come from the page's style. */

import { makeScale, type Scale, tickText } from "./scale.ts";
import { element, rounded, textElement } from "./svg.ts";

/** An axis. */
export interface Axis {
  /** What it shows, with its unit. */
  readonly label: string;
  /** Logarithmic. */
  readonly log?: boolean;
  /** Least and greatest value shown; when absent, those of the data with a margin. */
  readonly domain?: readonly [number, number];
}

/** A point of a line. */
export interface Point {
  /** Where. */
  readonly x: number;
  /** Value. */
  readonly y: number;
  /** Lower and upper edge of its band; none where absent. */
  readonly band?: readonly [number, number];
}

/** A line. */
export interface Series {
  /** For the legend and for those who cannot see the picture. */
  readonly name: string;
  /** Which of the style's colours and dashes; the ink's own where absent. */
  readonly style?: number;
  /** Its points, by rising x. */
  readonly points: readonly Point[];
  /** `thin` for one of several that a bold line is the mean of; `faint` for what only stands by. */
  readonly weight?: "thin" | "faint";
  /** Dots at the points: all of one size, or of an area that goes by the numbers given. */
  readonly dots?: boolean | readonly number[];
}

/** A value that the others are held against. */
export interface Reference {
  /** What it is. */
  readonly name: string;
  /** Its value. */
  readonly value: number;
  /** Half the width of its band. */
  readonly spread?: number;
}

/** A chart of lines. */
export interface LineChart {
  /** For those who cannot see the picture, and above it where `titled`. */
  readonly title: string;
  /** Whether the title stands above the picture. */
  readonly titled?: boolean;
  /** Stands below the title. */
  readonly subtitle?: string;
  /** Width and height, in CSS pixels before scaling. */
  readonly size: readonly [number, number];
  /** The axes. */
  readonly x: Axis;
  /** See `x`. */
  readonly y: Axis;
  /** The lines, the last on top. */
  readonly series: readonly Series[];
  /** Horizontal lines. */
  readonly references?: readonly Reference[];
  /** Whether there is a legend at the right of it. */
  readonly legend?: boolean;
}

/** Number of colours, and of dashes, in the style. */
export const STYLES = 8;

/** Dashes by style: lines can be told apart without their colours. */
export const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "4 2", "12 3", "1 3", "6 2 1 2 1 2"] as const;

/** Plot area within a picture. */
interface Frame {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

/** Width that a character of a name, of a tick or a legend, may take in the style's widest font. */
const CHARACTER = { name: 9, tick: 7.2 };

/** Width of the longest of the texts. */
function textWidth(texts: readonly string[], kind: keyof typeof CHARACTER): number {
  return CHARACTER[kind] * Math.max(0, ...texts.map((text) => text.length));
}

const colourClass = (style: number | undefined) => style === undefined ? "ink" : `s${style % STYLES}`;
const dashOf = (style: number | undefined) => (style === undefined ? "" : DASHES[style % STYLES]) || undefined;

/** Draws lines, with bands and dots where they have some. */
export function lineChart(chart: LineChart): string {
  const { title, titled = false, subtitle, size: [width, height], series, references = [], legend = false } = chart;
  const beside = legend
    ? Math.max(170, LEGEND_SIGN + 14 + textWidth(inLegend(series).map(({ name }) => name), "tick"))
    : 14;
  const frame = { left: 58, right: width - beside, top: (titled ? 26 : 12) + (subtitle ? 15 : 0), bottom: height - 44 };
  const points = series.flatMap(({ points }) => points);
  const x = scaleOf(chart.x, points.map(({ x }) => x), [frame.left, frame.right], 0);
  const values = points.flatMap(({ y, band }) => band ? [y, ...band.filter((edge) => !chart.y.log || edge > 0)] : [y]);
  const y = scaleOf(chart.y, [...values, ...references.map(({ value }) => value)], [frame.bottom, frame.top], 0.05);
  // What has no logarithm is below every picture.
  const place = (value: number) => chart.y.log && value <= 0 ? 2 * frame.bottom : y.at(value);
  return picture(subtitle ? `${title} (${subtitle})` : title, width, height, [
    ...titled ? [textElement("text", { x: 14, y: 16, class: "title" }, title)] : [],
    ...subtitle ? [textElement("text", { x: 14, y: 32, class: "tick" }, subtitle)] : [],
    ...axes(frame, x, y, chart.x.label, chart.y.label),
    clipped(frame, 0, references.map((reference) => horizontal(reference, frame, place))),
    clipped(frame, series.some(({ dots }) => dots) ? 8 : 0, series.map((one) => lineOf(one, x, place, legend))),
    ...legend ? [legendOf(series, frame.right + 14, frame.top + 8)] : [],
  ]);
}

/** Markup of which only what is within the frame, or so far outside, is seen. */
function clipped({ left, right, top, bottom }: Frame, room: number, children: readonly string[]): string {
  const [x, y, width, height] = [left - room, top - room, right - left + 2 * room, bottom - top + 2 * room];
  return element("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` }, ...children);
}

function scaleOf(
  { log, domain }: Axis,
  values: readonly number[],
  range: readonly [number, number],
  margin: number,
): Scale {
  const shape = log ? { log, range } : { range };
  if (domain) return makeScale({ domain, ...shape });
  const low = Math.min(...values), high = Math.max(...values);
  if (values.length === 0) return makeScale({ domain: log ? [1, 10] : [0, 1], ...shape });
  const widened: [number, number] = log
    ? [low / (high / low) ** margin, high * (high / low) ** margin]
    : [low - margin * (high - low), high + margin * (high - low)];
  return makeScale({ domain: widened, ...shape });
}

function picture(title: string, width: number, height: number, children: readonly string[]): string {
  const attributes = {
    xmlns: "http://www.w3.org/2000/svg",
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: "img",
    "aria-label": title,
  };
  return element("svg", attributes, textElement("title", {}, title), ...children);
}

/** Grid, ticks and labels of both axes. */
function axes(frame: Frame, x: Scale, y: Scale, xLabel: string, yLabel: string): string[] {
  const { left, right, top, bottom } = frame;
  return [
    ...y.ticks.map((tick) => element("line", { class: "grid", x1: left, x2: right, y1: y.at(tick), y2: y.at(tick) })),
    ...x.ticks.map((tick) => element("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: top, y2: bottom })),
    ...y.ticks.map((tick) =>
      textElement("text", { class: "tick end", x: left - 7, y: y.at(tick) + 4 }, tickText(tick))
    ),
    ...x.ticks.map((tick) =>
      textElement("text", { class: "tick middle", x: x.at(tick), y: bottom + 17 }, tickText(tick))
    ),
    element("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    textElement("text", { class: "label middle", x: (left + right) / 2, y: bottom + 37 }, xLabel),
    rotated(yLabel, 14, (top + bottom) / 2),
  ];
}

function rotated(text: string, x: number, y: number): string {
  return textElement("text", { class: "label middle", transform: `translate(${x} ${rounded(y)}) rotate(-90)` }, text);
}

function horizontal(
  { name, value, spread = 0 }: Reference,
  { left, right }: Frame,
  place: (value: number) => number,
): string {
  const y = place(value), [y1, y2] = [place(value + spread), place(value - spread)];
  const band = spread > 0
    ? [element("rect", { class: "referenceBand", x: left, y: y1, width: right - left, height: y2 - y1 })]
    : [];
  return element(
    "g",
    {},
    ...band,
    element("line", { class: "reference", x1: left, x2: right, y1: y, y2: y }),
    textElement("text", { class: "tick end", x: right - 4, y: y - 4 }, name),
  );
}

/** A line; `dashed` where it must be told from others without its colour. */
function lineOf(
  { name, style, points, weight, dots = false }: Series,
  x: Scale,
  place: (value: number) => number,
  dashed: boolean,
): string {
  const at = (px: number, py: number) => `${rounded(x.at(px))} ${rounded(place(py))}`;
  const banded = points.filter(({ band }) => band);
  const outline = [
    ...banded.map(({ x, band }) => at(x, band![1])),
    ...banded.toReversed().map(({ x, band }) => at(x, band![0])),
  ];
  const path = points.map(({ x, y }) => at(x, y));
  const radius = (i: number) => typeof dots === "object" ? areaRadius(dots[i]!, Math.max(...dots)) : 3;
  return element(
    "g",
    { class: `series ${colourClass(style)}${weight ? ` ${weight}` : ""}` },
    textElement("title", {}, name),
    ...banded.length > 1 ? [element("path", { class: "band", d: `M${outline.join("L")}Z` })] : [],
    ...path.length > 1
      ? [
        element("path", {
          class: "line",
          d: `M${path.join("L")}`,
          "stroke-dasharray": dashed ? dashOf(style) : undefined,
        }),
      ]
      : [],
    ...dots
      ? points.map(({ x: px, y }, i) => element("circle", { class: "dot", cx: x.at(px), cy: place(y), r: radius(i) }))
      : [],
  );
}

/** Radius of a dot whose area goes by a number. */
function areaRadius(value: number, most: number): number {
  return 2 + 6 * Math.sqrt(most > 0 ? value / most : 0);
}

/** Width of a line's sign in the legend, with the room before its name. */
const LEGEND_SIGN = 33;

/** The lines that the legend names. */
function inLegend(series: readonly Series[]): Series[] {
  return series.filter(({ weight }) => weight === undefined);
}

function legendOf(series: readonly Series[], x: number, y: number): string {
  return element(
    "g",
    { class: "legend" },
    ...inLegend(series).map(({ name, style, points, dots }, i) => {
      const middle = y + 19 * i;
      const sign = dots && points.length < 2
        ? element("circle", { class: "dot", cx: x + 13, cy: middle, r: 3 })
        : element("path", { class: "line", d: `M${rounded(x)} ${middle}h26`, "stroke-dasharray": dashOf(style) });
      return element(
        "g",
        { class: `series ${colourClass(style)}` },
        sign,
        textElement("text", { class: "tick", x: x + LEGEND_SIGN, y: middle + 4 }, name),
      );
    }),
  );
}

/** A row of dots. */
export interface DotRow {
  /** What it is. */
  readonly name: string;
  /** Which of the style's colours; the ink's own where absent. */
  readonly style?: number;
  /** A dot each. */
  readonly values: readonly number[];
  /** Said of each dot, in their order. */
  readonly titles: readonly string[];
  /** Mean of them, and its standard error where it has one. */
  readonly mean?: number;
  /** See `mean`. */
  readonly error?: number | null;
  /** Stands at the right end. */
  readonly note: string;
}

/** A chart of rows of dots. */
export interface DotChart {
  /** For those who cannot see the picture. */
  readonly title: string;
  /** Width, in CSS pixels before scaling. */
  readonly width: number;
  /** The axis of the values. */
  readonly x: Axis;
  /** From the top. */
  readonly rows: readonly DotRow[];
  /** Vertical lines. */
  readonly references: readonly Reference[];
}

const ROW = 27;

/** Draws rows of dots with means and standard errors, beside vertical references. */
export function dotChart({ title, width, x: axis, rows, references }: DotChart): string {
  const names = textWidth(rows.map(({ name }) => name), "name");
  const frame = { left: 24 + Math.max(names, 42), right: width - 130, top: 22, bottom: 30 + ROW * rows.length };
  const values = [
    ...rows.flatMap(({ values, mean, error }) => mean === undefined ? values : [...values, mean + (error ?? 0)]),
    ...references.flatMap(({ value, spread = 0 }) => [value - spread, value + spread]),
  ];
  const x = scaleOf(axis, axis.log ? values.filter((v) => v > 0) : values, [frame.left, frame.right], 0.03);
  const at = (value: number) =>
    axis.log && value <= 0 ? frame.left : Math.min(frame.right, Math.max(frame.left, x.at(value)));
  const { left, right, top, bottom } = frame;
  return picture(title, width, bottom + 44, [
    ...x.ticks.map((tick) => element("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: top, y2: bottom })),
    ...x.ticks.map((tick) =>
      textElement("text", { class: "tick middle", x: x.at(tick), y: bottom + 17 }, tickText(tick))
    ),
    element("path", { class: "axis", d: `M${left} ${bottom}H${right}` }),
    textElement("text", { class: "label middle", x: (left + right) / 2, y: bottom + 37 }, axis.label),
    ...references.map((reference) => vertical(reference, frame, at)),
    ...rows.map((row, i) => dotRow(row, top + 12 + ROW * (i + 0.5), frame, at)),
  ]);
}

function vertical({ name, value, spread = 0 }: Reference, { top, bottom }: Frame, at: (v: number) => number): string {
  const [x1, x2] = [at(value - spread), at(value + spread)];
  return element(
    "g",
    {},
    ...spread > 0
      ? [element("rect", { class: "referenceBand", x: x1, y: top, width: x2 - x1, height: bottom - top })]
      : [],
    element("line", { class: "reference", x1: at(value), x2: at(value), y1: top, y2: bottom }),
    textElement("text", { class: "tick middle", x: at(value), y: top - 7 }, name),
  );
}

function dotRow(row: DotRow, y: number, { left, right }: Frame, at: (v: number) => number): string {
  const { name, style, values, titles, mean, error, note } = row;
  const bar = mean !== undefined && error
    ? [element("line", { class: "errorBar", x1: at(mean - error), x2: at(mean + error), y1: y, y2: y })]
    : [];
  const middle = mean === undefined
    ? []
    : [element("line", { class: "mean", x1: at(mean), x2: at(mean), y1: y - 8, y2: y + 8 })];
  return element(
    "g",
    { class: `series ${colourClass(style)}` },
    textElement("text", { class: "name end", x: left - 12, y: y + 4 }, name),
    ...bar,
    ...middle,
    ...values.map((value, i) =>
      element("circle", { class: "dot open", cx: at(value), cy: y, r: 4 }, textElement("title", {}, titles[i]!))
    ),
    textElement("text", { class: "tick", x: right + 14, y: y + 4 }, note),
  );
}

/** A chart of counts over two axes of bins. */
export interface HeatMap {
  /** Stands above it. */
  readonly title: string;
  /** Width and height, in CSS pixels before scaling. */
  readonly size: readonly [number, number];
  /** What the columns are, with their edges. */
  readonly x: { readonly label: string; readonly edges: readonly number[] };
  /** What the rows are, with their edges, from the bottom. */
  readonly y: { readonly label: string; readonly edges: readonly number[] };
  /** For every column, a value from 0 to 1 for each row. */
  readonly shades: readonly (readonly number[])[];
  /** For every column, the row (with a fraction) of a mark across it; none where null. */
  readonly marks: readonly (number | null)[];
}

/** Draws a heat map: columns and rows of one width, whatever their edges. */
export function heatMap({ title, size: [width, height], x, y, shades, marks }: HeatMap): string {
  const frame = { left: 66, right: width - 14, top: 26, bottom: height - 44 };
  const { left, right, top, bottom } = frame;
  const columns = x.edges.length - 1, rows = y.edges.length - 1;
  const cellWidth = (right - left) / columns, cellHeight = (bottom - top) / rows;
  const rowAt = (row: number) => bottom - row * cellHeight;
  const cells = shades.flatMap((column, i) =>
    column.flatMap((shade, j) =>
      shade === 0 ? [] : [element("rect", {
        class: "cell",
        x: left + i * cellWidth,
        y: rowAt(j + 1),
        width: cellWidth,
        height: cellHeight,
        "fill-opacity": Math.max(0.02, shade),
      })]
    )
  );
  const lines = marks.flatMap((mark, i) => {
    if (mark === null) return [];
    const x1 = left + i * cellWidth;
    return [element("line", { class: "mark", x1, x2: x1 + cellWidth, y1: rowAt(mark), y2: rowAt(mark) })];
  });
  return picture(title, width, height, [
    textElement("text", { x: left, y: 16, class: "title" }, title),
    ...cells,
    ...lines,
    ...everyFew(y.edges, 6).map(([j, edge]) =>
      textElement("text", { class: "tick end", x: left - 7, y: rowAt(j) + 4 }, tickText(edge))
    ),
    ...everyFew(x.edges, 6).map(([i, edge]) =>
      textElement("text", { class: "tick middle", x: left + i * cellWidth, y: bottom + 17 }, tickText(edge))
    ),
    element("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    textElement("text", { class: "label middle", x: (left + right) / 2, y: bottom + 37 }, x.label),
    rotated(y.label, 14, (top + bottom) / 2),
  ]);
}

/** At most about `most` of the values, evenly, with their places; values to two digits. */
function everyFew(values: readonly number[], most: number): [number, number][] {
  const step = Math.ceil((values.length - 1) / most);
  return values.flatMap((value, i): [number, number][] => i % step === 0 ? [[i, Number(value.toPrecision(2))]] : []);
}

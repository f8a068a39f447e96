/** The report of a comparison: its table, and a page with tables, charts and pictures. */

import type { Comparison, Difference, OverSeeds, SettingFigures } from "../eval/comparison.ts";
import type { Estimate } from "../eval/statistics.ts";
import { encodeBase64 } from "../io/base64.ts";
import { dotChart, heatMap, lineChart, type Reference, type Series } from "./charts.ts";
import { page, swatch } from "./page.ts";
import { element, textElement } from "./svg.ts";
import { columnsOf, type Table, tableMarkdown, tableMarkup, tableText } from "./table.ts";

/** Differences of which there is less than this probability without a true one count as significant. */
const LEVEL = 0.05;

/** Pictures by the names of settings: PNG files. */
export type Pictures = ReadonlyMap<string, Uint8Array>;

const NONE = "–";

/** A figure: two decimals, fewer of large ones; of what belongs to another figure as many as that has. */
function figure(value: number, other = value): string {
  const size = Math.abs(other);
  return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : 2).replace("-", "−");
}

function plusMinus(value: Estimate | null): string {
  if (!value) return NONE;
  return figure(value.mean) + (value.standardError === null ? "" : ` ± ${figure(value.standardError, value.mean)}`);
}

const meanText = (value: Estimate | null, text: (mean: number) => string) => value ? text(value.mean) : NONE;
const percent = (value: number) => `${(100 * value).toFixed(1)} %`;

/** A share over seeds. */
function percentPlusMinus(value: Estimate | null): string {
  if (!value) return NONE;
  const error = value.standardError;
  return error === null ? percent(value.mean) : `${(100 * value.mean).toFixed(1)} ± ${percent(error)}`;
}

function pText(p: number | null | undefined): string {
  if (p === null || p === undefined) return NONE;
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

const pEquals = (p: number) => p < 0.001 ? pText(p) : `= ${pText(p)}`;

/** The table of all settings, with the teacher and the floor below them. */
export function settingsTable(comparison: Comparison): Table {
  const { baseline, lateCheckpoints, settings, runs } = comparison;
  const failed = runs.failed > 0, several = heldAgainst(comparison).length > 1;
  const columns = [
    "setting",
    `FD, last ${lateCheckpoints} checkpoints`,
    "FD at the end",
    "best seed",
    "worst seed",
    several ? "difference" : `minus ${baseline}`,
    "p (paired)",
    "p (Holm)",
    "class error",
    "coverage",
    "nearest image",
    "log loss",
    "evenness",
    "images/s",
    "training, s",
    "seeds",
    ...failed ? ["failed"] : [],
  ];
  const rows = settings.map((setting) => [
    setting.name + (setting.budget === "own" ? " (own budget)" : ""),
    plusMinus(setting.late),
    plusMinus(setting.final),
    setting.best ? `${figure(setting.best.value)} (${setting.best.seed})` : NONE,
    setting.worst ? `${figure(setting.worst.value)} (${setting.worst.seed})` : NONE,
    ...testCells(setting, several),
    percentPlusMinus(setting.classError),
    meanText(setting.coverage, percent),
    meanText(setting.nearestDistance, (mean) => mean.toFixed(3)),
    setting.calibration ? setting.calibration.logLoss.toFixed(3) : NONE,
    meanText(setting.evenness, (mean) => mean.toFixed(2)),
    meanText(setting.times.imagesPerSecond, (mean) => mean.toFixed(0)),
    meanText(setting.times.trainingSeconds, (mean) => mean.toFixed(0)),
    String(setting.late?.count ?? 0),
    ...failed ? [String(setting.failures.length)] : [],
  ]);
  return {
    columns,
    rows: [...rows, ...[...teacherRow(comparison), ...floorRow(comparison)].map(padTo(columns.length))],
  };
}

/** The columns before this one are of the Fréchet distance and its tests. */
const TESTED = 8;

/** Names of the settings that others are held against; the baseline where there are no others. */
function heldAgainst({ settings, baseline }: Comparison): string[] {
  const names = settings.flatMap(({ name, against }) => name === against ? [] : [against]);
  return names.length === 0 ? [baseline] : [...new Set(names)];
}

/** Of a setting; `several`: not all are held against the same. */
function testCells({ name, against, difference }: SettingFigures, several: boolean): string[] {
  if (name === against) return ["baseline", NONE, NONE];
  if (!difference) return [NONE, NONE, NONE];
  const { paired, pHolm } = difference;
  return [differenceText(difference) + (several ? ` from ${against}` : ""), pText(paired.p), pText(pHolm)];
}

function differenceText({ paired: { difference, standardError } }: Difference): string {
  return `${difference > 0 ? "+" : ""}${figure(difference)} ± ${figure(standardError, difference)}`;
}

const padTo = (length: number) => (cells: readonly string[]) => [
  ...cells,
  ...Array.from({ length: length - cells.length }, () => ""),
];

function teacherRow({ teachers, times }: Comparison): string[][] {
  const last = teachers.at(-1);
  if (!last) return [];
  return [[
    `teacher, ${last.evaluations} evaluations`,
    plusMinus(last.frechetDistance),
    ...["", "", "", "", "", ""],
    percentPlusMinus(last.classError),
    meanText(last.coverage, percent),
    meanText(last.nearestDistance, (mean) => mean.toFixed(3)),
    ...["", ""],
    meanText(last.times.imagesPerSecond, (mean) => mean.toFixed(0)),
    meanText(times.teacherSeconds, (mean) => mean.toFixed(0)),
    String(last.frechetDistance.count),
  ]];
}

function floorRow({ floor }: Comparison): string[][] {
  if (!floor) return [];
  const classError = floor.classError ?? null;
  return [[
    "real images (floor)",
    `${figure(floor.mean)}, spread ${figure(floor.std)}`,
    ...["", "", "", "", "", ""],
    classError === null ? NONE : percent(classError),
  ]];
}

/** The table of the teachers by number of steps. */
export function teachersTable({ teachers, seeds }: Comparison): Table {
  const each = Array.from({ length: seeds }, (_, seed) => seed);
  return {
    columns: [
      "Heun steps",
      "evaluations",
      "FD",
      "class error",
      "coverage",
      "nearest image",
      "images/s",
      ...each.map((s) => `seed ${s}`),
    ],
    rows: teachers.map(({ steps, evaluations, frechetDistance, classError, coverage, nearestDistance, times }) => [
      String(steps),
      String(evaluations),
      plusMinus(frechetDistance),
      percentPlusMinus(classError),
      percent(coverage.mean),
      nearestDistance.mean.toFixed(3),
      times.imagesPerSecond.mean.toFixed(0),
      ...each.map((seed) => {
        const at = frechetDistance.seeds.indexOf(seed);
        return at < 0 ? NONE : figure(frechetDistance.values[at]!);
      }),
    ]),
  };
}

/** Both tables for a terminal, with the sentence on what they say. */
export function comparisonText(comparison: Comparison): string {
  const tables = [settingsTable(comparison), ...comparison.teachers.length > 0 ? [teachersTable(comparison)] : []];
  return [headline(comparison), ...tables.map(tableText), verdict(comparison)].join("\n\n");
}

/** The same as Markdown. */
export function comparisonMarkdown(comparison: Comparison): string {
  const tables = [settingsTable(comparison), ...comparison.teachers.length > 0 ? [teachersTable(comparison)] : []];
  return [headline(comparison), ...tables.map(tableMarkdown), verdict(comparison)].join("\n\n") + "\n";
}

function headline({ samples, adapters, data, floor }: Comparison): string {
  const beside = floor ? ` (floor: ${figure(floor.mean)}, spread ${figure(floor.std)})` : "";
  return `FD: Fréchet distance of ${
    samples.toLocaleString("en")
  } images to ${data}${beside}; mean ± standard error over ` +
    `seeds${adapters.length > 0 ? `, on ${adapters.join(" and ")}` : ""}`;
}

/** A setting that was tested. */
interface Tested extends Difference {
  readonly name: string;
  readonly against: string;
  readonly pHolm: number;
}

/** What the tests say, in a sentence or two. */
export function verdict(comparison: Comparison): string {
  const { settings, runs, seeds } = comparison;
  const open = runs.planned - runs.ended - runs.failed;
  const begun = open > 0 ? `${runs.ended} of ${runs.planned} runs have ended so far. ` : "";
  const tested = settings.flatMap(({ name, against, difference }): Tested[] =>
    difference && difference.pHolm !== null ? [{ name, against, ...difference, pHolm: difference.pHolm }] : []
  );
  if (tested.length === 0) {
    const why = seeds < 2
      ? "One seed says nothing of how far seeds are apart: there is no standard error and no test"
      : settings.length < 2
      ? "There is one setting alone"
      : settings.some(({ difference }) => difference)
      ? "The differences are the same in every seed, so that they cannot be tested"
      : "No two settings have two seeds yet that could be compared";
    return `${begun}${why}.`;
  }
  const corrected = tested.length > 1 ? ", Holm's correction over the settings" : "";
  const others = heldAgainst(comparison);
  const parts = others.flatMap((name) => testsAgainst(name, tested, others.length > 1));
  const said = parts.join("; ");
  // A setting's name stays as it is.
  const sentence = / does not differ/.test(parts[0]!) ? said : said[0]!.toUpperCase() + said.slice(1);
  return `${begun}${sentence} (two-sided paired t-test over seeds, level ${LEVEL}${corrected}).`;
}

/** What the tests against one setting say; `several`: there are others. */
function testsAgainst(other: string, all: readonly Tested[], several: boolean): string[] {
  const tested = all.filter(({ against }) => against === other);
  if (tested.length === 0) return [];
  const clear = tested.filter(({ pHolm }) => pHolm < LEVEL);
  const told = (sign: number) =>
    clear.filter(({ paired }) => sign * paired.difference > 0)
      .map((test) => `${test.name} (${differenceText(test)}, p ${pEquals(test.pHolm)})`).join(", ");
  const better = told(-1), worse = told(1), rest = tested.length - clear.length;
  const same = clear.length > 0
    ? `the other ${rest === 1 ? "one tested does" : `${rest} tested do`} not differ significantly${
      several ? ` from ${other}` : ""
    }`
    : rest === 1
    ? `${tested[0]!.name} does not differ significantly from ${other}`
    : `none of the ${rest} settings tested differs significantly from ${other}`;
  return [
    ...better ? [`significantly better than ${other}: ${better}`] : [],
    ...worse ? [`significantly worse than ${other}: ${worse}`] : [],
    ...rest > 0 ? [same] : [],
  ];
}

/** The whole report as a page. */
export function comparisonPage(comparison: Comparison, pictures: Pictures): string {
  const { settings, preset, seeds } = comparison;
  const count = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
  const title = `Comparison of ${count(settings.length, "setting")} over ${count(seeds, "seed")}, ${preset}`;
  return page(
    title,
    element("header", {}, lead(comparison), textElement("p", { class: "verdict" }, verdict(comparison))),
    section("Fréchet distance by setting", ...dots(comparison)),
    section("All figures", ...figures(comparison)),
    section("Fréchet distance during the distillation", ...curves(comparison)),
    section("Teachers, and what quality costs", ...teachers(comparison)),
    section("Calibration of the classifier", ...calibration(comparison)),
    section("Weights by noise level", ...weights(comparison)),
    section("Pictures", ...grids(comparison, pictures)),
    section("Settings", ...list(comparison)),
  );
}

function section(title: string, ...parts: readonly string[]): string {
  return element("section", {}, textElement("h2", {}, title), ...parts);
}

const paragraph = (text: string, className?: string) => textElement("p", { class: className }, text);

function figureOf(chart: string, caption?: string): string {
  return element("figure", {}, chart, ...caption ? [textElement("figcaption", {}, caption)] : []);
}

function lead({ data, common, lateCheckpoints, seeds, adapters, features, samples, floor }: Comparison): string {
  const { distill } = common as { distill: Record<string, number> };
  const budget = `${
    distill.images!.toLocaleString("en")
  } images of the generator's updates in batches of ${distill.batch}`;
  return element(
    "div",
    {},
    paragraph(
      `Generators of ${data}, distilled from the same ${seeds} teacher${seeds === 1 ? "" : "s"} on equal ` +
        `budgets unless it is said: ${budget}. FD is the Fréchet distance of ${
          samples.toLocaleString("en")
        } images, lower is better; ` +
        `of a run it is the mean over the last ${lateCheckpoints} checkpoints of the generator's moving average.`,
      "lead",
    ),
    paragraph(
      [
        ...floor
          ? [`Real images against themselves get ${figure(floor.mean)} (standard deviation ${figure(floor.std)}).`]
          : [],
        ...features ? [`The features are of ${features}.`] : [],
        ...adapters.length > 0 ? [`Adapter: ${adapters.join(" and ")}.`] : [],
      ].join(" "),
      "muted",
    ),
  );
}

/** The finest teacher and the floor, as what the settings are held against. */
function references({ teachers, floor }: Comparison): Reference[] {
  const last = teachers.at(-1);
  return [
    ...last ? [withSpread(`teacher`, last.frechetDistance)] : [],
    ...floor ? [{ name: "floor", value: floor.mean, spread: floor.std }] : [],
  ];
}

function withSpread(name: string, { mean, standardError }: Estimate): Reference {
  return { name, value: mean, ...standardError !== null && { spread: standardError } };
}

/** Whether an axis of these values is better logarithmic. */
function wantsLog(values: readonly number[], ratio: number): boolean {
  const least = Math.min(...values);
  return least > 0 && Math.max(...values) / least > ratio;
}

/** The references that can be shown beside values without squeezing these into a corner. */
function near(values: readonly number[], references: readonly Reference[]): Reference[] {
  const low = Math.min(...values), high = Math.max(...values), room = 2 * (high - low);
  return references.filter(({ value }) => value >= low - room && value <= high + room);
}

const NOTHING_YET = "No run has ended yet.";

function dots(comparison: Comparison): string[] {
  const { settings, lateCheckpoints } = comparison;
  const ended = settings.flatMap(({ late }, style) => late ? [{ name: settings[style]!.name, style, late }] : []);
  if (ended.length === 0) return [paragraph(NOTHING_YET)];
  const values = ended.flatMap(({ late }) => late.values), log = wantsLog(values, 20);
  const all = references(comparison), beside = log ? all : near(values, all);
  const far = all.filter((reference) => !beside.includes(reference));
  const chart = dotChart({
    title: "Fréchet distance of every seed, with mean and standard error",
    width: 1030,
    x: { label: `FD, mean of the last ${lateCheckpoints} checkpoints${log ? " (logarithmic)" : ""}`, log },
    rows: ended.map(({ name, style, late }) => ({
      name,
      style,
      values: late.values,
      titles: late.seeds.map((seed, i) => `${name}, seed ${seed}: ${figure(late.values[i]!)}`),
      mean: late.mean,
      error: late.standardError,
      note: plusMinus(late),
    })),
    references: beside,
  });
  return [
    figureOf(
      chart,
      "A ring for each seed; the upright line is their mean, the bar its standard error. Shaded: the teachers with their " +
        "standard error, and the floor with its standard deviation." +
        (far.length > 0
          ? ` Too far away to be shown: ${far.map(({ name, value }) => `${name} ${figure(value)}`).join(", ")}.`
          : ""),
    ),
  ];
}

function figures(comparison: Comparison): string[] {
  const { settings } = comparison;
  const swatches = settings.map((_, style) => swatch(style)), table = settingsTable(comparison);
  const failures = settings.flatMap(({ name, failures }) =>
    failures.map(({ seed, reason }) => paragraph(`${name}, seed ${seed}, did not come to its end: ${reason}`, "note"))
  );
  return [
    tableMarkup(columnsOf(table, 1, TESTED), swatches),
    tableMarkup(columnsOf(table, TESTED), swatches),
    ...failures,
    paragraph(
      `Mean ± standard error over seeds; in parentheses the seed. The difference from ${
        heldAgainst(comparison).join(" or ")
      } and p are of a two-sided paired t-test ` +
        "over the seeds that both have, which share teacher and noise; p (Holm) is corrected for the number of settings. " +
        "Class error: by how much the shares of the classes differ from the real images' (total variation). " +
        "Coverage: share of the real images that are some generated one's nearest. " +
        "Nearest image: mean distance of a generated image to its nearest real one. " +
        "Log loss: the classifier's at the end, on images kept from it (not from the teacher); 0.693 is that of knowing nothing. " +
        "Evenness: of the weights at the end, squared mean over mean square, 1 where all are alike. " +
        "Training: seconds of a distillation with the measurements at its checkpoints.",
      "note",
    ),
  ];
}

function meanSeries({ name, curve }: SettingFigures, style?: number): Series {
  return {
    name,
    ...style !== undefined && { style },
    points: curve.map(({ images, mean, standardError }) => ({
      x: images,
      y: mean,
      ...standardError !== null && { band: [mean - standardError, mean + standardError] as const },
    })),
  };
}

function seedSeries({ name, curve }: SettingFigures, style: number): Series[] {
  return (curve[0]?.seeds ?? []).map((seed, i) => ({
    name: `${name}, seed ${seed}`,
    style,
    weight: "thin" as const,
    points: curve.map(({ images, values }) => ({ x: images, y: values[i]! })),
  }));
}

/** The part of an axis that shows values, with references near them. */
function zoomed(values: readonly number[], references: readonly Reference[]): readonly [number, number] {
  const low = Math.min(...values, ...references.map(({ value }) => value)), high = Math.max(...values);
  const room = Math.max(high - low, 0.02 * high);
  return [Math.max(0, low - 0.1 * room), high + 0.6 * room];
}

function curves(comparison: Comparison): string[] {
  const { settings, lateCheckpoints } = comparison;
  const ended = settings.flatMap((setting, style) => setting.curve.length > 0 ? [{ setting, style }] : []);
  if (ended.length === 0) return [paragraph(NOTHING_YET)];
  const beside = references(comparison);
  const values = ended.flatMap(({ setting }) => setting.curve.flatMap(({ values }) => values));
  const all = [...values, ...beside.map(({ value }) => value)];
  const log = wantsLog(all, 8);
  const domain = log ? [Math.min(...all) * 0.85, Math.max(...all) * 1.1] as const : undefined;
  const x = { label: "images of the generator's updates" };
  const y = { label: `FD${log ? " (logarithmic)" : ""}`, log, ...domain && { domain } };
  const overview = lineChart({
    title: "Fréchet distance against images, mean over seeds with standard error",
    size: [1030, 430],
    ...{ x, y },
    series: ended.map(({ setting, style }) => meanSeries(setting, style)),
    references: beside,
    legend: true,
  });
  const several = heldAgainst(comparison).length > 1;
  const otherOf = ({ against }: SettingFigures) => settings.find(({ name }) => name === against)!;
  const lateOf = (those: readonly SettingFigures[]) =>
    those.flatMap(({ curve }) => curve.slice(-lateCheckpoints).flatMap(({ values }) => values));
  const together = lateOf(ended.map(({ setting }) => setting));
  // Settings far apart have a scale each: on one for all, most would be flat.
  const apart = wantsLog(together, 8);
  const each = ended.map(({ setting, style }) => {
    const other = otherOf(setting), late = apart ? lateOf([setting, other]) : together;
    const close = near(late, beside);
    return lineChart({
      title: setting.name,
      titled: true,
      ...several && setting !== other && { subtitle: `grey: ${setting.against}` },
      size: [340, 260],
      ...{ x, y: { label: "FD", domain: zoomed(late, close) } },
      series: [
        ...setting === other || other.curve.length === 0 ? [] : [{ ...meanSeries(other), weight: "faint" as const }],
        ...(setting.curve[0]!.count > 1 ? seedSeries(setting, style) : []),
        meanSeries(setting, style),
      ],
      references: close,
    });
  });
  return [
    figureOf(overview, "Mean over seeds; shaded: its standard error. Dashed: the teachers and the floor."),
    paragraph(
      `The late part, each setting beside ${
        heldAgainst(comparison).join(" or ")
      } (grey): bold the mean with its standard error, thin the seeds${apart ? "; the scales differ" : ""}.`,
      "note",
    ),
    element("div", { class: "grid2" }, ...each.map((chart) => figureOf(chart))),
  ];
}

function teachers(comparison: Comparison): string[] {
  const { teachers, settings, floor } = comparison;
  if (teachers.length === 0) return [paragraph("No teacher has been measured yet.")];
  const banded = (x: number, value: OverSeeds) => ({
    x,
    y: value.mean,
    ...value.standardError !== null && {
      band: [value.mean - value.standardError, value.mean + value.standardError] as const,
    },
  });
  const students = settings.flatMap(({ name, late, evaluations }, style): Series[] => {
    // Beside each other: of one evaluation they would hide each other.
    const aside = 1.03 ** (style - (settings.length - 1) / 2);
    return late && evaluations ? [{ name, style, dots: true, points: [banded(evaluations * aside, late)] }] : [];
  });
  const values = [
    ...teachers.map(({ frechetDistance }) => frechetDistance.mean),
    ...students.map(({ points }) => points[0]!.y),
  ];
  const chart = lineChart({
    title: "Fréchet distance against network evaluations an image",
    size: [1030, 340],
    x: {
      label: "network evaluations an image (logarithmic)",
      log: true,
      domain: [0.8, 1.1 * teachers.at(-1)!.evaluations],
    },
    y: { label: "FD (logarithmic)", log: values.every((value) => value > 0) },
    series: [
      {
        name: "teacher, Heun",
        dots: true,
        points: teachers.map(({ evaluations, frechetDistance }) => banded(evaluations, frechetDistance)),
      },
      ...students,
    ],
    references: floor ? [{ name: "floor", value: floor.mean, spread: floor.std }] : [],
    legend: true,
  });
  return [
    tableMarkup(teachersTable(comparison)),
    figureOf(
      chart,
      "Coloured: the distilled generators, side by side; black: their teachers in 1, 2, 4, … steps of Heun's method.",
    ),
  ];
}

function calibration({ settings }: Comparison): string[] {
  const known = settings.flatMap(({ name, calibration }, style) => calibration ? [{ name, style, calibration }] : []);
  if (known.length === 0) return [paragraph("These runs hold no calibration of the ratio.")];
  const charts = known.map(({ name, style, calibration: { bins, ece, logLoss } }) => {
    const filled = bins.filter(({ count }) => count > 0);
    const chart = lineChart({
      title: name,
      titled: true,
      size: [340, 320],
      x: { label: "predicted probability of being real", domain: [0, 1] },
      y: { label: "share that is real", domain: [0, 1] },
      series: [
        { name: "calibrated", weight: "faint", points: [{ x: 0, y: 0 }, { x: 1, y: 1 }] },
        {
          name,
          style,
          dots: filled.map(({ count }) => count),
          points: filled.map(({ predicted, observed }) => ({ x: predicted, y: observed })),
        },
      ],
    });
    return figureOf(chart, `ECE ${ece.toFixed(3)}, log loss ${logLoss.toFixed(3)}`);
  });
  return [
    paragraph(
      "At the last checkpoint, on images kept from the classifier (not from the teacher), over all seeds, before its ratio is corrected " +
        "for the noise level and limited. A classifier that is right is on the diagonal; the area of a dot is the number of " +
        "images. ECE: expected calibration error.",
      "note",
    ),
    element("div", { class: "grid2" }, ...charts),
  ];
}

function weights({ settings }: Comparison): string[] {
  const known = settings.flatMap(({ name, weights }) => weights ? [{ name, weights }] : []);
  if (known.length === 0) return [paragraph("These runs hold no histograms of the weights.")];
  const charts = known.map(({ name, weights: { sigmaEdges, logWeightEdges, counts } }) => {
    const totals = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
    const shares = counts.map((row, i) => row.map((count) => totals[i] === 0 ? 0 : count / totals[i]!));
    const most = Math.max(...shares.flat(), Number.MIN_VALUE);
    return heatMap({
      title: name,
      size: [340, 280],
      x: { label: "noise level σ, in data units", edges: sigmaEdges },
      y: { label: "weight c(r) over its mean", edges: logWeightEdges.map((edge) => 10 ** edge) },
      shades: shares.map((column) => column.map((share) => share / most)),
      marks: shares.map((column, i) =>
        totals[i] === 0 ? null : column.reduce((sum, share, j) => sum + share * (j + 0.5), 0)
      ),
    });
  });
  return [
    paragraph(
      "At the last checkpoint, summed over seeds. Each column is a range of σ, the darkness a weight's share of it; the line is " +
        "the geometric mean.",
      "note",
    ),
    element("div", { class: "grid2" }, ...charts.map((chart) => figureOf(chart))),
  ];
}

function grids({ settings }: Comparison, pictures: Pictures): string[] {
  const shown = settings.flatMap(({ name }) => {
    const png = pictures.get(name);
    if (!png) return [];
    const src = `data:image/png;base64,${encodeBase64(png)}`;
    const alt = `Images of the teacher and of the generator ${name}`;
    return [element("figure", {}, element("img", { src, alt }), textElement("figcaption", {}, name))];
  });
  if (shown.length === 0) return [paragraph(NOTHING_YET)];
  return [
    paragraph("Seed 0: the teacher on the left, the generator on the right, from the same noise.", "note"),
    element("div", { class: "grid2" }, ...shown),
  ];
}

function list({ settings, common }: Comparison): string[] {
  const json = (value: unknown) => JSON.stringify(value, null, 2);
  const changes = Object.fromEntries(settings.map(({ name, changes }) => [name, changes]));
  return [
    ...[["What each setting changes", changes], ["What all have in common", common]].map(([title, value]) =>
      element("details", {}, textElement("summary", {}, title as string), textElement("pre", {}, json(value)))
    ),
  ];
}

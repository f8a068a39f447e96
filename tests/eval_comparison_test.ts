/** Figures of comparisons from records of runs, and reports of them at every state of a study. */

import { assert, assertAlmostEquals, assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  compare,
  type Comparison,
  type ComparisonHead,
  type Measured,
  type RunRecord,
  type SettingRecord,
  type TeacherRecord,
} from "../src/eval/comparison.ts";
import {
  checkDiagnostics,
  type Diagnostics,
  evenness,
  pooledCalibration,
  summedWeights,
} from "../src/eval/diagnostics.ts";
import { holm, pairedTest, welchTest } from "../src/eval/statistics.ts";
import {
  comparisonMarkdown,
  comparisonPage,
  comparisonText,
  settingsTable,
  teachersTable,
  verdict,
} from "../src/report/comparison.ts";
import { presetConfig } from "../src/train/config.ts";
import { elementsOf, parseXml } from "./xml.ts";

const HEAD: ComparisonHead = {
  preset: "digits-tiny",
  data: "a <set>",
  adapters: ["a & b"],
  features: "none",
  samples: 5000,
  floor: { mean: 1, std: 0.25, classError: 0.017 },
  seeds: 3,
  lateCheckpoints: 2,
  baseline: "kl",
  common: presetConfig("digits-tiny"),
};

const measured = (frechetDistance: number): Measured => ({
  ...{
    samples: 5000,
    frechetDistance,
    classError: 0.0625,
    coverage: 0.5,
    nearestDistance: 1.25,
    evaluations: 1,
    imagesPerSecond: 100,
  },
});

/** A run whose Fréchet distances at its checkpoints are `distances`. */
const run = (seed: number, distances: readonly number[], diagnostics?: Diagnostics): RunRecord => ({
  seed,
  checked: distances.map((frechetDistance, i) => ({ images: 32 * (i + 1), frechetDistance })),
  generator: measured(distances.at(-1)!),
  trainingSeconds: 10 + seed,
  ...diagnostics && { diagnostics },
});

const setting = (name: string, runs: readonly RunRecord[], more: Partial<SettingRecord> = {}): SettingRecord => ({
  ...{ name, changes: { distill: { h: name } }, budget: "common", against: "kl", planned: 3, runs, failures: [] },
  ...more,
});

const teacher = (seed: number): TeacherRecord => ({
  seed,
  trainingSeconds: 20,
  bySteps: [1, 2].map((steps) => ({ steps, ...measured(30 / steps + seed), evaluations: 2 * steps - 1 })),
});

const KL = setting("kl", [run(0, [90, 10, 20]), run(1, [90, 20, 24]), run(2, [90, 16, 16])]);

Deno.test("figures: late means over checkpoints, then seeds; best, worst, final, curve", () => {
  const { settings: [kl], runs } = compare(HEAD, [], [KL]);
  assertEquals(kl!.late!.values, [15, 22, 16]);
  assertAlmostEquals(kl!.late!.mean, 53 / 3, 1e-12);
  // Squares of the deviations: (8² + 13² + 5²) / 9 = 258 / 9.
  assertAlmostEquals(kl!.late!.standardError!, Math.sqrt(258 / 9 / 2 / 3), 1e-12);
  assertEquals([kl!.best, kl!.worst], [{ seed: 0, value: 15 }, { seed: 1, value: 22 }]);
  assertEquals(kl!.final!.values, [20, 24, 16]);
  assertEquals(kl!.curve.map(({ images, mean }) => [images, mean]), [[32, 90], [64, 46 / 3], [96, 20]]);
  assertEquals(kl!.times.trainingSeconds!.values, [10, 11, 12]);
  assertEquals([kl!.difference, runs], [null, { planned: 3, ended: 3, failed: 0 }]);
});

Deno.test("figures: tests are paired over the seeds that both have, p corrected over the settings", () => {
  const failed = { failures: [{ seed: 0, reason: "NaN" }] };
  const lsif = setting("lsif", [run(1, [9, 12, 12]), run(2, [9, 5, 5])], failed);
  const sba = setting("sba", [run(0, [5, 5, 5]), run(1, [13, 13, 13]), run(2, [6, 6, 6])]);
  const { settings, runs } = compare(HEAD, [], [lsif, KL, sba]);
  const [a, b, c] = settings;
  const expected = pairedTest([12, 5], [22, 16])!, other = pairedTest([5, 13, 6], [15, 22, 16])!;
  assertEquals([a!.difference!.paired, b!.difference, c!.difference!.paired], [expected, null, other]);
  assertEquals(a!.difference!.welch, welchTest([12, 5], [15, 22, 16])!);
  assertEquals([a!.difference!.pHolm, c!.difference!.pHolm], holm([expected.p!, other.p!]));
  assertEquals(runs, { planned: 9, ended: 8, failed: 1 });
  // Where the baseline has lost a seed, the others' is left out as well.
  const turned =
    compare({ ...HEAD, baseline: "lsif" }, [], [lsif, KL].map((record) => ({ ...record, against: "lsif" })))
      .settings[1]!.difference!.paired;
  assertEquals(turned, pairedTest([22, 16], [12, 5])!);
});

Deno.test("figures: teachers by steps over seeds", () => {
  const { teachers } = compare(HEAD, [teacher(0), teacher(2)], [KL]);
  assertEquals(teachers.map(({ steps, evaluations }) => [steps, evaluations]), [[1, 1], [2, 3]]);
  assertEquals(teachers[1]!.frechetDistance.seeds, [0, 2]);
  assertEquals([teachers[1]!.frechetDistance.mean, teachers[1]!.frechetDistance.standardError], [16, 1]);
});

const DIAGNOSTICS: Diagnostics = {
  calibration: {
    ...{ ece: 0.1, logLoss: 0.5 },
    bins: [{ predicted: 0.25, observed: 0.5, count: 10 }, { predicted: 0, observed: 0, count: 0 }],
  },
  weights: { sigmaEdges: [0.1, 1, 10], logWeightEdges: [-1, 0, 1], counts: [[1, 2], [0, 0]] },
};

Deno.test("diagnostics: bins pooled by their counts, histograms summed, others left out", () => {
  const other: Diagnostics = {
    calibration: {
      ...{ ece: 0.3, logLoss: 0.7 },
      bins: [{ predicted: 0.75, observed: 0.5, count: 2 }, { predicted: 0.28125, observed: 1, count: 30 }],
    },
    weights: { ...DIAGNOSTICS.weights!, counts: [[4, 0], [5, 6]] },
  };
  const pooled = pooledCalibration([DIAGNOSTICS.calibration!, other.calibration!])!;
  assertAlmostEquals(pooled.ece, 0.2, 1e-15);
  assertEquals(pooled.bins, [
    { predicted: 0.2734375, observed: 0.875, count: 40 },
    { predicted: 0.75, observed: 0.5, count: 2 },
  ]);
  assertEquals(summedWeights([DIAGNOSTICS.weights!, other.weights!])!.counts, [[5, 2], [5, 6]]);
  assertEquals(summedWeights([DIAGNOSTICS.weights!, { ...other.weights!, logWeightEdges: [-2, 0, 2] }]), undefined);
  assertEquals([pooledCalibration([]), summedWeights([])], [undefined, undefined]);
});

Deno.test("evenness: the squared mean of the weights over their mean square, of each run", () => {
  assertAlmostEquals(evenness([1, 3, 2]), 36 / (3 * 14), 1e-15);
  assertEquals(evenness([0.3, 0.3, 0.3, 0.3]), 1);
  const runs = [run(0, [1], { ...DIAGNOSTICS, evenness: 0.5 }), run(1, [1]), run(2, [1], { evenness: 1 })];
  const comparison = compare(HEAD, [teacher(0)], [KL, setting("lsif", runs)]);
  const [kl, lsif] = comparison.settings;
  assertEquals([kl!.evenness, lsif!.evenness!.seeds, lsif!.evenness!.mean], [null, [0, 2], 0.75]);
  const { columns, rows } = settingsTable(comparison), at = columns.indexOf("log loss");
  assertEquals(columns[at + 1], "evenness");
  assertEquals(rows.map((row) => row.slice(at, at + 2)), [["–", "–"], ["0.500", "0.75"], ["", ""], ["", ""]]);
});

Deno.test("diagnostics: what a file must not hold is named", () => {
  const fail = (message: string): never => {
    throw new RangeError(message);
  };
  assertEquals(checkDiagnostics({ step: 3, ...DIAGNOSTICS }, fail), DIAGNOSTICS);
  assertEquals(checkDiagnostics({ step: 3 }, fail), {});
  const { calibration, weights } = DIAGNOSTICS;
  const cases: [unknown, string][] = [
    [{ calibration: { ...calibration, ece: null } }, '"calibration.ece" should be a number'],
    [{ calibration: null }, '"calibration" should hold settings'],
    [{ evenness: 2 }, '"evenness" should be a number'],
    [{ calibration: { ...calibration, bins: 3 } }, '"calibration.bins" should be a list'],
    [
      { calibration: { ...calibration, bins: [{ predicted: 2, observed: 0, count: 1 }] } },
      '"calibration.bins.predicted"',
    ],
    [{ calibration: { ...calibration, bins: [null] } }, '"calibration.bins" should hold settings'],
    [{ weights: { ...weights, counts: [[1, 2]] } }, '"weights.counts" should hold 2 rows of 2 counts'],
    [{ weights: { ...weights, counts: [[1, 2], [3, -1]] } }, '"weights.counts" should be a list'],
    [{ weights: { ...weights, sigmaEdges: "x" } }, '"weights.sigmaEdges" should be a list'],
  ];
  for (const [value, message] of cases) assertThrows(() => checkDiagnostics(value, fail), RangeError, message);
});

/** States that a study can be in. */
const STATES: Record<string, Comparison> = {
  nothing: compare({ ...HEAD, floor: null, adapters: [], features: "" }, [], [setting("kl", []), setting("lsif", [])]),
  "a teacher": compare(HEAD, [teacher(0)], [setting("kl", [])]),
  "one run": compare(HEAD, [teacher(0)], [setting("kl", [run(0, [5, 4])]), setting("lsif", [])]),
  "one seed": compare({ ...HEAD, seeds: 1 }, [teacher(0)], [
    setting("kl", [run(0, [5, 4, 0])], { planned: 1 }),
    setting("lsif", [run(0, [0, 0, 0], DIAGNOSTICS)], { planned: 1 }),
  ]),
  "two that are the same": compare(HEAD, [teacher(0)], [KL, setting("twin", KL.runs)]),
  "failures alone": compare(HEAD, [teacher(0)], [
    KL,
    setting("lsif", [], { failures: [0, 1, 2].map((seed) => ({ seed, reason: "lost <at> 3" })) }),
  ]),
  "two baselines": compare({ ...HEAD, floor: { ...HEAD.floor!, classError: null } }, [teacher(0)], [
    KL,
    setting("lsif", [run(0, [9, 8, 7]), run(1, [9, 8, 9])]),
    setting("sba", [run(0, [5, 4, 6]), run(1, [5, 6, 3])], { against: "lsif" }),
  ]),
  "measured by an earlier version": compare(HEAD, [], [
    setting("kl", [{ ...run(0, [5, 4]), generator: { ...measured(4), classError: undefined as unknown as null } }]),
  ]),
  "ten settings": compare(HEAD, [0, 1, 2].map(teacher), [
    KL,
    ...Array.from(
      { length: 9 },
      (_, i) =>
        setting(`s${i}`, [run(0, [9, 1, 2 + i]), run(1, [9, 2, 3]), run(2, [9, 1, 1])].slice(0, i === 4 ? 2 : 3), {
          budget: i === 3 ? "own" : "common",
        }),
    ),
  ]),
};

Deno.test("compare.json: no NaN and nothing undefined at any state", () => {
  for (const [name, state] of Object.entries(STATES)) {
    assertEquals(JSON.parse(JSON.stringify(state)), state, name);
    const visit = (value: unknown): void => {
      if (typeof value === "number") assert(Number.isFinite(value), `${name}: ${value}`);
      else if (typeof value === "object" && value !== null) Object.values(value).forEach(visit);
    };
    visit(state);
  }
});

Deno.test("reports: well-formed at every state, with nothing from elsewhere and no NaN", () => {
  for (const [name, state] of Object.entries(STATES)) {
    const markup = comparisonPage(state, new Map([["kl", new Uint8Array([1, 2, 3])]]));
    const root = parseXml(markup);
    assert(!/NaN|undefined|\[object|Infinity/.test(markup), name);
    assert(!/<script|src="http|href=|url\(|@import/.test(markup), name);
    assertEquals(elementsOf(root, "img").map(({ attributes }) => attributes.src), ["data:image/png;base64,AQID"]);
    for (const text of [comparisonText(state), comparisonMarkdown(state)]) {
      assert(!/NaN|undefined|\[object|Infinity/.test(text), name);
    }
  }
  const page = parseXml(comparisonPage(STATES["ten settings"]!, new Map()));
  for (const { name } of STATES["ten settings"]!.settings) {
    assert(elementsOf(page, "th").some(({ text }) => text.startsWith(name)), name);
    assert(elementsOf(page, "svg").some(({ attributes }) => attributes["aria-label"] === name), name);
  }
});

Deno.test("reports: several baselines are told apart", () => {
  const titles = elementsOf(parseXml(comparisonPage(STATES["two baselines"]!, new Map())), "svg")
    .map(({ attributes }) => attributes["aria-label"]!);
  for (const title of ["kl", "lsif (grey: kl)", "sba (grey: lsif)"]) assert(titles.includes(title), titles.join());
});

Deno.test("reports: settings far apart are not squeezed onto one scale", () => {
  const greatest = (far: number) => {
    const settings = [KL, setting("far", [run(0, [far, far, far])])];
    const page = parseXml(comparisonPage(compare({ ...HEAD, lateCheckpoints: 1 }, [], settings), new Map()));
    const kl = elementsOf(page, "svg").find(({ attributes }) => attributes["aria-label"] === "kl")!;
    return Math.max(...elementsOf(kl, "text", "end").map(({ text }) => Number(text)).filter(Number.isFinite));
  };
  assertEquals([greatest(3000), greatest(60)], [30, 80]);
});

Deno.test("reports: the error of the classes' shares, where it was measured", () => {
  const column = (name: string) => {
    const { columns, rows } = settingsTable(STATES[name]!);
    return rows.map((row) => row[columns.indexOf("class error")]);
  };
  assertEquals(column("ten settings").slice(-3), ["6.3 ± 0.0 %", "6.3 ± 0.0 %", "1.7 %"]);
  assertEquals(column("two baselines").slice(-2), ["6.3 %", "–"]);
  assertEquals(column("measured by an earlier version"), ["–", "1.7 %"]);
  assertEquals(teachersTable(STATES["ten settings"]!).rows[0]![3], "6.3 ± 0.0 %");
});

Deno.test("reports: one seed has no standard error and no test, and it is said", () => {
  const state = STATES["one seed"]!;
  assertMatch(verdict(state), /^One seed says nothing .*no standard error and no test\.$/);
  const [kl, lsif] = settingsTable(state).rows;
  assertEquals([kl![1], kl![5], lsif![5], lsif![6]], ["2.00", "baseline", "–", "–"]);
});

Deno.test("reports: what the tests say", () => {
  const near = (name: string, by: readonly number[]) =>
    setting(name, KL.runs.map(({ seed }, i) => run(seed, [[15, 22, 16][i]! + by[i]!])));
  const said = (...others: SettingRecord[]) =>
    verdict(compare({ ...HEAD, lateCheckpoints: 1 }, [], [near("kl", [0, 0, 0]), ...others]));
  const better = near("a", [-5, -5.1, -5]), worse = near("b", [5, 5.1, 5]), same = near("c", [-5, 7, 0]);
  assertMatch(
    said(same),
    /^c does not differ significantly from kl \(two-sided paired t-test over seeds, level 0\.05\)\.$/,
  );
  assertMatch(said(same, near("d", [1, -2, 0])), /^None of the 2 settings tested differs significantly from kl .*Holm/);
  assertMatch(said(better), /^Significantly better than kl: a \(−5\.03 ± 0\.03, p < 0\.001\) \(two/);
  assertMatch(
    said(worse, same),
    /^Significantly worse than kl: b \(\+5\.03.*\); the other one tested does not differ signif/,
  );
  const other = (name: string, by: readonly number[], against: string) => ({ ...near(name, by), against });
  const two = said(worse, other("d", [-1, -1.1, -1], "b"), other("e", [7, -3, 2], "b"));
  assertMatch(
    two,
    /^Significantly worse than kl: b \(\+5[^;]*\); significantly better than b: d \(−6\.07 ± 0\.07[^;]*\); the other one tested does not differ significantly from b \(two/,
  );
  const table = settingsTable(
    compare({ ...HEAD, lateCheckpoints: 1 }, [], [near("kl", [0, 0, 0]), worse, other("d", [-1, -1.1, -1], "b")]),
  );
  assertEquals([table.columns[5], ...table.rows.slice(0, 3).map((row) => row[5])], [
    "difference",
    "baseline",
    "+5.03 ± 0.03 from kl",
    "−6.07 ± 0.07 from b",
  ]);
  assertMatch(verdict(STATES["one run"]!), /^1 of 6 runs have ended so far\. No two settings/);
  assertMatch(verdict(STATES["two that are the same"]!), /^The differences are the same in every seed/);
});

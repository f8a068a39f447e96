/** The figures of a comparison: settings over the same seeds, on equal budgets, each beside another. */

import {
  type Calibration,
  type Diagnostics,
  pooledCalibration,
  summedWeights,
  type WeightHistogram,
} from "./diagnostics.ts";
import type { MeasureFloor, Measures } from "./evaluate.ts";
import { type Estimate, estimate, holm, pairedTest, type Test, welchTest } from "./statistics.ts";

/** What is measured of a model, with what it costs. */
export interface Measured extends Omit<Measures, "floor"> {
  /** Network evaluations an image. */
  readonly evaluations: number;
  /** Images sampled a second. */
  readonly imagesPerSecond: number;
}

/** A teacher as it was measured. */
export interface TeacherRecord {
  /** Its seed. */
  readonly seed: number;
  /** Seconds its training took. */
  readonly trainingSeconds: number;
  /** Heun's method in so many steps. */
  readonly bySteps: readonly (Measured & { readonly steps: number })[];
}

/** The generator's average at a checkpoint. */
export interface Checked {
  /** Images of the generator's updates so far. */
  readonly images: number;
  /** Fréchet distance. */
  readonly frechetDistance: number;
}

/** A run that has come to its end. */
export interface RunRecord {
  /** Its seed. */
  readonly seed: number;
  /** Every checkpoint, in order. */
  readonly checked: readonly Checked[];
  /** The generator at the end. */
  readonly generator: Measured;
  /** Seconds the distillation took. */
  readonly trainingSeconds: number;
  /** What the last checkpoint tells of the ratio, where that was looked at. */
  readonly diagnostics?: Diagnostics;
}

/** A run that could not come to its end. */
export interface Failure {
  /** Its seed. */
  readonly seed: number;
  /** Why. */
  readonly reason: string;
}

/** A setting with its runs. */
export interface SettingRecord {
  /** What it is called. */
  readonly name: string;
  /** What it changes. */
  readonly changes: Readonly<Record<string, unknown>>;
  /** Whether its budget is the common one or its own. */
  readonly budget: "common" | "own";
  /** Name of the setting that it is held against; of the baseline its own. */
  readonly against: string;
  /** Runs in all, of the seeds 0, 1, …. */
  readonly planned: number;
  /** Those that came to their end, by seed. */
  readonly runs: readonly RunRecord[];
  /** Those that did not. */
  readonly failures: readonly Failure[];
}

/** A figure of each seed, with their mean. */
export interface OverSeeds extends Estimate {
  /** The seeds. */
  readonly seeds: readonly number[];
  /** Their values, in the same order. */
  readonly values: readonly number[];
}

/** A figure of one seed. */
export interface OfSeed {
  /** The seed. */
  readonly seed: number;
  /** Its value. */
  readonly value: number;
}

/** The teachers, sampled by Heun's method in so many steps. */
export interface TeacherFigures {
  /** Steps. */
  readonly steps: number;
  /** Network evaluations an image. */
  readonly evaluations: number;
  /** Fréchet distance. */
  readonly frechetDistance: OverSeeds;
  /** See {@linkcode Measures}; null where the data have no classes. */
  readonly classError: OverSeeds | null;
  /** See {@linkcode Measures}. */
  readonly coverage: OverSeeds;
  /** See {@linkcode Measures}. */
  readonly nearestDistance: OverSeeds;
  /** What depends on the machine's day: images a second. */
  readonly times: { readonly imagesPerSecond: OverSeeds };
}

/** How a setting's late Fréchet distances differ from another's. */
export interface Difference {
  /** Over the seeds that both have, which share a teacher and noise. */
  readonly paired: Test;
  /** Its p after Holm's correction over all settings; null where p is. */
  readonly pHolm: number | null;
  /** As if the seeds were independent; null where there is too little. */
  readonly welch: Test | null;
}

/** What a setting came to. Null: no run has ended yet. */
export interface SettingFigures {
  /** What it is called. */
  readonly name: string;
  /** What it changes. */
  readonly changes: Readonly<Record<string, unknown>>;
  /** Whether its budget is the common one or its own. */
  readonly budget: "common" | "own";
  /** Runs that did not come to their end; the figures are of the others alone. */
  readonly failures: readonly Failure[];
  /** Fréchet distance, mean of the last checkpoints. */
  readonly late: OverSeeds | null;
  /** The seed with the least of it. */
  readonly best: OfSeed | null;
  /** The seed with the greatest. */
  readonly worst: OfSeed | null;
  /** Fréchet distance at the end. */
  readonly final: OverSeeds | null;
  /** See {@linkcode Measures}; also null where the data have no classes. */
  readonly classError: OverSeeds | null;
  /** See {@linkcode Measures}. */
  readonly coverage: OverSeeds | null;
  /** See {@linkcode Measures}. */
  readonly nearestDistance: OverSeeds | null;
  /** Network evaluations an image. */
  readonly evaluations: number | null;
  /** What depends on the machine's day. */
  readonly times: { readonly imagesPerSecond: OverSeeds | null; readonly trainingSeconds: OverSeeds | null };
  /** Name of the setting that it is held against; of the baseline its own. */
  readonly against: string;
  /** From that one; null of the baseline, and where fewer than two seeds have both. */
  readonly difference: Difference | null;
  /** Fréchet distance at every checkpoint. */
  readonly curve: readonly (OverSeeds & { readonly images: number })[];
  /** Calibration of the ratio at the end; null where it was not looked at. */
  readonly calibration: Calibration | null;
  /** Weights at the end; null where they were not looked at. */
  readonly weights: WeightHistogram | null;
  /** See {@linkcode Diagnostics}, at the end; null where there are no weights. */
  readonly evenness: OverSeeds | null;
}

/** What is the same for all settings. */
export interface ComparisonHead {
  /** The preset they start from. */
  readonly preset: string;
  /** The data set. */
  readonly data: string;
  /** Adapters that runs ended on. */
  readonly adapters: readonly string[];
  /** What the features are that the distances are of. */
  readonly features: string;
  /** Images that every distance is of. */
  readonly samples: number;
  /** Distance of as many real images, drawn with replacement, to all of them; null where nothing was measured yet. */
  readonly floor: MeasureFloor | null;
  /** Number of seeds, of teachers and of the settings that run with all of them: 0, 1, …. */
  readonly seeds: number;
  /** Checkpoints at the end whose mean is compared. */
  readonly lateCheckpoints: number;
  /** Name of the setting that the others are held against, unless they name another. */
  readonly baseline: string;
  /** The common settings. */
  readonly common: unknown;
}

/** All figures of a comparison: the contents of `compare.json`. */
export interface Comparison extends ComparisonHead {
  /** Runs of the settings; those that failed have not ended. */
  readonly runs: { readonly planned: number; readonly ended: number; readonly failed: number };
  /** The teachers by number of steps. */
  readonly teachers: readonly TeacherFigures[];
  /** What depends on the machine's day: seconds a teacher's training took; null where none is there yet. */
  readonly times: { readonly teacherSeconds: OverSeeds | null };
  /** Every setting. */
  readonly settings: readonly SettingFigures[];
}

/** Puts the figures of teachers and runs together. */
export function compare(
  head: ComparisonHead,
  teachers: readonly TeacherRecord[],
  settings: readonly SettingRecord[],
): Comparison {
  const late = (runs: readonly RunRecord[]) => overSeeds(runs, (run) => lateMean(run, head.lateCheckpoints));
  const lateOf = (wanted: string) => late(settings.find(({ name }) => name === wanted)?.runs ?? []);
  const tests = settings.map(({ name, against, runs }) =>
    name === against ? undefined : testsOf(late(runs), lateOf(against))
  );
  const ps = tests.flatMap((test) => test?.paired.p ?? []);
  const corrected = holm(ps).values();
  return {
    ...head,
    runs: {
      planned: settings.reduce((sum, { planned }) => sum + planned, 0),
      ended: settings.reduce((sum, { runs }) => sum + runs.length, 0),
      failed: settings.reduce((sum, { failures }) => sum + failures.length, 0),
    },
    teachers: teacherFigures(teachers),
    times: { teacherSeconds: overSeeds(teachers, ({ trainingSeconds }) => trainingSeconds) },
    settings: settings.map((setting, i) => {
      const test = tests[i];
      return {
        ...figuresOf(setting, late(setting.runs)),
        difference: test ? { ...test, pHolm: test.paired.p === null ? null : corrected.next().value! } : null,
      };
    }),
  };
}

function overSeeds<R extends { readonly seed: number }>(records: readonly R[], value: (record: R) => number) {
  if (records.length === 0) return null;
  const values = records.map(value);
  return { seeds: records.map(({ seed }) => seed), values, ...estimate(values) };
}

/** Over the seeds where it was measured. */
function overMeasured<R extends { readonly seed: number }>(
  records: readonly R[],
  value: (record: R) => number | null | undefined,
): OverSeeds | null {
  return overSeeds(records.filter((record) => typeof value(record) === "number"), (record) => value(record)!);
}

/** Mean Fréchet distance of the last `count` checkpoints. */
function lateMean({ checked }: RunRecord, count: number): number {
  return estimate(checked.slice(-count).map(({ frechetDistance }) => frechetDistance)).mean;
}

function testsOf(own: OverSeeds | null, other: OverSeeds | null): Omit<Difference, "pHolm"> | undefined {
  if (!own || !other) return undefined;
  const shared = own.seeds.filter((seed) => other.seeds.includes(seed));
  const of = ({ seeds, values }: OverSeeds) => shared.map((seed) => values[seeds.indexOf(seed)]!);
  const paired = pairedTest(of(own), of(other));
  return paired && { paired, welch: welchTest(own.values, other.values) ?? null };
}

function teacherFigures(teachers: readonly TeacherRecord[]): TeacherFigures[] {
  return (teachers[0]?.bySteps ?? []).map(({ steps, evaluations }, i) => {
    const records = teachers.map(({ seed, bySteps }) => ({ seed, ...bySteps[i]! }));
    return {
      steps,
      evaluations,
      frechetDistance: overSeeds(records, ({ frechetDistance }) => frechetDistance)!,
      classError: overMeasured(records, ({ classError }) => classError),
      coverage: overSeeds(records, ({ coverage }) => coverage)!,
      nearestDistance: overSeeds(records, ({ nearestDistance }) => nearestDistance)!,
      times: { imagesPerSecond: overSeeds(records, ({ imagesPerSecond }) => imagesPerSecond)! },
    };
  });
}

function figuresOf(
  { name, changes, budget, against, runs, failures }: SettingRecord,
  late: OverSeeds | null,
): Omit<SettingFigures, "difference"> {
  const ordered = late
    ? late.seeds.map((seed, i) => ({ seed, value: late.values[i]! })).sort((a, b) => a.value - b.value)
    : [];
  const diagnostics = runs.flatMap(({ diagnostics }) => diagnostics ?? []);
  return {
    ...{ name, changes, budget, against, failures, late },
    best: ordered[0] ?? null,
    worst: ordered.at(-1) ?? null,
    final: overSeeds(runs, ({ generator }) => generator.frechetDistance),
    classError: overMeasured(runs, ({ generator }) => generator.classError),
    coverage: overSeeds(runs, ({ generator }) => generator.coverage),
    nearestDistance: overSeeds(runs, ({ generator }) => generator.nearestDistance),
    evaluations: runs[0]?.generator.evaluations ?? null,
    times: {
      imagesPerSecond: overSeeds(runs, ({ generator }) => generator.imagesPerSecond),
      trainingSeconds: overSeeds(runs, ({ trainingSeconds }) => trainingSeconds),
    },
    curve: (runs[0]?.checked ?? []).map(({ images }, i) => ({
      images,
      ...overSeeds(runs, ({ checked }) => checked[i]!.frechetDistance)!,
    })),
    calibration: pooledCalibration(diagnostics.flatMap(({ calibration }) => calibration ?? [])) ?? null,
    weights: summedWeights(diagnostics.flatMap(({ weights }) => weights ?? [])) ?? null,
    evenness: overMeasured(runs, ({ diagnostics }) => diagnostics?.evenness),
  };
}

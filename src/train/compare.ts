/** A study's folder: teachers and runs in their own folders, one after the other, and the figures of those that ended. */

import { join } from "@std/path";
import type { ImageData8 } from "../data/image_data.ts";
import {
  compare,
  type Comparison,
  type Failure,
  type Measured,
  type RunRecord,
  type SettingRecord,
  type TeacherRecord,
} from "../eval/comparison.ts";
import { checkDiagnostics, type Diagnostics } from "../eval/diagnostics.ts";
import { FileError, NonFiniteError, UsageError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { encodeTuning, type Tuning } from "../gpu/tuning.ts";
import { lockFolder, onDisk, removeTemporaryFiles, statIfThere, writeFileAtomic } from "../io/disk.ts";
import { decodeModel, type Model } from "../io/model.ts";
import { sha256 } from "../io/sha256.ts";
import { checkpointSteps, failFor, type FileSource, parseObject, type RunConfig, settingsText } from "./config.ts";
import { openEvaluator } from "./features.ts";
import { RESULTS, RunFolder, TUNING_FILE } from "./folder.ts";
import {
  expectFits,
  isMeasured,
  measure,
  type ModelSummary,
  readSummary,
  runAll,
  samplerOf,
  type Summary,
  withWorkspace,
} from "./run.ts";
import { encodeStudy, parseStudy, seedsOf, settingConfig, type Study, teacherConfig } from "./study.ts";

/** Names in a study's folder. */
export const STUDY = {
  list: "study.json",
  figures: "compare.json",
  report: "report.html",
  teachers: "teachers",
  runs: "runs",
};

/** Steps of Heun's method that teachers are measured with. */
const TEACHER_STEPS = [1, 2, 4, 8, 18];

/** In a teacher's folder: what is measured of it in so many steps. */
const HEUN_FILE = "heun.json";

/** In a run's folder: why it could not come to its end. */
const FAILURE_FILE = "failure.json";

/** In a run's folder: what was logged while it trained. */
const METRICS_FILE = "metrics.jsonl";

/** In a run's folder: what its checkpoints tell of the density ratio. */
const DIAGNOSTICS_FILE = "diagnostics.jsonl";

/** In a run's folder: the teacher's pictures beside the generator's. */
const PICTURE = "samples/teacher-and-one-step.png";

/** One thing that a study is made of. */
export type Part =
  | { readonly kind: "teacher"; readonly seed: number }
  | { readonly kind: "run"; readonly seed: number; readonly setting: string };

/** Where a study lies, what it is, and what it is told. */
export interface OpenStudy {
  /** Its folder. */
  readonly path: string;
  /** Its settings. */
  readonly study: Study;
}

/** Throws a {@linkcode FileError} where `path` holds anything that a study would take for its own. */
export async function expectFreeStudy(path: string): Promise<void> {
  for (const name of Object.values(STUDY)) {
    if (await statIfThere(join(path, name))) {
      throw new FileError(
        `${path} already holds a study (${name}); continue it with --resume ${path}, or choose another --out.`,
      );
    }
  }
}

/**
 * Makes a folder for a new study and writes the kernels' choices and its settings.
 *
 * @throws {FileError} where the folder cannot be made or holds a study already.
 */
export async function createStudy(path: string, study: Study, tuning: Tuning): Promise<void> {
  await expectFreeStudy(path);
  await onDisk(path, "made", () => Deno.mkdir(path, { recursive: true }));
  using alone = await lockFolder(path);
  if (!alone) throw new FileError(`Another process is making a study in ${path}.`);
  await expectFreeStudy(path);
  // First: with study.json it is a study, and every study has the table that its bits depend on.
  await writeText(join(path, TUNING_FILE), encodeTuning(tuning));
  await writeStudy({ path, study });
}

/** Writes a study's settings down. */
async function writeStudy({ path, study }: OpenStudy): Promise<void> {
  await writeText(join(path, STUDY.list), encodeStudy(study));
}

/**
 * Removes what a killed process left half-written in a study's folder, where no other is at work there, and keeps others
 * from doing so to this one until the result is disposed of.
 */
export async function enterStudy(path: string): Promise<Disposable> {
  {
    using alone = await lockFolder(path);
    if (alone) await removeTemporaryFiles(path);
  }
  return await lockFolder(path, "amongOthers");
}

/**
 * Opens a study that was begun, as it stands there now: another process may have added seeds.
 *
 * @throws {FileError} where there is none, or a field of its settings is not what it should be.
 */
export async function openStudy(path: string): Promise<OpenStudy> {
  const file = join(path, STUDY.list);
  let text: string;
  try {
    text = await Deno.readTextFile(file);
  } catch (error) {
    throw new FileError(`${path} holds no study to resume: ${file} could not be read.`, { cause: error });
  }
  return { path, study: parseStudy(text, file) };
}

/**
 * The study with so many seeds: more come after those that there are.
 *
 * @throws {UsageError} where there are more already.
 */
export function withSeeds({ path, study }: OpenStudy, seeds = study.seeds): OpenStudy {
  if (seeds < study.seeds) throw new UsageError(`--seeds ${seeds} would be fewer than the ${study.seeds} of ${path}.`);
  return { path, study: { ...study, seeds } };
}

/** Adds seeds to a study until it has so many. */
export async function addSeeds(path: string, seeds: number): Promise<void> {
  const { study } = await openStudy(path);
  if (study.seeds < seeds) await writeStudy({ path, study: { ...study, seeds } });
}

function writeText(path: string, text: string): Promise<void> {
  return writeFileAtomic(path, new TextEncoder().encode(text));
}

/** All parts in their order: a seed's teacher, its runs, the next seed's, so that settings can be compared early on. */
export function partsOf(study: Study): Part[] {
  const names = Object.keys(study.settings);
  return Array.from({ length: study.seeds }, (_, seed): Part[] => [
    { kind: "teacher", seed },
    ...names.filter((name) => seed < seedsOf(study, name)).map((setting): Part => ({ kind: "run", seed, setting })),
  ]).flat();
}

/**
 * The parts that have not ended.
 *
 * @throws {FileError} where one has, with other settings or another teacher than the study's.
 */
export async function missingParts(open: OpenStudy): Promise<Part[]> {
  const missing: Part[] = [];
  const teachers = new Map<number, string>();
  for (const part of partsOf(open.study)) {
    if (!await hasEnded(open, part)) {
      missing.push(part);
      continue;
    }
    const { folder, config } = await RunFolder.open(folderOf(open, part).path);
    if (part.kind === "teacher") {
      expectSame(folder, config, teacherConfig(open.study, part.seed));
      teachers.set(part.seed, await sha256(await folder.read(RESULTS.teacher)));
    } else {
      const hash = teachers.get(part.seed);
      const teacherFile = hash === undefined ? config.teacherFile : { path: "", sha256: hash };
      const wanted = settingConfig(open.study, part.setting, part.seed);
      expectSame(folder, config, { ...wanted, ...teacherFile && { teacherFile } });
    }
  }
  return missing;
}

function expectSame(folder: RunFolder, config: RunConfig, wanted: RunConfig): void {
  if (settingsText(config) === settingsText(wanted)) return;
  throw new FileError(`${folder.path} holds a run of other settings than this study's; move it away.`);
}

function folderOf({ path }: OpenStudy, part: Part): RunFolder {
  const place = part.kind === "teacher" ? [STUDY.teachers] : [STUDY.runs, part.setting];
  return new RunFolder(join(path, ...place, `seed-${part.seed}`));
}

async function hasEnded(open: OpenStudy, part: Part): Promise<boolean> {
  const folder = folderOf(open, part);
  if (part.kind === "teacher") return await folder.has(HEUN_FILE);
  return await folder.has(RESULTS.summary) || await folder.has(FAILURE_FILE);
}

/** A teacher that all runs of a seed are distilled from. */
interface Teacher {
  readonly model: Model;
  readonly source: FileSource;
  readonly measures: ModelSummary;
}

/** What {@linkcode runStudy} is told and tells. */
export interface StudyInputs {
  /** The real images. */
  readonly data: ImageData8;
  /** Called before a part is begun, with those of `all` that have not ended, itself among them. */
  readonly onPart: (part: Part, left: readonly Part[], all: number) => void;
  /** Called when all that is left is in other processes' hands. */
  readonly onWait: (left: readonly Part[]) => void;
  /** Called when a run could not come to its end; the study goes on. */
  readonly onFailure: (part: Part, reason: string) => void;
  /** Called after every part that ended. */
  readonly onEnd: () => Promise<void>;
}

/**
 * Compiles the programs of all settings and forgets them, so that what does not fit is known before anything is trained.
 *
 * @throws {OutOfMemoryError | LimitError | AdapterError} as `expectFits` of a run does.
 */
export async function expectStudyFits(gpu: Gpu, study: Study, data: ImageData8): Promise<void> {
  await expectFits(gpu, teacherConfig(study, 0), data);
  for (const name of Object.keys(study.settings)) await expectFits(gpu, settingConfig(study, name, 0), data);
}

/** Milliseconds after which it is looked again whether another process has come to an end with something. */
const PATIENCE = 1000;

/**
 * Runs the parts that are missing, from where they were cut off, but for those that another process has in hand; for these
 * it waits. A run whose numbers do not stay finite is noted as failed and not tried again; anything else that goes wrong
 * ends the study, which can be resumed.
 */
export async function runStudy(gpu: Gpu, path: string, inputs: StudyInputs): Promise<void> {
  for (let waits = false;;) {
    const open = await openStudy(path), all = partsOf(open.study);
    const ended = await Promise.all(all.map((part) => hasEnded(open, part)));
    const left = all.filter((_, i) => !ended[i]);
    if (left.length === 0) return;
    const taken = await takePart(open, left);
    if (!taken) {
      if (!waits) inputs.onWait(left);
      waits = true;
      await new Promise((resolve) => setTimeout(resolve, PATIENCE));
      continue;
    }
    waits = false;
    using _ = taken.claim;
    inputs.onPart(taken.part, left, all.length);
    if (taken.part.kind === "teacher") await makeTeacher(gpu, open, taken.part, inputs.data);
    else await makeRun(gpu, open, taken.part, await readTeacher(open, taken.part.seed), inputs);
    await inputs.onEnd();
  }
}

/** The first of the parts that can be run now, its teacher being there, and that no other process is at. */
async function takePart(open: OpenStudy, left: readonly Part[]) {
  const untrained = new Set(left.flatMap(({ kind, seed }) => kind === "teacher" ? [seed] : []));
  for (const part of left) {
    if (part.kind === "run" && untrained.has(part.seed)) continue;
    const claim = await RunFolder.claim(folderOf(open, part).path);
    // Another process may have come to its end since these were found missing.
    if (claim && !await hasEnded(open, part)) return { part, claim };
    claim?.[Symbol.dispose]();
  }
  return undefined;
}

/** The folder of a part with its settings as they stand there, to which its checkpoints belong; made where there is none. */
async function begun(gpu: Gpu, open: OpenStudy, part: Part, config: RunConfig) {
  const folder = folderOf(open, part);
  if (!await folder.has("config.json")) {
    return { folder: await RunFolder.create(folder.path, config, gpu.tuning), config };
  }
  const there = await RunFolder.open(folder.path);
  expectSame(there.folder, there.config, config);
  await there.folder.tidy(there.config);
  return there;
}

/** Numbers of steps that a teacher is measured with, `usual` among them. */
function teacherSteps(usual: number): number[] {
  return [...new Set([...TEACHER_STEPS, usual])].sort((a, b) => a - b);
}

async function makeTeacher(gpu: Gpu, open: OpenStudy, part: Part, data: ImageData8): Promise<void> {
  const { folder, config } = await begun(gpu, open, part, teacherConfig(open.study, part.seed));
  const summary = await folder.has(RESULTS.summary)
    ? await readSummary(folder)
    : await runAll(gpu, { folder, config, data, profile: false });
  const { model } = await readTeacherModel(folder);
  const { samples, steps: usual } = config.evaluation;
  const bySteps = await withWorkspace(gpu, async (workspace) => {
    const evaluator = await openEvaluator(workspace, data);
    const measured = [];
    for (const steps of teacherSteps(usual)) {
      const measures = steps === usual
        ? summary.teacher
        : await measure(evaluator, await samplerOf(workspace, model, { solver: "heun", steps }), samples, part.seed);
      console.error(`teacher: ${steps} Heun steps, Fréchet distance ${measures.frechetDistance.toFixed(2)}`);
      measured.push({ steps, ...withoutFloor(measures) });
    }
    return measured;
  });
  await folder.writeText(HEUN_FILE, JSON.stringify(bySteps, null, 2) + "\n");
}

/** What tells of a teacher in its folder, its settings apart; the last says that it has been measured. */
const TEACHER_FILES = [TUNING_FILE, METRICS_FILE, "samples/teacher.png", RESULTS.teacher, RESULTS.summary, HEUN_FILE];

/** What a teacher and its measures depend on. */
function teacherText(config: RunConfig): string {
  const { distill: _, checkpointEvery: __, snapshotEvery: ___, evaluation: { samples, steps }, ...rest } = config;
  return settingsText({ ...rest, evaluation: { samples, steps } });
}

/** A teacher of another study, by the seed. */
export interface GivenTeacher {
  /** The seed that both studies have. */
  readonly seed: number;
  /** Where it lies. */
  readonly folder: RunFolder;
}

/**
 * The teachers of the study in `from` that a study can take in the place of training its own.
 *
 * @throws {FileError} where there is none, or one is not as this study's would be.
 */
export async function teachersFor(study: Study, from: string): Promise<GivenTeacher[]> {
  const other = await openStudy(from), given: GivenTeacher[] = [];
  for (let seed = 0; seed < Math.min(study.seeds, other.study.seeds); seed++) {
    const part: Part = { kind: "teacher", seed };
    if (!await hasEnded(other, part)) continue;
    const { folder, config } = await RunFolder.open(folderOf(other, part).path);
    if (teacherText(config) !== teacherText(teacherConfig(study, seed))) {
      throw new FileError(`${folder.path} holds a teacher of other settings than this study's.`);
    }
    given.push({ seed, folder });
  }
  if (given.length === 0) throw new FileError(`The study in ${from} has no teacher yet that could be taken.`);
  return given;
}

/** Copies teachers into a study, with what is measured of them. */
export async function takeTeachers(open: OpenStudy, given: readonly GivenTeacher[], tuning: Tuning): Promise<void> {
  for (const { seed, folder } of given) {
    const { path } = folderOf(open, { kind: "teacher", seed });
    const own = await RunFolder.create(path, teacherConfig(open.study, seed), tuning);
    for (const name of TEACHER_FILES) await own.write(name, await folder.read(name));
  }
}

async function readTeacherModel(folder: RunFolder): Promise<{ model: Model; source: FileSource }> {
  const path = folder.file(RESULTS.teacher), bytes = await folder.read(RESULTS.teacher);
  return { model: await decodeModel(bytes, path), source: { path, sha256: await sha256(bytes) } };
}

async function readTeacher(open: OpenStudy, seed: number): Promise<Teacher> {
  const folder = folderOf(open, { kind: "teacher", seed });
  return { ...await readTeacherModel(folder), measures: (await readSummary(folder)).teacher };
}

async function makeRun(
  gpu: Gpu,
  open: OpenStudy,
  part: Part & { kind: "run" },
  { model, source, measures }: Teacher,
  { data, onFailure }: StudyInputs,
): Promise<void> {
  const wanted = { ...settingConfig(open.study, part.setting, part.seed), teacherFile: source };
  const { folder, config } = await begun(gpu, open, part, wanted);
  try {
    await runAll(gpu, { folder, config, data, givenTeacher: model, teacherMeasures: measures, profile: false });
  } catch (error) {
    if (!(error instanceof NonFiniteError)) throw error;
    await folder.writeText(FAILURE_FILE, JSON.stringify({ reason: error.message }, null, 2) + "\n");
    onFailure(part, error.message);
  }
}

/** The figures of what has ended so far. */
export async function readComparison(open: OpenStudy, data: ImageData8): Promise<Comparison> {
  const { study } = open;
  const teachers: TeacherRecord[] = [], adapters = new Set<string>();
  let last: Summary | undefined;
  const noted = (summary: Summary) => {
    adapters.add(summary.adapter);
    return last = summary;
  };
  for (let seed = 0; seed < study.seeds; seed++) {
    const part: Part = { kind: "teacher", seed };
    if (!await hasEnded(open, part)) continue;
    const folder = folderOf(open, part);
    const { seconds } = noted(await readSummary(folder));
    teachers.push({
      seed,
      trainingSeconds: seconds.teacher ?? 0,
      bySteps: await readBySteps(folder, study.common.evaluation.steps),
    });
  }
  const settings: SettingRecord[] = [];
  for (const name of Object.keys(study.settings)) {
    settings.push(await readSetting(open, name, (folder) => readSummary(folder).then(noted)));
  }
  const { data: source, ...common } = study.common;
  return compare(
    {
      preset: study.common.preset,
      data: data.name,
      adapters: [...adapters],
      features: last?.features?.description ?? "",
      samples: study.common.evaluation.samples,
      floor: last?.teacher.floor ?? null,
      seeds: study.seeds,
      lateCheckpoints: study.lateCheckpoints,
      baseline: study.baseline,
      common: { ...common, ...source && { data: { sha256: source.sha256 } } },
    },
    teachers,
    settings,
  );
}

async function readBySteps(folder: RunFolder, usual: number): Promise<TeacherRecord["bySteps"]> {
  const text = new TextDecoder().decode(await folder.read(HEUN_FILE));
  try {
    const bySteps: TeacherRecord["bySteps"] = JSON.parse(text);
    const complete = bySteps.map(({ steps }) => steps).join() === teacherSteps(usual).join();
    if (complete && bySteps.every(isMeasured)) return bySteps;
  } catch {
    // Said below.
  }
  throw new FileError(
    `${folder.file(HEUN_FILE)} does not hold a teacher's measures; remove it to have them made anew.`,
  );
}

async function readSetting(
  open: OpenStudy,
  name: string,
  summaryOf: (folder: RunFolder) => Promise<Summary>,
): Promise<SettingRecord> {
  const { baseline, settings } = open.study;
  const { seeds: _, budget = "common", against = baseline, ...changes } = settings[name]!;
  const runs: RunRecord[] = [], failures: Failure[] = [], planned = seedsOf(open.study, name);
  for (let seed = 0; seed < planned; seed++) {
    const folder = folderOf(open, { kind: "run", seed, setting: name });
    if (await folder.has(FAILURE_FILE)) failures.push({ seed, reason: await readReason(folder) });
    else if (await folder.has(RESULTS.summary)) {
      runs.push(await readRun(folder, settingConfig(open.study, name, seed), await summaryOf(folder)));
    }
  }
  return { name, changes, budget, against, planned, runs, failures };
}

async function readReason(folder: RunFolder): Promise<string> {
  const file = folder.file(FAILURE_FILE);
  const { reason } = parseObject(new TextDecoder().decode(await folder.read(FAILURE_FILE)), file);
  if (typeof reason !== "string") failFor(file)('the field "reason" should be a text');
  return reason as string;
}

async function readRun(folder: RunFolder, config: RunConfig, summary: Summary): Promise<RunRecord> {
  const { seed, distill: { batch } } = config;
  const found = (await linesOf(folder, METRICS_FILE)).filter(({ stage, frechetDistance }) =>
    stage === "distill" && frechetDistance !== undefined
  );
  const wanted = checkpointSteps(config);
  if (
    found.map(({ step }) => step).join() !== wanted.join() ||
    !found.every(({ frechetDistance }) => Number.isFinite(frechetDistance))
  ) {
    throw new FileError(
      `${folder.file(METRICS_FILE)} should hold the Fréchet distances after ${
        wanted.join(", ")
      } steps; move the run away.`,
    );
  }
  const checked = found.map(({ step, frechetDistance }) => ({
    images: Number(step) * batch,
    frechetDistance: Number(frechetDistance),
  }));
  const generator = summary.generator && withoutFloor(summary.generator);
  if (!generator) throw new FileError(`${folder.path} holds no run of a generator with its measures; move it away.`);
  const diagnostics = await readDiagnostics(folder);
  return {
    ...{ seed, checked, generator },
    trainingSeconds: summary.seconds.distill ?? 0,
    ...diagnostics && { diagnostics },
  };
}

function withoutFloor({ floor: _, ...measures }: ModelSummary): Measured {
  return measures;
}

/** The last line of a run's diagnostics, where it has some. */
async function readDiagnostics(folder: RunFolder): Promise<Diagnostics | undefined> {
  if (!await folder.has(DIAGNOSTICS_FILE)) return undefined;
  const last = (await linesOf(folder, DIAGNOSTICS_FILE)).at(-1);
  return last && checkDiagnostics(last, failFor(`${folder.file(DIAGNOSTICS_FILE)}, last line`));
}

/** The lines of a log of a run that has ended. */
async function linesOf(folder: RunFolder, name: string): Promise<Record<string, unknown>[]> {
  const lines = new TextDecoder().decode(await folder.read(name)).split("\n");
  return lines.flatMap((line, i) => line === "" ? [] : [parseObject(line, `${folder.file(name)}, line ${i + 1}`)]);
}

/** The picture of a setting's run with the seed 0, a PNG; undefined where it has not ended. */
export async function pictureOf(open: OpenStudy, setting: string): Promise<Uint8Array | undefined> {
  const folder = folderOf(open, { kind: "run", seed: 0, setting });
  return await folder.has(PICTURE) ? await folder.read(PICTURE) : undefined;
}

/** Writes the figures and their report, each whole or not at all. */
export async function publish({ path }: OpenStudy, comparison: Comparison, report: string): Promise<void> {
  await writeText(join(path, STUDY.figures), JSON.stringify(comparison, null, 2) + "\n");
  await writeText(join(path, STUDY.report), report);
}

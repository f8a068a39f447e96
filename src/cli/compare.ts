/** `compare`: settings over several seeds on equal budgets, one table, and a report. */

import { BREGMAN_KINDS, type BregmanKind } from "../../kernels/bregman.ts";
import type { ImageData8 } from "../data/image_data.ts";
import type { Comparison } from "../eval/comparison.ts";
import { usesLambda } from "../distill/bregman.ts";
import { estimate } from "../eval/statistics.ts";
import { UsageError } from "../gpu/errors.ts";
import { expectWritable, writeFileAtomic } from "../io/disk.ts";
import { suggestion } from "../io/words.ts";
import { comparisonMarkdown, comparisonPage, comparisonText } from "../report/comparison.ts";
import { defaultPreset, failFor, type PresetName, PRESETS, teacherDenoiser } from "../train/config.ts";
import {
  addSeeds,
  createStudy,
  enterStudy,
  expectFreeStudy,
  expectStudyFits,
  missingParts,
  openStudy,
  type Part,
  pictureOf,
  publish,
  readComparison,
  runStudy,
  STUDY,
  takeTeachers,
  teachersFor,
  withSeeds,
} from "../train/compare.ts";
import { planStudy, type StudyPlan } from "../train/dry_run.ts";
import { TUNING_FILE } from "../train/folder.ts";
import { duration } from "../train/progress.ts";
import { expectDistillable } from "../train/stages.ts";
import {
  makeStudy,
  parseStudyList,
  seedsOf,
  type Setting,
  settingConfig,
  type Study,
  type StudyList,
  teacherConfig,
} from "../train/study.ts";
import { changeOf, checkEarly, expectData, expectResumable, refuse, timedFolder } from "./changes.ts";
import { readImages, readText, rereadImages } from "./files.ts";
import { type Command, parseOptions, type Values } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { TUNING } from "./tuning.ts";

const COMMAND = {
  name: "compare",
  summary:
    "Distil the same teachers with several settings over several seeds, on equal budgets, and report how they differ.",
  options: [
    {
      name: "h",
      kind: "string",
      placeholder: "LIST",
      help: "convex functions to compare, as in kl,lsif,sba(-0.5) (default: every one)",
    },
    {
      name: "config",
      kind: "string",
      placeholder: "FILE",
      help: "JSON with the settings to compare, as the README shows",
    },
    {
      name: "preset",
      kind: "choice",
      choices: Object.keys(PRESETS) as PresetName[],
      help: "settings to start from (default: digits, or digits-small on a software adapter)",
    },
    {
      name: "set",
      kind: "strings",
      placeholder: "NAME=VALUE",
      help: "change a setting of all runs, as in --set distill.images=9600",
    },
    { name: "seeds", kind: "integer", min: 1, max: 1000, help: "teachers, and runs of each setting (default: 3)" },
    {
      name: "baseline",
      kind: "string",
      placeholder: "NAME",
      help: "setting that the others are tested against, unless they name another (default: kl, or the first)",
    },
    {
      name: "late",
      kind: "integer",
      min: 1,
      max: 1000,
      help: "checkpoints at the end of a run whose mean is compared (default: 5)",
    },
    {
      name: "data",
      kind: "string",
      placeholder: "PATH",
      help: "images instead of the embedded digits, as train takes",
    },
    {
      name: "teachers",
      kind: "string",
      placeholder: "DIR",
      help: "take the teachers of the study in this folder, those of the seeds that it has, instead of training them",
    },
    { name: "out", kind: "string", placeholder: "DIR", help: "folder of the study (default: studies/<preset>-<time>)" },
    {
      name: "resume",
      kind: "string",
      placeholder: "DIR",
      help: "continue the study in this folder, with more --seeds too, or report anew; its settings are kept",
    },
    { name: "markdown", kind: "string", placeholder: "FILE", help: "also write the tables to this file as Markdown" },
    {
      name: "dry-run",
      kind: "flag",
      help: "print the settings and the time the study is expected to take, do nothing",
    },
    TUNING,
    NO_INSTALL,
  ],
} as const satisfies Command;

type CompareValues = Values<typeof COMMAND["options"]>;

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  if (values.resume !== undefined) {
    expectResumable(
      values,
      ["resume", "seeds", "noInstall", "markdown"],
      `a study keeps the settings in its ${STUDY.list}`,
    );
  }
  if (values.h !== undefined && values.config !== undefined) {
    throw new UsageError("--h and --config both say what is compared; give one of them.");
  }
  if (values.dryRun && values.markdown !== undefined) {
    throw new UsageError("--dry-run measures nothing that --markdown could write.");
  }
  if (values.markdown !== undefined) await expectWritable(values.markdown);
  const comparison = values.resume === undefined ? await begin(values) : await resume(values.resume, values);
  if (!comparison) return;
  console.log(comparisonText(comparison));
  if (values.markdown !== undefined) {
    await writeFileAtomic(values.markdown, new TextEncoder().encode(comparisonMarkdown(comparison)));
  }
}

async function begin(values: CompareValues): Promise<Comparison | undefined> {
  const list = await listOf(values);
  const named = values.preset ?? list.preset;
  expectData(named, values.data);
  const { data, source } = await readImages(values.data);
  const changes = values.set.map(changeOf);
  const fail = values.config === undefined ? refuse : failFor(values.config);
  const studyOf = (preset: PresetName) => makeStudy({ ...list, preset }, changes, source, fail);
  checkEarly(named, (preset) => expectAllDistillable(studyOf(preset), data));
  if (values.out !== undefined) await expectFreeStudy(values.out);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  const preset = named ?? defaultPreset(gpu.adapter.software);
  const study = studyOf(preset);
  const given = values.teachers === undefined ? [] : await teachersFor(study, values.teachers);
  if (values.dryRun) return showPlan(study, given.length, await planStudy(gpu, study, data), gpu.adapter.name);
  const path = values.out ?? timedFolder("studies", preset);
  await expectStudyFits(gpu, study, data);
  await createStudy(path, study, gpu.tuning);
  using _ = await enterStudy(path);
  await takeTeachers({ path, study }, given, gpu.tuning);
  console.error(`study: ${path} (preset ${preset}; continue it with: deno task compare --resume ${path})`);
  return await runAndReport(gpu, path, data);
}

/** Throws where a setting asks of its teacher what that is not, or has no weight. */
function expectAllDistillable(study: Study, data: ImageData8): void {
  const teacher = teacherDenoiser(teacherConfig(study, 0), data);
  for (const name of Object.keys(study.settings)) expectDistillable(settingConfig(study, name, 0), teacher);
}

async function resume(path: string, values: CompareValues): Promise<Comparison> {
  const open = withSeeds(await openStudy(path), values.seeds);
  const data = await rereadImages(open.study.common.data);
  expectAllDistillable(open.study, data);
  using _ = await enterStudy(path);
  if ((await missingParts(open)).length === 0) {
    console.error(`${path} is finished.`);
    return await report(path, data);
  }
  const gpu = await openGpu({ install: !values.noInstall, tuning: `${path}/${TUNING_FILE}` });
  if (values.seeds !== undefined) await addSeeds(path, values.seeds);
  return await runAndReport(gpu, path, data);
}

async function runAndReport(
  gpu: Awaited<ReturnType<typeof openGpu>>,
  path: string,
  data: ImageData8,
): Promise<Comparison> {
  const pace = new Pace();
  await runStudy(gpu, path, {
    data,
    onPart: (part, left, all) => {
      const time = pace.begin(part, left);
      const toGo = time === undefined ? "" : `, about ${duration(time)} of work to go`;
      console.error(`\n[${all - left.length + 1}/${all}] ${partText(part)}${toGo}`);
    },
    onWait: (left) => console.error(`\nwaiting for other processes: ${left.map(partText).join("; ")}`),
    onFailure: (part, reason) => console.error(`${partText(part)} did not come to its end: ${reason}`),
    onEnd: async () => {
      pace.end();
      await report(path, data);
    },
  });
  const comparison = await report(path, data);
  console.error(`\nreport: ${path}/${STUDY.report}`);
  return comparison;
}

/** How long this process takes for parts, teachers and runs apart. */
class Pace {
  readonly #times = { teacher: [] as number[], run: [] as number[] };
  #end: () => void = () => {};

  /** Notes that a part begins; milliseconds that those `left` would take it, where known. */
  begin({ kind }: Part, left: readonly Part[]): number | undefined {
    const started = performance.now();
    this.#end = () => this.#times[kind].push(performance.now() - started);
    if (left.some(({ kind }) => this.#times[kind].length === 0)) return undefined;
    return left.reduce((sum, { kind }) => sum + estimate(this.#times[kind]).mean, 0);
  }

  /** Notes that it has ended. */
  end(): void {
    this.#end();
  }
}

function partText(part: Part): string {
  return part.kind === "teacher" ? `teacher, seed ${part.seed}` : `${part.setting}, seed ${part.seed}`;
}

/** Writes the figures and the report of what has ended. */
async function report(path: string, data: ImageData8): Promise<Comparison> {
  const open = await openStudy(path);
  const comparison = await readComparison(open, data);
  const pictures = new Map<string, Uint8Array>();
  for (const name of Object.keys(open.study.settings)) {
    const png = await pictureOf(open, name);
    if (png) pictures.set(name, png);
  }
  await publish(open, comparison, comparisonPage(comparison, pictures));
  return comparison;
}

/** What is compared: the file's list or that of the functions, with the options in its place. */
async function listOf(values: CompareValues): Promise<StudyList> {
  const file = values.config === undefined ? {} : parseStudyList(await readText(values.config), values.config);
  if (values.config !== undefined && file.settings === undefined) {
    failFor(values.config)('the field "settings" is missing: it holds what is compared');
  }
  return {
    ...file,
    settings: file.settings ?? settingsOf(values.h),
    ...values.seeds !== undefined && { seeds: values.seeds },
    ...values.baseline !== undefined && { baseline: values.baseline },
    ...values.late !== undefined && { lateCheckpoints: values.late },
  };
}

/** λ where none is given: sba's is the squared Hellinger distance then. */
const LAMBDA = -0.5;

/** A setting for each function of a list; without one for every function that makes a difference. */
function settingsOf(list: string | undefined): Record<string, Setting> {
  // Weights are divided by their mean: basu(λ) would repeat sba(λ), bit by bit where 1 + λ is a power of two.
  const words = list?.split(",").map((word) => word.trim()) ?? BREGMAN_KINDS.filter((h) => h !== "basu");
  const settings: Record<string, Setting> = {};
  for (const word of words) {
    const [name, distill] = functionOf(word);
    if (settings[name]) throw new UsageError(`--h names ${name} twice.`);
    settings[name] = { distill };
  }
  return settings;
}

/** A function such as `kl` or `sba(-0.5)`: its full name and its settings. */
function functionOf(word: string): [string, { h: BregmanKind; lambda?: number }] {
  const [, name, parameter] = /^([^()]+)(?:\(([^()]*)\))?$/.exec(word) ?? [];
  if (!BREGMAN_KINDS.includes(name as BregmanKind)) {
    const hint = suggestion(name ?? word, BREGMAN_KINDS);
    throw new UsageError(
      `--h should list some of ${BREGMAN_KINDS.join(", ")}, but has ${JSON.stringify(word)}.${hint}`,
    );
  }
  const h = name as BregmanKind;
  if (!usesLambda(h)) {
    if (parameter !== undefined) throw new UsageError(`--h: ${h} has no parameter, but was given (${parameter}).`);
    return [h, { h }];
  }
  const lambda = parameter === undefined ? LAMBDA : Number(parameter.trim() || NaN);
  if (!Number.isFinite(lambda)) {
    throw new UsageError(`--h: the parameter of ${h} should be a number, but is ${JSON.stringify(parameter)}.`);
  }
  return [`${h}(${lambda})`, { h, lambda }];
}

/** Prints what a study would do. */
function showPlan(study: Study, given: number, { teacher, settings }: StudyPlan, adapter: string): undefined {
  let total = 0;
  const each = (name: string, seeds: number, seconds: number) => {
    console.log(`${name}: ${seeds} times ${duration(seconds * 1000)}`);
    total += seeds * seconds;
  };
  console.log(JSON.stringify(study, null, 2));
  each("teachers", study.seeds - given, teacher);
  for (const [name, seconds] of Object.entries(settings)) each(name, seedsOf(study, name), seconds);
  console.log(`expected on ${adapter}: ${duration(total * 1000)} of training; measurements come on top`);
}

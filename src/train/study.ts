/** A study: the settings that are compared, over which seeds, on which budget. */

import {
  type Changes,
  checkpointSteps,
  checkTogether,
  failFor,
  type FileSource,
  parseConfig,
  parseObject,
  presetConfig,
  type PresetName,
  PRESETS,
  type RunConfig,
  settingsText,
  stepsOf,
  withSettings,
} from "./config.ts";
import { usesLambda } from "../distill/bregman.ts";
import { checkSettings, choice, type Fail, type Rules, text as anyText, whole, withChanges } from "../io/settings.ts";
import { suggestion } from "../io/words.ts";

/** What a setting changes of the common ones, whether its budget is its own, what it is held against, and how often it runs. */
export interface Setting {
  /** Runs with the seeds 0 to `seeds` − 1 only; with all of the study's when absent. */
  readonly seeds?: number;
  /** Name of the setting that it is held against; the baseline when absent. */
  readonly against?: string;
  /** `own`: batch, images and critic updates may differ from the common ones. */
  readonly budget?: "own";
  /** Settings of the distillation: what all share is common. */
  readonly distill?: Readonly<Record<string, unknown>>;
}

/** A study with everything resolved: the contents of `study.json`. */
export interface Study {
  /** Seeds are 0 to `seeds` − 1, of teachers and, unless a setting has fewer, of runs. */
  readonly seeds: number;
  /** Name of the setting that the others are held against, unless they name another. */
  readonly baseline: string;
  /** Checkpoints at the end of a run whose mean Fréchet distance is compared. */
  readonly lateCheckpoints: number;
  /** Every setting of a run, with the seed 0. */
  readonly common: RunConfig;
  /** The settings by name. */
  readonly settings: Readonly<Record<string, Setting>>;
}

/** What a user may ask for; the rest follows. */
export interface StudyList {
  /** The preset to start from. */
  readonly preset?: PresetName;
  /** See {@linkcode Study}; 3 when absent. */
  readonly seeds?: number;
  /** See {@linkcode Study}; `kl`, or the first where that is not among them. */
  readonly baseline?: string;
  /** See {@linkcode Study}; 5 when absent. */
  readonly lateCheckpoints?: number;
  /** Changes of the preset that all share, nested as in `config.json`. */
  readonly common?: Changes;
  /** See {@linkcode Study}. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

const PARTS: Rules = {
  seeds: whole({ min: 1, max: 1000 }),
  baseline: anyText,
  lateCheckpoints: whole({ min: 1, max: 1000 }),
};

const LIST_RULES: Rules = { preset: choice(Object.keys(PRESETS)), ...PARTS };

/** Images that models are measured with, at least; the distance of fewer says little. */
const SAMPLES = 5000;

/** Checkpoints of a distillation where nothing else is asked for: the curve has as many points. */
const CHECKPOINTS = 16;

/** What a budget is counted in: settings of the distillation. */
const BUDGET = ["batch", "images", "fakeScore.updates", "classifier.updates"];

/**
 * Reads a user's list of settings.
 *
 * @throws {FileError} naming the file and the field where it is none. The changes themselves are checked by
 * {@linkcode makeStudy}.
 */
export function parseStudyList(text: string, fileName: string): StudyList {
  const fail = failFor(fileName);
  const { common, settings, ...rest } = partsOf(text, fileName, Object.keys(LIST_RULES), fail);
  withChanges({}, rest, LIST_RULES, fail);
  for (const [name, value] of Object.entries({ common, settings })) {
    if (value !== undefined) expectObject(name, value, fail);
  }
  return { ...rest, ...common !== undefined && { common }, ...settings !== undefined && { settings } } as StudyList;
}

/** The fields of a file, each of which is one of `names`, `common` or `settings`. */
function partsOf(text: string, fileName: string, names: readonly string[], fail: Fail): Record<string, unknown> {
  const parts = parseObject(text, fileName), known = [...names, "common", "settings"];
  const unknown = Object.keys(parts).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    const hint = suggestion(unknown, known);
    fail(`there is no field "${unknown}"${hint && `.${hint}`}`);
  }
  return parts;
}

function expectObject(name: string, value: unknown, fail: Fail): asserts value is Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    fail(`the field "${name}" should hold settings`);
  }
}

/**
 * The study that a list stands for, with further changes of the common settings in order. Models are measured with 5,000
 * images at least, at the end and at each of 16 checkpoints, unless the changes say otherwise.
 */
export function makeStudy(
  { preset, seeds = 3, baseline, lateCheckpoints = 5, common = {}, settings = {} }: StudyList & { preset: PresetName },
  changes: readonly Changes[],
  data: FileSource | undefined,
  fail: Fail,
): Study {
  const names = Object.keys(settings);
  const study = {
    seeds,
    baseline: baseline ?? (names.includes("kl") ? "kl" : names[0] ?? ""),
    lateCheckpoints,
    common: { ...commonConfig(preset, [common, ...changes], fail), ...data && { data } },
    settings: settings as Study["settings"],
  };
  checkStudy(study, fail);
  return study;
}

function commonConfig(preset: PresetName, changes: readonly Changes[], fail: Fail): RunConfig {
  const elsewhere = [
    ["preset", 'which stands beside "common"'],
    ["seed", 'in whose place a study has "seeds"'],
    ["teacherOnly", "which a study has no use for"],
  ] as const;
  for (const [name, why] of elsewhere) {
    if (changes.some((change) => change[name] !== undefined)) fail(`the common settings have "${name}", ${why}`);
  }
  const changed = (config: RunConfig) => changes.reduce((result, change) => withSettings(result, change, fail), config);
  const base = presetConfig(preset);
  const samples = Math.max(SAMPLES, base.evaluation.samples);
  const first = changed({ ...base, evaluation: { ...base.evaluation, samples } });
  const { batch } = first.distill;
  const every = batch * Math.ceil(stepsOf(first.distill) / CHECKPOINTS);
  return changed({
    ...base,
    evaluation: { ...base.evaluation, samples, checkSamples: first.evaluation.samples },
    checkpointEvery: { ...base.checkpointEvery, distill: every },
  });
}

/** Calls `fail` where a study cannot be run, or would not compare like with like. */
function checkStudy(study: Study, fail: Fail): void {
  const { common, settings, baseline } = study;
  const { samples, checkSamples } = common.evaluation;
  if (checkSamples !== samples) {
    fail(
      `evaluation.checkSamples (${checkSamples}) should be evaluation.samples (${samples}): distances of different ` +
        "numbers of images cannot be compared",
    );
  }
  checkTogether(common, false, fail);
  const names = Object.keys(settings);
  if (names.length === 0) fail('the field "settings" should hold at least one setting');
  names.forEach((name, i) => checkName(name, names.slice(0, i), fail));
  for (const name of names) checkSetting(study, name, fail);
  if (!names.includes(baseline)) {
    fail(`the baseline "${baseline}" is none of the settings ${names.join(", ")}`);
  }
  if (settings[baseline]!.against !== undefined) fail(`the baseline "${baseline}" is held against no other setting`);
  for (const name of names) expectNoCircle(study, name, fail);
  const effects = new Map<string, string>();
  for (const name of names) {
    const effect = effectOf(settingConfig(study, name, 0)), twin = effects.get(effect);
    if (twin !== undefined) fail(`the settings "${twin}" and "${name}" come to the same runs`);
    effects.set(effect, name);
  }
}

/** What of a run's settings its training depends on. */
function effectOf(config: RunConfig): string {
  const { h, lambda, hWeight, adversarial, ...rest } = config.distill;
  const divergence = hWeight !== undefined ? { hWeight } : usesLambda(h) ? { h, lambda } : { h };
  const distill = {
    ...rest,
    ...rest.objective === "bregman" && divergence,
    adversarial: adversarial.weight > 0 ? adversarial : undefined,
  };
  return settingsText({ ...config, distill });
}

/** Calls `fail` where a setting is held against another that is, over whichever ways, held against it. */
function expectNoCircle({ settings }: Study, name: string, fail: Fail): void {
  const way = [name];
  for (let next = settings[name]!.against; next !== undefined; next = settings[next]!.against) {
    if (way.includes(next)) fail(`settings are held against one another: ${[...way, next].join(", ")}`);
    way.push(next);
  }
}

/** The setting of a name such as `a.b`. */
function valueAt(settings: object, name: string): unknown {
  return name.split(".").reduce<unknown>((value, part) => (value as Record<string, unknown>)[part], settings);
}

/** Names are those of folders too, also where these do not tell large letters from small ones. */
function checkName(name: string, others: readonly string[], fail: Fail): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._()+=-]{0,59}$/.test(name) || name.endsWith(".")) {
    fail(
      `the name of the setting ${
        JSON.stringify(name)
      } should have at most 60 letters, digits and ._()+=-, a letter or ` +
        "digit first and no dot last",
    );
  }
  const twin = others.find((other) => other.toLowerCase() === name.toLowerCase());
  if (twin !== undefined) fail(`the names of the settings "${twin}" and "${name}" should differ by more than case`);
}

function checkSetting(study: Study, name: string, fail: Fail): void {
  const { common, lateCheckpoints } = study;
  const inSetting: Fail = (message) => fail(`in the setting "${name}", ${message}`);
  const setting: unknown = study.settings[name];
  expectObject(`settings.${name}`, setting, fail);
  const { seeds, budget, against, ...changes } = setting;
  if (seeds !== undefined) checkSettings({ seeds }, { seeds: whole({ min: 1, max: study.seeds }) }, inSetting);
  if (budget !== undefined && budget !== "own") inSetting('the field "budget" should be "own", or absent');
  const others = Object.keys(study.settings).filter((other) => other !== name);
  if (against !== undefined && !others.includes(against as string)) {
    inSetting(`the field "against" should be the name of another setting, not ${JSON.stringify(against)}`);
  }
  const { distill } = withSettings(common, changes, inSetting);
  const other = Object.keys(changes).find((key) => key !== "distill");
  if (other !== undefined) {
    inSetting(`"${other}" is changed; settings share their teachers and measurements, so that belongs into "common"`);
  }
  const differs = BUDGET.find((key) => valueAt(distill, key) !== valueAt(common.distill, key));
  if (differs !== undefined && budget !== "own") {
    inSetting(
      `"distill.${differs}" is ${valueAt(distill, differs)}, but ${
        valueAt(common.distill, differs)
      } for all; budgets ` +
        'are equal unless a setting says "budget": "own"',
    );
  }
  checkTogether(settingConfig(study, name, 0), true, inSetting);
  const checkpoints = checkpointSteps({ ...common, distill }).length;
  if (checkpoints < lateCheckpoints) {
    inSetting(
      `there are ${checkpoints} checkpoints, fewer than the ${lateCheckpoints} late ones (--late); ` +
        `checkpointEvery.distill is ${common.checkpointEvery.distill} of ${distill.images} images`,
    );
  }
}

/** The number of seeds that a setting runs with, 0 and those after it. */
export function seedsOf({ seeds, settings }: Pick<Study, "seeds" | "settings">, name: string): number {
  return settings[name]!.seeds ?? seeds;
}

/** The run of a setting with a seed, but for its teacher. */
export function settingConfig({ common, settings }: Study, name: string, seed: number): RunConfig {
  const { seeds: _, budget: __, against: ___, ...changes } = settings[name]!;
  return withSettings(common, { ...changes, seed }, (message) => {
    throw new Error(`unreachable: ${message}`);
  });
}

/** The run that trains the teacher of a seed. */
export function teacherConfig({ common }: Study, seed: number): RunConfig {
  return { ...common, seed, teacherOnly: true };
}

/** A study as text, to be read by {@linkcode parseStudy}. */
export function encodeStudy(study: Study): string {
  return JSON.stringify(study, null, 2) + "\n";
}

/**
 * Reads a study that was begun.
 *
 * @throws {FileError} naming the file and the field where one is missing, unknown or not what it should be.
 */
export function parseStudy(text: string, fileName: string): Study {
  const fail = failFor(fileName);
  const { common, settings, ...rest } = partsOf(text, fileName, Object.keys(PARTS), fail);
  checkSettings(rest, PARTS, fail);
  expectObject("common", common, fail);
  expectObject("settings", settings, fail);
  const study = {
    ...rest as unknown as Pick<Study, "seeds" | "baseline" | "lateCheckpoints">,
    common: parseConfig(JSON.stringify(common), `${fileName}, "common"`),
    // Each is checked with the study.
    settings: settings as Study["settings"],
  };
  checkStudy(study, fail);
  return study;
}

/** `train`: a teacher, a one-step generator distilled from it, and the measurements of both. */

import { BREGMAN_KINDS } from "../../kernels/bregman.ts";
import type { ImageData8 } from "../data/image_data.ts";
import type { ModelInfo } from "../io/model.ts";
import { PRECISIONS } from "../nn/network.ts";
import { usesLambda } from "../distill/bregman.ts";
import { conditionSizes } from "../nn/networks.ts";
import { generatorLevels } from "../diffusion/edm.ts";
import { CLASSIFIER_LOSSES, CLASSIFIERS, OBJECTIVES } from "../distill/settings.ts";
import { UsageError } from "../gpu/errors.ts";
import { expectTimestamps } from "../graph/profile.ts";
import {
  type Changes,
  checkTogether,
  defaultPreset,
  failFor,
  neededFor,
  parseChanges,
  presetConfig,
  type PresetName,
  PRESETS,
  type RunConfig,
  stateSettings,
  teacherDenoiser,
  weighsByRatio,
  withSettings,
} from "../train/config.ts";
import { RESULTS, RunFolder, TUNING_FILE } from "../train/folder.ts";
import { expectFits, expectModel, readSummary, runAll, type Summary } from "../train/run.ts";
import { changeOf, checkEarly, expectData, expectResumable, optionName, refuse, timedFolder } from "./changes.ts";
import { fileSource, readImages, readModel, readText, rereadImages, rereadModel } from "./files.ts";
import { type Command, parseOptions, type Values } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { TUNING } from "./tuning.ts";
import { planRun, type StagePlan } from "../train/dry_run.ts";
import { expectDistillable } from "../train/stages.ts";
import { duration } from "../train/progress.ts";

const presets = Object.keys(PRESETS) as PresetName[];

const COMMAND = {
  name: "train",
  summary: "Train a teacher, distil it into a one-step generator by Di-Bregman, and measure both.",
  options: [
    {
      name: "preset",
      kind: "choice",
      choices: presets,
      help: "settings to start from (default: digits, or digits-small on a software adapter)",
    },
    {
      name: "data",
      kind: "string",
      placeholder: "PATH",
      help: "images instead of the embedded digits: CIFAR, IDX, npz, a folder or zip of PNG files, or UCI's text",
    },
    {
      name: "config",
      kind: "string",
      placeholder: "FILE",
      help: "JSON with settings to change, nested as in a run's config.json",
    },
    {
      name: "set",
      kind: "strings",
      placeholder: "NAME=VALUE",
      help: "change any setting of config.json, as in --set teacher.ema.halfLife=5e5",
    },
    { name: "out", kind: "string", placeholder: "DIR", help: "folder of the run (default: runs/<preset>-<time>)" },
    {
      name: "resume",
      kind: "string",
      placeholder: "DIR",
      help: "continue the run in this folder; its settings are kept",
    },
    { name: "seed", kind: "integer", min: 0, max: 4294967295, help: "seed of every random number (default: 0)" },
    { name: "batch", kind: "integer", min: 2, max: 4096, help: "images a step, in both stages" },
    {
      name: "microbatch",
      kind: "integer",
      min: 1,
      help: "images whose gradient is computed at once, for less memory; divides the batch (default: the batch)",
    },
    {
      name: "checkpoint-blocks",
      kind: "flag",
      help: "compute the inside of network blocks twice instead of keeping it, for less memory",
    },
    { name: "h", kind: "choice", choices: BREGMAN_KINDS, help: "convex function of the Bregman divergence" },
    { name: "lambda", kind: "number", help: "parameter of the families sba and basu" },
    {
      name: "h-weight",
      kind: "string",
      placeholder: "EXPR",
      help: 'in the place of h, the weight c(r) as an expression of the logit, as in "exp(0.5 * logit)"',
    },
    {
      name: "objective",
      kind: "choice",
      choices: OBJECTIVES,
      help: "what the generator minimises: a Bregman divergence (default), SiD's loss, or the adversarial term alone",
    },
    { name: "classifier", kind: "choice", choices: CLASSIFIERS, help: "what the density ratio is read from" },
    { name: "classifier-loss", kind: "choice", choices: CLASSIFIER_LOSSES, help: "what the classifier minimises" },
    {
      name: "adversarial",
      kind: "number",
      min: 0,
      help: "weight of the adversarial term (default: the preset's; 0 for none)",
    },
    {
      name: "adversarial-after",
      kind: "integer",
      min: 0,
      help: "generator updates before the adversarial term begins",
    },
    {
      name: "generator-steps",
      kind: "integer",
      min: 1,
      max: 16,
      help: "network evaluations of the generator for an image (default: 1)",
    },
    {
      name: "guidance",
      kind: "number",
      min: 0,
      help: "classifier-free guidance of a teacher of classes (default: 1, none)",
    },
    {
      name: "teacher",
      kind: "string",
      placeholder: "FILE",
      help: "a trained teacher, a model file or a pickle of EDM: skips its training",
    },
    {
      name: "dry-run",
      kind: "flag",
      help: "print the settings, sizes, memory and expected time of the run, and do nothing",
    },
    { name: "teacher-only", kind: "flag", help: "train and measure a teacher, distil nothing" },
    { name: "conditional", kind: "flag", help: "tell the teacher's network the images' classes" },
    { name: "teacher-images", kind: "integer", min: 1, help: "images the teacher is trained on" },
    { name: "teacher-steps", kind: "integer", min: 1, help: "the same in updates" },
    { name: "distill-images", kind: "integer", min: 1, help: "images of the generator's updates" },
    { name: "distill-steps", kind: "integer", min: 1, help: "the same in updates" },
    {
      name: "precision",
      kind: "choice",
      choices: PRECISIONS,
      help: "how networks store activations: f16 halves their memory (default: f32)",
    },
    { name: "teacher-lr", kind: "number", above: 0, help: "learning rate of the teacher" },
    { name: "generator-lr", kind: "number", above: 0, help: "learning rate of the generator" },
    { name: "fake-lr", kind: "number", above: 0, help: "learning rate of the fake score" },
    { name: "classifier-lr", kind: "number", above: 0, help: "learning rate of the classifier" },
    {
      name: "critic-updates",
      kind: "integer",
      min: 1,
      max: 16,
      help: "updates of fake score and classifier for each of the generator",
    },
    { name: "critic-warmup", kind: "integer", min: 0, help: "steps, at the beginning, that train the critics alone" },
    { name: "warmup", kind: "integer", min: 0, help: "generator updates made with the weight c = 1" },
    { name: "logit-clamp", kind: "number", above: 0, help: "limit of the classifier's logit" },
    { name: "ratio-min", kind: "number", above: 0, help: "least density ratio" },
    { name: "ratio-max", kind: "number", above: 0, help: "greatest density ratio" },
    { name: "eval-samples", kind: "integer", min: 65, help: "images each model is measured with" },
    {
      name: "profile",
      kind: "flag",
      help: "print the times of a training step's kernels and write trace.json, for ui.perfetto.dev",
    },
    TUNING,
    NO_INSTALL,
  ],
} as const satisfies Command;

type TrainValues = Values<typeof COMMAND["options"]>;

/** Options that only the distillation has a use for. */
const DISTILLATION = [
  "h",
  "lambda",
  "hWeight",
  "objective",
  "classifier",
  "classifierLoss",
  "adversarial",
  "adversarialAfter",
  "generatorSteps",
  "guidance",
  "distillImages",
  "distillSteps",
  "generatorLr",
  "fakeLr",
  "classifierLr",
  "criticUpdates",
  "criticWarmup",
  "warmup",
  "logitClamp",
  "ratioMin",
  "ratioMax",
] as const satisfies (keyof TrainValues)[];

/** Throws for one of them that the settings leave without a use. */
function expectUsed({ distill }: RunConfig, values: TrainValues): void {
  const { objective } = distill, need = neededFor(distill);
  const expect = (used: boolean, names: readonly (keyof TrainValues)[], what: string) => {
    const idle = !used && names.find((name) => isGiven(values[name]));
    if (idle) throw new UsageError(`${optionName(idle)} is for ${what}.`);
  };
  const why = "neither a weight of the ratio nor --adversarial";
  expect(
    need.classifier,
    ["classifier", "classifierLoss", "classifierLr"],
    `the classifier, which nothing asks here: ${why}`,
  );
  const { kind } = distill.classifier;
  expect(kind !== "fake-mean", ["classifierLr"], `a classifier with parameters of its own; ${kind} has none`);
  expect(need.fakeScore, ["fakeLr"], `the fake score, which the objective ${objective} does without`);
  const weights = objective === "bregman" ? "the weight of kl is 1" : `the objective ${objective} has none`;
  expect(
    weighsByRatio(distill),
    ["warmup", "logitClamp", "ratioMin", "ratioMax"],
    `weights of the density ratio; ${weights}`,
  );
}

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  checkValues(values);
  const summary = values.resume === undefined ? await begin(values) : await resume(values.resume, values);
  if (summary) report(summary);
}

/** What can be said of the arguments before any file or adapter is touched. */
function checkValues(values: TrainValues): void {
  if (values.resume !== undefined) {
    expectResumable(values, ["resume", "noInstall", "profile"], "a run keeps the settings in its config.json");
  }
  for (const stage of ["teacher", "distill"] as const) {
    if (values[`${stage}Images`] !== undefined && values[`${stage}Steps`] !== undefined) {
      throw new UsageError(`--${stage}-images and --${stage}-steps say the same; give one of them.`);
    }
  }
  if (values.teacher !== undefined && [values.teacherImages, values.teacherSteps, values.teacherLr].some(isGiven)) {
    throw new UsageError(
      "--teacher skips the teacher's training; --teacher-images, --teacher-steps and --teacher-lr cannot go with it.",
    );
  }
}

/** Throws where the model is no teacher that can be distilled on the data as the options ask. */
function expectTeacher(info: ModelInfo, data: ImageData8, { teacher: path = "", conditional }: TrainValues): void {
  expectModel(info, "teacher", data, path);
  const { labelDim } = conditionSizes(info.network);
  if (labelDim > 0 && labelDim !== data.classes) {
    throw new UsageError(`${path} is a teacher of ${labelDim} classes; ${data.name} has ${data.classes}.`);
  }
  if (conditional && labelDim === 0) {
    throw new UsageError(`--conditional asks for a teacher that is told the classes; ${path} is not.`);
  }
}

const isGiven = (value: unknown) => value !== undefined;

async function begin(values: TrainValues): Promise<Summary | undefined> {
  const changes = values.config === undefined ? {} : parseChanges(await readText(values.config), values.config);
  const named = values.preset ?? changes.preset;
  expectData(named, values.data);
  const { data, source } = await readImages(values.data);
  const given = values.teacher === undefined
    ? undefined
    : await readModel(values.teacher, named && stateSettings(named));
  if (given) expectTeacher(given.model.info, data, values);
  const files = {
    ...source && { data: source },
    ...given && { teacherFile: await fileSource(values.teacher!, given.bytes) },
  };
  const configOf = (preset: PresetName) => ({ ...makeConfig(values, preset, changes, given !== undefined), ...files });
  checkEarly(named, (preset) => {
    const wanted = configOf(preset);
    expectDistillable(wanted, given?.model.info ?? teacherDenoiser(wanted, data));
  });
  if (values.out !== undefined) await RunFolder.expectFree(values.out);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  if (values.profile) expectTimestamps(gpu);
  const preset = named ?? defaultPreset(gpu.adapter.software);
  const config = configOf(preset);
  if (values.dryRun) {
    await expectFits(gpu, config, data, given?.model.info);
    return showPlan(config, await planRun(gpu, config, data, given?.model.info), gpu.adapter.name);
  }
  const path = values.out ?? timedFolder("runs", preset);
  await expectFits(gpu, config, data, given?.model.info);
  using _ = await RunFolder.expectClaim(path);
  const folder = await RunFolder.create(path, config, gpu.tuning);
  console.error(`run: ${path} (preset ${preset}; continue it with: deno task train --resume ${path})`);
  return await runAll(gpu, { folder, config, data, givenTeacher: given?.model, profile: values.profile });
}

/** Prints what a run would do. */
function showPlan(config: RunConfig, stages: readonly StagePlan[], adapter: string): undefined {
  console.log(JSON.stringify(config, null, 2));
  for (const { name, parameters, steps, batch, programs, flops, deviceBytes, secondsPerStep, timedImages } of stages) {
    const networks = Object.entries(parameters).map(([name, count]) => `${name} ${count.toLocaleString("en")}`);
    const timed = timedImages < batch ? `, from a step of ${timedImages} images` : "";
    console.log(
      `${name}: ${steps} steps of ${batch} images, ${(flops / 1e9).toFixed(1)} GFLOP each, ` +
        `${(deviceBytes / 1e6).toFixed(1)} MB on the device\n` +
        `  parameters: ${networks.join(", ")}\n` +
        programs.map((program) => `  ${program}\n`).join("") +
        `  expected on ${adapter}${timed}: ${secondsPerStep.toPrecision(3)} s a step, ` +
        `${(batch / secondsPerStep).toPrecision(3)} images/s, ${duration(steps * secondsPerStep * 1000)} in all`,
    );
  }
}

async function resume(path: string, values: TrainValues): Promise<Summary> {
  const { folder, config } = await RunFolder.open(path);
  if (await folder.has(RESULTS.summary)) {
    console.error(`${path} is finished.`);
    return await readSummary(folder);
  }
  const data = await rereadImages(config.data);
  // A teacher that is there, trained or given, is what is distilled: the settings' network is not.
  const made = await folder.has(RESULTS.teacher) ? (await readModel(folder.file(RESULTS.teacher))).model : undefined;
  const given = made || !config.teacherFile
    ? undefined
    : await rereadModel(config.teacherFile, stateSettings(config.preset));
  const gpu = await openGpu({ install: !values.noInstall, tuning: folder.file(TUNING_FILE) });
  // Not before: where a driver is installed first, a child process is this command.
  using _ = await RunFolder.expectClaim(path);
  await folder.tidy(config);
  if (values.profile) expectTimestamps(gpu);
  await expectFits(gpu, config, data, (made ?? given)?.info);
  return await runAll(gpu, { folder, config, data, givenTeacher: given, profile: values.profile });
}

/**
 * The preset with the user's changes: those of the file, then the options', then the single settings'; at last options that
 * count updates, of the batch that comes out.
 */
function makeConfig(values: TrainValues, preset: PresetName, fromFile: Changes, teacherGiven: boolean): RunConfig {
  let config = withSettings(presetConfig(preset), { ...fromFile, preset }, failFor(values.config ?? ""));
  config = withSettings(config, changesOf(values), refuse);
  for (const setting of values.set) config = withSettings(config, changeOf(setting), refuse);
  const useless = config.teacherOnly && DISTILLATION.find((name) => isGiven(values[name]));
  if (useless) throw new UsageError(`${optionName(useless)} is for the distillation, which --teacher-only leaves out.`);
  config = withSettings(config, updatesAsImages(values, config), refuse);
  if (values.generatorSteps !== undefined) {
    if (config.distill.laterSigmas.length > 0) {
      throw new UsageError("--generator-steps chooses distill.laterSigmas, which are given too.");
    }
    const [, ...laterSigmas] = generatorLevels(config.distill.sigmaInit, values.generatorSteps);
    config = withSettings(config, { distill: { laterSigmas } }, refuse);
  }
  const { h } = config.distill;
  if (values.lambda !== undefined && !usesLambda(h)) {
    throw new UsageError("--lambda goes with --h sba or --h basu only.");
  }
  if (values.h !== undefined && config.distill.hWeight !== undefined) {
    throw new UsageError("--h and --h-weight both choose the divergence; give one of them.");
  }
  if (values.h !== undefined && config.distill.objective !== "bregman") {
    throw new UsageError(`--h chooses a divergence, which the objective ${config.distill.objective} has none of.`);
  }
  if (values.adversarialAfter !== undefined && config.distill.adversarial.weight === 0) {
    throw new UsageError("--adversarial-after delays the adversarial term, whose weight, --adversarial, is 0.");
  }
  checkTogether(config, teacherGiven, refuse);
  expectUsed(config, values);
  return config;
}

/** The options as changes of settings. */
function changesOf(values: TrainValues): Record<string, unknown> {
  return given({
    seed: values.seed,
    precision: values.precision,
    microbatch: values.microbatch,
    checkpointBlocks: values.checkpointBlocks || undefined,
    teacherOnly: values.teacherOnly || undefined,
    teacher: given({
      conditional: values.conditional || undefined,
      batch: values.batch,
      images: values.teacherImages,
      learningRate: values.teacherLr,
    }),
    distill: given({
      batch: values.batch,
      images: values.distillImages,
      h: values.h,
      lambda: values.lambda,
      hWeight: values.hWeight,
      objective: values.objective,
      guidance: values.guidance,
      generator: given({ learningRate: values.generatorLr }),
      fakeScore: given({ learningRate: values.fakeLr, updates: values.criticUpdates }),
      classifier: given({
        learningRate: values.classifierLr,
        updates: values.criticUpdates,
        kind: values.classifier,
        loss: values.classifierLoss,
      }),
      ratio: given({ logitClamp: values.logitClamp, min: values.ratioMin, max: values.ratioMax }),
      adversarial: given({ weight: values.adversarial }),
    }),
    evaluation: given({ samples: values.evalSamples }),
  });
}

/** The options that count updates, as changes of settings that count images. */
function updatesAsImages(values: TrainValues, { teacher, distill }: RunConfig): Record<string, unknown> {
  const images = (updates: number | undefined, batch: number) => updates === undefined ? undefined : updates * batch;
  return {
    teacher: given({ images: images(values.teacherSteps, teacher.batch) }),
    distill: given({
      images: images(values.distillSteps, distill.batch),
      warmupImages: images(values.warmup, distill.batch),
      criticWarmupImages: images(values.criticWarmup, distill.batch),
      adversarial: given({ afterImages: images(values.adversarialAfter, distill.batch) }),
    }),
  };
}

/** What is not undefined. */
function given(settings: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

function generatorName(evaluations: number, h = ""): string {
  return `${evaluations === 1 ? "one step" : `${evaluations} steps`} (${h})`;
}

function report({ teacher, generator, seconds, h, features }: Summary): void {
  const { samples, floor } = teacher;
  const times = Object.entries(seconds).map(([stage, value]) => `${stage} ${duration(value * 1000)}`);
  console.log(
    `Fréchet distance, ${samples} images (real images against themselves: ${floor.mean.toFixed(1)} ± ${
      floor.std.toFixed(1)
    })`,
  );
  const models = generator ? { teacher, [generatorName(generator.evaluations, h)]: generator } : { teacher };
  const width = Math.max(...Object.keys(models).map((name) => name.length));
  for (const [name, model] of Object.entries(models)) {
    console.log(
      `  ${name.padEnd(width)} ${model.frechetDistance.toFixed(2).padStart(8)}   ${model.evaluations} evaluation${
        model.evaluations === 1 ? "" : "s"
      } an image, ${model.imagesPerSecond} images/s, ${
        typeof model.classError === "number" ? `class error ${(100 * model.classError).toFixed(1)} %, ` : ""
      }coverage ${(100 * model.coverage).toFixed(0)} %, ` +
        `nearest real image at ${model.nearestDistance.toFixed(2)}`,
    );
  }
  if (features) console.log(`features: ${features.description}`);
  console.log(`time: ${times.join(", ")}`);
}

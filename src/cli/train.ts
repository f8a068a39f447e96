/** `train`: a teacher, a one-step generator distilled from it, and the measurements of both. */

import { BREGMAN_KINDS } from "../../kernels/bregman.ts";
import { checkLambda } from "../distill/bregman.ts";
import { PRECISIONS } from "../nn/network.ts";
import { UsageError } from "../gpu/errors.ts";
import { expectTimestamps } from "../graph/profile.ts";
import { defaultPreset, type PresetName, PRESETS, type RunConfig } from "../train/config.ts";
import { RESULTS, RunFolder, TUNING_FILE } from "../train/folder.ts";
import { expectFits, expectModel, readSummary, runAll, type Summary } from "../train/run.ts";
import { fileSource, readImages, readModel, rereadFile } from "./files.ts";
import { type Command, parseOptions, type Values } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { TUNING } from "./tuning.ts";
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
      placeholder: "FILE",
      help: "UCI text file of 8x8 digits instead of the embedded ones",
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
    { name: "teacher", kind: "string", placeholder: "FILE", help: "a trained teacher: skips its training" },
    { name: "teacher-steps", kind: "integer", min: 1, help: "updates of the teacher" },
    { name: "distill-steps", kind: "integer", min: 1, help: "updates of the generator" },
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
    { name: "critic-updates", kind: "integer", min: 1, max: 16, help: "critic updates for each generator update" },
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

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  checkValues(values);
  const summary = values.resume === undefined ? await begin(values) : await resume(values.resume, values);
  report(summary);
}

/** What can be said of the arguments before any file or adapter is touched. */
function checkValues(values: TrainValues): void {
  if (values.resume !== undefined) {
    const free = ["resume", "noInstall", "profile"];
    const given = Object.entries(values).find(([name, value]) =>
      value !== undefined && value !== false && !free.includes(name)
    );
    if (given) {
      const name = given[0].replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      throw new UsageError(`--${name} cannot go with --resume: a run keeps the settings in its config.json.`);
    }
  }
  if (values.lambda !== undefined && values.h !== "sba" && values.h !== "basu") {
    throw new UsageError(`--lambda goes with --h sba or --h basu only.`);
  }
  if (values.teacher !== undefined && (values.teacherSteps !== undefined || values.teacherLr !== undefined)) {
    throw new UsageError("--teacher skips the teacher's training; --teacher-steps and --teacher-lr cannot go with it.");
  }
}

async function begin(values: TrainValues): Promise<Summary> {
  const { data, source } = await readImages(values.data);
  const given = values.teacher === undefined ? undefined : await readModel(values.teacher);
  if (given) expectModel(given.model.info, "teacher", data, values.teacher!);
  makeConfig(values, values.preset ?? "digits"); // to report what is wrong with it before any adapter is sought
  if (values.out !== undefined) await RunFolder.expectFree(values.out);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  if (values.profile) expectTimestamps(gpu);
  const preset = values.preset ?? defaultPreset(gpu.adapter.software);
  const config: RunConfig = {
    ...makeConfig(values, preset),
    ...source && { data: source },
    ...given && { teacherFile: await fileSource(values.teacher!, given.bytes) },
  };
  const path = values.out ?? `runs/${preset}-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}`;
  await expectFits(gpu, config, data, given?.model.info);
  const folder = await RunFolder.create(path, config, gpu.tuning);
  console.error(`run: ${path} (preset ${preset}; continue it with: deno task train --resume ${path})`);
  return await runAll(gpu, { folder, config, data, givenTeacher: given, profile: values.profile });
}

async function resume(path: string, values: TrainValues): Promise<Summary> {
  const { folder, config } = await RunFolder.open(path);
  if (await folder.has(RESULTS.summary)) {
    console.error(`${path} is finished.`);
    return await readSummary(folder);
  }
  if (config.data) await rereadFile(config.data);
  const { data } = await readImages(config.data?.path);
  let given;
  if (config.teacherFile && !await folder.has(RESULTS.teacher)) {
    await rereadFile(config.teacherFile);
    given = await readModel(config.teacherFile.path);
  }
  const gpu = await openGpu({ install: !values.noInstall, tuning: folder.file(TUNING_FILE) });
  if (values.profile) expectTimestamps(gpu);
  await expectFits(gpu, config, data, given?.model.info);
  return await runAll(gpu, { folder, config, data, givenTeacher: given, profile: values.profile });
}

/** The preset with the user's changes. */
function makeConfig(values: TrainValues, preset: PresetName): RunConfig {
  const base = PRESETS[preset];
  const { teacher, distill } = base;
  const h = values.h ?? distill.h;
  const lambda = values.lambda ?? distill.lambda;
  checkLambda(h, lambda);
  const ratioMin = values.ratioMin ?? distill.ratioMin, ratioMax = values.ratioMax ?? distill.ratioMax;
  if (ratioMin >= ratioMax) {
    throw new UsageError(`--ratio-min (${ratioMin}) should be less than --ratio-max (${ratioMax}).`);
  }
  const batches = {
    ...values.teacher === undefined && { teacher: values.batch ?? teacher.batch },
    distillation: values.batch ?? distill.batch,
  };
  for (const [stage, batch] of Object.entries(batches)) {
    if (values.microbatch !== undefined && batch % values.microbatch !== 0) {
      throw new UsageError(
        `--microbatch ${values.microbatch} does not divide the ${stage}'s batch of ${batch} images.`,
      );
    }
  }
  return {
    preset,
    seed: values.seed ?? 0,
    precision: values.precision ?? "f32",
    modelChannels: base.modelChannels,
    ...values.microbatch !== undefined && { microbatch: values.microbatch },
    checkpointBlocks: values.checkpointBlocks,
    teacher: {
      ...teacher,
      steps: values.teacherSteps ?? teacher.steps,
      batch: values.batch ?? teacher.batch,
      learningRate: values.teacherLr ?? teacher.learningRate,
    },
    distill: {
      ...distill,
      h,
      lambda,
      steps: values.distillSteps ?? distill.steps,
      batch: values.batch ?? distill.batch,
      generatorLr: values.generatorLr ?? distill.generatorLr,
      fakeLr: values.fakeLr ?? distill.fakeLr,
      classifierLr: values.classifierLr ?? distill.classifierLr,
      criticUpdates: values.criticUpdates ?? distill.criticUpdates,
      warmupSteps: values.warmup ?? distill.warmupSteps,
      logitClamp: values.logitClamp ?? distill.logitClamp,
      ratioMin,
      ratioMax,
    },
    evaluationSamples: values.evalSamples ?? base.evaluationSamples,
    checkpointEvery: base.checkpointEvery,
  };
}

function report({ teacher, generator, seconds, h }: Summary): void {
  const { samples, floor } = teacher;
  const times = Object.entries(seconds).map(([stage, value]) => `${stage} ${duration(value * 1000)}`);
  console.log(
    `Fréchet distance, ${samples} images (real images against themselves: ${floor.mean.toFixed(1)} ± ${
      floor.std.toFixed(1)
    })`,
  );
  for (const [name, model] of [["teacher", teacher], [`one step (${h})`, generator]] as const) {
    console.log(
      `  ${name.padEnd(22)} ${model.frechetDistance.toFixed(2).padStart(8)}   ${model.evaluations} evaluation${
        model.evaluations === 1 ? "" : "s"
      } an image, ${model.imagesPerSecond} images/s, coverage ${(100 * model.coverage).toFixed(0)} %, ` +
        `nearest real image at ${model.nearestDistance.toFixed(2)}`,
    );
  }
  console.log(`time: ${times.join(", ")}`);
}

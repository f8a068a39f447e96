/** A whole run: teacher, distillation, evaluation; each stage is skipped where its result is there. */

import { bytesToData, type Statistics } from "../data/scaling.ts";
import type { ImageData8 } from "../data/image_data.ts";
import type { Seed } from "../data/philox.ts";
import { createSampler, type Sampler, uploadWeights } from "../diffusion/sampler.ts";
import { compileTeacherStep, type ImageSource, imageValues, randomValues } from "../diffusion/teacher.ts";
import { compileCriticStep, compileGeneratorStep } from "../distill/step.ts";
import type { Evaluator, Measures } from "../eval/evaluate.ts";
import { FeatureNetwork, type FeatureOrigin } from "../eval/feature_network.ts";
import { FileError, LimitError, OutOfMemoryError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import {
  type Profile,
  profileTable,
  profileTimes,
  type Program,
  type Run,
  summarise,
  Workspace,
} from "../graph/mod.ts";
import { decodeModel, encodeModel, type Model, type ModelInfo, type ModelKind } from "../io/model.ts";
import { encodePng, imageGrid, sideBySide } from "../io/png.ts";
import { encodeTrace, traceSlices } from "../io/trace.ts";
import { Classifier, UNet, type UNetConfig } from "../nn/unet.ts";
import { Accumulator } from "../optim/accumulate.ts";
import { Optimizer } from "../optim/adam.ts";
import { f16LossScale, initialWeights, Trainable, Weights } from "../optim/weights.ts";
import { PRESET_IMAGES, type PresetName, type RunConfig, stepsOf } from "./config.ts";
import { openEvaluator } from "./features.ts";
import { RESULTS, type RunFolder, TRACE } from "./folder.ts";
import { runStage } from "./stage.ts";

/** Steps of the teacher's sampler when it is measured. */
export const TEACHER_SAMPLING_STEPS = 18;

/** Steps between two looks at the metrics: each look waits for the device. */
const READ_EVERY = { teacher: 20, distill: 10 };

/** Updates of a network between two looks, at most: their metrics must be held until then. */
const MAX_HELD = 60;

/** Images of the pictures in `samples/`, in rows of eight. */
const GRID = { images: 64, columns: 8, scale: 6, gap: 2 };

/** Images the generator is measured with at every checkpoint. */
const CHECK_SAMPLES = 1000;

/** Sampling seed of pictures and measurements: also the default of `sample` and `eval`, which repeat the figures. */
export const EVALUATION_SEED = 0;

/** What is measured of a model in `summary.json`. */
export interface ModelSummary extends Measures {
  /** Network evaluations an image costs. */
  readonly evaluations: number;
  /** Images sampled a second. */
  readonly imagesPerSecond: number;
}

/** Contents of `summary.json`. */
export interface Summary {
  /** Adapter the run ended on. */
  readonly adapter: string;
  /** Whether it computes on the CPU. */
  readonly softwareAdapter: boolean;
  /** Name of the preset. */
  readonly preset: string;
  /** The divergence. */
  readonly h: string;
  /** Seconds a stage, over all the processes that worked on it; absent where its result was given. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Where the features come from that the Fréchet distances are of; absent in summaries of earlier versions. */
  readonly features?: FeatureOrigin;
  /** The teacher, sampled by Heun's method. */
  readonly teacher: ModelSummary;
  /** The one-step generator. */
  readonly generator: ModelSummary;
}

/** Independent random sequences of a run's stages, from its seed. */
function stageSeed(seed: number, stage: number): Seed {
  return [seed >>> 0, stage];
}

/** What {@linkcode runAll} works on. */
export interface RunInputs {
  /** Where the results go. */
  readonly folder: RunFolder;
  /** Every setting. */
  readonly config: RunConfig;
  /** The real images. */
  readonly data: ImageData8;
  /** A trained teacher, to be used where the folder holds none. */
  readonly givenTeacher?: { readonly bytes: Uint8Array<ArrayBuffer>; readonly model: Model } | undefined;
  /** Print a table of a training step's kernels with their times, and write the folder's trace. */
  readonly profile: boolean;
}

/** Factor on a learning rate that falls linearly to 0 over the last `share` of `steps`. */
function decay(step: number, steps: number, share: number): number {
  return share > 0 ? Math.min(1, (steps - step) / (share * steps)) : 1;
}

/** Runs what is missing in the folder and returns the summary. */
export function runAll(gpu: Gpu, inputs: RunInputs): Promise<Summary> {
  return withAdvice(inputs.config, () => runStages(gpu, inputs));
}

/**
 * Compiles the training programs of a run and forgets them, so that what does not fit is known before a folder is made
 * or anything is trained. `teacher` is one that is given.
 *
 * @throws {OutOfMemoryError | LimitError} where one of them does not fit this device.
 * @throws {AdapterError} where the run's precision is not to be had on it.
 */
export function expectFits(gpu: Gpu, config: RunConfig, data: ImageData8, teacher?: ModelInfo): Promise<void> {
  const stage = async (prepare: (workspace: Workspace) => Promise<unknown>) => {
    const workspace = new Workspace(gpu);
    try {
      await prepare(workspace);
    } finally {
      workspace.destroy();
    }
  };
  if (config.precision === "f16") gpu.expectF16("A run with --precision f16");
  return withAdvice(config, async () => {
    if (!teacher) await stage((workspace) => prepareTeacher(workspace, config, data));
    const info = teacher ?? { network: teacherNetwork(config, data), ...data };
    await stage((workspace) => prepareDistillation(workspace, config, data, info));
  });
}

/** Compiles every program of a run and forgets them: who looks on learns which kernels they are made of. */
export async function compileAll(gpu: Gpu, config: RunConfig, data: ImageData8): Promise<void> {
  await expectFits(gpu, config, data);
  const workspace = new Workspace(gpu);
  const { mean, std } = data;
  const info = { network: teacherNetwork(config, data), mean, std, provenance: {} };
  const weights = new Weights(workspace, "teacher", new UNet(info.network));
  try {
    await createSampler(weights, { ...info, kind: "teacher" });
    await createSampler(weights, { ...info, kind: "generator", sigmaInit: config.distill.sigmaInit });
    await FeatureNetwork.digits(workspace);
  } finally {
    workspace.destroy();
  }
}

/** Adds to an error that tells of too little memory what helps. */
async function withAdvice<T>(config: RunConfig, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof OutOfMemoryError || error instanceof LimitError) error.message += advice(config);
    throw error;
  }
}

/** What helps where memory does not suffice. */
function advice({ microbatch, checkpointBlocks }: RunConfig): string {
  const ways = [
    microbatch === undefined ? "--microbatch" : "a smaller --microbatch",
    ...checkpointBlocks ? [] : ["--checkpoint-blocks"],
    "a smaller --batch",
  ];
  return ` Less memory is needed with ${ways.slice(0, -1).join(", ")} or ${ways.at(-1)}.`;
}

async function runStages(gpu: Gpu, inputs: RunInputs): Promise<Summary> {
  const { folder, config, data, givenTeacher } = inputs;
  const runId = await identity(config);
  const evaluated = new Workspace(gpu);
  const evaluator = await openEvaluator(evaluated, data);

  if (givenTeacher && !await folder.has(RESULTS.teacher)) await folder.write(RESULTS.teacher, givenTeacher.bytes);
  if (!await folder.has(RESULTS.teacher)) {
    const workspace = new Workspace(gpu);
    await trainTeacher(workspace, runId, inputs);
    workspace.destroy();
  }
  const teacher = await load(folder, "teacher", data);
  const teacherSampler = await samplerOf(evaluated, teacher);
  const teacherImages = await teacherSampler.sample(EVALUATION_SEED, 0, GRID.images);

  if (!await folder.has(RESULTS.generator)) {
    const workspace = new Workspace(gpu);
    const look = async (sampler: Sampler, step: number) => {
      const images = await sampler.sample(EVALUATION_SEED, 0, CHECK_SAMPLES);
      await writeGrid(folder, `samples/distill-${String(step).padStart(6, "0")}.png`, data, teacherImages, images);
      return { frechetDistance: await evaluator.frechetDistance(images) };
    };
    await distil(workspace, runId, inputs, teacher, look);
    workspace.destroy();
  }
  const generator = await load(folder, "generator", data);

  const started = performance.now();
  const generatorSampler = await samplerOf(evaluated, generator);
  const measured = {
    teacher: await measure(evaluator, teacherSampler, config.evaluationSamples),
    generator: await measure(evaluator, generatorSampler, config.evaluationSamples),
  };
  const generated = await generatorSampler.sample(EVALUATION_SEED, 0, GRID.images);
  await writeGrid(folder, "samples/teacher-and-one-step.png", data, teacherImages, generated);
  const seconds = { ...await folder.stageSeconds(), evaluate: (performance.now() - started) / 1000 };
  evaluated.destroy();

  const summary: Summary = {
    adapter: gpu.adapter.name,
    softwareAdapter: gpu.adapter.software,
    preset: config.preset,
    h: config.distill.h,
    seconds: Object.fromEntries(Object.entries(seconds).map(([name, value]) => [name, Number(value.toFixed(1))])),
    features: evaluator.features,
    ...measured,
  };
  await folder.writeText(RESULTS.summary, JSON.stringify(summary, null, 2) + "\n");
  return summary;
}

/** Reads the summary of a finished run. */
export async function readSummary(folder: RunFolder): Promise<Summary> {
  const text = new TextDecoder().decode(await folder.read(RESULTS.summary));
  try {
    const summary: Summary = JSON.parse(text);
    if ([summary.teacher, summary.generator].every((m) => Number.isFinite(m?.frechetDistance))) return summary;
  } catch {
    // Said below.
  }
  throw new FileError(
    `${folder.file(RESULTS.summary)} is not a run's summary; remove it to have the models measured anew.`,
  );
}

/** A short hash of the settings: a checkpoint of other settings is not taken for this run's. */
async function identity(config: RunConfig): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(JSON.stringify(config)));
  return new Uint8Array(digest).toHex().slice(0, 16);
}

/** Reads a model file of the run. */
async function load(folder: RunFolder, kind: ModelKind, data: ImageData8): Promise<Model> {
  const name = RESULTS[kind];
  const model = await decodeModel(await folder.read(name), folder.file(name));
  expectModel(model.info, kind, data, folder.file(name));
  return model;
}

/** Throws a {@linkcode FileError} unless the model is of that kind and makes images of the data's size. */
export function expectModel({ kind, network }: ModelInfo, wanted: ModelKind, data: ImageData8, path: string): void {
  if (kind !== wanted) throw new FileError(`${path} is a ${kind}; a ${wanted} was expected.`);
  const { imageChannels, resolution } = network;
  if (imageChannels !== data.channels || resolution !== data.height) {
    throw new FileError(
      `${path} makes ${imageChannels}x${resolution}x${resolution} images; the data are ` +
        `${data.channels}x${data.height}x${data.width}.`,
    );
  }
}

/** Throws a {@linkcode FileError} unless the data are of the size that the preset is for. */
export function expectImages({ name, channels, height, width }: ImageData8, preset: PresetName): void {
  const wanted = PRESET_IMAGES[preset];
  if (channels !== wanted.channels || height !== wanted.resolution) {
    throw new FileError(
      `${name} holds ${channels}x${height}x${width} images; the preset ${preset} is for ` +
        `${wanted.channels}x${wanted.resolution}x${wanted.resolution} ones.`,
    );
  }
}

/** Puts the training images on the device, scaled to the data units that `units` define. */
function uploadImages(workspace: Workspace, data: ImageData8, units: Statistics): ImageSource {
  const variable = workspace.variable("images", [data.count, data.channels, data.height, data.width], "u8");
  const bytes = new Uint8Array(variable.tensor.bytes);
  bytes.set(data.pixels);
  variable.write(new Uint32Array(bytes.buffer));
  return { data: variable, ...bytesToData(units) };
}

/**
 * Prints the programs of a step; where they are to be profiled, also their times and a table of the whole step's kernels,
 * and adds their dispatches to the run's trace.
 */
async function show({ folder, profile }: RunInputs, step: readonly Run[]): Promise<void> {
  const programs = new Map(step.map(({ program, values }) => [program, values]));
  if (!profile) {
    for (const program of programs.keys()) console.error(program.describe([]));
    return;
  }
  const trace = await folder.readTrace();
  const profiles = new Map<Program, Profile>();
  for (const [program, values] of programs) {
    const measured = await program.profile(values);
    console.error(`${program.describe([])}\n  ${profileTimes(measured)}`);
    profiles.set(program, measured);
    trace.set(program.label, traceSlices(measured));
  }
  console.error(profileTable(summarise(step.flatMap(({ program }) => profiles.get(program)!.dispatches))));
  await folder.writeText(TRACE, encodeTrace(trace));
}

/** The teacher that is trained where none is given. */
function teacherNetwork(config: RunConfig, data: ImageData8): UNetConfig {
  return {
    imageChannels: data.channels,
    resolution: data.height,
    modelChannels: config.modelChannels,
    channelMult: [1, 2],
    blocks: 1,
  };
}

/** A network that the run trains on batches of `batch`. */
function trainable(
  workspace: Workspace,
  name: string,
  network: UNet | Classifier,
  { microbatch, precision }: RunConfig,
  batch: number,
): Trainable {
  const images = microbatch ?? batch;
  return new Trainable(workspace, name, network, batch / images, precision === "f16" ? f16LossScale(images) : 1);
}

/** What the training of a teacher runs. */
async function prepareTeacher(workspace: Workspace, config: RunConfig, data: ImageData8) {
  const { batch, betas: [beta1, beta2], ema, clipNorm, sigma } = config.teacher;
  const { checkpointBlocks, precision } = config;
  const network = new UNet(teacherNetwork(config, data), { checkpointBlocks, precision });
  const teacher = trainable(workspace, "teacher", network, config, batch);
  return {
    teacher,
    gradient: await compileTeacherStep(teacher, uploadImages(workspace, data, data), { batch, sigma }),
    sum: await Accumulator.create([teacher]),
    optimizer: await Optimizer.create(teacher, { batch, beta1, beta2, ema, clipNorm }),
  };
}

async function trainTeacher(workspace: Workspace, runId: string, inputs: RunInputs): Promise<void> {
  const { folder, config, data } = inputs;
  const { batch, learningRate, rampImages, decayShare } = config.teacher;
  const steps = stepsOf(config.teacher);
  const seed = stageSeed(config.seed, 1);
  const { teacher, gradient, sum, optimizer } = await prepareTeacher(workspace, config, data);
  teacher.start(initialWeights(teacher.network.parameters, seed));
  const runs = (step: number): Run[] => [
    ...sum.runs(gradient, batch, (first) => imageValues(seed, step, batch, first)),
    optimizer.at(step, learningRate * Math.min(1, (step + 1) * batch / rampImages, decay(step, steps, decayShare))),
  ];
  await show(inputs, runs(0));
  await runStage(folder, runId, {
    name: "teacher",
    steps,
    imagesPerStep: batch,
    checkpointEvery: stepsOf({ images: config.checkpointEvery.teacher, batch }),
    readEvery: READ_EVERY.teacher,
    networks: [teacher],
    runs,
    metrics: async () => {
      const [own, gradNorm] = await Promise.all([gradient.readMetrics(), optimizer.readGradNorms()]);
      return { loss: own.map(({ loss }) => loss![0]!), gradNorm };
    },
  });
  const info: ModelInfo = {
    kind: "teacher",
    network: teacherNetwork(config, data),
    mean: data.mean,
    std: data.std,
    provenance: provenance(config, data, `${steps} steps of batch ${batch}`),
  };
  await folder.write(RESULTS.teacher, await encodeModel({ info, weights: await teacher.ema.read() }));
}

/** What the distillation of a teacher runs. */
async function prepareDistillation(
  workspace: Workspace,
  config: RunConfig,
  data: ImageData8,
  teacherInfo: Pick<ModelInfo, "network" | "mean" | "std">,
) {
  const { network } = teacherInfo;
  const { h: kind, lambda, logitClamp, ratioMin, ratioMax, ...settings } = config.distill;
  const { batch, betas: [beta1, beta2], ema, clipNorm } = settings;
  const { checkpointBlocks, precision } = config;
  const options = { checkpointBlocks, precision };
  const trained = (name: string, model: UNet | Classifier) => trainable(workspace, name, model, config, batch);
  const networks = {
    generator: trained("generator", new UNet(network, options)),
    fakeScore: trained("fakeScore", new UNet(network, options)),
    classifier: trained("classifier", new Classifier(network, options)),
    teacher: new Weights(workspace, "teacher", new UNet(network, { precision })),
  };
  const { generator, fakeScore, classifier } = networks;
  const bregman = { kind, lambda, logitClamp, ratioMin, ratioMax, normalise: true };
  const images = uploadImages(workspace, data, teacherInfo);
  const critics = await compileCriticStep(networks, images, { ...settings, bregman });
  const gradient = await compileGeneratorStep(networks, { ...settings, bregman });
  const adam = { batch, beta1, beta2, ema, clipNorm };
  return {
    ...networks,
    critics,
    gradient,
    sumCritics: await Accumulator.create([fakeScore, classifier]),
    sumGenerator: await Accumulator.create([generator]),
    updateGenerator: await Optimizer.create(generator, adam),
    updateFake: await Optimizer.create(fakeScore, adam),
    updateClassifier: await Optimizer.create(classifier, adam),
  };
}

async function distil(
  workspace: Workspace,
  runId: string,
  inputs: RunInputs,
  teacherModel: Model,
  look: (sampler: Sampler, step: number) => Promise<Record<string, number>>,
): Promise<void> {
  const { folder, config, data } = inputs;
  const settings = config.distill;
  const { batch, criticUpdates, warmupImages } = settings;
  const steps = stepsOf(settings);
  const seed = stageSeed(config.seed, 2);
  const { network } = teacherModel.info;
  const { generator, fakeScore, classifier, teacher, critics, gradient, ...rest } = await prepareDistillation(
    workspace,
    config,
    data,
    teacherModel.info,
  );
  const { sumCritics, sumGenerator, updateGenerator, updateFake, updateClassifier } = rest;
  teacher.write(teacherModel.weights);
  generator.start(teacherModel.weights);
  fakeScore.start(teacherModel.weights);
  classifier.start(initialWeights(classifier.network.parameters, seed));
  const info: ModelInfo = {
    kind: "generator",
    network,
    mean: teacherModel.info.mean,
    std: teacherModel.info.std,
    sigmaInit: settings.sigmaInit,
    provenance: provenance(config, data, `Di-Bregman, h = ${settings.h}, ${steps} steps of batch ${batch}`),
  };
  const sampler = await createSampler(generator.ema, info);

  const runs = (step: number): Run[] => {
    const criticRuns = Array.from({ length: criticUpdates }, (_, i) => {
      const update = step * criticUpdates + i;
      return [
        ...sumCritics.runs(critics, batch, (first) => imageValues(seed, update, batch, first)),
        updateFake.at(update, settings.fakeLr),
        updateClassifier.at(update, settings.classifierLr),
      ];
    });
    const blend = step * batch < warmupImages ? 0 : 1;
    return [
      ...criticRuns.flat(),
      ...sumGenerator.runs(gradient, batch, (first) => ({ ...randomValues(seed, step, first), blend })),
      updateGenerator.at(step, settings.generatorLr * decay(step, steps, settings.decayShare)),
    ];
  };
  await show(inputs, runs(0));
  await runStage(folder, runId, {
    name: "distill",
    steps,
    imagesPerStep: batch,
    checkpointEvery: stepsOf({ images: config.checkpointEvery.distill, batch }),
    readEvery: Math.min(READ_EVERY.distill, Math.floor(MAX_HELD / criticUpdates)),
    networks: [generator, fakeScore, classifier],
    runs,
    metrics: async () => {
      // All at once: Deno makes every wait at least 11 ms, but several together no longer.
      const [critic, own, gradNorm, fakeGradNorm, classifierGradNorm] = await Promise.all([
        critics.readMetrics(),
        gradient.readMetrics(),
        updateGenerator.readGradNorms(),
        updateFake.readGradNorms(),
        updateClassifier.readGradNorms(),
      ]);
      return {
        fake: critic.map(({ fakeLoss }) => fakeLoss![0]!),
        classifier: critic.map(({ classifierLoss }) => classifierLoss![0]!),
        ratio: own.map(({ stats }) => stats![1]!),
        weightMax: weightMaxima(own.map(({ stats }) => stats!), generator.runsAStep),
        gradNorm,
        fakeGradNorm,
        classifierGradNorm,
      };
    },
    inspect: (step) => look(sampler, step),
  });
  await folder.write(RESULTS.generator, await encodeModel({ info, weights: await generator.ema.read() }));
}

/** The largest weight of each step, the step's mean being 1, from the statistics of its `runs` microbatches. */
function weightMaxima(stats: readonly Float32Array[], runs: number): number[] {
  return Array.from({ length: stats.length / runs }, (_, step) => {
    const parts = stats.slice(step * runs, (step + 1) * runs);
    const mean = parts.reduce((sum, part) => sum + part[4]!, 0) / runs;
    return Math.max(...parts.map((part) => part[5]!)) / mean;
  });
}

function provenance(config: RunConfig, data: ImageData8, training: string): Record<string, string> {
  return {
    data: data.name,
    licence: config.data ? "that of the data it was trained on" : "MIT; digits by E. Alpaydin and C. Kaynak, CC BY 4.0",
    preset: config.preset,
    seed: String(config.seed),
    training: config.precision === "f16" ? `${training}, activations in f16` : training,
    teacher: config.teacherFile ? `given, sha256 ${config.teacherFile.sha256}` : "trained in the same run",
    source: "Di-Bregman on WebGPU",
  };
}

/** Puts a model on the device and compiles its sampler, a teacher's with `steps` of Heun's method. */
export function samplerOf(workspace: Workspace, model: Model, steps = TEACHER_SAMPLING_STEPS): Promise<Sampler> {
  return createSampler(uploadWeights(workspace, model.info, model.weights), model.info, { steps });
}

/** Samples `count` images and measures them. */
export async function measure(
  evaluator: Evaluator,
  sampler: Sampler,
  count: number,
  seed = EVALUATION_SEED,
): Promise<ModelSummary> {
  await sampler.sample(seed, 0, 1);
  const started = performance.now();
  const images = await sampler.sample(seed, 0, count);
  const imagesPerSecond = Number((count / (performance.now() - started) * 1000).toFixed(1));
  return { ...await evaluator.measure(images), evaluations: sampler.evaluations, imagesPerSecond };
}

/** Writes teacher | one-step, the same noise in the same place. */
async function writeGrid(
  folder: RunFolder,
  name: string,
  data: ImageData8,
  left: Uint8Array,
  right: Uint8Array,
): Promise<void> {
  const { images, columns, scale, gap } = GRID;
  const grid = (pixels: Uint8Array) =>
    imageGrid(
      pixels.subarray(0, images * data.height * data.width),
      images,
      data.height,
      data.width,
      1,
      columns,
      scale,
      gap,
    );
  const picture = sideBySide(grid(left), grid(right));
  await folder.write(name, await encodePng(picture.pixels, picture.width, picture.height, 1));
}

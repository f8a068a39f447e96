/** A whole run: teacher, distillation, evaluation; each stage is skipped where its result is there. */

import type { ImageData8 } from "../data/image_data.ts";
import type { Seed } from "../data/philox.ts";
import { createSampler, DEFAULT_SOLVER, type Sampler, uploadWeights } from "../diffusion/sampler.ts";
import type { SolverSettings } from "../diffusion/solvers.ts";
import type { Measured } from "../eval/comparison.ts";
import type { Evaluator, Measures } from "../eval/evaluate.ts";
import { FeatureNetwork, type FeatureOrigin } from "../eval/feature_network.ts";
import { bregmanFunction } from "../distill/bregman.ts";
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
import { toNHWC } from "../io/images.ts";
import { encodePng, imageGrid, sideBySide } from "../io/png.ts";
import { encodeTrace, traceSlices } from "../io/trace.ts";
import { createNetwork, imageSize } from "../nn/networks.ts";
import { initialWeights, type Trainable, Weights } from "../optim/weights.ts";
import { criticWarmupSteps, type RunConfig, settingsText, stepsOf, teacherDenoiser, unitsOf } from "./config.ts";
import { openEvaluator } from "./features.ts";
import { RESULTS, type RunFolder, TRACE } from "./folder.ts";
import { runStage } from "./stage.ts";
import {
  classSharesOf,
  type DistillParts,
  distillRuns,
  distillSeed,
  generatorSeed,
  prepareDistillation,
  prepareTeacher,
  teacherRuns,
  teacherSeed,
} from "./stages.ts";
import { inspectClassifier } from "./diagnostics.ts";
import { sha256 } from "../io/sha256.ts";

/** Steps between two lines of the log. */
const LOG_EVERY = { teacher: 20, distill: 10 };

/** Updates of a network between two looks, at most: their metrics must be held until then. */
const MAX_HELD = 60;

/** The pictures in `samples/`: images in a row, about how many pixels one's side has, pixels between them. */
const GRID = { columns: 8, size: 48, gap: 2 };

/** Sampling seed of pictures: also the default of `sample`. */
const PICTURE_SEED = 0;

/**
 * Sampling seed of the measurement at a checkpoint: another for every checkpoint and every seed of a run, so that means over
 * them are means over what each happens to draw, too. At the end it is the run's own seed.
 */
export function checkpointSeed({ seed }: Pick<RunConfig, "seed">, step: number): number {
  return (Math.imul(seed, 0x9e3779b1) + step) >>> 0;
}

/** What is measured of a model in `summary.json`. */
export interface ModelSummary extends Measures, Measured {}

/** Contents of `summary.json`. */
export interface Summary {
  /** Adapter the run ended on. */
  readonly adapter: string;
  /** Whether it computes on the CPU. */
  readonly softwareAdapter: boolean;
  /** Name of the preset. */
  readonly preset: string;
  /** What the generator was trained on: the name of h, or what took its place; absent where there is none. */
  readonly h?: string;
  /** Seconds a stage, over all the processes that worked on it; absent where its result was given. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Where the features come from that the Fréchet distances are of; absent in summaries of earlier versions. */
  readonly features?: FeatureOrigin;
  /** The teacher, sampled by Heun's method. */
  readonly teacher: ModelSummary;
  /** The generator; absent where the run made the teacher alone. */
  readonly generator?: ModelSummary;
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
  readonly givenTeacher?: Model | undefined;
  /** What is measured of it, where that is known already. */
  readonly teacherMeasures?: ModelSummary;
  /** Print a table of a training step's kernels with their times, and write the folder's trace. */
  readonly profile: boolean;
}

/** Runs what is missing in the folder and returns the summary. */
export function runAll(gpu: Gpu, inputs: RunInputs): Promise<Summary> {
  return withAdvice(inputs.config, () => withWorkspace(gpu, (evaluated) => runStages(gpu, inputs, evaluated)));
}

/**
 * Compiles the training programs of a run and forgets them, so that what does not fit is known before a folder is made
 * or anything is trained. `teacher` is one that is given.
 *
 * @throws {OutOfMemoryError | LimitError} where one of them does not fit this device.
 * @throws {AdapterError} where the run's precision is not to be had on it.
 */
export function expectFits(gpu: Gpu, config: RunConfig, data: ImageData8, teacher?: ModelInfo): Promise<void> {
  if (config.precision === "f16") gpu.expectF16("A run with --precision f16");
  return withAdvice(config, async () => {
    if (!teacher) await withWorkspace(gpu, (workspace) => prepareTeacher(workspace, config, data));
    const info = teacher ?? { ...teacherDenoiser(config, data), ...unitsOf(config, data) };
    if (!config.teacherOnly) {
      await withWorkspace(gpu, (workspace) => prepareDistillation(workspace, config, data, info));
    }
  });
}

/** Compiles every program of a run and forgets them: who looks on learns which kernels they are made of. */
export async function compileAll(gpu: Gpu, config: RunConfig, data: ImageData8): Promise<void> {
  await expectFits(gpu, config, data);
  const workspace = new Workspace(gpu);
  const info = { ...teacherDenoiser(config, data), ...unitsOf(config, data), provenance: {} };
  const weights = new Weights(workspace, "teacher", createNetwork(info));
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

/** A workspace for an action, whose buffers are freed however that ends. */
export async function withWorkspace<T>(gpu: Gpu, action: (workspace: Workspace) => Promise<T>): Promise<T> {
  const workspace = new Workspace(gpu);
  try {
    return await action(workspace);
  } finally {
    workspace.destroy();
  }
}

async function runStages(gpu: Gpu, inputs: RunInputs, evaluated: Workspace): Promise<Summary> {
  const { folder, config, data, givenTeacher } = inputs;
  const runId = await identity(config);
  const evaluator = await openEvaluator(evaluated, data);

  if (givenTeacher && !await folder.has(RESULTS.teacher)) {
    await folder.write(RESULTS.teacher, await encodeModel(givenTeacher));
  }
  if (!await folder.has(RESULTS.teacher)) {
    await withWorkspace(gpu, (workspace) => trainTeacher(workspace, runId, inputs));
  }
  const { samples, checkSamples, pictures, steps } = config.evaluation;
  const teacher = await load(folder, "teacher", data);
  const teacherSampler = await samplerOf(evaluated, teacher, { ...DEFAULT_SOLVER, steps });
  const teacherImages = await teacherSampler.sample(PICTURE_SEED, 0, pictures);

  if (!config.teacherOnly && !await folder.has(RESULTS.generator)) {
    const look = async (sampler: Sampler, step: number) => {
      const generated = await sampler.sample(PICTURE_SEED, 0, pictures);
      await writeGrid(folder, `samples/distill-${padded(step)}.png`, data, [teacherImages, generated]);
      const images = await sampler.sample(checkpointSeed(config, step), 0, checkSamples);
      return { frechetDistance: await evaluator.frechetDistance(images) };
    };
    await withWorkspace(gpu, (workspace) => distil(workspace, runId, inputs, teacher, look));
  }

  const started = performance.now();
  const measured: { teacher: ModelSummary; generator?: ModelSummary } = {
    teacher: inputs.teacherMeasures ?? await measure(evaluator, teacherSampler, samples, config.seed),
  };
  if (config.teacherOnly) {
    await writeGrid(folder, "samples/teacher.png", data, [teacherImages]);
  } else {
    const sampler = await samplerOf(evaluated, await load(folder, "generator", data));
    measured.generator = await measure(evaluator, sampler, samples, config.seed);
    const generated = await sampler.sample(PICTURE_SEED, 0, pictures);
    await writeGrid(folder, "samples/teacher-and-one-step.png", data, [teacherImages, generated]);
  }
  const seconds = { ...await folder.stageSeconds(), evaluate: (performance.now() - started) / 1000 };

  const summary: Summary = {
    adapter: gpu.adapter.name,
    softwareAdapter: gpu.adapter.software,
    preset: config.preset,
    ...!config.teacherOnly && { h: objectiveName(config.distill) },
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
    const { teacher, generator = teacher, seconds } = summary;
    const { floor } = teacher;
    const finite = [floor.mean, floor.std, ...Object.values(seconds)].every(Number.isFinite);
    if (finite && [teacher, generator].every(isMeasured)) return summary;
  } catch {
    // Said below.
  }
  throw new FileError(
    `${folder.file(RESULTS.summary)} is not a run's summary; remove it to have the models measured anew.`,
  );
}

/** Whether a value read from a file holds a model's measures. */
export function isMeasured(value: Partial<Measured>): value is Measured {
  const { samples, frechetDistance, coverage, nearestDistance, evaluations, imagesPerSecond } = value;
  return [samples, frechetDistance, coverage, nearestDistance, evaluations, imagesPerSecond].every(Number.isFinite);
}

/** A short hash of the settings: a checkpoint of other settings is not taken for this run's. */
async function identity(config: RunConfig): Promise<string> {
  return (await sha256(settingsText(config))).slice(0, 16);
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
  const { imageChannels, resolution } = imageSize(network);
  if (imageChannels !== data.channels || resolution !== data.height) {
    throw new FileError(
      `${path} makes ${imageChannels}x${resolution}x${resolution} images; the data are ` +
        `${data.channels}x${data.height}x${data.width}.`,
    );
  }
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

async function trainTeacher(workspace: Workspace, runId: string, inputs: RunInputs): Promise<void> {
  const { folder, config, data } = inputs;
  const { batch } = config.teacher;
  const steps = stepsOf(config.teacher);
  const parts = await prepareTeacher(workspace, config, data);
  const { teacher, gradient, optimizer } = parts;
  teacher.start(initialWeights(teacher.network.parameters, teacherSeed(config)));
  const runs = teacherRuns(config, parts);
  const denoiser = teacherDenoiser(config, data);
  const info: ModelInfo = {
    kind: "teacher",
    ...denoiser,
    ...unitsOf(config, data),
    ...classSharesOf(denoiser, data),
    provenance: provenance(config, data, `${steps} steps of batch ${batch}`),
  };
  const { pictures, steps: solverSteps } = config.evaluation;
  const { snapshotEvery } = config;
  const solver = { ...DEFAULT_SOLVER, steps: solverSteps };
  const sampler = snapshotEvery.teacher > 0 ? await createSampler(teacher.ema, info, { solver }) : undefined;
  await show(inputs, runs(0));
  await runStage(folder, runId, {
    name: "teacher",
    steps,
    imagesPerStep: batch,
    checkpointEvery: stepsOf({ images: config.checkpointEvery.teacher, batch }),
    snapshotEvery: stepsOf({ images: snapshotEvery.teacher, batch }),
    snapshot: async (step) => {
      await writeSnapshot(folder, { info, weights: await teacher.ema.read() }, step * batch);
      const images = await sampler!.sample(PICTURE_SEED, 0, pictures);
      await writeGrid(folder, `samples/teacher-${padded(step)}.png`, data, [images]);
    },
    logEvery: LOG_EVERY.teacher,
    tolerant: config.teacher.clipNorm === 0,
    state: teacher.state,
    runs,
    metrics: async () => {
      const [own, gradNorm] = await Promise.all([gradient.readMetrics(), optimizer.readGradNorms()]);
      return { loss: own.map(({ loss }) => loss![0]!), gradNorm };
    },
  });
  await folder.write(RESULTS.teacher, await encodeModel({ info, weights: await teacher.ema.read() }));
}

/** Writes a model as it is after so many images; snapshots stay. */
async function writeSnapshot(folder: RunFolder, model: Model, images: number): Promise<void> {
  await folder.write(`snapshots/${model.info.kind}-${images}.safetensors`, await encodeModel(model));
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
  const { batch, sigmaInit, laterSigmas } = settings;
  const steps = stepsOf(settings);
  const { kind: _, ...teacherInfo } = teacherModel.info;
  const parts = await prepareDistillation(workspace, config, data, teacherInfo);
  const { generator, fakeScore, classifier, bins, teacher } = parts;
  const random = ({ network }: Trainable, seed: Seed) => initialWeights(network.parameters, seed);
  teacher.write(teacherModel.weights);
  generator.start(settings.start === "teacher" ? teacherModel.weights : random(generator, generatorSeed(config)));
  fakeScore?.start(teacherModel.weights);
  classifier?.start(random(classifier, distillSeed(config)));
  const info: ModelInfo = {
    ...teacherInfo,
    kind: "generator",
    sigmaInit,
    ...laterSigmas.length > 0 && { laterSigmas },
    ...classSharesOf(teacherInfo, data),
    provenance: provenance(config, data, `Di-Bregman, ${objectiveName(settings)}, ${steps} steps of batch ${batch}`),
  };
  const sampler = await createSampler(generator.ema, info);

  const runs = distillRuns(config, parts);
  await show(inputs, runs(criticWarmupSteps(config)));
  await runStage(folder, runId, {
    name: "distill",
    steps,
    imagesPerStep: batch,
    checkpointEvery: stepsOf({ images: config.checkpointEvery.distill, batch }),
    snapshotEvery: stepsOf({ images: config.snapshotEvery.distill, batch }),
    snapshot: async (step) => await writeSnapshot(folder, { info, weights: await generator.ema.read() }, step * batch),
    tolerant: [settings.generator, settings.fakeScore, settings.classifier].some(({ clipNorm }) => clipNorm === 0),
    looksAfter: criticWarmupSteps(config),
    logEvery: Math.min(LOG_EVERY.distill, Math.floor(MAX_HELD / Math.max(1, parts.critics.length))),
    state: [
      ...generator.state,
      ...[fakeScore, classifier].flatMap((network) => network?.state ?? []),
      ...bins ? [bins.means] : [],
    ],
    runs,
    metrics: () => distillMetrics(parts),
    inspect: async (step) => {
      const found = await inspectClassifier(config, parts);
      if (found) await folder.logDiagnostics({ step, images: step * batch, ...found });
      return { ...await look(sampler, step), ...found && { ece: found.calibration.ece } };
    },
  });
  await folder.write(RESULTS.generator, await encodeModel({ info, weights: await generator.ema.read() }));
}

/** The metrics of every step since the last call; all are read at once, as each wait is at least 11 ms in Deno. */
async function distillMetrics(parts: DistillParts): Promise<Record<string, number[]>> {
  const { critics, gradient, generator, updateGenerator, updateFake, updateClassifier } = parts;
  const programs = [...new Set(critics.map(({ gradient }) => gradient))];
  const [own, gradNorm, fakeGradNorm, classifierGradNorm, ...losses] = await Promise.all([
    gradient.readMetrics(),
    updateGenerator.readGradNorms(),
    updateFake?.readGradNorms() ?? [],
    updateClassifier?.readGradNorms() ?? [],
    ...programs.map((program) => program.readMetrics()),
  ]);
  const inOrder = metricsInOrder(
    critics.map(({ gradient }) => gradient),
    generator.runsAStep,
    new Map(programs.map((program, i) => [program, losses[i]!])),
  );
  const of = (name: string) => inOrder.flatMap((metrics) => metrics[name] ? [metrics[name][0]!] : []);
  const stats = own.flatMap((metrics) => metrics.stats ? [metrics.stats] : []);
  const all = {
    fake: of("fakeLoss"),
    classifier: of("classifierLoss"),
    ratio: stats.map((values) => values[1]!),
    weightMax: weightMaxima(stats, generator.runsAStep),
    ...Object.fromEntries(
      (["sidLoss", "adversarialLoss"] as const).map((
        name,
      ) => [name, own.flatMap((metrics) => [...metrics[name] ?? []])]),
    ),
    gradNorm,
    fakeGradNorm,
    classifierGradNorm,
  };
  return Object.fromEntries(Object.entries(all).filter(([, values]) => values.length > 0));
}

/**
 * What the programs of whole steps have measured, in the order of their runs: `ofStep` are a step's, each run `microbatches`
 * times in a row, and `measured` has what each of them measured.
 */
export function metricsInOrder<P, M>(
  ofStep: readonly P[],
  microbatches: number,
  measured: ReadonlyMap<P, readonly M[]>,
): M[] {
  const taken = new Map<P, number>();
  const next = (program: P) => {
    const from = taken.get(program) ?? 0;
    taken.set(program, from + microbatches);
    return measured.get(program)!.slice(from, from + microbatches);
  };
  const all: M[] = [];
  const total = [...measured.values()].reduce((sum, metrics) => sum + metrics.length, 0);
  while (all.length < total) all.push(...ofStep.flatMap(next));
  return all;
}

/** What a generator is trained on, in a word or two. */
function objectiveName({ objective, h, lambda, hWeight, adversarial }: RunConfig["distill"]): string {
  if (objective === "gan") return "adversarial alone";
  const divergence = objective === "sid" ? "sid" : hWeight === undefined ? bregmanFunction(h, lambda).name : hWeight;
  return adversarial.weight > 0 ? `${divergence}, adversarial ${adversarial.weight}` : divergence;
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

/** Puts a model on the device and compiles its sampler. */
export function samplerOf(workspace: Workspace, model: Model, solver?: SolverSettings): Promise<Sampler> {
  return createSampler(uploadWeights(workspace, model.info, model.weights), model.info, solver ? { solver } : {});
}

/** Samples `count` images of the sequence `seed` and measures them. */
export async function measure(
  evaluator: Evaluator,
  sampler: Sampler,
  count: number,
  seed: number,
): Promise<ModelSummary> {
  await sampler.sample(seed, 0, 1);
  const started = performance.now();
  const images = await sampler.sample(seed, 0, count);
  const imagesPerSecond = Number((count / (performance.now() - started) * 1000).toFixed(1));
  return { ...await evaluator.measure(images), evaluations: sampler.evaluations, imagesPerSecond };
}

/** A number of steps as it stands in the names of files. */
function padded(step: number): string {
  return String(step).padStart(6, "0");
}

/** Writes sets of images beside each other, the same noise in the same place. */
async function writeGrid(
  folder: RunFolder,
  name: string,
  { channels, height, width }: ImageData8,
  sets: readonly Uint8Array[],
): Promise<void> {
  const { columns, size, gap } = GRID;
  const scale = Math.max(1, Math.round(size / height));
  const picture = sets.map((pixels) => {
    const images = pixels.length / (channels * height * width);
    return imageGrid(
      toNHWC(pixels, channels, height, width),
      images,
      height,
      width,
      channels as 1 | 3,
      columns,
      scale,
      gap,
    );
  }).reduce((left, right) => sideBySide(left, right));
  await folder.write(name, await encodePng(picture.pixels, picture.width, picture.height, channels as 1 | 3));
}

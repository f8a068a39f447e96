/** A few steps of both trainings, the same on every adapter: what they leave is compared between two of them. */

import { loadDigits } from "../../src/data/digits.ts";
import { bytesToData } from "../../src/data/scaling.ts";
import { compileTeacherStep, type ImageSource, imageValues, randomValues } from "../../src/diffusion/teacher.ts";
import { compileCriticStep } from "../../src/distill/critics.ts";
import { compileGeneratorStep } from "../../src/distill/generator.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { Workspace } from "../../src/graph/mod.ts";
import type { Precision } from "../../src/nn/network.ts";
import { Classifier, UNet, type UNetConfig } from "../../src/nn/unet.ts";
import { type AdamSettings, Optimizer } from "../../src/optim/adam.ts";
import { f16LossScale, initialWeights, Trainable, type WeightArrays, Weights } from "../../src/optim/weights.ts";
import { PRESETS, type TeacherConfig } from "../../src/train/config.ts";
import { SETTINGS } from "../distillation.ts";

const { network: { modelChannels }, teacher: TEACHER, distill: DISTILL } = PRESETS["digits-tiny"];
const NETWORK: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels, channelMult: [1, 2], blocks: 1 };
const SEED = [3, 14] as const;
const STEPS = 3;

/** What a training left, by name. */
export interface Trace {
  /** Losses and other metrics of every step. */
  readonly metrics: Map<string, Float32Array<ArrayBuffer>>;
  /** How far each parameter of each network, and of its moving average, has moved. */
  readonly moved: Map<string, Float32Array<ArrayBuffer>>;
}

/** Trains a teacher, then distils it: {@linkcode STEPS} steps of each, at the full learning rate. */
export async function train(gpu: Gpu, precision: Precision = "f32"): Promise<Trace> {
  const workspace = new Workspace(gpu);
  const images = await upload(workspace);
  const trace: Trace = { metrics: new Map(), moved: new Map() };
  const teacher = await trainTeacher(workspace, images, trace, precision);
  await distil(workspace, images, teacher, trace, precision);
  workspace.destroy();
  return trace;
}

async function upload(workspace: Workspace): Promise<ImageSource> {
  const digits = await loadDigits();
  const data = workspace.variable("images", [digits.count, digits.channels, digits.height, digits.width], "u8");
  const bytes = new Uint8Array(data.tensor.bytes);
  bytes.set(digits.pixels);
  data.write(new Uint32Array(bytes.buffer));
  return { data, ...bytesToData(digits) };
}

async function trainTeacher(
  workspace: Workspace,
  images: ImageSource,
  trace: Trace,
  precision: Precision,
): Promise<WeightArrays> {
  const { batch, learningRate } = TEACHER;
  const teacher = new Trainable(workspace, "teacher", new UNet(NETWORK, { precision }), 1, lossScale(precision, batch));
  teacher.start(initialWeights(teacher.network.parameters, SEED));
  const before = await readAll([teacher]);
  const gradient = await compileTeacherStep(teacher, images, TEACHER);
  const optimizer = await Optimizer.create(teacher, adam(TEACHER));
  for (let step = 0; step < STEPS; step++) {
    workspace.submit([gradient.at(imageValues(SEED, step, batch)), optimizer.at(step, learningRate)]);
  }
  recordMetrics(trace, await gradient.readMetrics());
  trace.metrics.set("teacher.gradNorm", Float32Array.from(await optimizer.readGradNorms()));
  recordMoves(trace, before, await readAll([teacher]));
  return await teacher.ema.read();
}

function lossScale(precision: Precision, images: number): number {
  return precision === "f16" ? f16LossScale(images) : 1;
}

async function distil(
  workspace: Workspace,
  images: ImageSource,
  start: WeightArrays,
  trace: Trace,
  precision: Precision,
): Promise<void> {
  const { batch, generator: { ema } } = DISTILL;
  const trainable = (name: string, network: UNet | Classifier) =>
    new Trainable(workspace, name, network, 1, lossScale(precision, batch));
  const generator = trainable("generator", new UNet(NETWORK, { precision }));
  const fakeScore = trainable("fakeScore", new UNet(NETWORK, { precision }));
  const classifier = trainable("classifier", new Classifier(NETWORK, { precision }));
  const teacher = new Weights(workspace, "frozen", new UNet(NETWORK, { precision }));
  for (const network of [generator, fakeScore]) network.start(start);
  classifier.start(initialWeights(classifier.network.parameters, SEED));
  teacher.write(start);
  const networks = { generator, fakeScore, classifier, teacher };
  const trained = [generator, fakeScore, classifier];
  const before = await readAll(trained);

  const settings = { ...SETTINGS, batch };
  const critics = await compileCriticStep(networks, images, settings);
  const { gradient } = await compileGeneratorStep(networks, settings);
  const updates = await Promise.all(
    (["generator", "fakeScore", "classifier"] as const).map((name) =>
      Optimizer.create(networks[name], adam({ ...DISTILL[name], batch, ema }))
    ),
  );
  const [updateGenerator, updateFake, updateClassifier] = updates as [Optimizer, Optimizer, Optimizer];
  for (let step = 0; step < STEPS; step++) {
    workspace.submit([
      critics.atOwn(imageValues(SEED, step, batch)),
      updateFake.at(step, DISTILL.fakeScore.learningRate),
      updateClassifier.at(step, DISTILL.classifier.learningRate),
      gradient.atOwn({ ...randomValues(SEED, step), blend: 1 }),
      updateGenerator.at(step, DISTILL.generator.learningRate),
    ]);
  }
  recordMetrics(trace, await critics.readMetrics());
  recordMetrics(trace, await gradient.readMetrics());
  for (const [i, { name }] of trained.entries()) {
    trace.metrics.set(`${name}.gradNorm`, Float32Array.from(await updates[i]!.readGradNorms()));
  }
  recordMoves(trace, before, await readAll(trained));
}

function adam(settings: Pick<TeacherConfig, "batch" | "betas" | "ema" | "clipNorm">): AdamSettings {
  const { batch, betas: [beta1, beta2], ema, clipNorm } = settings;
  return { batch, beta1, beta2, ema, clipNorm };
}

/** The weights and moving averages of networks, by part and parameter. */
async function readAll(networks: readonly Trainable[]): Promise<WeightArrays> {
  const all = new Map<string, Float32Array>();
  for (const part of networks.flatMap(({ values, ema }) => [values, ema])) {
    for (const [name, data] of await part.read()) all.set(`${part.name} ${name}`, data);
  }
  return all;
}

function recordMoves(trace: Trace, before: WeightArrays, after: WeightArrays): void {
  for (const [name, data] of after) {
    trace.moved.set(name, Float32Array.from(data, (value, i) => value - before.get(name)![i]!));
  }
}

function recordMetrics(trace: Trace, steps: readonly Record<string, Float32Array>[]): void {
  for (const name of Object.keys(steps[0]!)) {
    trace.metrics.set(name, Float32Array.from(steps.flatMap((step) => [...step[name]!])));
  }
}

/** What the training stages of a run are made of: networks, programs, and the runs of a step. */

import { bytesToData, type Statistics } from "../data/scaling.ts";
import type { ImageData8 } from "../data/image_data.ts";
import type { Seed } from "../data/philox.ts";
import { compileTeacherStep, type ImageSource, imageValues, randomValues } from "../diffusion/teacher.ts";
import { compileCriticStep, compileGeneratorStep } from "../distill/step.ts";
import type { Run, Workspace } from "../graph/mod.ts";
import type { Network } from "../nn/network.ts";
import { classifierConfig, createNetwork, type DenoiserConfig } from "../nn/networks.ts";
import { Classifier } from "../nn/unet.ts";
import { Accumulator } from "../optim/accumulate.ts";
import { Optimizer } from "../optim/adam.ts";
import { f16LossScale, Trainable, Weights } from "../optim/weights.ts";
import { type RunConfig, stepsOf, teacherDenoiser, unitsOf } from "./config.ts";

/** Independent random sequences of a run's stages, from its seed. */
function stageSeed(seed: number, stage: number): Seed {
  return [seed >>> 0, stage];
}

/** Of the teacher's training. */
export function teacherSeed({ seed }: RunConfig): Seed {
  return stageSeed(seed, 1);
}

/** Of the distillation. */
export function distillSeed({ seed }: RunConfig): Seed {
  return stageSeed(seed, 2);
}

/** Factor on a learning rate that falls linearly to 0 over the last `share` of `steps`. */
function decay(step: number, steps: number, share: number): number {
  return share > 0 ? Math.min(1, (steps - step) / (share * steps)) : 1;
}

/** Puts the training images on the device, scaled to the data units that `units` define. */
function uploadImages(
  workspace: Workspace,
  data: ImageData8,
  units: Statistics,
  { labels = false, mirror = false } = {},
): ImageSource {
  const { count, channels, height, width, pixels } = data;
  const perImage = channels * height * width;
  // What a device binds at once; a multiple of four images is a whole number of words.
  const most = Math.floor(workspace.gpu.device.limits.maxStorageBufferBindingSize / perImage / 4) * 4;
  const parts = Array.from({ length: Math.ceil(count / most) }, (_, i) => {
    const images = Math.min(most, count - i * most);
    const part = workspace.variable(`images ${i}`, [images, channels, height, width], "u8");
    part.write(words(pixels.subarray(i * most * perImage, (i * most + images) * perImage)));
    return part;
  });
  const classes = labels ? workspace.variable("classes", [data.count, 2, 1], "u8") : undefined;
  classes?.write(words(Uint8Array.from({ length: 2 * data.count }, (_, i) => data.labels[i >> 1]! >> (8 * (i & 1)))));
  return { data: parts, labels: classes, mirror, ...bytesToData(units) };
}

/** Bytes as whole words, zeros after them. */
function words(bytes: Uint8Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  if (bytes.length % 4 === 0 && bytes.byteOffset % 4 === 0) {
    return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  }
  const padded = new Uint8Array(4 * Math.ceil(bytes.length / 4));
  padded.set(bytes);
  return new Uint32Array(padded.buffer);
}

/** A network that the run trains on batches of `batch`. */
function trainable(
  workspace: Workspace,
  name: string,
  network: Network,
  { microbatch, precision }: RunConfig,
  batch: number,
): Trainable {
  const images = microbatch ?? batch;
  return new Trainable(workspace, name, network, batch / images, precision === "f16" ? f16LossScale(images) : 1);
}

/** What the training of a teacher runs. */
export async function prepareTeacher(workspace: Workspace, config: RunConfig, data: ImageData8) {
  const { batch, betas: [beta1, beta2], ema, clipNorm, sigma } = config.teacher;
  const { conditional: labels, mirror, augment } = config.teacher;
  const { checkpointBlocks, precision } = config;
  const network = createNetwork(teacherDenoiser(config, data), { checkpointBlocks, precision });
  const images = uploadImages(workspace, data, unitsOf(config, data), { labels, mirror });
  const teacher = trainable(workspace, "teacher", network, config, batch);
  return {
    teacher,
    gradient: await compileTeacherStep(teacher, images, { batch, sigma, augment }),
    sum: await Accumulator.create([teacher]),
    optimizer: await Optimizer.create(teacher, { batch, beta1, beta2, ema, clipNorm }),
  };
}

/** What {@linkcode prepareTeacher} makes. */
export type TeacherParts = Awaited<ReturnType<typeof prepareTeacher>>;

/** The runs of step `step` of the teacher's training, counted from 0. */
export function teacherRuns(config: RunConfig, { gradient, sum, optimizer }: TeacherParts): (step: number) => Run[] {
  const { batch, learningRate, rampImages, decayShare } = config.teacher;
  const seed = teacherSeed(config), steps = stepsOf(config.teacher);
  return (step) => [
    ...sum.runs(gradient, batch, (first) => imageValues(seed, step, batch, first)),
    optimizer.at(step, learningRate * Math.min(1, (step + 1) * batch / rampImages, decay(step, steps, decayShare))),
  ];
}

/** What the distillation of a teacher runs. */
export async function prepareDistillation(
  workspace: Workspace,
  config: RunConfig,
  data: ImageData8,
  teacherInfo: DenoiserConfig & Statistics,
) {
  const { h: kind, lambda, logitClamp, ratioMin, ratioMax, ...settings } = config.distill;
  const { batch, betas: [beta1, beta2], ema, clipNorm } = settings;
  const { checkpointBlocks, precision } = config;
  const options = { checkpointBlocks, precision };
  const trained = (name: string, model: Network) => trainable(workspace, name, model, config, batch);
  const networks = {
    generator: trained("generator", createNetwork(teacherInfo, options)),
    fakeScore: trained("fakeScore", createNetwork(teacherInfo, options)),
    classifier: trained("classifier", new Classifier(classifierConfig(teacherInfo.network), options)),
    teacher: new Weights(workspace, "teacher", createNetwork(teacherInfo, { precision })),
  };
  const { generator, fakeScore, classifier } = networks;
  const bregman = { h: { kind, lambda }, logitClamp, ratioMin, ratioMax, normalise: true };
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

/** What {@linkcode prepareDistillation} makes. */
export type DistillParts = Awaited<ReturnType<typeof prepareDistillation>>;

/** The runs of step `step` of the distillation, counted from 0: the critics' updates, then the generator's. */
export function distillRuns(config: RunConfig, parts: DistillParts): (step: number) => Run[] {
  const { critics, gradient, sumCritics, sumGenerator, updateGenerator, updateFake, updateClassifier } = parts;
  const settings = config.distill;
  const { batch, criticUpdates, warmupImages } = settings;
  const seed = distillSeed(config), steps = stepsOf(settings);
  return (step) => {
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
}

/** What the training stages of a run are made of: networks, programs, and the runs of a step. */

import { bytesToData, type Statistics } from "../data/scaling.ts";
import type { ImageData8 } from "../data/image_data.ts";
import { type Seed, shuffledIndex } from "../data/philox.ts";
import { checkGuidance } from "../diffusion/edm.ts";
import { compileTeacherStep, type ImageSource, imageValues, randomValues } from "../diffusion/teacher.ts";
import { createClassifier } from "../distill/classifier.ts";
import { RatioBins } from "../distill/ratio_bins.ts";
import { type DistillSettings, needs } from "../distill/settings.ts";
import { compileCriticStep, type Critics } from "../distill/critics.ts";
import { compileGeneratorStep } from "../distill/generator.ts";
import { compileHeldOut } from "../distill/held_out.ts";
import { type DistillNetworks, sigmaLimitsOf } from "../distill/samples.ts";
import type { Program, Run, Workspace } from "../graph/mod.ts";
import type { Network } from "../nn/network.ts";
import { conditionSizes, createNetwork, type DenoiserConfig } from "../nn/networks.ts";
import { Accumulator } from "../optim/accumulate.ts";
import { Optimizer } from "../optim/adam.ts";
import { f16LossScale, Trainable, Weights } from "../optim/weights.ts";
import {
  bregmanOf,
  criticWarmupSteps,
  type LearningConfig,
  type RunConfig,
  stepsOf,
  teacherDenoiser,
  unitsOf,
} from "./config.ts";

/** Independent random sequences of a run's stages, from its seed. */
function stageSeed(seed: number, stage: number): Seed {
  return [seed >>> 0, stage];
}

/** Of the teacher's training. */
export function teacherSeed({ seed }: RunConfig): Seed {
  return stageSeed(seed, 1);
}

/** Of a generator that starts from random weights. */
export function generatorSeed({ seed }: RunConfig): Seed {
  return stageSeed(seed, 3);
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
    ...sum.runs(batch, (first) => [gradient.at(imageValues(seed, step, batch, first))]),
    optimizer.at(step, learningRate * Math.min(1, (step + 1) * batch / rampImages, decay(step, steps, decayShare))),
  ];
}

/**
 * Checks what a run's settings ask of its teacher.
 *
 * @throws {UsageError} where the teacher cannot be guided.
 */
export function expectDistillable(config: RunConfig, teacher: Pick<DenoiserConfig, "network">): void {
  if (!config.teacherOnly) checkGuidance(teacher, config.distill.guidance);
}

/** The settings of a distillation's programs. */
export function programSettings(config: RunConfig): DistillSettings {
  const { ratio, adversarial, ...settings } = config.distill;
  const { temperature, logitClamp, min: ratioMin, max: ratioMax, ...ratioBins } = ratio;
  const h = bregmanOf(config).weighting;
  return {
    ...settings,
    ratioBins,
    adversarialWeight: adversarial.weight,
    bregman: { h, temperature, logitClamp, ratioMin, ratioMax, normalise: true },
  };
}

/** Stream of the choice of held-out images: apart from those of a step's. */
const HELD_OUT_STREAM = 0x101;

/** A data set in two: `share` of its images, drawn at random, and the others in their order. */
export function heldOutOf(
  data: ImageData8,
  share: number,
  seed: Seed,
): { readonly shown: ImageData8; readonly held?: ImageData8 } {
  if (share === 0) return { shown: data };
  const drawn = Math.max(1, Math.floor(share * data.count));
  const chosen = new Set(
    Array.from({ length: drawn }, (_, i) => shuffledIndex(seed, i, data.count, HELD_OUT_STREAM)),
  );
  const part = (wanted: (i: number) => boolean) => {
    const indices = Array.from({ length: data.count }, (_, i) => i).filter(wanted);
    const perImage = data.pixels.length / data.count;
    const pixels = new Uint8Array(indices.length * perImage);
    indices.forEach((from, i) =>
      pixels.set(data.pixels.subarray(from * perImage, (from + 1) * perImage), i * perImage)
    );
    return { ...data, count: indices.length, pixels, labels: Uint16Array.from(indices, (i) => data.labels[i]!) };
  };
  return { shown: part((i) => !chosen.has(i)), held: part((i) => chosen.has(i)) };
}

/** The share of each class among the images, where the network knows classes: what these are drawn by. */
export function classSharesOf(
  { network }: Pick<DenoiserConfig, "network">,
  { labels, classes, count }: ImageData8,
): { readonly classShares?: readonly number[] } {
  if (conditionSizes(network).labelDim === 0) return {};
  const counts = new Array<number>(classes).fill(0);
  for (const label of labels) counts[label]!++;
  return { classShares: counts.map((those) => those / count) };
}

/** Pairs of a held-out and a generated image that are looked at at once. */
export const HELD_BATCH = 64;

/** What the distillation of a teacher runs. */
export async function prepareDistillation(
  workspace: Workspace,
  config: RunConfig,
  data: ImageData8,
  teacherInfo: DenoiserConfig & Statistics,
) {
  const settings = { ...programSettings(config), ...classSharesOf(teacherInfo, data) };
  const need = needs(settings);
  const { batch, classifier: { kind, heldOut }, ratio } = config.distill;
  const { checkpointBlocks, precision } = config;
  const options = { checkpointBlocks, precision };
  const trained = (name: string, model: Network | undefined) =>
    model && trainable(workspace, name, model, config, batch);
  const networks = {
    generator: trained("generator", createNetwork(teacherInfo, options))!,
    fakeScore: need.fakeScore ? trained("fakeScore", createNetwork(teacherInfo, options)) : undefined,
    classifier: need.classifier ? trained("classifier", createClassifier(kind, teacherInfo, options)) : undefined,
    teacher: new Weights(workspace, "teacher", createNetwork(teacherInfo, { precision })),
  };
  const { generator, fakeScore, classifier } = networks;
  const { mirror } = config.teacher;
  const upload = (part: ImageData8) =>
    uploadImages(workspace, part, teacherInfo, { labels: settings.classShares !== undefined, mirror });
  const { shown, held } = need.ratio ? heldOutOf(data, heldOut, distillSeed(config)) : { shown: data };
  const images = upload(shown);
  const bins = ratio.bins > 0 ? new RatioBins(workspace, ratio.bins, sigmaLimitsOf(settings.sigma)) : undefined;
  await bins?.compile();
  const critics = await prepareCritics(networks, images, config, settings);
  const { gradient, meanWeight } = await compileGeneratorStep(networks, settings, bins);
  const optimizer = async (name: "generator" | "fakeScore" | "classifier", network: Trainable | undefined) => {
    const { betas: [beta1, beta2], clipNorm } = config.distill[name];
    const { ema } = config.distill.generator;
    return network && await Optimizer.create(network, { batch, beta1, beta2, ema, clipNorm });
  };
  return {
    ...networks,
    bins,
    critics,
    gradient,
    meanWeight,
    heldOut: held && await compileHeldOut(networks, upload(held), settings, HELD_BATCH),
    sumGenerator: await Accumulator.create([generator]),
    updateGenerator: (await optimizer("generator", generator))!,
    updateFake: await optimizer("fakeScore", fakeScore),
    updateClassifier: await optimizer("classifier", classifier),
  };
}

/** What {@linkcode prepareDistillation} makes. */
export type DistillParts = Awaited<ReturnType<typeof prepareDistillation>>;

/** A critics' update: which of them it is of, and what computes their gradients. */
interface CriticUpdate {
  readonly critics: Critics;
  readonly gradient: Program;
  readonly sum: Accumulator;
}

/** The critics' updates of a step, in order: those of both, then those of the one that has more. */
async function prepareCritics(
  networks: DistillNetworks,
  images: ImageSource,
  config: RunConfig,
  settings: DistillSettings,
): Promise<readonly CriticUpdate[]> {
  const need = needs(settings);
  const wanted = (name: "fakeScore" | "classifier") => need[name] ? config.distill[name].updates : 0;
  const counts = { fakeScore: wanted("fakeScore"), classifier: wanted("classifier") };
  const made = new Map<string, CriticUpdate>();
  const updates: CriticUpdate[] = [];
  for (let i = 0; i < Math.max(counts.fakeScore, counts.classifier); i++) {
    const critics = { fakeScore: i < counts.fakeScore, classifier: i < counts.classifier };
    const key = JSON.stringify(critics);
    if (!made.has(key)) {
      const trained = [critics.fakeScore && networks.fakeScore, critics.classifier && networks.classifier];
      const [first, ...others] = trained.filter((network) => network instanceof Trainable);
      made.set(key, {
        critics,
        gradient: await compileCriticStep(networks, images, settings, critics),
        sum: await Accumulator.create([first!, ...others]),
      });
    }
    updates.push(made.get(key)!);
  }
  return updates;
}

/** The runs of step `step` of the distillation, counted from 0: the critics' updates, then the generator's. */
export function distillRuns(config: RunConfig, parts: DistillParts): (step: number) => Run[] {
  const { bins, critics, gradient, meanWeight, sumGenerator, updateGenerator, updateFake, updateClassifier } = parts;
  const { batch, warmupImages, adversarial, ratio, ...learning } = config.distill;
  const { fakeScore, classifier } = learning;
  const seed = distillSeed(config), steps = stepsOf(config.distill);
  const criticSteps = criticWarmupSteps(config);
  return (step) => {
    const rate = ({ learningRate, decayShare }: LearningConfig) => learningRate * decay(step, steps, decayShare);
    const criticRuns = critics.map(({ critics: which, gradient, sum }, i) => {
      const update = step * critics.length + i;
      return [
        ...sum.runs(batch, (first) => [gradient.atOwn(imageValues(seed, update, batch, first))]),
        ...which.fakeScore ? [updateFake!.at(step * fakeScore.updates + i, rate(fakeScore))] : [],
        ...which.classifier && updateClassifier
          ? [updateClassifier.at(step * classifier.updates + i, rate(classifier))]
          : [],
      ];
    });
    if (step < criticSteps) return criticRuns.flat();
    const update = step - criticSteps, images = update * batch;
    const values = {
      blend: images < warmupImages ? 0 : 1,
      ...adversarial.weight > 0 && { adversarial: images < adversarial.afterImages ? 0 : adversarial.weight },
    };
    const from = (first: number) => ({ ...randomValues(seed, step, first), ...values, keep: Number(first > 0) });
    return [
      ...criticRuns.flat(),
      ...meanWeight ? sumGenerator.firsts(batch).map((first) => meanWeight.atOwn(from(first))) : [],
      ...sumGenerator.runs(batch, (first) => [gradient.atOwn(from(first))]),
      ...bins ? [bins.step(0.5 ** (batch / ratio.binHalfLife))] : [],
      updateGenerator.at(update, rate(learning.generator)),
    ];
  };
}

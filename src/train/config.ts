/** Every setting of a run, the presets they start from, and what may be put in their place. */

import { BREGMAN_KINDS, type BregmanKind } from "../../kernels/bregman.ts";
import type { LogNormalLaw } from "../diffusion/teacher.ts";
import { checkLambda } from "../distill/bregman.ts";
import { FileError } from "../gpu/errors.ts";
import { type Precision, PRECISIONS } from "../nn/network.ts";
import type { MovingAverage } from "../optim/adam.ts";
import {
  checkSettings,
  choice,
  type Fail,
  list,
  number,
  type Rule,
  type Rules,
  toggle,
  whole,
  withChanges,
} from "./settings.ts";

/** Settings of the teacher's training. */
export interface TeacherConfig {
  /** Images that are seen in all; steps are as many as that takes. */
  readonly images: number;
  /** Images a step. */
  readonly batch: number;
  /** Adam's learning rate after the ramp. */
  readonly learningRate: number;
  /** Images over which the learning rate rises from 0. */
  readonly rampImages: number;
  /** Share of the steps, at the end, over which the learning rate falls linearly to 0. */
  readonly decayShare: number;
  /** Moving average of the weights. */
  readonly ema: MovingAverage;
  /** Adam's decays. */
  readonly betas: readonly [number, number];
  /** Largest gradient norm; a gradient that is not finite ends the run. 0: no limit, NaN counts as 0 and ±∞ as ±1e5. */
  readonly clipNorm: number;
  /** Law of σ in the loss. */
  readonly sigma: LogNormalLaw;
}

/** Settings of the distillation. */
export interface DistillConfig {
  /** The convex function of the divergence. */
  readonly h: BregmanKind;
  /** Its parameter, for `sba` and `basu`. */
  readonly lambda: number;
  /** Images that the generator makes for its updates in all. */
  readonly images: number;
  /** Images a step. */
  readonly batch: number;
  /** Learning rate of the generator. */
  readonly generatorLr: number;
  /** Learning rate of the fake score. */
  readonly fakeLr: number;
  /** Learning rate of the classifier. */
  readonly classifierLr: number;
  /** Critic updates for each generator update. */
  readonly criticUpdates: number;
  /** Share of the steps, at the end, over which the generator's learning rate falls linearly to 0. */
  readonly decayShare: number;
  /** Images of the generator's updates with c = 1, at the beginning. */
  readonly warmupImages: number;
  /** Logits are limited to ± this. */
  readonly logitClamp: number;
  /** The ratio is clipped to [ratioMin, ratioMax]. */
  readonly ratioMin: number;
  /** See `ratioMin`. */
  readonly ratioMax: number;
  /** DMD's per-sample normaliser. */
  readonly normaliser: boolean;
  /** Noise level of the generator's input. */
  readonly sigmaInit: number;
  /** Share of Karras's schedule, from its low end, of the generator's and the classifier's σ. */
  readonly sigmaRange: number;
  /** Law of the fake score's σ. */
  readonly fakeSigma: LogNormalLaw;
  /** Moving average of the generator. */
  readonly ema: MovingAverage;
  /** Adam's decays. */
  readonly betas: readonly [number, number];
  /** See the teacher's. */
  readonly clipNorm: number;
}

/** Where the contents of a file or a data set came from. */
export interface FileSource {
  /** Path as the user gave it. */
  readonly path: string;
  /** SHA-256 of the bytes, or of a data set's images and classes, hexadecimal. */
  readonly sha256: string;
}

/** Everything that decides a run's results. */
export interface RunConfig {
  /** Name of the preset it started from. */
  readonly preset: PresetName;
  /** Seed of every random number. */
  readonly seed: number;
  /** File or folder of a data set; absent: the embedded digits. */
  readonly data?: FileSource;
  /** A trained teacher; absent: one is trained. */
  readonly teacherFile?: FileSource;
  /** How the networks that are trained, and the teacher in a distillation, store activations. */
  readonly precision: Precision;
  /** Channels of the networks at full resolution; their multipliers are 1 and 2. */
  readonly modelChannels: number;
  /** Images whose gradient is computed at once; absent: the whole batch. */
  readonly microbatch?: number;
  /** Backward passes compute the inside of the networks' blocks again. */
  readonly checkpointBlocks: boolean;
  /** See the type. */
  readonly teacher: TeacherConfig;
  /** See the type. */
  readonly distill: DistillConfig;
  /** Images each model is measured with. */
  readonly evaluationSamples: number;
  /** Images between checkpoints. */
  readonly checkpointEvery: { readonly teacher: number; readonly distill: number };
}

const TEACHER: TeacherConfig = {
  images: 320_000,
  batch: 128,
  learningRate: 1e-3,
  rampImages: 12_800,
  decayShare: 0.4,
  ema: { halfLife: 17_700, rampRatio: 0.08 },
  betas: [0.9, 0.999],
  clipNorm: 10,
  sigma: { mean: -1.2, std: 1.2 },
};

const DISTILL: DistillConfig = {
  h: "jeffreys",
  lambda: -0.5,
  images: 44_800,
  batch: 64,
  generatorLr: 2e-4,
  fakeLr: 2e-4,
  classifierLr: 2e-4,
  criticUpdates: 3,
  decayShare: 0.5,
  warmupImages: 6_400,
  logitClamp: 10,
  ratioMin: 0.05,
  ratioMax: 10,
  normaliser: true,
  sigmaInit: 2.5,
  sigmaRange: 0.8,
  fakeSigma: { mean: -1.2, std: 1.2 },
  ema: { halfLife: 4_400, rampRatio: 0.08 },
  betas: [0, 0.999],
  clipNorm: 10,
};

type Preset = Pick<
  RunConfig,
  "modelChannels" | "teacher" | "distill" | "evaluationSamples" | "checkpointEvery"
>;

/** Named settings: `digits` for GPUs, `digits-small` for software adapters, `digits-tiny` to see every stage run. */
export const PRESETS = {
  "digits": {
    modelChannels: 32,
    teacher: TEACHER,
    distill: DISTILL,
    evaluationSamples: 5000,
    checkpointEvery: { teacher: 32_000, distill: 6_400 },
  },
  "digits-small": {
    modelChannels: 16,
    teacher: { ...TEACHER, images: 128_000, batch: 64, rampImages: 6_400, ema: { halfLife: 8_850, rampRatio: 0.08 } },
    distill: { ...DISTILL, images: 19_200, generatorLr: 3e-4, fakeLr: 3e-4, classifierLr: 3e-4, warmupImages: 3_200 },
    evaluationSamples: 2000,
    checkpointEvery: { teacher: 16_000, distill: 6_400 },
  },
  "digits-tiny": {
    modelChannels: 8,
    teacher: { ...TEACHER, images: 3_200, batch: 32, rampImages: 320, ema: { halfLife: 430, rampRatio: 0.08 } },
    distill: { ...DISTILL, images: 640, batch: 32, warmupImages: 160, ema: { halfLife: 210, rampRatio: 0.08 } },
    evaluationSamples: 200,
    checkpointEvery: { teacher: 1_280, distill: 320 },
  },
} as const satisfies Record<string, Preset>;

/** Name of a preset. */
export type PresetName = keyof typeof PRESETS;

/** Images that the presets are for: the channels, and the pixels of a side. */
export const PRESET_IMAGES: Readonly<Record<PresetName, { readonly channels: number; readonly resolution: number }>> = {
  "digits": { channels: 1, resolution: 8 },
  "digits-small": { channels: 1, resolution: 8 },
  "digits-tiny": { channels: 1, resolution: 8 },
};

/** The preset for an adapter where the user names none. */
export function defaultPreset(softwareAdapter: boolean): PresetName {
  return softwareAdapter ? "digits-small" : "digits";
}

/** Steps of `batch` images until `images` are seen. */
export function stepsOf({ images, batch }: { readonly images: number; readonly batch: number }): number {
  return Math.ceil(images / batch);
}

const filled: Rule = { kind: "text" };
const positive = number({ above: 0 }), fromZero = number({ min: 0 }), count = whole({ min: 1 });
const decays = list(number({ min: 0, below: 1 }), 2);
const law = { mean: number({}), std: positive };
const average = { halfLife: positive, rampRatio: fromZero };
const batch = whole({ min: 1, max: 65_536 });
const optimiser = { batch, ema: average, betas: decays, clipNorm: fromZero, decayShare: number({ min: 0, max: 1 }) };

/** What a setting may be. */
const RULES: Rules = {
  preset: choice(Object.keys(PRESETS)),
  seed: whole({ min: 0, max: 4_294_967_295 }),
  precision: choice(PRECISIONS),
  modelChannels: whole({ min: 4, max: 4096 }),
  microbatch: { ...count, optional: true },
  checkpointBlocks: toggle,
  teacher: { ...optimiser, images: count, learningRate: positive, rampImages: fromZero, sigma: law },
  distill: {
    ...optimiser,
    h: choice(BREGMAN_KINDS),
    lambda: number({}),
    images: count,
    generatorLr: positive,
    fakeLr: positive,
    classifierLr: positive,
    criticUpdates: whole({ min: 1, max: 16 }),
    warmupImages: fromZero,
    logitClamp: positive,
    ratioMin: positive,
    ratioMax: positive,
    normaliser: toggle,
    sigmaInit: positive,
    sigmaRange: number({ above: 0, max: 1 }),
    fakeSigma: law,
  },
  evaluationSamples: whole({ min: 65 }),
  checkpointEvery: { teacher: count, distill: count },
};

/** A preset as it is. */
export function presetConfig(preset: PresetName): RunConfig {
  return { preset, seed: 0, precision: "f32", checkpointBlocks: false, ...PRESETS[preset] };
}

/** Settings to change, nested as in {@linkcode RunConfig}. */
export interface Changes {
  /** The preset to start from. */
  readonly preset?: PresetName;
  /** Anything else. */
  readonly [setting: string]: unknown;
}

/** `config` with `changes` in its place. Calls `fail` where one is no setting, or not what that may be. */
export function withSettings(config: RunConfig, changes: Changes, fail: Fail): RunConfig {
  return withChanges(config, changes, RULES, fail);
}

/** Calls `fail` where settings contradict each other. */
export function checkTogether(config: RunConfig, teacherGiven: boolean, fail: Fail): void {
  const { microbatch, teacher, distill } = config;
  const { h, lambda, ratioMin, ratioMax } = distill;
  checkLambda(h, lambda);
  if (ratioMin >= ratioMax) {
    fail(`the least ratio, --ratio-min (${ratioMin}), should be less than the greatest, --ratio-max (${ratioMax})`);
  }
  const batches = { ...!teacherGiven && { teacher: teacher.batch }, distillation: distill.batch };
  for (const [stage, batch] of Object.entries(batches)) {
    if (microbatch !== undefined && batch % microbatch !== 0) {
      fail(`--microbatch ${microbatch} does not divide the ${stage}'s batch of ${batch} images`);
    }
  }
}

/**
 * Reads a run's settings.
 *
 * @throws {FileError} naming the file and the field where a setting is missing, unknown or out of its range.
 */
export function parseConfig(text: string, fileName: string): RunConfig {
  const config = parseJson(text, fileName);
  const fail = failFor(fileName);
  const { data, teacherFile, ...rest } = config as Record<string, unknown>;
  checkSettings(rest, RULES, fail);
  const source = { path: filled, sha256: filled };
  for (const [name, value] of Object.entries({ data, teacherFile })) {
    if (value !== undefined) checkSettings({ [name]: value }, { [name]: source }, fail);
  }
  checkTogether(config as RunConfig, teacherFile !== undefined, fail);
  return config as RunConfig;
}

/**
 * Reads changes of settings: JSON, nested as in a run's `config.json`.
 *
 * @throws {FileError} naming the file where it holds anything else.
 */
export function parseChanges(text: string, fileName: string): Changes {
  const changes = parseJson(text, fileName) as Changes;
  const fail = failFor(fileName);
  for (const [name, option] of [["data", "--data"], ["teacherFile", "--teacher"]] as const) {
    if (changes?.[name] !== undefined) fail(`"${name}" is given by ${option} and cannot stand here`);
  }
  withChanges({}, changes, RULES, fail);
  return changes;
}

/** Throws errors that name the file. */
export function failFor(fileName: string): Fail {
  return (message) => {
    throw new FileError(`${fileName}: ${message}${message.endsWith("?") ? "" : "."}`);
  };
}

function parseJson(text: string, fileName: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FileError(`${fileName} should be JSON: ${(error as Error).message}.`, { cause: error });
  }
}

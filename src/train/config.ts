/** Every setting of a run, and the presets they start from. */

import { BREGMAN_KINDS, type BregmanKind } from "../../kernels/bregman.ts";
import type { LogNormalLaw } from "../diffusion/teacher.ts";
import { FileError } from "../gpu/errors.ts";
import { type Precision, PRECISIONS } from "../nn/network.ts";

/** Settings of the teacher's training. */
export interface TeacherConfig {
  /** Updates. */
  readonly steps: number;
  /** Images a step. */
  readonly batch: number;
  /** Adam's learning rate after the ramp. */
  readonly learningRate: number;
  /** Steps over which the learning rate rises from 0. */
  readonly rampSteps: number;
  /** Share of the steps, at the end, over which the learning rate falls linearly to 0. */
  readonly decayShare: number;
  /** Decay of the weights' moving average. */
  readonly emaDecay: number;
  /** Adam's decays. */
  readonly betas: readonly [number, number];
  /** Largest gradient norm. */
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
  /** Generator updates. */
  readonly steps: number;
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
  /** Generator updates made with c = 1. */
  readonly warmupSteps: number;
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
  /** Decay of the generator's moving average. */
  readonly emaDecay: number;
  /** Adam's decays. */
  readonly betas: readonly [number, number];
  /** Largest gradient norm. */
  readonly clipNorm: number;
}

/** Where a file's contents came from. */
export interface FileSource {
  /** Path as the user gave it. */
  readonly path: string;
  /** SHA-256 of the bytes, hexadecimal. */
  readonly sha256: string;
}

/** Everything that decides a run's results. */
export interface RunConfig {
  /** Name of the preset it started from. */
  readonly preset: PresetName;
  /** Seed of every random number. */
  readonly seed: number;
  /** UCI text file; absent: the embedded digits. */
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
  /** Steps between checkpoints. */
  readonly checkpointEvery: { readonly teacher: number; readonly distill: number };
}

const TEACHER: TeacherConfig = {
  steps: 2500,
  batch: 128,
  learningRate: 1e-3,
  rampSteps: 100,
  decayShare: 0.4,
  emaDecay: 0.995,
  betas: [0.9, 0.999],
  clipNorm: 10,
  sigma: { mean: -1.2, std: 1.2 },
};

const DISTILL: DistillConfig = {
  h: "jeffreys",
  lambda: -0.5,
  steps: 700,
  batch: 64,
  generatorLr: 2e-4,
  fakeLr: 2e-4,
  classifierLr: 2e-4,
  criticUpdates: 3,
  decayShare: 0.5,
  warmupSteps: 100,
  logitClamp: 10,
  ratioMin: 0.05,
  ratioMax: 10,
  normaliser: true,
  sigmaInit: 2.5,
  sigmaRange: 0.8,
  fakeSigma: { mean: -1.2, std: 1.2 },
  emaDecay: 0.99,
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
    checkpointEvery: { teacher: 250, distill: 100 },
  },
  "digits-small": {
    modelChannels: 16,
    teacher: { ...TEACHER, steps: 2000, batch: 64 },
    distill: { ...DISTILL, steps: 300, generatorLr: 3e-4, fakeLr: 3e-4, classifierLr: 3e-4, warmupSteps: 50 },
    evaluationSamples: 2000,
    checkpointEvery: { teacher: 250, distill: 100 },
  },
  "digits-tiny": {
    modelChannels: 8,
    teacher: { ...TEACHER, steps: 100, batch: 32, rampSteps: 10, emaDecay: 0.95 },
    distill: { ...DISTILL, steps: 20, batch: 32, warmupSteps: 5, emaDecay: 0.9 },
    evaluationSamples: 200,
    checkpointEvery: { teacher: 40, distill: 10 },
  },
} as const satisfies Record<string, Preset>;

/** Name of a preset. */
export type PresetName = keyof typeof PRESETS;

/** The preset for an adapter where the user names none. */
export function defaultPreset(softwareAdapter: boolean): PresetName {
  return softwareAdapter ? "digits-small" : "digits";
}

/**
 * Reads a run's settings.
 *
 * @throws {FileError} naming the file and the field where a setting is missing or of another kind than the presets'.
 */
export function parseConfig(text: string, fileName: string): RunConfig {
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw new FileError(`${fileName} should be JSON: ${(error as Error).message}.`, { cause: error });
  }
  const { data, teacherFile, microbatch, preset } = config ?? {};
  if (!Object.hasOwn(PRESETS, String(preset))) {
    throw new FileError(`${fileName}: the field "preset" should be one of ${Object.keys(PRESETS).join(", ")}.`);
  }
  const source: FileSource = { path: "", sha256: "" };
  const model = {
    preset: "",
    seed: 0,
    precision: "f32",
    checkpointBlocks: false,
    ...PRESETS[preset as PresetName],
    ...data !== undefined && { data: source },
    ...teacherFile !== undefined && { teacherFile: source },
    ...microbatch !== undefined && { microbatch: 0 },
  };
  checkLike(config, model, "", fileName);
  const { precision, distill: { h } } = config as unknown as RunConfig;
  for (
    const [field, value, choices] of [["precision", precision, PRECISIONS], ["distill.h", h, BREGMAN_KINDS]] as const
  ) {
    if (!(choices as readonly string[]).includes(value)) {
      throw new FileError(`${fileName}: the field "${field}" should be one of ${choices.join(", ")}.`);
    }
  }
  return config as unknown as RunConfig;
}

/** Throws unless `value` has every field of `model`, of the same kind. */
function checkLike(value: unknown, model: unknown, field: string, fileName: string): void {
  if (typeof model === "object" && model !== null) {
    if (typeof value !== "object" || value === null) {
      throw new FileError(`${fileName}: the field "${field}" should hold settings.`);
    }
    for (const [name, inner] of Object.entries(model)) {
      checkLike((value as Record<string, unknown>)[name], inner, field ? `${field}.${name}` : name, fileName);
    }
  } else if (typeof value !== typeof model || (typeof value === "number" && !Number.isFinite(value))) {
    throw new FileError(`${fileName}: the field "${field}" should be a ${typeof model}.`);
  }
}

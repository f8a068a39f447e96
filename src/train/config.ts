/** Every setting of a run, the presets they start from, and what may be put in their place. */

import { BREGMAN_KINDS, type BregmanKind, LOG_BOUND } from "../../kernels/bregman.ts";
import type { LogNormalLaw } from "../diffusion/teacher.ts";
import { type BregmanFunction, bregmanFunction, weightExpression } from "../distill/bregman.ts";
import {
  CLASSIFIER_LOSSES,
  CLASSIFIERS,
  type ClassifierSettings,
  type DistillSettings,
  FAKE_WEIGHTINGS,
  GRADIENT_FORMS,
  type GradientForm,
  type Needs,
  needs,
  type Objective,
  OBJECTIVES,
  type RatioBinSettings,
  sharesEncoder,
  SIGMA_LAWS,
  type SigmaLaw,
  weighsEvenly,
  type Weighting,
  WEIGHTINGS,
} from "../distill/settings.ts";
import type { ImageData8 } from "../data/image_data.ts";
import type { Statistics } from "../data/scaling.ts";
import { FileError, UsageError } from "../gpu/errors.ts";
import { AUGMENT_LABELS } from "../graph/mod.ts";
import { type Precision, PRECISIONS } from "../nn/network.ts";
import type { DenoiserConfig } from "../nn/networks.ts";
import {
  EDM_PRECONDITIONING,
  type Preconditioning,
  VE_PRECONDITIONING,
  VP_PRECONDITIONING,
} from "../nn/preconditioning.ts";
import type { SongUNetConfig } from "../nn/song_unet.ts";
import type { UNetConfig } from "../nn/unet.ts";
import type { MovingAverage } from "../optim/adam.ts";
import type { StateSettings } from "../io/import.ts";
import { checkNetwork, entryOf, NETWORK_RULES, PRECONDITIONING_RULES } from "../io/network_rules.ts";
import {
  checkSettings,
  choice,
  type Fail,
  list,
  number,
  type Rules,
  text as anyText,
  toggle,
  whole,
  withChanges,
} from "../io/settings.ts";

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
  /** Whether the network is told the images' classes. */
  readonly conditional: boolean;
  /** Whether the mirror images count as images too. */
  readonly mirror: boolean;
  /** Probability of each change of EDM's augmentation, of which the network is told; 0 for none. */
  readonly augment: number;
}

/** How one network of the distillation is trained. */
export interface LearningConfig {
  /** Learning rate. */
  readonly learningRate: number;
  /** Share of its updates, at the end, over which the learning rate falls linearly to 0. */
  readonly decayShare: number;
  /** Adam's decays. */
  readonly betas: readonly [number, number];
  /** See the teacher's. */
  readonly clipNorm: number;
}

/** What the generator starts from. */
export const STARTS = ["teacher", "random"] as const;

/** Settings of the distillation; those of its programs are explained in {@linkcode DistillSettings}. */
export interface DistillConfig {
  /** What the generator minimises. */
  readonly objective: Objective;
  /** The convex function of the divergence. */
  readonly h: BregmanKind;
  /** Its parameter, for `sba` and `basu`. */
  readonly lambda: number;
  /** In the place of h, the weight c as an expression of the logit. */
  readonly hWeight?: string;
  /** How the divergence's gradient is had. */
  readonly form: GradientForm;
  /** Images that the generator makes for its updates in all. */
  readonly images: number;
  /** Images a step. */
  readonly batch: number;
  /** What the generator starts from: the teacher's weights, or random ones. */
  readonly start: typeof STARTS[number];
  /** Images, at the beginning, on which the critics alone are trained; they count among `images`. */
  readonly criticWarmupImages: number;
  /** Images of the generator's first updates, with c = 1. */
  readonly warmupImages: number;
  /** Noise level of the generator's input. */
  readonly sigmaInit: number;
  /** Noise levels of a generator of several steps after the first; empty for one step. */
  readonly laterSigmas: readonly number[];
  /** Classifier-free guidance of a teacher of classes; 1 for none. */
  readonly guidance: number;
  /** w(σ). */
  readonly weighting: Weighting;
  /** Law of the σ at which the generator's samples are judged. */
  readonly sigma: SigmaLaw;
  /** The density ratio's safeguards. */
  readonly ratio: RatioBinSettings & {
    /** Logits are divided by this. */
    readonly temperature: number;
    /** Logits are limited to ± this. */
    readonly logitClamp: number;
    /** The ratio is clipped to [min, max]. */
    readonly min: number;
    /** See `min`. */
    readonly max: number;
  };
  /** The adversarial term: its weight, 0 for none, and the images of the generator's updates before it begins. */
  readonly adversarial: { readonly weight: number; readonly afterImages: number };
  /** The generator's training. */
  readonly generator: LearningConfig & {
    /** Moving average of its weights, which is the result. */
    readonly ema: MovingAverage;
  };
  /** The fake score's. */
  readonly fakeScore: LearningConfig & DistillSettings["fakeScore"] & {
    /** Updates for each of the generator. */
    readonly updates: number;
  };
  /** The classifier's. */
  readonly classifier: LearningConfig & ClassifierSettings & {
    /** Updates for each of the generator. */
    readonly updates: number;
    /** Share of the real images that it is not shown: how well its probabilities are calibrated is measured with them. */
    readonly heldOut: number;
  };
}

/** How models are measured and shown. */
export interface EvaluationConfig {
  /** Images each finished model is measured with. */
  readonly samples: number;
  /** Images the generator is measured with at every checkpoint. */
  readonly checkSamples: number;
  /** Images in a picture. */
  readonly pictures: number;
  /** Steps of the teacher's sampler, Heun's. */
  readonly steps: number;
}

/** What networks can be chosen of: the settings that do not come from the data. */
export type NetworkSettings =
  | Omit<UNetConfig, "imageChannels" | "resolution" | "labelDim"> & { readonly architecture: "unet" }
  | Omit<SongUNetConfig, "resolution" | "inChannels" | "outChannels" | "labelDim" | "augmentDim"> & {
    readonly preconditioning: Preconditioning["kind"];
  };

/** The preconditionings by name. */
export const PRECONDITIONINGS = { edm: EDM_PRECONDITIONING, vp: VP_PRECONDITIONING, ve: VE_PRECONDITIONING };

const SCALINGS = ["standard", "edm"] as const;

/** How bytes become data units. */
export type Scaling = typeof SCALINGS[number];

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
  /** The teacher's network; size and classes of the images come from the data. */
  readonly network: NetworkSettings;
  /** Data units: `standard` scales the data to mean 0 and standard deviation ½, `edm` maps [0, 255] to [−1, 1]. */
  readonly scaling: Scaling;
  /** Images whose gradient is computed at once; absent: the whole batch. */
  readonly microbatch?: number;
  /** Backward passes compute the inside of the networks' blocks again. */
  readonly checkpointBlocks: boolean;
  /** See the type. */
  readonly teacher: TeacherConfig;
  /** See the type. */
  readonly distill: DistillConfig;
  /** True: no generator is distilled. */
  readonly teacherOnly: boolean;
  /** How models are measured. */
  readonly evaluation: EvaluationConfig;
  /** Images between snapshots of the moving average, which are all kept, the teacher's with a picture; 0 for none. */
  readonly snapshotEvery: { readonly teacher: number; readonly distill: number };
  /** Images between checkpoints, of which the last are kept. */
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
  conditional: false,
  mirror: false,
  augment: 0,
};

const LEARNING: LearningConfig = { learningRate: 2e-4, decayShare: 0, betas: [0, 0.999], clipNorm: 10 };

const DISTILL: DistillConfig = {
  objective: "bregman",
  h: "kl",
  lambda: -0.5,
  form: "score",
  images: 44_800,
  batch: 64,
  start: "teacher",
  criticWarmupImages: 0,
  warmupImages: 6_400,
  sigmaInit: 2.5,
  laterSigmas: [],
  guidance: 1,
  weighting: "dmd",
  sigma: { law: "karras", range: 0.8, mean: -1.2, std: 1.2 },
  ratio: { temperature: 1, logitClamp: 10, min: 0.05, max: 10, bins: 0, binHalfLife: 4_400 },
  adversarial: { weight: 0, afterImages: 0 },
  generator: { ...LEARNING, decayShare: 0.5, ema: { halfLife: 4_400, rampRatio: 0.08 } },
  fakeScore: { ...LEARNING, updates: 3, sigma: { mean: -1.2, std: 1.2 }, weighting: "edm" },
  classifier: {
    ...LEARNING,
    ...{ updates: 3, heldOut: 0.1, kind: "own", loss: "logistic", trunkWeight: 1, r1Weight: 0, r1Sigma: 0.1 },
  },
};

/** `config` with other values for the training of all three networks, and for each. */
function retrained(
  config: DistillConfig,
  all: Partial<LearningConfig & { updates: number; ema: MovingAverage }>,
  each: { readonly classifier?: Partial<DistillConfig["classifier"]> } = {},
): DistillConfig {
  const { updates, ema, ...learning } = all;
  const critic = { ...learning, ...updates !== undefined && { updates } };
  return {
    ...config,
    generator: { ...config.generator, ...learning, ...ema && { ema } },
    fakeScore: { ...config.fakeScore, ...critic },
    classifier: { ...config.classifier, ...critic, ...each.classifier },
  };
}

const HEADS = retrained(DISTILL, { learningRate: 3e-4 }, { classifier: { kind: "teacher-heads" } });

const MOMENTUM = { betas: [0.9, 0.999] } as const;

/** Of all that was tried on the digits, what comes closest to their teachers. */
const DISTILL_DIGITS: DistillConfig = {
  ...HEADS,
  ...{ images: 76_800, warmupImages: 3_200, adversarial: { weight: 20, afterImages: 3_200 } },
  generator: { ...HEADS.generator, ...MOMENTUM, decayShare: 0.8 },
  fakeScore: { ...HEADS.fakeScore, ...MOMENTUM },
};

const EVALUATION: EvaluationConfig = { samples: 5000, checkSamples: 1000, pictures: 64, steps: 18 };

type Preset = Pick<
  RunConfig,
  "network" | "scaling" | "teacher" | "distill" | "evaluation" | "checkpointEvery" | "snapshotEvery"
>;

const digits = (modelChannels: number): NetworkSettings => ({
  ...{ architecture: "unet", modelChannels, channelMult: [1, 2], blocks: 1, labelDropout: 0 },
});

/** EDM's DDPM++ (Karras et al. 2022, table 1). */
const DDPM_PLUS_PLUS = {
  architecture: "song-unet",
  preconditioning: "edm",
  modelChannels: 128,
  channelMult: [2, 2, 2],
  channelMultEmb: 4,
  numBlocks: 4,
  attnResolutions: [16],
  dropout: 0.13,
  labelDropout: 0,
  embeddingType: "positional",
  channelMultNoise: 1,
  encoderType: "standard",
  decoderType: "standard",
  resampleFilter: [1, 1],
} as const satisfies NetworkSettings;

/** EDM's training on CIFAR-10 (appendix F). */
const EDM_CIFAR10: TeacherConfig = {
  ...TEACHER,
  images: 200_000_000,
  batch: 512,
  learningRate: 1e-3,
  rampImages: 10_000_000,
  decayShare: 0,
  ema: { halfLife: 500_000, rampRatio: 0.05 },
  clipNorm: 0,
  augment: 0.12,
};

/** SiD's distillation (Zhou et al. 2024, arXiv 2404.04057), but for the divergence. */
const SID_CIFAR10: DistillConfig = {
  ...retrained(DISTILL, {
    ...{ learningRate: 1e-5, updates: 1, decayShare: 0, clipNorm: 0 },
    ema: { halfLife: 500_000, rampRatio: 0.05 },
  }, { classifier: { learningRate: 1e-4 } }),
  images: 100_000_000,
  batch: 256,
  warmupImages: 100_000,
};

/**
 * Named settings: `digits` for GPUs, `digits-small` for software adapters, `digits-tiny` to see every stage run;
 * `cifar10` (55.7 million parameters) as EDM trains it, `cifar10-small` (15.7 million), `mnist` (1.3 million).
 */
export const PRESETS = {
  "digits": {
    network: digits(32),
    scaling: "standard",
    teacher: TEACHER,
    distill: DISTILL_DIGITS,
    evaluation: EVALUATION,
    checkpointEvery: { teacher: 32_000, distill: 6_400 },
    snapshotEvery: { teacher: 0, distill: 0 },
  },
  "digits-small": {
    network: digits(16),
    scaling: "standard",
    teacher: { ...TEACHER, images: 256_000, batch: 64, rampImages: 6_400, ema: { halfLife: 8_850, rampRatio: 0.08 } },
    distill: DISTILL_DIGITS,
    evaluation: EVALUATION,
    checkpointEvery: { teacher: 16_000, distill: 6_400 },
    snapshotEvery: { teacher: 0, distill: 0 },
  },
  "digits-tiny": {
    network: digits(8),
    scaling: "standard",
    teacher: { ...TEACHER, images: 3_200, batch: 32, rampImages: 320, ema: { halfLife: 430, rampRatio: 0.08 } },
    distill: {
      ...retrained(DISTILL, { ema: { halfLife: 210, rampRatio: 0.08 } }, { classifier: { kind: "teacher-heads" } }),
      ...{ images: 640, batch: 32, warmupImages: 160, adversarial: { weight: 20, afterImages: 0 } },
    },
    evaluation: { ...EVALUATION, samples: 200 },
    checkpointEvery: { teacher: 1_280, distill: 320 },
    snapshotEvery: { teacher: 0, distill: 0 },
  },
  "mnist": {
    network: { ...DDPM_PLUS_PLUS, modelChannels: 32, channelMult: [1, 2, 2], numBlocks: 1, dropout: 0 },
    scaling: "edm",
    teacher: {
      ...TEACHER,
      ...{ images: 2_000_000, learningRate: 1e-3, rampImages: 25_600, ema: { halfLife: 50_000, rampRatio: 0.05 } },
      clipNorm: 0,
    },
    distill: {
      ...retrained(DISTILL, { ema: { halfLife: 10_000, rampRatio: 0.05 }, clipNorm: 0 }),
      ...{ images: 400_000, batch: 128 },
    },
    evaluation: EVALUATION,
    checkpointEvery: { teacher: 100_000, distill: 20_000 },
    snapshotEvery: { teacher: 0, distill: 0 },
  },
  "cifar10-small": {
    network: { ...DDPM_PLUS_PLUS, modelChannels: 96, channelMult: [1, 2, 2], numBlocks: 2 },
    scaling: "edm",
    teacher: { ...EDM_CIFAR10, images: 25_000_000, batch: 128, learningRate: 5e-4, rampImages: 1_000_000 },
    distill: { ...SID_CIFAR10, images: 10_000_000, batch: 128 },
    evaluation: { ...EVALUATION, samples: 10_000 },
    checkpointEvery: { teacher: 200_000, distill: 100_000 },
    snapshotEvery: { teacher: 2_500_000, distill: 1_000_000 },
  },
  "cifar10": {
    network: DDPM_PLUS_PLUS,
    scaling: "edm",
    teacher: EDM_CIFAR10,
    distill: SID_CIFAR10,
    evaluation: { ...EVALUATION, samples: 50_000 },
    checkpointEvery: { teacher: 500_000, distill: 200_000 },
    snapshotEvery: { teacher: 5_000_000, distill: 5_000_000 },
  },
} as const satisfies Record<string, Preset>;

/** Name of a preset. */
export type PresetName = keyof typeof PRESETS;

/** The preset for an adapter where the user names none. */
export function defaultPreset(softwareAdapter: boolean): PresetName {
  return softwareAdapter ? "digits-small" : "digits";
}

/** True for presets of the embedded digits; the others need a data set. */
export function isDigits(preset: PresetName): boolean {
  return preset.startsWith("digits");
}

/** What the images are scaled by, as {@linkcode Statistics} of the data or in their place. */
export function unitsOf({ scaling }: RunConfig, { mean, std }: Statistics): Statistics {
  return scaling === "edm" ? { mean: 0, std: 0.5 } : { mean, std };
}

/**
 * The teacher that a run trains on `data`.
 *
 * @throws {UsageError} where the network cannot be made for images of that size.
 */
export function teacherDenoiser({ network: settings, teacher }: RunConfig, data: ImageData8): DenoiserConfig {
  if (teacher.conditional && data.classes === 1) {
    throw new UsageError(`${data.name} has no classes; teacher.conditional (--conditional) needs some.`);
  }
  const { preconditioning, network } = settings.architecture === "unet"
    ? unetDenoiser(settings, data, teacher)
    : songDenoiser(settings, data, teacher);
  checkNetwork(network, (message) => {
    throw new UsageError(`With the images of ${data.name}, ${message}.`);
  });
  return { network, ...preconditioning && { preconditioning } };
}

function unetDenoiser(
  { labelDropout, ...rest }: Extract<NetworkSettings, { architecture: "unet" }>,
  { channels: imageChannels, height: resolution, classes }: ImageData8,
  { conditional, augment }: TeacherConfig,
): DenoiserConfig {
  if (augment > 0) throw new UsageError("Augmentation needs a network of the architecture song-unet.");
  const told = conditional && { labelDim: classes, ...labelDropout && { labelDropout } };
  return { network: { ...rest, imageChannels, resolution, ...told } };
}

function songDenoiser(
  { preconditioning, ...rest }: Extract<NetworkSettings, { architecture: "song-unet" }>,
  { channels, height: resolution, classes }: ImageData8,
  { conditional, augment }: TeacherConfig,
): DenoiserConfig {
  return {
    network: {
      ...rest,
      ...{ resolution, inChannels: channels, outChannels: channels },
      labelDim: conditional ? classes : 0,
      augmentDim: augment > 0 ? AUGMENT_LABELS : 0,
    },
    preconditioning: PRECONDITIONINGS[preconditioning],
  };
}

/** A preset's network as the settings of weights that come without; undefined where it is none of EDM's. */
export function stateSettings(preset: PresetName): StateSettings | undefined {
  const { network } = presetConfig(preset);
  if (network.architecture !== "song-unet") return undefined;
  return { ...network, preconditioning: PRECONDITIONINGS[network.preconditioning] };
}

/** Steps of `batch` images until `images` are seen. */
export function stepsOf({ images, batch }: { readonly images: number; readonly batch: number }): number {
  return Math.ceil(images / batch);
}

const positive = number({ above: 0 }), fromZero = number({ min: 0 }), count = whole({ min: 1 });
const decays = list(number({ min: 0, below: 1 }), { min: 2, max: 2 });
const law = { mean: number({}), std: positive };
const average = { halfLife: positive, rampRatio: fromZero };
const batch = whole({ min: 1, max: 65_536 });
const learning = { learningRate: positive, betas: decays, clipNorm: fromZero, decayShare: number({ min: 0, max: 1 }) };
const updates = whole({ min: 1, max: 16 });

const told = { conditional: toggle, mirror: toggle, augment: number({ min: 0, max: 1 }) };

/** What a setting may be, the network's apart. */
const COMMON_RULES: Rules = {
  preset: choice(Object.keys(PRESETS)),
  seed: whole({ min: 0, max: 4_294_967_295 }),
  precision: choice(PRECISIONS),
  scaling: choice(SCALINGS),
  microbatch: { ...count, optional: true },
  checkpointBlocks: toggle,
  teacher: { ...learning, ...told, batch, ema: average, images: count, rampImages: fromZero, sigma: law },
  distill: {
    objective: choice(OBJECTIVES),
    h: choice(BREGMAN_KINDS),
    lambda: number({}),
    hWeight: { ...anyText, optional: true },
    form: choice(GRADIENT_FORMS),
    images: count,
    batch,
    start: choice(STARTS),
    criticWarmupImages: fromZero,
    warmupImages: fromZero,
    sigmaInit: positive,
    laterSigmas: list(positive, { max: 15 }),
    guidance: fromZero,
    weighting: choice(WEIGHTINGS),
    sigma: { ...law, law: choice(SIGMA_LAWS), range: number({ above: 0, max: 1 }) },
    ratio: {
      temperature: positive,
      logitClamp: positive,
      min: positive,
      max: positive,
      bins: whole({ min: 0, max: 1024 }),
      binHalfLife: positive,
    },
    adversarial: { weight: fromZero, afterImages: fromZero },
    generator: { ...learning, ema: average },
    fakeScore: { ...learning, updates, sigma: law, weighting: choice(FAKE_WEIGHTINGS) },
    classifier: {
      ...learning,
      updates,
      heldOut: number({ min: 0, max: 0.5 }),
      kind: choice(CLASSIFIERS),
      loss: choice(CLASSIFIER_LOSSES),
      trunkWeight: fromZero,
      r1Weight: fromZero,
      r1Sigma: positive,
    },
  },
  teacherOnly: toggle,
  evaluation: {
    samples: whole({ min: 65 }),
    checkSamples: whole({ min: 65 }),
    pictures: whole({ min: 1, max: 4096 }),
    steps: whole({ min: 1, max: 10_000 }),
  },
  checkpointEvery: { teacher: count, distill: count },
  snapshotEvery: { teacher: whole({ min: 0 }), distill: whole({ min: 0 }) },
};

const kinds = choice(Object.keys(PRECONDITIONING_RULES));

/** The chosen settings of networks by architecture. */
const CHOSEN: Readonly<Record<string, Rules>> = {
  "unet": NETWORK_RULES.unet.chosen,
  "song-unet": { ...NETWORK_RULES["song-unet"].chosen, preconditioning: kinds },
};

/** The rules of settings with a network of one architecture. */
function rulesOf(network: unknown, fail: Fail): Rules {
  const { architecture } = (network ?? {}) as { architecture?: unknown };
  return { ...COMMON_RULES, network: entryOf(CHOSEN, "network.architecture", architecture, fail) };
}

/** A preset as it is. */
export function presetConfig(preset: PresetName): RunConfig {
  return { preset, seed: 0, precision: "f32", checkpointBlocks: false, teacherOnly: false, ...PRESETS[preset] };
}

/** Settings to change, nested as in {@linkcode RunConfig}. */
export interface Changes {
  /** The preset to start from. */
  readonly preset?: PresetName;
  /** Anything else. */
  readonly [setting: string]: unknown;
}

/**
 * `config` with `changes` in its place. Calls `fail` where one is no setting, or not what that may be. A network of
 * another architecture takes the place of the whole network.
 */
export function withSettings(config: RunConfig, changes: Changes, fail: Fail): RunConfig {
  const network = changes.network as NetworkSettings | undefined;
  if (network?.architecture !== undefined && network.architecture !== config.network.architecture) {
    const rules = rulesOf(network, fail);
    checkSettings({ network }, { network: rules.network! }, fail);
    return withChanges({ ...config, network }, changes, rules, fail);
  }
  return withChanges(config, changes, rulesOf(config.network, fail), fail);
}

/** Calls `fail` where settings contradict each other. */
export function checkTogether(config: RunConfig, teacherGiven: boolean, fail: Fail): void {
  const { microbatch, teacher, teacherOnly, distill } = config;
  if (teacherOnly && teacherGiven) fail("with a given teacher and --teacher-only there is nothing to do");
  if (!teacherOnly) checkDistillation(config, fail);
  const batches = {
    ...!teacherGiven && { teacher: teacher.batch },
    ...!teacherOnly && { distillation: distill.batch },
  };
  for (const [stage, batch] of Object.entries(batches)) {
    if (microbatch !== undefined && batch % microbatch !== 0) {
      fail(`--microbatch ${microbatch} does not divide the ${stage}'s batch of ${batch} images`);
    }
  }
}

/** Steps of the distillation after which there is a checkpoint, its end the last. */
export function checkpointSteps(
  { distill, checkpointEvery }: Pick<RunConfig, "distill" | "checkpointEvery">,
): number[] {
  const steps = stepsOf(distill), every = stepsOf({ images: checkpointEvery.distill, batch: distill.batch });
  return Array.from({ length: Math.ceil(steps / every) }, (_, i) => Math.min(steps, (i + 1) * every));
}

/** Steps at the beginning of the distillation that train the critics alone. */
export function criticWarmupSteps({ distill: { criticWarmupImages, batch } }: Pick<RunConfig, "distill">): number {
  return Math.ceil(criticWarmupImages / batch);
}

function weightingOf({ h, hWeight }: DistillConfig): object {
  return hWeight === undefined ? { kind: h } : { weight: hWeight };
}

/** Whether the generator's gradient is weighted by a density ratio. */
export function weighsByRatio(distill: DistillConfig): boolean {
  return distill.objective === "bregman" && !weighsEvenly(weightingOf(distill));
}

/** What a distillation needs beside the generator and the teacher. */
export function neededFor(distill: DistillConfig): Needs {
  const { objective, form, classifier, adversarial } = distill;
  return needs({
    ...{ objective, form, classifier, adversarialWeight: adversarial.weight },
    bregman: { h: weightingOf(distill) },
  });
}

/**
 * The h of a distillation, or the weight that takes its place.
 *
 * @throws {UsageError} where lambda is none of h's, or the weight is none on the ratio's range.
 */
export function bregmanOf({ distill }: Pick<RunConfig, "distill">): BregmanFunction {
  const { h, lambda, hWeight, ratio: { min, max } } = distill;
  if (hWeight === undefined) return bregmanFunction(h, lambda);
  const range = [Math.max(-LOG_BOUND, -Math.log(max)), Math.min(LOG_BOUND, -Math.log(min))] as const;
  return weightExpression(hWeight, { range });
}

/** Calls `fail` where there is no such h, or no such weight. */
function expectBregman(distill: DistillConfig, fail: Fail): void {
  try {
    bregmanOf({ distill });
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    const setting = distill.hWeight === undefined ? "distill.lambda, --lambda" : "distill.hWeight, --h-weight";
    fail(`${setting}: ${error.message.replace(/\.$/, "")}`);
  }
}

/** Calls `fail` where the distillation's settings contradict each other. */
function checkDistillation({ distill, precision }: RunConfig, fail: Fail): void {
  const { hWeight, objective, form, weighting, ratio, classifier, fakeScore, adversarial } = distill;
  if (ratio.min >= ratio.max) {
    fail(`the least ratio, --ratio-min (${ratio.min}), should be less than the greatest, --ratio-max (${ratio.max})`);
  }
  if (ratio.min > 1 || ratio.max < 1) {
    fail(`between the least ratio, --ratio-min (${ratio.min}), and the greatest (${ratio.max}) should be 1`);
  }
  if (objective === "bregman") expectBregman(distill, fail);
  else {
    if (hWeight !== undefined) {
      fail(`distill.hWeight, --h-weight, weighs a divergence, which the objective ${objective} has none of`);
    }
    if (form === "classifier") {
      fail(`distill.form "classifier" is a divergence's, which the objective ${objective} has none of`);
    }
  }
  const weighs = weighsByRatio(distill);
  if (objective === "bregman" && classifier.loss === "hinge") {
    if (weighs) {
      fail("the hinge loss tells no density ratio: it goes with --h kl, whose weight is 1, or --objective gan");
    }
    if (form === "classifier") {
      fail('the hinge loss tells no density ratio: it cannot go with distill.form "classifier"');
    }
  }
  if (objective === "bregman" && form === "classifier" && weighting === "dmd") {
    fail('distill.form "classifier" has no teacher to normalise by: distill.weighting should be sigma2, edm or none');
  }
  if (objective === "bregman" && form === "classifier") {
    if (classifier.loss === "least-squares") {
      fail(
        "the gradient of what least squares tell ends where the classifier is sure: distill.form classifier needs logistic",
      );
    }
    if (precision === "f16") fail("distill.form classifier goes with --precision f32 only: its gradients exceed f16");
  }
  if (distill.guidance !== 1 && !(objective === "sid" || (objective === "bregman" && form === "score"))) {
    fail("--guidance changes the teacher's score, which this objective does not use");
  }
  if (classifier.loss === "hinge" && objective !== "gan" && adversarial.weight === 0) {
    fail("a classifier of the hinge loss serves the adversarial term alone, whose weight, --adversarial, is 0");
  }
  if (classifier.kind === "fake-mean" && classifier.trunkWeight === 0) {
    fail("nothing trains the classifier fake-mean where distill.classifier.trunkWeight is 0");
  }
  if (objective === "gan" && adversarial.weight === 0) {
    fail("with --objective gan the generator has the adversarial term alone, whose weight, --adversarial, is 0");
  }
  const needed = neededFor(distill);
  if (sharesEncoder(classifier) && needed.classifier && fakeScore.updates !== classifier.updates) {
    fail(
      `the classifier ${classifier.kind} is trained with the fake score: distill.classifier.updates ` +
        `(${classifier.updates}) should be distill.fakeScore.updates (${fakeScore.updates})`,
    );
  }
  const updates = stepsOf(distill) - criticWarmupSteps({ distill });
  if (updates <= 0) {
    fail(
      `distill.criticWarmupImages (${distill.criticWarmupImages}) leaves none of the ${distill.images} images to the generator`,
    );
  }
  const begins = (name: string, after: number, what: string) => {
    if ((updates - 1) * distill.batch < after) {
      const wait = Math.ceil(after / distill.batch);
      fail(`${name} (${after} images, ${wait} updates) leaves none of the generator's ${updates} updates with ${what}`);
    }
  };
  if (weighs) {
    begins("distill.warmupImages, --warmup", distill.warmupImages, "the weights of h");
  }
  if (adversarial.weight > 0) {
    const { afterImages } = adversarial;
    begins("distill.adversarial.afterImages, --adversarial-after", afterImages, "the adversarial term");
  }
  if (ratio.bins > 0 && !weighs) {
    fail("distill.ratio.bins is for divergences whose weight depends on a density ratio that is known");
  }
  const sigmas = [distill.sigmaInit, ...distill.laterSigmas];
  if (sigmas.some((sigma, i) => i > 0 && sigma >= sigmas[i - 1]!)) {
    fail(
      `the generator's noise levels, distill.sigmaInit and then laterSigmas, should descend, not be ${
        sigmas.join(", ")
      }`,
    );
  }
}

/**
 * Reads a run's settings.
 *
 * @throws {FileError} naming the file and the field where a setting is missing, unknown or out of its range.
 */
export function parseConfig(text: string, fileName: string): RunConfig {
  const fail = failFor(fileName);
  const config = parseObject(text, fileName);
  const { data, teacherFile, ...rest } = config;
  checkSettings(rest, rulesOf(rest.network, fail), fail);
  const source = { path: anyText, sha256: anyText };
  for (const [name, value] of Object.entries({ data, teacherFile })) {
    if (value !== undefined) checkSettings({ [name]: value }, { [name]: source }, fail);
  }
  const checked = config as unknown as RunConfig;
  checkTogether(checked, teacherFile !== undefined, fail);
  return checked;
}

/** Settings without what may change while they stay the same: where the files lie. */
export function settingsText<T extends Pick<RunConfig, "data" | "teacherFile">>(settings: T): string {
  const { data, teacherFile, ...rest } = settings;
  return JSON.stringify(sorted({ ...rest, data: data?.sha256, teacherFile: teacherFile?.sha256 }));
}

/** The same with all names in alphabetical order. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1);
  return Object.fromEntries(entries.map(([name, inner]) => [name, sorted(inner)]));
}

/**
 * Reads changes of settings: JSON, nested as in a run's `config.json`. All but the preset are checked where they are made.
 *
 * @throws {FileError} naming the file where it holds anything else.
 */
export function parseChanges(text: string, fileName: string): Changes {
  const fail = failFor(fileName);
  const changes: Changes = parseObject(text, fileName);
  for (const [name, option] of [["data", "--data"], ["teacherFile", "--teacher"]] as const) {
    if (changes[name] !== undefined) fail(`"${name}" is given by ${option} and cannot stand here`);
  }
  const { preset } = changes;
  if (preset !== undefined) checkSettings({ preset }, { preset: COMMON_RULES.preset! }, fail);
  return changes;
}

/** Throws errors that name the file. */
export function failFor(fileName: string): Fail {
  return (message) => {
    throw new FileError(`${fileName}: ${message}${message.endsWith("?") ? "" : "."}`);
  };
}

/** Reads a JSON object; a {@linkcode FileError} names the file that holds none. */
export function parseObject(text: string, fileName: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FileError(`${fileName} should be JSON: ${(error as Error).message}.`, { cause: error });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new FileError(`${fileName}: there should be an object of settings.`);
  }
  return value as Record<string, unknown>;
}

/** Steps made of microbatches: the same random numbers, images and gradients as whole batches, within rounding. */

import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import type { Seed } from "../src/data/philox.ts";
import {
  compileTeacherStep,
  type ImageSource,
  imageValues,
  randomValues,
  type StepValues,
} from "../src/diffusion/teacher.ts";
import { compileCriticStep } from "../src/distill/critics.ts";
import { compileGeneratorStep } from "../src/distill/generator.ts";
import { createClassifier } from "../src/distill/classifier.ts";
import { RatioBins } from "../src/distill/ratio_bins.ts";
import {
  type ClassifierKind,
  CLASSIFIERS,
  type ClassifierSettings,
  type DistillSettings,
} from "../src/distill/settings.ts";
import { GraphError } from "../src/gpu/errors.ts";
import { type Program, type Run, Workspace } from "../src/graph/mod.ts";
import { createNetwork, type NetworkConfig } from "../src/nn/networks.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { UNet, type UNetConfig } from "../src/nn/unet.ts";
import { Accumulator } from "../src/optim/accumulate.ts";
import { Optimizer } from "../src/optim/adam.ts";
import { initialWeights, Trainable, Weights } from "../src/optim/weights.ts";
import { SETTINGS } from "./distillation.ts";
import { deviceTest, relativeError } from "./gpu.ts";

const NETWORK: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };
/** Half of the activations drop: which ones must not depend on the microbatches. */
const SONG = songUNetConfig({
  ...{ resolution: 8, inChannels: 1, modelChannels: 8, channelMult: [1, 2], numBlocks: 1 },
  ...{ attnResolutions: [4], dropout: 0.5 },
});
/** Classes, of which some are dropped too, and augmentation labels. */
const LABELLED = { ...SONG, labelDim: 5, augmentDim: 9, labelDropout: 0.3 };
/** The small network with classes. */
const SMALL_LABELLED = { ...NETWORK, labelDim: 5, labelDropout: 0.3 };
const SEED: Seed = [3, 4];
const { batch: BATCH, fakeScore: { sigma: SIGMA } } = SETTINGS;

/** More images than two batches need, and fewer than three: an epoch ends within a step. */
function images(workspace: Workspace): ImageSource {
  const data = workspace.variable("images", [31, 1, 8, 8], "u8");
  data.write(new Uint32Array(data.tensor.bytes / 4).map((_, i) => Math.imul(i + 1, 2654435761)));
  return { data, scale: 1 / 128, shift: -1 };
}

/** Weights that are random everywhere: as they start, the branches of the networks are silent. */
function start(network: Trainable | Weights, key: number): void {
  const weights = new Map(
    [...initialWeights(network.network.parameters, [key, 0])].map(([name, values]) => [
      name,
      values.map((value, i) => value + 0.1 * Math.sin(1 + i * (key + 1))),
    ]),
  );
  if (network instanceof Weights) network.write(weights);
  else network.start(weights);
}

/** What steps leave behind. */
interface Outcome {
  /** Of the first step: Adam's first update is a sign, and tells apart what rounding alone did. */
  readonly gradients: Float32Array[];
  readonly norms: number[];
  readonly values: Float32Array[];
  readonly metrics: Record<string, Float32Array>[];
}

/** Runs two steps of what computes gradients, each with the optimisers' updates after it. */
async function twoSteps(
  { program, runs, before = () => [] }: {
    readonly program: Program;
    readonly runs: (values: StepValues) => Run[];
    readonly before?: (values: StepValues) => Run[];
  },
  networks: readonly [Trainable, ...Trainable[]],
  valuesAt: (step: number, first: number) => StepValues,
): Promise<Outcome> {
  const [{ workspace, runsAStep }] = networks;
  const accumulator = await Accumulator.create(networks);
  const settings = { batch: 8, beta1: 0.9, beta2: 0.999, ema: { halfLife: 50, rampRatio: 0.1 }, clipNorm: 1 };
  const optimizers = await Promise.all(networks.map((network) => Optimizer.create(network, settings)));
  // What an earlier step left must not matter, be it a NaN.
  if (runsAStep > 1) { for (const { grad } of networks) grad.flat.chunks[0]!.write(filled(grad, NaN)); }
  const submit = (step: number) =>
    workspace.submit([
      ...accumulator.firsts(BATCH).flatMap((first) => before(valuesAt(step, first))),
      ...accumulator.runs(BATCH, (first) => runs(valuesAt(step, first))),
      ...optimizers.map((optimizer) => optimizer.at(step, 1e-3)),
    ]);
  submit(0);
  const read = (weights: readonly Weights[]) =>
    Promise.all(weights.map(async ({ flat }) => await flat.chunks[0]!.read() as Float32Array));
  const gradients = await read(networks.map(({ grad }) => grad));
  submit(1);
  return {
    gradients,
    norms: (await Promise.all(optimizers.map((optimizer) => optimizer.readGradNorms()))).flat(),
    values: await read(networks.map(({ values }) => values)),
    metrics: await program.readMetrics(),
  };
}

function filled({ flat }: Weights, value: number): Float32Array<ArrayBuffer> {
  return new Float32Array(flat.chunks[0]!.tensor.size).fill(value);
}

/** The outcome of `run` with `count` microbatches, in a workspace of its own. */
type Runner = (workspace: Workspace, count: number) => Promise<Outcome>;

/** The same images with classes, and mirrored. */
function labelled(workspace: Workspace): ImageSource {
  const labels = workspace.variable("classes", [31, 2, 1], "u8");
  labels.write(new Uint32Array(labels.tensor.bytes / 4).map((_, i) => 2 * i % 5 + ((2 * i + 1) % 5) * 0x10000));
  return { ...images(workspace), labels, mirror: true };
}

const teacher = (config: NetworkConfig, source = images, augment = 0): Runner => async (workspace, count) => {
  const network = new Trainable(workspace, "teacher", createNetwork({ network: config }), count);
  start(network, 1);
  const settings = { batch: BATCH, sigma: SIGMA, augment };
  const program = await compileTeacherStep(network, source(workspace), settings);
  const runs = (values: StepValues) => [program.at(values)];
  return await twoSteps({ program, runs }, [network], (step, first) => imageValues(SEED, step + 1, BATCH, first));
};

function distillation(
  workspace: Workspace,
  count: number,
  network: NetworkConfig = NETWORK,
  { kind }: Pick<ClassifierSettings, "kind"> = SETTINGS.classifier,
) {
  const made = () => createNetwork({ network });
  const classifier = createClassifier(kind, { network });
  const networks = {
    generator: new Trainable(workspace, "generator", made(), count),
    fakeScore: new Trainable(workspace, "fakeScore", made(), count),
    ...classifier && { classifier: new Trainable(workspace, "classifier", classifier, count) },
    teacher: new Weights(workspace, "teacher", made()),
  };
  Object.values(networks).forEach(start);
  return networks;
}

const critics = (
  network?: NetworkConfig,
  changes: Partial<DistillSettings> = {},
  source = images,
): Runner =>
async (workspace, count) => {
  const settings = { ...SETTINGS, ...changes };
  const networks = distillation(workspace, count, network, settings.classifier);
  const step = await compileCriticStep(networks, source(workspace), settings);
  const { fakeScore, classifier } = networks;
  return await twoSteps(
    { program: step, runs: (values) => [step.atOwn(values)] },
    classifier ? [fakeScore, classifier] : [fakeScore],
    (step, first) => imageValues(SEED, step + 1, BATCH, first),
  );
};

const generator = (
  normalise: boolean,
  network?: NetworkConfig,
  changes: Partial<DistillSettings> = {},
): Runner =>
async (workspace, count) => {
  const settings = { ...SETTINGS, bregman: { ...SETTINGS.bregman, normalise }, ...changes };
  const networks = distillation(workspace, count, network, settings.classifier);
  const bins = settings.ratioBins.bins > 0 ? new RatioBins(workspace, settings.ratioBins.bins, [0.002, 24]) : undefined;
  const { gradient, meanWeight } = await compileGeneratorStep(networks, settings, bins);
  return await twoSteps(
    {
      program: gradient,
      runs: (values) => [gradient.atOwn(values)],
      before: (values) => meanWeight ? [meanWeight.atOwn(values)] : [],
    },
    [networks.generator],
    (step, first) => ({ ...randomValues(SEED, step, first), blend: 1, adversarial: 0.7, keep: Number(first > 0) }),
  );
};

/** A classifier of another kind, with a penalty. */
const classifierOf = (kind: ClassifierKind): Partial<DistillSettings> => ({
  classifier: { ...SETTINGS.classifier, kind, r1Weight: 0.5 },
});

const KL = { bregman: { ...SETTINGS.bregman, h: { kind: "kl", lambda: 0 } } } as const;

const CASES: readonly (readonly [string, Runner, means: readonly string[] | undefined])[] = [
  ["teacher", teacher(NETWORK), ["loss"]],
  ["teacher with dropout", teacher(SONG), ["loss"]],
  ["teacher of classes on mirrored and augmented images", teacher(LABELLED, labelled, 0.5), ["loss"]],
  ["critics", critics(), ["fakeLoss", "classifierLoss"]],
  ["critics of a SongUNet", critics(SONG), ["fakeLoss", "classifierLoss"]],
  ["generator", generator(true), []],
  ["generator under kl", generator(true, NETWORK, KL), undefined],
  ["generator under kl with an adversarial term", generator(true, NETWORK, { ...KL, adversarialWeight: 1 }), [
    "adversarialLoss",
  ]],
  ["generator that is a SongUNet", generator(true, SONG), []],
  ["generator with weights as they are", generator(false), []],
  ...CLASSIFIERS.map((kind) =>
    [`critics with the classifier ${kind}`, critics(NETWORK, classifierOf(kind)), [
      "fakeLoss",
      "classifierLoss",
    ]] as const
  ),
  ["teacher of classes, small", teacher(SMALL_LABELLED, labelled), ["loss"]],
  ["critics of classes, small", critics(SMALL_LABELLED, {}, labelled), ["fakeLoss", "classifierLoss"]],
  ["critics of classes, of two steps", critics(LABELLED, { laterSigmas: [0.2] }, labelled), ["classifierLoss"]],
  [
    "generator of classes, of three steps, guided",
    generator(true, LABELLED, { laterSigmas: [0.5, 0.1], guidance: 2 }),
    [],
  ],
  [
    "generator whose ratio is normalised by noise level",
    generator(true, NETWORK, {
      ratioBins: { bins: 4, binHalfLife: 100 },
      ...classifierOf("fake-head"),
    }),
    [],
  ],
  [
    "generator under SiD's loss with an adversarial term",
    generator(true, NETWORK, {
      ...{ objective: "sid", adversarialWeight: 1 },
    }),
    [],
  ],
  [
    "generator with an adversarial term",
    generator(true, NETWORK, { adversarialWeight: 1 }),
    ["adversarialLoss"],
  ],
  ["generator through the classifier", generator(true, NETWORK, { form: "classifier", weighting: "sigma2" }), []],
];

for (const [name, run, means] of CASES) {
  deviceTest(`microbatches of the ${name}: as the whole batch, within rounding`, async (gpu) => {
    const outcome = async (count: number) => {
      const workspace = new Workspace(gpu);
      const result = await run(workspace, count);
      workspace.destroy();
      return result;
    };
    const whole = await outcome(1);
    for (const count of [2, 3, 12]) {
      const split = await outcome(count);
      const compare = (what: string, got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number) => {
        const error = relativeError(got, expected);
        assert(error < tolerance, `${what} in ${count} microbatches: relative error ${error}`);
      };
      whole.gradients.forEach((gradient, i) => compare(`gradient ${i}`, split.gradients[i]!, gradient, 1e-5));
      whole.values.forEach((values, i) => compare(`values ${i}`, split.values[i]!, values, 1e-4));
      compare("norms", split.norms, whole.norms, 1e-4);
      const average = ({ metrics }: Outcome, metric: string) =>
        metrics.reduce((sum, values) => sum + values[metric]![0]!, 0) / metrics.length;
      for (const metric of means ?? []) compare(metric, [average(split, metric)], [average(whole, metric)], 1e-5);
      assertEquals(split.metrics.length, means ? 2 * count : 0);
    }
  });
}

deviceTest("a teacher's training step drops activations", async (gpu) => {
  const loss = async (dropout: number) => {
    const workspace = new Workspace(gpu);
    const network = new Trainable(workspace, "teacher", createNetwork({ network: { ...SONG, dropout } }));
    start(network, 1);
    const program = await compileTeacherStep(network, images(workspace), { batch: 2, sigma: SIGMA });
    workspace.submit([program.at(imageValues(SEED, 0, 2))]);
    const [metrics] = await program.readMetrics();
    workspace.destroy();
    return metrics!.loss![0]!;
  };
  assertNotEquals(await loss(0.5), await loss(0));
});

deviceTest(
  "a teacher's training step depends on classes, their dropping, mirror images and augmentation",
  async (gpu) => {
    const loss = async (change: Partial<ImageSource>, augment: number, labelDropout = 0) => {
      const workspace = new Workspace(gpu);
      const network = { ...LABELLED, dropout: 0, labelDropout };
      const teacher = new Trainable(workspace, "teacher", createNetwork({ network }));
      start(teacher, 1);
      const settings = { batch: BATCH, sigma: SIGMA, augment };
      const program = await compileTeacherStep(teacher, { ...labelled(workspace), ...change }, settings);
      workspace.submit([program.at(imageValues(SEED, 0, BATCH))]);
      const [metrics] = await program.readMetrics();
      workspace.destroy();
      return metrics!.loss![0]!;
    };
    const losses = [
      await loss({}, 0),
      await loss({ labels: undefined }, 0),
      await loss({ mirror: false }, 0),
      await loss({}, 0.5),
      await loss({}, 0, 0.5),
    ];
    assert(losses.every(Number.isFinite), `${losses}`);
    assertEquals(new Set(losses).size, losses.length, `${losses}`);
    assertEquals(await loss({}, 0, 1), losses[1], "classes that are all dropped are none");
  },
);

deviceTest("microbatches divide the batch, and are the same for networks trained together", async (gpu) => {
  const workspace = new Workspace(gpu);
  const network = new Trainable(workspace, "teacher", new UNet(NETWORK), 5);
  const settings = { batch: BATCH, sigma: SIGMA };
  assertThrows(
    () => compileTeacherStep(network, images(workspace), settings),
    GraphError,
    "The 5 microbatches of teacher do not divide 12 images",
  );
  const networks = { ...distillation(workspace, 2), fakeScore: new Trainable(workspace, "fake", new UNet(NETWORK)) };
  await assertRejects(
    () => compileCriticStep(networks, images(workspace), SETTINGS),
    GraphError,
    "as many microbatches: 1,2",
  );
  await gpu.idle();
  workspace.destroy();
});

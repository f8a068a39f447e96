/** Sampling from trained networks: a step or a few from a generator, many from a teacher. */

import type { Seed } from "../data/philox.ts";
import { dataToBytes } from "../data/scaling.ts";
import { NonFiniteError } from "../gpu/errors.ts";
import {
  add,
  affine,
  constant,
  div,
  greater,
  host,
  type HostValues,
  isFinite,
  mul,
  type Program,
  randomNormal,
  type Run,
  sub,
  sum,
  type Tensor,
  toUint8,
  type Variable,
  where,
  type Workspace,
} from "../graph/mod.ts";
import type { ModelInfo } from "../io/model.ts";
import type { Conditions, DenoisingNetwork } from "../nn/network.ts";
import { conditionSizes, createNetwork, imageSize } from "../nn/networks.ts";
import { Weights } from "../optim/weights.ts";
import { checkGuidance, denoise, generate, guide, sameSigma } from "./edm.ts";
import { oneHot, randomLabels } from "./labels.ts";
import { sigmaLimits } from "./preconditioning.ts";
import { evaluationsOf, type SolverSettings, type SolverStep, solverSteps } from "./solvers.ts";

/** Images a program samples at once where nothing else is asked for. */
const SAMPLE_BATCH = 64;

const SAMPLE_STREAM = 0x200;

/** The first of the streams of the noise between a generator's steps. */
const LATER_STREAM = 0x211;

/** Second key word of sampling noise: apart from every training stream of the same seed. */
const SAMPLE_KEY = 0x5eed;

/** A sampler for one batch size, all in f32; weights are read anew at every call. */
export interface Sampler {
  /** Network evaluations an image costs. */
  readonly evaluations: number;
  /**
   * Images `first` … `first + count − 1` of the sequence that `seed` stands for, as bytes [count, C, H, W]. An image
   * depends on the seed and its index alone.
   *
   * @param label the class of all of them, where the network knows classes; when absent each of a random one, by the
   * model's shares.
   * @throws {NonFiniteError} where the network gives a NaN or an infinity.
   */
  sample(seed: number, first: number, count: number, label?: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** What is sampled: `info.kind` decides how. */
export interface SamplerOptions {
  /** Images at once. */
  readonly batch?: number;
  /** How a teacher is sampled; when absent by 18 steps of Heun's method. */
  readonly solver?: SolverSettings;
}

/** How a teacher is sampled where nothing else is asked for. */
export const DEFAULT_SOLVER: SolverSettings = { solver: "heun", steps: 18 };

/**
 * Compiles the sampler of a model.
 *
 * @throws {UsageError} where a teacher is to be guided that cannot be.
 */
export async function createSampler(weights: Weights, info: ModelInfo, options: SamplerOptions = {}): Promise<Sampler> {
  const { batch = SAMPLE_BATCH, solver = DEFAULT_SOLVER } = options;
  if (info.kind === "generator") return await generatorSampler(weights, info, batch);
  const { guidance = 1 } = solver;
  checkGuidance(info, guidance);
  const steps = solverSteps(solver, sigmaLimits((weights.network as DenoisingNetwork).preconditioning));
  return await solverSampler(weights, info, batch, steps, guidance);
}

/** Leaves of a sampler's random numbers. */
function randomLeaves() {
  return { seed: host("seed", [2], "u32"), step: host("step", [], "u32"), first: host("first", [], "u32") };
}

/** `z` [batch, C, H, W]: samples `first` … of the noise sequence `seed`. */
function latents(info: ModelInfo, batch: number): Tensor {
  const { imageChannels, resolution } = imageSize(info.network);
  return randomNormal([batch, imageChannels, resolution, resolution], { ...randomLeaves(), stream: SAMPLE_STREAM });
}

/** Values of {@linkcode randomLeaves}. */
export interface LatentValues extends HostValues {
  /** The sequence. */
  readonly seed: Seed;
  /** 0 for the latents, the number of the step for what a step adds. */
  readonly step: number;
  /** Index of the first sample. */
  readonly first: number;
}

/** Where the random numbers of the images from `first` on of the sequence `seed` come from. */
export function latentValues(seed: number, first: number): LatentValues {
  return { seed: [seed >>> 0, SAMPLE_KEY], step: 0, first };
}

/** The run-time value `label` for a random class. */
const RANDOM_CLASS = -1;

/** One-hot classes [batch, labelDim] as the run-time value `label` says, where the model has any. */
function labelsOf(info: ModelInfo, batch: number): Tensor | undefined {
  const { labelDim } = conditionSizes(info.network);
  if (labelDim === 0) return undefined;
  const chosen = host("label");
  const random = randomLabels(batch, info.classShares ?? labelDim, { ...randomLeaves(), stream: LABEL_STREAM });
  return oneHot(where(greater(chosen, constant([RANDOM_CLASS], [])), chosen, random), labelDim);
}

/** Values of the leaves of {@linkcode labelsOf}. */
function labelValues(info: ModelInfo, label = RANDOM_CLASS): HostValues {
  return conditionSizes(info.network).labelDim > 0 ? { label } : {};
}

/** Runs `batch` images at a time and keeps the first `count`. */
async function inBatches(
  info: ModelInfo,
  batch: number,
  count: number,
  run: (first: number) => Program,
): Promise<Uint8Array<ArrayBuffer>> {
  const { imageChannels, resolution } = imageSize(info.network);
  const perImage = imageChannels * resolution ** 2;
  const images = new Uint8Array(count * perImage);
  for (let done = 0; done < count; done += batch) {
    const { images: words, broken } = await run(done).read();
    if (broken![0]! > 0) {
      throw new NonFiniteError(`The ${info.kind} draws images with NaN or infinite pixels (${broken![0]} of a batch).`);
    }
    const bytes = new Uint8Array(words!.buffer, 0, Math.min(batch, count - done) * perImage);
    images.set(bytes, done * perImage);
  }
  return images;
}

/** What is read of the images `x`: their bytes, and how many values have none. */
function drawnFrom(x: Tensor, info: ModelInfo): Record<"images" | "broken", Tensor> {
  return { images: toUint8(x, dataToBytes(info)), broken: sum(affine(isFinite(x), -1, 1)) };
}

/** The network of `weights` without what training makes of it. */
function inF32({ network }: Weights): DenoisingNetwork {
  const { config, preconditioning } = network as DenoisingNetwork;
  return createNetwork({ network: config, preconditioning });
}

/** Draws from a generator: one evaluation, or one at each of its levels. */
async function generatorSampler(weights: Weights, info: ModelInfo, batch: number): Promise<Sampler> {
  const { workspace } = weights;
  const levels = [info.sigmaInit!, ...info.laterSigmas ?? []] as const;
  const z = latents(info, batch), conditions = { labels: labelsOf(info, batch) };
  const noises = levels.slice(1).map((_, i) => randomNormal(z.shape, { ...randomLeaves(), stream: LATER_STREAM + i }));
  const x = generate(inF32(weights), weights.lookup, { z, noises, conditions }, levels);
  const program = await workspace.compile({
    label: "sample.generator",
    outputs: drawnFrom(x, info),
  });
  return {
    evaluations: levels.length,
    sample: (seed, first, count, label) =>
      inBatches(info, batch, count, (done) => {
        workspace.submit([program.at({ ...latentValues(seed, first + done), ...labelValues(info, label) })]);
        return program;
      }),
  };
}

/** Draws from a denoiser, step by step. */
async function solverSampler(
  weights: Weights,
  info: ModelInfo,
  batch: number,
  steps: readonly SolverStep[],
  guidance: number,
): Promise<Sampler> {
  const { workspace } = weights;
  const { imageChannels, resolution } = imageSize(info.network);
  const x = workspace.variable("sample.x", [batch, imageChannels, resolution, resolution]);
  const drawn = labelsOf(info, batch);
  const labels = drawn && workspace.variable("sample.labels", drawn.shape);
  const runs = await compileSolver(weights, x, steps, { labels: labels?.tensor }, guidance);
  const updates: (readonly [Variable, Tensor])[] = [[x, affine(latents(info, batch), steps[0]!.level, 0)]];
  if (labels) updates.push([labels, drawn]);
  const begin = await workspace.compile({ label: "sample.begin", updates });
  const finish = await workspace.compile({
    label: "sample.finish",
    outputs: drawnFrom(x.tensor, info),
  });
  return {
    evaluations: evaluationsOf(steps) * (guidance === 1 ? 1 : 2),
    sample: (seed, first, count, label) =>
      inBatches(info, batch, count, (done) => {
        const random = latentValues(seed, first + done);
        workspace.submit([begin.at({ ...random, ...labelValues(info, label) }), ...runs(random), finish.at()]);
        return finish;
      }),
  };
}

/** Streams of the noise that steps add before and after, and of the classes. */
const BEFORE_STREAM = 0x201, AFTER_STREAM = 0x202, LABEL_STREAM = 0x203;

/**
 * Compiles a sampler's steps, which change the state `x` [N, C, H, W] from their first level's noise to images. The result
 * gives their runs; `random` says where the noise of stochastic steps comes from.
 */
export async function compileSolver(
  weights: Weights,
  x: Variable,
  steps: readonly SolverStep[],
  conditions: Conditions = {},
  guidance = 1,
): Promise<(random: LatentValues) => Run[]> {
  const { workspace } = weights;
  const { shape } = x.tensor;
  const network = inF32(weights);
  const linear = steps.filter((step) => step.kind === "linear");
  const has = {
    before: steps.some(({ before }) => before > 0),
    after: linear.some(({ after }) => after > 0),
    previous: linear.some(({ previous }) => previous !== 0),
  };
  const noise = (name: string, stream: number) => mul(host(name), randomNormal(shape, { ...randomLeaves(), stream }));
  const start = () => has.before ? add(x.tensor, noise("before", BEFORE_STREAM)) : x.tensor;
  const denoised = (at: Tensor, sigma: Tensor) => {
    const evaluate = (told: Conditions) => denoise(network, weights.lookup, at, sameSigma(sigma, shape[0]!), told);
    return guidance === 1 ? evaluate(conditions) : guide(evaluate({}), evaluate(conditions), guidance);
  };

  const heun = async (): Promise<Program> => {
    const from = start(), sigma = host("sigma"), next = host("next"), step = sub(next, sigma);
    const slope = (at: Tensor, level: Tensor) => div(sub(at, denoised(at, level)), level);
    const d = slope(from, sigma);
    const slopes = add(d, slope(add(from, mul(step, d)), next));
    return await workspace.compile({
      label: "sample.heun",
      updates: [[x, add(from, mul(affine(step, 0.5, 0), slopes))]],
    });
  };
  const euler = async (): Promise<Program> => {
    const from = start(), d = denoised(from, host("sigma"));
    const kept = has.previous ? workspace.variable("sample.denoised", shape) : undefined;
    const terms = [
      ...[mul(host("x"), from), mul(host("denoised"), d)],
      ...kept ? [mul(host("previous"), kept.tensor)] : [],
      ...has.after ? [noise("after", AFTER_STREAM)] : [],
    ];
    const updates: (readonly [Variable, Tensor])[] = [[x, terms.reduce(add)]];
    if (kept) updates.push([kept, d]);
    return await workspace.compile({ label: "sample.step", updates });
  };
  const programs = { heun: linear.length < steps.length ? await heun() : undefined, linear: await euler() };
  return (random) =>
    steps.map((step, i) => {
      const { sigma, before } = step;
      const drawn = { ...random, step: i + 1 };
      const common = { sigma, ...has.before && { before, ...drawn } };
      if (step.kind === "heun") return programs.heun!.at({ ...common, next: step.next });
      const { x, denoised, previous, after } = step;
      return programs.linear.at({
        ...{ ...common, x, denoised },
        ...has.previous && { previous },
        ...has.after && { after, ...drawn },
      });
    });
}

/** Puts a model's weights on the device. */
export function uploadWeights(
  workspace: Workspace,
  info: ModelInfo,
  arrays: ReadonlyMap<string, Float32Array>,
): Weights {
  const weights = new Weights(workspace, info.kind, createNetwork(info));
  weights.write(arrays);
  return weights;
}

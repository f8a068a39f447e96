/** Sampling from trained networks: one step from a generator, many from a teacher. */

import type { Seed } from "../data/philox.ts";
import { dataToBytes } from "../data/scaling.ts";
import {
  add,
  affine,
  div,
  host,
  mul,
  type Program,
  randomNormal,
  type Run,
  sub,
  type Tensor,
  toUint8,
  type Workspace,
} from "../graph/mod.ts";
import type { ModelInfo } from "../io/model.ts";
import type { DenoisingNetwork } from "../nn/network.ts";
import { createNetwork, imageSize } from "../nn/networks.ts";
import { Weights } from "../optim/weights.ts";
import { denoise, generate, karrasLevels, sameSigma } from "./edm.ts";

/** Images a program samples at once where nothing else is asked for. */
export const SAMPLE_BATCH = 64;

const SAMPLE_STREAM = 0x200;

/** Second key word of sampling noise: apart from every training stream of the same seed. */
const SAMPLE_KEY = 0x5eed;

/** A sampler for one batch size, all in f32; weights are read anew at every call. */
export interface Sampler {
  /** Network evaluations an image costs. */
  readonly evaluations: number;
  /**
   * Images `first` … `first + count − 1` of the sequence that `seed` stands for, as bytes [count, C, H, W]. An image
   * depends on the seed and its index alone.
   */
  sample(seed: number, first: number, count: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** What is sampled: `info.kind` decides how. */
export interface SamplerOptions {
  /** Images at once. */
  readonly batch?: number;
  /** Steps of a teacher's Heun sampler; 18 when absent. */
  readonly steps?: number;
}

/** Compiles the sampler of a model. */
export function createSampler(weights: Weights, info: ModelInfo, options: SamplerOptions = {}): Promise<Sampler> {
  const { batch = SAMPLE_BATCH, steps = 18 } = options;
  return info.kind === "generator" ? oneStepSampler(weights, info, batch) : heunSampler(weights, info, batch, steps);
}

/** `z` [batch, C, H, W]: samples `first` … of the noise sequence `seed`. */
function latents(info: ModelInfo, batch: number): Tensor {
  const { imageChannels, resolution } = imageSize(info.network);
  return randomNormal([batch, imageChannels, resolution, resolution], {
    seed: host("seed", [2], "u32"),
    step: host("step", [], "u32"),
    first: host("first", [], "u32"),
    stream: SAMPLE_STREAM,
  });
}

function latentValues(seed: number, first: number): { seed: Seed; step: number; first: number } {
  return { seed: [seed >>> 0, SAMPLE_KEY], step: 0, first };
}

/** Runs `batch` images at a time and keeps the first `count`. */
async function inBatches(
  info: ModelInfo,
  batch: number,
  count: number,
  run: (first: number) => Promise<Uint32Array>,
): Promise<Uint8Array<ArrayBuffer>> {
  const { imageChannels, resolution } = imageSize(info.network);
  const perImage = imageChannels * resolution ** 2;
  const images = new Uint8Array(count * perImage);
  for (let done = 0; done < count; done += batch) {
    const words = await run(done);
    const bytes = new Uint8Array(words.buffer, 0, Math.min(batch, count - done) * perImage);
    images.set(bytes, done * perImage);
  }
  return images;
}

/** The network of `weights` without what training makes of it. */
function inF32({ network }: Weights): DenoisingNetwork {
  const { config, preconditioning } = network as DenoisingNetwork;
  return createNetwork({ network: config, preconditioning });
}

async function oneStepSampler(weights: Weights, info: ModelInfo, batch: number): Promise<Sampler> {
  const { workspace } = weights;
  const x = generate(inF32(weights), weights.lookup, latents(info, batch), info.sigmaInit!);
  const program = await workspace.compile({
    label: "sample.oneStep",
    outputs: { images: toUint8(x, dataToBytes(info)) },
  });
  return {
    evaluations: 1,
    sample: (seed, first, count) =>
      inBatches(info, batch, count, async (done) => {
        workspace.submit([program.at(latentValues(seed, first + done))]);
        return (await program.read()).images as Uint32Array;
      }),
  };
}

/** Deterministic Heun sampler (EDM, algorithm 1 without churn) on Karras's levels; the last step is Euler's. */
async function heunSampler(weights: Weights, info: ModelInfo, batch: number, steps: number): Promise<Sampler> {
  const { workspace } = weights;
  const levels = karrasLevels(steps, info.preconditioning);
  const { imageChannels, resolution } = imageSize(info.network);
  const state = workspace.variable("sample.x", [batch, imageChannels, resolution, resolution]);
  const programs = await compileHeun(
    weights,
    state.tensor,
    (label, x) => workspace.compile({ label, updates: [[state, x]] }),
  );
  const begin = await workspace.compile({
    label: "sample.begin",
    updates: [[state, affine(latents(info, batch), levels[0]!, 0)]],
  });
  const finish = await workspace.compile({
    label: "sample.finish",
    outputs: { images: toUint8(state.tensor, dataToBytes(info)) },
  });
  const runs = heunRuns(programs, levels);
  return {
    evaluations: 2 * steps - 1,
    sample: (seed, first, count) =>
      inBatches(info, batch, count, async (done) => {
        workspace.submit([begin.at(latentValues(seed, first + done)), ...runs, finish.at()]);
        return (await finish.read()).images as Uint32Array;
      }),
  };
}

/** The two programs of the Heun sampler: a full step, and the last one to σ = 0. */
export interface HeunPrograms {
  /** Two evaluations. */
  readonly heun: Program;
  /** One evaluation. */
  readonly euler: Program;
}

/** Builds both programs on the state `x` [N, C, H, W]; run-time values `sigma` and `next`. */
export async function compileHeun(
  weights: Weights,
  x: Tensor,
  compile: (label: string, next: Tensor) => Promise<Program>,
): Promise<HeunPrograms> {
  const network = inF32(weights);
  const sigma = host("sigma"), next = host("next");
  const slope = (at: Tensor, level: Tensor) => {
    const denoised = denoise(network, weights.lookup, at, sameSigma(level, at.shape[0]!));
    return div(sub(at, denoised), level);
  };
  const step = sub(next, sigma);
  const d = slope(x, sigma);
  const euler = add(x, mul(step, d));
  const heun = add(x, mul(affine(step, 0.5, 0), add(d, slope(euler, next))));
  return { heun: await compile("sample.heun", heun), euler: await compile("sample.euler", euler) };
}

/** One run a step over `levels`, which end with 0. */
export function heunRuns({ heun, euler }: HeunPrograms, levels: readonly number[]): Run[] {
  return levels.slice(0, -1).map((sigma, i) => {
    const next = levels[i + 1]!;
    return (next > 0 ? heun : euler).at({ sigma, next });
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

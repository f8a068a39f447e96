/** Generators of several steps: their noise levels, and training on inputs that come about as in sampling. */

import { type Seed, uniformAt } from "../data/philox.ts";
import {
  affine,
  type HostValues,
  type Program,
  randomNormal,
  type RandomSource,
  type Run,
  type Tensor,
  type Variable,
} from "../graph/mod.ts";
import { addNoise, denoise, KARRAS, sameSigma } from "./edm.ts";
import type { Conditions, DenoisingNetwork } from "../nn/network.ts";
import type { Weights } from "../optim/weights.ts";

/**
 * The noise levels of a generator of `steps` steps that starts at `sigmaInit`: Karras's spacing (ρ = 7) towards 0.002,
 * without its end.
 */
export function generatorLevels(sigmaInit: number, steps: number): number[] {
  const { sigmaMin, rho } = KARRAS;
  const high = sigmaInit ** (1 / rho), low = sigmaMin ** (1 / rho);
  return Array.from({ length: steps }, (_, i) => i === 0 ? sigmaInit : (high + (i / steps) * (low - high)) ** rho);
}

/** What the inputs of a generator of several steps are made with. */
export interface InputSettings {
  /** The generator. */
  readonly weights: Weights;
  /** The same network as it is applied here; that of `weights` when absent. */
  readonly network?: DenoisingNetwork;
  /** Its noise levels, descending. */
  readonly levels: readonly number[];
  /** Standard normal [N, C, H, W]. */
  readonly z: Tensor;
  /** Source of the noise that is added at level `index`, from 1 on. */
  readonly noise: (index: number) => RandomSource;
  /** Classes. */
  readonly conditions?: Conditions;
  /** In programs' labels. */
  readonly label: string;
}

/**
 * Inputs of a generator of several steps: from z, its own result at each level with noise up to the next (consistency
 * models' sampling; in training DMD2's backward simulation, Yin et al. 2024, arXiv 2405.14867).
 */
export class GeneratorInput {
  private constructor(
    /** The noisy images [N, C, H, W] that the next evaluation takes. */
    readonly images: Variable,
    private readonly levels: readonly number[],
    private readonly programs: readonly Program[],
  ) {}

  /** Compiles the beginning and the step to each later level. */
  static async create(settings: InputSettings): Promise<GeneratorInput> {
    const { weights, network = weights.network as DenoisingNetwork, levels, z, noise, conditions, label } = settings;
    const { workspace } = weights;
    const images = workspace.variable(`${label}.input`, z.shape);
    const batch = z.shape[0]!;
    const begin = await workspace.compile({ label: `${label}.begin`, updates: [[images, affine(z, levels[0]!, 0)]] });
    const programs = [begin];
    for (let i = 1; i < levels.length; i++) {
      const x = denoise(network, weights.lookup, images.tensor, sameSigma(levels[i - 1]!, batch), conditions);
      const next = addNoise(x, randomNormal(z.shape, noise(i)), sameSigma(levels[i]!, batch));
      programs.push(await workspace.compile({ label: `${label}.step${i}`, updates: [[images, next]] }));
    }
    return new GeneratorInput(images, levels, programs);
  }

  /** The runs that leave the input of level `index` in `images`; of `values` each takes those of its leaves. */
  runs(index: number, values: HostValues): Run[] {
    return this.programs.slice(0, index + 1).map((program) => program.at(program.taken(values)));
  }

  /** The level of a training step, each as likely as the others: its index. */
  indexAt(seed: Seed, step: number, stream: number): number {
    return Math.min(this.levels.length - 1, Math.floor(uniformAt(seed, step, 0, 0, stream) * this.levels.length));
  }

  /** Noise level number `index`. */
  level(index: number): number {
    return this.levels[index]!;
  }
}

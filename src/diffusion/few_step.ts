/** Generators of several steps: their noise levels, and the inputs that come about on the way. */

import {
  affine,
  constant,
  greater,
  type HostValues,
  mul,
  type Program,
  randomNormal,
  type RandomSource,
  type Run,
  sum,
  type Tensor,
  type Variable,
  where,
} from "../graph/mod.ts";
import { addNoise, denoise, KARRAS, karrasBetween, perSample, sameSigma } from "./edm.ts";
import { oneHot } from "./labels.ts";
import type { Conditions, DenoisingNetwork } from "../nn/network.ts";
import type { Weights } from "../optim/weights.ts";

/**
 * The noise levels of a generator of `steps` steps that starts at `sigmaInit`: Karras's spacing (ρ = 7) towards 0.002,
 * without its end.
 */
export function generatorLevels(sigmaInit: number, steps: number): number[] {
  const later = Array.from({ length: steps - 1 }, (_, i) => karrasBetween(sigmaInit, KARRAS.sigmaMin, (i + 1) / steps));
  return [sigmaInit, ...later];
}

/** The noise levels [N] with the indices `index` [N] of `levels`. */
export function levelsAt(levels: readonly number[], index: Tensor): Tensor {
  return sum(mul(oneHot(index, levels.length), constant(levels, [1, levels.length])), [1]);
}

/** What the inputs of a generator of several steps are made with. */
export interface InputSettings {
  /** The generator. */
  readonly weights: Weights;
  /** The same network as it is applied here; that of `weights` when absent. */
  readonly network?: DenoisingNetwork;
  /** Its noise levels, descending. */
  readonly levels: readonly number[];
  /** Index [N] of the level whose input is wanted, of each sample. */
  readonly index: Tensor;
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
    /** The noisy images [N, C, H, W] that the wanted evaluation takes. */
    readonly images: Variable,
    private readonly programs: readonly Program[],
  ) {}

  /** Compiles the beginning and the step to each later level, which leaves samples alone that are where they are wanted. */
  static async create(settings: InputSettings): Promise<GeneratorInput> {
    const { weights, network = weights.network as DenoisingNetwork, levels, index, z } = settings;
    const { noise, conditions, label } = settings;
    const { workspace } = weights;
    const images = workspace.variable(`${label}.input`, z.shape);
    const batch = z.shape[0]!;
    const begin = await workspace.compile({ label: `${label}.begin`, updates: [[images, affine(z, levels[0]!, 0)]] });
    const programs = [begin];
    for (let i = 1; i < levels.length; i++) {
      const x = denoise(network, weights.lookup, images.tensor, sameSigma(levels[i - 1]!, batch), conditions);
      const next = addNoise(x, randomNormal(z.shape, noise(i)), sameSigma(levels[i]!, batch));
      const wanted = perSample(greater(index, constant([i - 0.5], [1])));
      const updates = [[images, where(wanted, next, images.tensor)]] as const;
      programs.push(await workspace.compile({ label: `${label}.step${i}`, updates }));
    }
    return new GeneratorInput(images, programs);
  }

  /** The runs that leave the inputs in `images`; of `values` each takes those of its leaves. */
  runs(values: HostValues): Run[] {
    return this.programs.map((program) => program.at(program.taken(values)));
  }
}

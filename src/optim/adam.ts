/** The optimiser's step as a program: gradient norm, clipping, Adam and the moving average. */

import {
  adamEma,
  add,
  affine,
  clamp,
  concat,
  constant,
  div,
  gradients,
  host,
  isFinite,
  type Program,
  reachable,
  reshape,
  type Run,
  sqrt,
  sumSquares,
  type Tensor,
  type Variable,
} from "../graph/mod.ts";
import type { Trainable } from "./weights.ts";

/** A moving average of weights, by half-life in images as EDM's. */
export interface MovingAverage {
  /** Images after which the share of a weight's value in its average has halved. */
  readonly halfLife: number;
  /** The half-life is at most this share of the images seen, so that the average soon forgets the first weights. */
  readonly rampRatio: number;
}

/** The share of its old value that the average keeps at a step of `batch` images, after `seen` images. */
export function averageDecay({ halfLife, rampRatio }: MovingAverage, seen: number, batch: number): number {
  return 0.5 ** (batch / Math.min(halfLife, rampRatio * seen));
}

/** Settings of the optimiser. */
export interface AdamSettings {
  /** Images a step. */
  readonly batch: number;
  /** Decay of the first moment. */
  readonly beta1: number;
  /** Decay of the second moment. */
  readonly beta2: number;
  /** Moving average of the weights. */
  readonly ema: MovingAverage;
  /**
   * Largest norm of the gradient; a longer one is scaled down to it, and one that is not finite leaves weights, moments and
   * average untouched. 0: no limit, NaN in the gradient counts as 0 and ±∞ as ±1e5, as in EDM's training.
   */
  readonly clipNorm: number;
}

const EPSILON = 1e-8;

/** Adam with clipping and averaging for one network. */
export class Optimizer {
  private constructor(private readonly program: Program, private readonly settings: AdamSettings) {}

  /** Compiles the step. */
  static async create(network: Trainable, settings: AdamSettings): Promise<Optimizer> {
    const { workspace, name, values, m, v, ema, grad, lossScale } = network;
    const hyper = host("hyper", [4]);
    const chunks = values.flat.chunks.map((_, i) => i);
    const norms = chunks.map((i) => sumSquares(grad.flat.chunks[i]!.tensor));
    const squaredNorm = norms.reduce(add);
    const unscaled = (x: Tensor) => lossScale === 1 ? x : affine(x, 1 / lossScale, 0);
    const gradNorm = unscaled(sqrt(squaredNorm));
    const { beta1, beta2, clipNorm } = settings;
    const sanitise = clipNorm === 0;
    const one = constant([1], []);
    const clipping = sanitise ? one : clamp(div(constant([clipNorm], []), affine(gradNorm, 1, 1e-6)), 0, 1);
    const control = concat([unscaled(clipping), sanitise ? one : isFinite(squaredNorm)].map((x) => reshape(x, [1])), 0);
    const updates = chunks.flatMap((i) => {
      const state = [values, m, v, ema].map((part) => part.flat.chunks[i]!) as [Variable, Variable, Variable, Variable];
      const [p, m0, v0, ema0] = state.map(({ tensor }) => tensor) as [Tensor, Tensor, Tensor, Tensor];
      const next = adamEma(
        { p, m: m0, v: v0, ema: ema0, grad: grad.flat.chunks[i]!.tensor, hyper, control },
        { beta1, beta2, epsilon: EPSILON, weightDecay: 0, sanitise },
      );
      return state.map((variable, j) => [variable, next[j]!] as const);
    });
    const program = await workspace.compile({ label: `${name}.update`, updates, metrics: { gradNorm } });
    return new Optimizer(program, settings);
  }

  /** The step after `count` steps were made, with the given learning rate. */
  at(count: number, learningRate: number): Run {
    const { beta1, beta2, ema, batch } = this.settings;
    const decay = averageDecay(ema, count * batch, batch);
    return this.program.at({ hyper: [learningRate, 1 - beta1 ** (count + 1), 1 - beta2 ** (count + 1), decay] });
  }

  /** Norms of the gradients (before clipping) of the steps since the last call. */
  async readGradNorms(): Promise<number[]> {
    return (await this.program.readMetrics()).map(({ gradNorm }) => gradNorm![0]!);
  }
}

/**
 * The updates that write the gradient of the sum of the scalars `ys`, or of `ys` with the cotangents `seeds`, into
 * `network.grad`, or into its microbatch's: times the loss scale. What is not trained, and what `ys` do not depend on
 * (conditions that are not given), is left out: its gradient stays 0.
 */
export function gradientUpdates(
  network: Trainable,
  ys: readonly Tensor[],
  seeds?: readonly Tensor[],
): (readonly [Variable, Tensor])[] {
  const used = new Set(reachable(ys));
  const names = network.network.parameters
    .filter(({ name, trained }) => trained !== false && used.has(network.values.lookup(name).node))
    .map(({ name }) => name);
  const { lossScale } = network;
  const cotangents = lossScale === 1
    ? seeds
    : (seeds ?? ys.map((y) => constant([1], y.shape))).map((seed) => affine(seed, lossScale, 0));
  const grads = gradients(ys, names.map(network.values.lookup), cotangents ? { seeds: cotangents } : {});
  const { grad } = network.microbatches ?? network;
  return names.map((name, i) => [grad.flat.slices.get(name)!, grads[i]!] as const);
}

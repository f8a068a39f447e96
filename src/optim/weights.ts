/** A network's weights on the device: by name for graphs, flat for the optimiser, as tensors for files. */

import { GraphError } from "../gpu/errors.ts";
import { normalArray, philox4x32, type Seed } from "../data/philox.ts";
import { elementCount, type FlatLayout, flatLayout, type FlatVariable, type Workspace } from "../graph/mod.ts";
import type { ParameterLookup, ParameterSpec } from "../nn/layers.ts";
import type { Network } from "../nn/network.ts";

/** Weights by parameter name, in host memory. */
export type WeightArrays = ReadonlyMap<string, Float32Array>;

/** Stream of initial weights: above every stream of a training step. */
const INIT_STREAM = 0x10000;

/** One set of values of a network's parameters on the device. */
export class Weights {
  /** Where each parameter lies. */
  readonly layout: FlatLayout;
  /** The values. */
  readonly flat: FlatVariable;
  /** The values by name, as graph leaves. */
  readonly lookup: ParameterLookup;

  /** Makes zeroed weights for `network`. */
  constructor(readonly workspace: Workspace, readonly name: string, readonly network: Network) {
    this.layout = flatLayout(network.parameters);
    this.flat = workspace.flat(name, this.layout);
    this.lookup = (parameter) => {
      const slice = this.flat.slices.get(parameter);
      if (!slice) throw new GraphError(`${name} has no parameter ${parameter}.`);
      return slice.tensor;
    };
  }

  /** Number of parameters. */
  get count(): number {
    return this.network.parameters.reduce((total, { shape }) => total + elementCount(shape), 0);
  }

  /** Writes every parameter; the names and sizes must be the network's. */
  write(arrays: WeightArrays): void {
    this.layout.chunks.forEach((elements, chunk) => {
      const data = new Float32Array(elements);
      for (const { name, shape, chunk: own, offset } of this.layout.slices) {
        if (own !== chunk) continue;
        const values = arrays.get(name);
        if (values?.length !== elementCount(shape)) {
          throw new GraphError(`${this.name} expects ${elementCount(shape)} values of ${name}.`);
        }
        data.set(values, offset);
      }
      this.flat.chunks[chunk]!.write(data);
    });
  }

  /** Splits the flat chunks, as read from the device, into parameters. */
  split(chunks: readonly Float32Array<ArrayBuffer>[]): Map<string, Float32Array<ArrayBuffer>> {
    return new Map(this.layout.slices.map(({ name, shape, chunk, offset }) => [
      name,
      chunks[chunk]!.slice(offset, offset + elementCount(shape)),
    ]));
  }

  /** Reads every parameter. */
  async read(): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    return this.split(await this.workspace.read(this.flat.chunks) as Float32Array<ArrayBuffer>[]);
  }
}

/** What a network's training has beside the rest where a step's gradient is summed over several microbatches. */
export interface Microbatches {
  /** Their number. */
  readonly count: number;
  /** The gradient of one of them. */
  readonly grad: Weights;
}

/**
 * A loss scale for networks of f16 whose losses are means over `images`: a factor on the cotangents that enter them, so
 * that what becomes of those inside fits f16, whose numbers end at 65504 and lose digits below 6e-5, the last at 6e-8.
 *
 * The largest cotangents of the digits' UNets are 2/images times an error of a few units: 0.18 with 64 images, where this
 * is 16384 and makes them 2900. Unscaled, 28 % of them all lay below 6e-5 after 50 steps of a teacher and 71 % after 20
 * of a classifier; scaled, 0.01 % and 0.09 %. In the very first steps, where residual branches start silent, much remains
 * below. An overflow makes the gradient's norm infinite.
 */
export function f16LossScale(images: number): number {
  return 2 ** (8 + Math.round(Math.log2(images))); // a power of two: dividing by it again rounds nothing
}

/** A network that is trained: weights, gradient, Adam's moments and the moving average of the weights. */
export class Trainable {
  /** The weights that are trained. */
  readonly values: Weights;
  /** The exponential moving average of the weights. */
  readonly ema: Weights;
  /** Adam's first moments. */
  readonly m: Weights;
  /** Adam's second moments. */
  readonly v: Weights;
  /** The gradient of the current step, times the loss scale. */
  readonly grad: Weights;
  /** Absent where a step is one batch. */
  readonly microbatches: Microbatches | undefined;

  /** Makes zeroed state for `network`, whose steps are sums over `microbatches` of equal size. */
  constructor(
    readonly workspace: Workspace,
    readonly name: string,
    readonly network: Network,
    microbatches = 1,
    /** Factor on the gradient until the optimiser divides by it; see {@linkcode f16LossScale}. */
    readonly lossScale: number = 1,
  ) {
    const make = (part: string) => new Weights(workspace, `${name}.${part}`, network);
    this.values = make("values");
    this.ema = make("ema");
    this.m = make("m");
    this.v = make("v");
    this.grad = make("grad");
    this.microbatches = microbatches === 1 ? undefined : { grad: make("microbatch"), count: microbatches };
  }

  /** Runs of a program that computes gradients in a step. */
  get runsAStep(): number {
    return this.microbatches?.count ?? 1;
  }

  /**
   * Images a program handles at once where a step has `batch`.
   *
   * @throws {GraphError} where the microbatches do not divide the batch.
   */
  imagesAtOnce(batch: number): number {
    const images = batch / this.runsAStep;
    if (!Number.isInteger(images)) {
      throw new GraphError(`The ${this.runsAStep} microbatches of ${this.name} do not divide ${batch} images.`);
    }
    return images;
  }

  /** What a checkpoint holds of it, in order. */
  get state(): readonly [Weights, Weights, Weights, Weights] {
    return [this.values, this.ema, this.m, this.v];
  }

  /** Starts from `arrays`: weights and average equal, moments as they are. */
  start(arrays: WeightArrays): void {
    this.values.write(arrays);
    this.ema.write(arrays);
  }
}

/** A network's initial weights, the same for the same seed on every machine. */
export function initialWeights(
  parameters: readonly ParameterSpec[],
  seed: Seed,
): Map<string, Float32Array<ArrayBuffer>> {
  return new Map(parameters.map(({ name, shape, init }, index) => {
    const values = new Float32Array(elementCount(shape));
    if (init.kind === "constant") values.fill(init.value);
    else if (init.kind === "normal") {
      normalArray(seed, index, 0, 1, values.length, INIT_STREAM).forEach((value, i) => values[i] = init.std * value);
    } else {
      for (let i = 0; i < values.length; i += 4) {
        const words = philox4x32([i / 4, 0, index, INIT_STREAM], seed);
        for (let j = 0; j < 4 && i + j < values.length; j++) {
          values[i + j] = ((words[j]! + 0.5) / 2 ** 32 * 2 - 1) * init.bound;
        }
      }
    }
    return [name, values];
  }));
}

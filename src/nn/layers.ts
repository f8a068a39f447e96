/** Layers: they declare their parameters once and apply them to tensors. */

import { GraphError } from "../gpu/errors.ts";
import {
  add,
  conv2d as conv2dOp,
  type Conv2dOptions,
  elementCount,
  groupNorm,
  type GroupNormOptions,
  matmul,
  type Shape,
  type Tensor,
} from "../graph/mod.ts";

/** How a parameter starts: a constant, uniform in ±bound, or normal with mean 0. */
export type Init =
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "uniform"; readonly bound: number }
  | { readonly kind: "normal"; readonly std: number };

/** A parameter of a network. */
export interface ParameterSpec {
  /** Dotted name, as in a PyTorch state dict. */
  readonly name: string;
  /** Extents. */
  readonly shape: Shape;
  /** Its first values. */
  readonly init: Init;
  /** False where it is stored with the others but stays as it starts. */
  readonly trained?: false;
}

/** Number of values that are trained. */
export function parameterCount(parameters: readonly ParameterSpec[]): number {
  return parameters.reduce((total, { shape, trained }) => trained === false ? total : total + elementCount(shape), 0);
}

/** Gives a network's parameter by name, from whichever set of weights is wanted. */
export type ParameterLookup = (name: string) => Tensor;

/** Collects the parameters a network declares, in order. */
export class ParameterList {
  /** What was declared. */
  readonly specs: ParameterSpec[] = [];

  /** Declares a parameter and returns its name. */
  add(name: string, shape: Shape, init: Init): string {
    this.specs.push({ name, shape, init });
    return name;
  }

  /** Declares what is stored but not trained and returns its name. */
  addFixed(name: string, shape: Shape, init: Init): string {
    this.specs.push({ name, shape, init, trained: false });
    return name;
  }
}

const ZEROS: Init = { kind: "constant", value: 0 };
const ONES: Init = { kind: "constant", value: 1 };

/** Xavier-uniform (Glorot & Bengio 2010) times `scale`. */
function xavier(fanIn: number, fanOut: number, scale: number): Init {
  return { kind: "uniform", bound: scale * Math.sqrt(6 / (fanIn + fanOut)) };
}

/** Fully connected layer: [N, in] → [N, out]. */
export class Linear {
  private readonly weight: string;
  private readonly bias: string | undefined;

  /** Declares `name.weight` [out, in] and, unless `bias` is false, `name.bias` [out]. */
  constructor(
    list: ParameterList,
    name: string,
    inputs: number,
    outputs: number,
    { bias = true }: { readonly bias?: boolean } = {},
  ) {
    this.weight = list.add(`${name}.weight`, [outputs, inputs], xavier(inputs, outputs, 1));
    this.bias = bias ? list.add(`${name}.bias`, [outputs], ZEROS) : undefined;
  }

  /** x Wᵀ + b */
  apply(p: ParameterLookup, x: Tensor): Tensor {
    const product = matmul(x, p(this.weight), { transposeB: true });
    return this.bias === undefined ? product : add(product, p(this.bias));
  }
}

/** Convolution with bias, padding (kernel − 1)/2. */
export class Conv2d {
  private readonly weight: string;
  private readonly bias: string;
  private readonly stride: 1 | 2;

  /** Declares `name.weight` [out, in, k, k] and `name.bias` [out]; `initScale` multiplies the initial weights. */
  constructor(
    list: ParameterList,
    name: string,
    inChannels: number,
    outChannels: number,
    options: { readonly kernel: 1 | 3; readonly stride?: 1 | 2; readonly initScale?: number },
  ) {
    const { kernel, stride = 1, initScale = 1 } = options;
    const init = xavier(inChannels * kernel * kernel, outChannels * kernel * kernel, initScale);
    this.weight = list.add(`${name}.weight`, [outChannels, inChannels, kernel, kernel], init);
    this.bias = list.add(`${name}.bias`, [outChannels], ZEROS);
    this.stride = stride;
  }

  /** [N, in, H, W] → [N, out, H/stride, W/stride]; `after` is done in the same kernel. */
  apply(p: ParameterLookup, x: Tensor, after: Omit<Conv2dOptions, "stride"> = {}): Tensor {
    return conv2dOp(x, p(this.weight), p(this.bias), { stride: this.stride, ...after });
  }
}

/** Group norm with min(32, C/4) groups and ε = 1e-6, as EDM's networks have it. */
export class GroupNorm {
  private readonly weight: string;
  private readonly bias: string;
  private readonly groups: number;

  /**
   * Declares `name.weight` and `name.bias` [channels].
   *
   * @throws {GraphError} where the groups do not divide the channels.
   */
  constructor(list: ParameterList, name: string, channels: number) {
    this.weight = list.add(`${name}.weight`, [channels], ONES);
    this.bias = list.add(`${name}.bias`, [channels], ZEROS);
    this.groups = Math.max(1, Math.min(32, Math.floor(channels / 4)));
    if (channels % this.groups !== 0) {
      throw new GraphError(`${name} cannot split ${channels} channels into ${this.groups} groups.`);
    }
  }

  /** Normalises [N, C, …]; `after` is done in the same kernel. */
  apply(p: ParameterLookup, x: Tensor, after: Omit<GroupNormOptions, "groups" | "eps">): Tensor {
    return groupNorm(x, p(this.weight), p(this.bias), { groups: this.groups, eps: 1e-6, ...after });
  }
}

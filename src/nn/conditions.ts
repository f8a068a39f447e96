/** How networks take what they are told beside the image and the noise level. */

import {
  affine,
  constant,
  greater,
  mul,
  type RandomSource,
  randomUniform,
  shapeText,
  type Tensor,
} from "../graph/mod.ts";
import { GraphError } from "../gpu/errors.ts";
import { Linear, type ParameterList, type ParameterLookup } from "./layers.ts";
import type { Conditions } from "./network.ts";

/** Gives the source of the next random numbers of one application of the network; none where it is not in training. */
export type Draws = (() => RandomSource) | undefined;

/** Counts the random uses of one application. */
export function drawsOf({ random }: Conditions): Draws {
  let uses = 0;
  return random && (() => random(uses++));
}

/** Settings of a network's classes. */
export interface LabelSettings {
  /** Length of a sample's class label, a one-hot vector; 0, when absent, without classes. */
  readonly labelDim?: number;
  /** Share of the labels that training drops; 0 when absent. */
  readonly labelDropout?: number;
}

/** Class labels [N, labelDim] → [N, channels], which is added to the embedding of the noise level. */
export class LabelEmbedding {
  private readonly linear: Linear;
  private readonly labelDim: number;
  private readonly labelDropout: number;

  /** Declares `name`, for classes that there are. */
  constructor(list: ParameterList, name: string, { labelDim = 0, labelDropout = 0 }: LabelSettings, channels: number) {
    this.linear = new Linear(list, name, labelDim, channels);
    this.labelDim = labelDim;
    this.labelDropout = labelDropout;
  }

  /** Zeros, "no class", where there are no labels; `draw` in training. */
  apply(p: ParameterLookup, labels: Tensor | undefined, samples: number, draw: Draws): Tensor {
    expectCondition("labels", labels, samples, this.labelDim);
    const given = labels ?? constant(new Float32Array(samples * this.labelDim), [samples, this.labelDim]);
    return this.linear.apply(p, affine(this.drop(given, draw), Math.sqrt(this.labelDim), 0));
  }

  private drop(labels: Tensor, draw: Draws): Tensor {
    if (!draw || this.labelDropout === 0) return labels;
    const kept = greater(randomUniform([labels.shape[0]!, 1], draw()), constant([this.labelDropout], []));
    return mul(labels, kept);
  }
}

/** Throws unless a condition is absent or a vector of `length` elements for each of the samples. */
export function expectCondition(name: string, value: Tensor | undefined, samples: number, length: number): void {
  if (!value || (value.shape.length === 2 && value.shape[0] === samples && value.shape[1] === length)) return;
  const wanted = length > 0 ? `[${samples}, ${length}]` : "none";
  throw new GraphError(`A network expects ${name} of the shape ${wanted}; got ${shapeText(value.shape)}.`);
}

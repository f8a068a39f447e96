/** How networks take what they are told beside the image and the noise level. */

import {
  add,
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
export type NextRandom = (() => RandomSource) | undefined;

/** Counts the random uses of one application. */
export function nextRandom({ random }: Conditions): NextRandom {
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

/** Class labels [N, labelDim] → [N, channels], for networks with classes and without. */
export class LabelEmbedding {
  private readonly linear: Linear | undefined;
  private readonly labelDim: number;
  private readonly labelDropout: number;

  /** Declares `name` where there are classes. */
  constructor(list: ParameterList, name: string, { labelDim = 0, labelDropout = 0 }: LabelSettings, channels: number) {
    this.linear = labelDim > 0 ? new Linear(list, name, labelDim, channels) : undefined;
    this.labelDim = labelDim;
    this.labelDropout = labelDropout;
  }

  /** The embedding [N, channels] with that of the labels added; of zeros, "no class", where there are none. */
  addTo(p: ParameterLookup, embedding: Tensor, labels: Tensor | undefined, next: NextRandom): Tensor {
    const { linear, labelDim } = this, samples = embedding.shape[0]!;
    expectCondition("labels", labels, samples, labelDim);
    if (!linear) return embedding;
    const given = labels ?? constant(new Float32Array(samples * labelDim), [samples, labelDim]);
    return add(embedding, linear.apply(p, affine(this.drop(given, next), Math.sqrt(labelDim), 0)));
  }

  private drop(labels: Tensor, next: NextRandom): Tensor {
    if (!next || this.labelDropout === 0) return labels;
    const kept = greater(randomUniform([labels.shape[0]!, 1], next()), constant([this.labelDropout], []));
    return mul(labels, kept);
  }
}

/** Throws unless a condition is absent or a vector of `length` elements for each of the samples. */
export function expectCondition(name: string, value: Tensor | undefined, samples: number, length: number): void {
  if (!value || (value.shape.length === 2 && value.shape[0] === samples && value.shape[1] === length)) return;
  const wanted = length > 0 ? `[${samples}, ${length}]` : "none";
  throw new GraphError(`A network expects ${name} of the shape ${wanted}; got ${shapeText(value.shape)}.`);
}

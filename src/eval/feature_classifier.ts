/** The small convolutional classifier whose last hidden layer gives the features of a data set. */

import { relu, reshape, type Tensor } from "../graph/mod.ts";
import { Conv2d, Linear, ParameterList, type ParameterLookup, type ParameterSpec } from "../nn/layers.ts";

/** Features an image has. */
export const FEATURES = 64;

/** Channels of the first convolution; each further one has twice as many, up to {@linkcode FEATURES}. */
const FIRST_CHANNELS = 16;

/** Side of the maps that the last hidden layer sees, at most. */
const LAST_SIDE = 4;

/** Settings of {@linkcode FeatureClassifier}. */
export interface FeatureClassifierConfig {
  /** Channels of the images. */
  readonly channels: number;
  /** Height and width of the images. */
  readonly side: number;
  /** Number of classes. */
  readonly classes: number;
}

/**
 * 3x3 convolutions, strided until the maps are 4x4, then one more and a hidden layer of 64, all with ReLU. There is no
 * normalisation: what an image's brightness and contrast are should show in its features.
 */
export class FeatureClassifier {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
  private readonly convolutions: readonly Conv2d[];
  private readonly hidden: Linear;
  private readonly last: Linear;

  /** Declares the network. */
  constructor({ channels, side, classes }: FeatureClassifierConfig) {
    const list = new ParameterList();
    const convolutions: Conv2d[] = [];
    let inChannels = channels;
    const append = (stride: 1 | 2) => {
      const outChannels = Math.min(FEATURES, FIRST_CHANNELS << convolutions.length);
      // From Glorot's law, which the layer has, to He's: ReLU halves the variance.
      const initScale = Math.sqrt(1 + outChannels / inChannels);
      const name = `conv${convolutions.length + 1}`;
      convolutions.push(new Conv2d(list, name, inChannels, outChannels, { kernel: 3, stride, initScale }));
      inChannels = outChannels;
    };
    if (side < 4 * LAST_SIDE) append(1);
    for (; side > LAST_SIDE; side = Math.ceil(side / 2)) append(2);
    append(1);
    this.convolutions = convolutions;
    this.hidden = new Linear(list, "fc1", inChannels * side * side, FEATURES);
    this.last = new Linear(list, "fc2", FEATURES, classes);
    this.parameters = list.specs;
  }

  /** Images [N, C, H, W] in data units → features [N, 64]. */
  features(p: ParameterLookup, x: Tensor): Tensor {
    const maps = this.convolutions.reduce((h, conv) => relu(conv.apply(p, h)), x);
    return relu(this.hidden.apply(p, reshape(maps, [x.shape[0]!, -1])));
  }

  /** Features [N, 64] → logits [N, classes]. */
  logits(p: ParameterLookup, features: Tensor): Tensor {
    return this.last.apply(p, features);
  }
}

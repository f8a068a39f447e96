/** What the networks have in common, whatever their architecture. */

import type { RandomSource, Tensor } from "../graph/mod.ts";
import type { ParameterLookup, ParameterSpec } from "./layers.ts";
import type { NetworkConfig } from "./networks.ts";
import type { Preconditioning } from "./preconditioning.ts";

/** Something with declared parameters. */
export interface Network {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
}

/** What a denoising network is told beside the image and the noise level. */
export interface Conditions {
  /** Class labels [N, labelDim], one-hot; all zero, "no class", when absent. */
  readonly labels?: Tensor | undefined;
  /** Augmentation labels [N, augmentDim]; "not augmented" when absent. */
  readonly augment?: Tensor | undefined;
  /**
   * Present in training: the source of the network's random use number 0, 1, …, each a stream of its own, for dropout of
   * activations and labels.
   */
  readonly random?: ((use: number) => RandomSource) | undefined;
}

/** What a network's encoder finds on the way, for classifiers that read it. */
export interface Features {
  /** The last map of each resolution, full resolution first: [N, C, H, W], in the network's precision. */
  readonly levels: readonly Tensor[];
  /** The map between encoder and decoder. */
  readonly bottleneck: Tensor;
}

/** Channels of each of the {@linkcode Features}. */
export interface FeatureChannels {
  /** Of each level. */
  readonly levels: readonly number[];
  /** Of the map between encoder and decoder. */
  readonly bottleneck: number;
}

/** A network that a preconditioning makes a denoiser of. */
export interface DenoisingNetwork extends Network {
  /** Its settings. */
  readonly config: NetworkConfig;
  /** What surrounds it. */
  readonly preconditioning: Preconditioning;
  /** `x` [N, C, H, W] and `noise` [N], both as the preconditioning gives them → [N, C, H, W]. */
  apply(p: ParameterLookup, x: Tensor, noise: Tensor, conditions?: Conditions): Tensor;
  /** Channels of the features that {@linkcode run} gives. */
  readonly featureChannels: FeatureChannels;
  /** The same with what the encoder found on the way. */
  run(p: ParameterLookup, x: Tensor, noise: Tensor, conditions?: Conditions): NetworkRun;
}

/** What one application of a network gives; what of it is not used is not computed. */
export interface NetworkRun {
  /** [N, C, H, W] */
  readonly output: Tensor;
  /** See the type. */
  readonly features: Features;
}

/** How a network stores what it computes; see {@linkcode NetworkOptions}. */
export type Precision = typeof PRECISIONS[number];

/** All of them. */
export const PRECISIONS = ["f32", "f16"] as const;

/** How a network runs; its function and its parameters are the same. */
export interface NetworkOptions {
  /**
   * How activations and their gradients, and the weights that convolutions multiply with, are stored; f32 when absent.
   * Whatever it is: sums are f32, and so are the parameters, their gradients, statistics, the noise embedding, and what
   * enters and leaves the network.
   */
  readonly precision?: Precision;
  /** Backward passes compute the inside of a block again instead of keeping it (`checkpoint`). */
  readonly checkpointBlocks?: boolean;
}

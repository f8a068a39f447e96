/** Networks that denoise, made of their settings. */

import type { DenoisingNetwork, NetworkOptions } from "./network.ts";
import { EDM_PRECONDITIONING, type Preconditioning } from "./preconditioning.ts";
import { SongUNet, type SongUNetConfig } from "./song_unet.ts";
import { UNet, type UNetConfig } from "./unet.ts";

/** Settings of a network that denoises; `architecture` tells which, and a UNet's may lack it. */
export type NetworkConfig = UNetConfig | SongUNetConfig;

/** What a denoiser is made of. */
export interface DenoiserConfig {
  /** The network. */
  readonly network: NetworkConfig;
  /** What surrounds it; EDM's, as for every UNet, when absent. */
  readonly preconditioning?: Preconditioning;
}

/** Makes a network. */
export function createNetwork(config: DenoiserConfig, options: NetworkOptions = {}): DenoisingNetwork {
  const { network, preconditioning = EDM_PRECONDITIONING } = config;
  return network.architecture === "song-unet"
    ? new SongUNet(network, { ...options, preconditioning })
    : new UNet(network, { ...options, preconditioning });
}

/** Size of a network's images. */
export function imageSize(config: NetworkConfig): { readonly imageChannels: number; readonly resolution: number } {
  const { resolution } = config;
  return { imageChannels: config.architecture === "song-unet" ? config.inChannels : config.imageChannels, resolution };
}

/** Lengths of the labels that a network takes; 0 for none. */
export function conditionSizes(config: NetworkConfig): { readonly labelDim: number; readonly augmentDim: number } {
  return config.architecture === "song-unet" ? config : { labelDim: config.labelDim ?? 0, augmentDim: 0 };
}

/** Settings of the classifier that goes with a network: of its resolution, channels, multipliers and classes. */
export function classifierConfig(config: NetworkConfig): UNetConfig {
  if (config.architecture !== "song-unet") return config;
  const { inChannels: imageChannels, resolution, modelChannels, channelMult, numBlocks: blocks, labelDim } = config;
  return { imageChannels, resolution, modelChannels, channelMult, blocks, labelDim };
}

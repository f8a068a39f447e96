/** What the settings of a network may be, in files. */

import { GraphError } from "../gpu/errors.ts";
import { createNetwork, type NetworkConfig } from "../nn/networks.ts";
import { choice, type Fail, list, number, type Rule, type Rules, whole } from "./settings.ts";

// Limits far above any network of this kind: a foreign file must not make us declare billions of parameters.
const channels = whole({ min: 4, max: 4096 }), blocks = whole({ min: 1, max: 32 });
const multiplier = whole({ min: 1, max: 64 }), levels = list(multiplier, { min: 1, max: 8 });
const resolution = whole({ min: 2, max: 4096 }), imageChannels = whole({ min: 1, max: 64 });
const labelDim = whole({ min: 0, max: 65_536 }), share = number({ min: 0, below: 1 });
const dropped = number({ min: 0, max: 1 });
const optional = (rule: Rule): Rule => ({ ...rule, optional: true });

/** Rules by architecture: of what is chosen, and of what the images decide. */
export const NETWORK_RULES: Readonly<
  Record<Exclude<NetworkConfig["architecture"], undefined>, { readonly chosen: Rules; readonly images: Rules }>
> = {
  "unet": {
    chosen: {
      architecture: choice(["unet"]),
      modelChannels: channels,
      channelMult: levels,
      blocks,
      labelDropout: optional(dropped),
    },
    images: { imageChannels, resolution, labelDim: optional(labelDim) },
  },
  "song-unet": {
    chosen: {
      architecture: choice(["song-unet"]),
      modelChannels: channels,
      channelMult: levels,
      channelMultEmb: multiplier,
      numBlocks: blocks,
      attnResolutions: list(whole({ min: 1 }), { max: 16 }),
      dropout: share,
      labelDropout: dropped,
      embeddingType: choice(["positional", "fourier"]),
      channelMultNoise: multiplier,
      encoderType: choice(["standard", "skip", "residual"]),
      decoderType: choice(["standard", "skip"]),
      resampleFilter: list(number({}), { min: 2, max: 4 }),
    },
    images: { resolution, inChannels: imageChannels, outChannels: imageChannels, labelDim, augmentDim: labelDim },
  },
};

const positive = number({ above: 0 });

/** Calls `fail` where settings, each as its rule says, do not make a network. */
export function checkNetwork(network: NetworkConfig, fail: Fail): void {
  const { resolution, channelMult, modelChannels } = network;
  if (resolution % 2 ** (channelMult.length - 1) !== 0) {
    fail(
      `the resolution ${resolution} does not halve ${
        channelMult.length - 1
      } times, as ${channelMult.length} levels need`,
    );
  }
  if (modelChannels % 4 !== 0) {
    fail(`the field "network.modelChannels" should be a multiple of 4, not ${modelChannels}`);
  }
  if (network.architecture === "song-unet") {
    const { resampleFilter, inChannels, outChannels } = network;
    if (resampleFilter.length % 2 !== 0 || resampleFilter.reduce((a, b) => a + b) === 0) {
      fail('the field "network.resampleFilter" should be 2 or 4 numbers whose sum is not 0');
    }
    if (outChannels !== inChannels) fail(`the field "network.outChannels" should be ${inChannels}, as many as go in`);
  }
  try {
    createNetwork({ network });
  } catch (error) {
    if (!(error instanceof GraphError)) throw error;
    fail(`no network can be made of these settings: ${error.message.replace(/\.$/, "")}`);
  }
}

/** Rules of a preconditioning by its kind. */
export const PRECONDITIONING_RULES: Readonly<Record<string, Rules>> = {
  edm: { kind: choice(["edm"]), sigmaData: positive },
  vp: {
    kind: choice(["vp"]),
    betaD: positive,
    betaMin: number({ min: 0 }),
    M: number({ above: 1 }),
    epsilonT: number({ above: 0, below: 1 }),
  },
  ve: { kind: choice(["ve"]) },
};

/** The entry that the value of the setting `field` names; calls `fail` where there is none of that name. */
export function entryOf<T>(table: Readonly<Record<string, T>>, field: string, name: unknown, fail: Fail): T {
  if (!Object.hasOwn(table, String(name))) {
    fail(`the field "${field}" should be one of ${Object.keys(table).join(", ")}`);
  }
  return table[String(name)]!;
}

/** What the settings of a network may be, in files. */

import type { NetworkConfig } from "../nn/networks.ts";
import { choice, list, number, type Rules, whole } from "./settings.ts";

// Limits far above any network of this kind: a foreign file must not make us declare billions of parameters.
const channels = whole({ min: 4, max: 4096 }), blocks = whole({ min: 1, max: 32 });
const multiplier = whole({ min: 1, max: 64 }), levels = list(multiplier, { min: 1, max: 8 });
const resolution = whole({ min: 2, max: 4096 }), imageChannels = whole({ min: 1, max: 64 });
const labelDim = whole({ min: 0, max: 65_536 }), share = number({ min: 0, below: 1 });

/** Rules by architecture: of what is chosen, and of what the images decide. */
export const NETWORK_RULES: Readonly<
  Record<Exclude<NetworkConfig["architecture"], undefined>, { readonly chosen: Rules; readonly images: Rules }>
> = {
  "unet": {
    chosen: { architecture: choice(["unet"]), modelChannels: channels, channelMult: levels, blocks },
    images: { imageChannels, resolution },
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
      labelDropout: number({ min: 0, max: 1 }),
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

/** Rules of a preconditioning by its kind. */
export const PRECONDITIONING_RULES: Readonly<Record<string, Rules>> = {
  edm: { kind: choice(["edm"]), sigmaData: positive },
  vp: { kind: choice(["vp"]), betaD: positive, betaMin: positive, M: positive, epsilonT: positive },
  ve: { kind: choice(["ve"]) },
};

/** The rules that belong to `name`, or a rule that asks for one of the names there are. */
export function rulesFor(rules: Readonly<Record<string, Rules>>, field: string, name: unknown): Rules {
  return Object.hasOwn(rules, String(name)) ? rules[String(name)]! : { [field]: choice(Object.keys(rules)) };
}

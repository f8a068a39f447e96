/** Checks of a network's settings that come from a file. */

import { GraphError } from "../gpu/errors.ts";
import { createNetwork, type NetworkConfig } from "../nn/networks.ts";
import type { Preconditioning } from "../nn/preconditioning.ts";
import type { SongUNetConfig } from "../nn/song_unet.ts";
import type { UNetConfig } from "../nn/unet.ts";

/** Throws an error that says what a field should be. */
export type Fail = (field: string, expected: string) => never;

/** Limits far above any network of this kind: a foreign file must not make us declare billions of parameters. */
const MAX_IMAGE_CHANNELS = 64,
  MAX_RESOLUTION = 4096,
  MAX_CHANNELS = 4096,
  MAX_MULT = 64,
  MAX_LEVELS = 8,
  MAX_BLOCKS = 32,
  MAX_LABELS = 100_000;

/** Reads the fields of an object of unknown content, naming those that are not as they should be. */
class Fields {
  constructor(
    private readonly values: Readonly<Record<string, unknown>>,
    private readonly prefix: string,
    private readonly fail: Fail,
  ) {}

  whole(field: string, min: number, max: number): number {
    const value = this.values[field];
    const fits = Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
    return fits ? value as number : this.wrong(field, `a whole number from ${min} to ${max}`);
  }

  number(field: string, fits: (value: number) => boolean, expected: string): number {
    const value = this.values[field];
    return typeof value === "number" && Number.isFinite(value) && fits(value) ? value : this.wrong(field, expected);
  }

  list(field: string, fits: (values: readonly number[]) => boolean, expected: string): number[] {
    const value = this.values[field];
    const numbers = Array.isArray(value) && value.every((v) => typeof v === "number" && Number.isFinite(v));
    return numbers && fits(value) ? value : this.wrong(field, expected);
  }

  wholes(field: string, count: readonly [number, number], max: number): number[] {
    return this.list(
      field,
      (values) =>
        values.length >= count[0] && values.length <= count[1] &&
        values.every((value) => Number.isInteger(value) && value >= 1 && value <= max),
      "a list of whole numbers",
    );
  }

  choice<T extends string>(field: string, choices: readonly T[]): T {
    const value = choices.find((choice) => choice === this.values[field]);
    return value ?? this.wrong(field, choices.join(" or "));
  }

  wrong(field: string, expected: string): never {
    return this.fail(`${this.prefix}.${field}`, expected);
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

/** The settings of a network; those of a UNet may lack the field `architecture`. */
export function checkNetwork(value: unknown, fail: Fail): NetworkConfig {
  const values = isObject(value) ? value : {};
  const fields = new Fields(values, "network", fail);
  const architecture = values.architecture === undefined
    ? "unet"
    : fields.choice("architecture", ["unet", "song-unet"]);
  const config = architecture === "unet" ? checkUNet(fields) : checkSongUNet(fields);
  if (config.resolution % 2 ** (config.channelMult.length - 1) !== 0 || config.modelChannels % 4 !== 0) {
    fail("network", "a UNet whose resolution halves evenly and whose channels are a multiple of 4");
  }
  try {
    createNetwork({ network: config });
  } catch (error) {
    if (!(error instanceof GraphError)) throw error;
    fail("network", `a network that can be built (${error.message.replace(/\.$/, "")})`);
  }
  return config;
}

function checkUNet(fields: Fields): UNetConfig {
  return {
    imageChannels: fields.whole("imageChannels", 1, MAX_IMAGE_CHANNELS),
    resolution: fields.whole("resolution", 1, MAX_RESOLUTION),
    modelChannels: fields.whole("modelChannels", 1, MAX_CHANNELS),
    channelMult: fields.wholes("channelMult", [1, MAX_LEVELS], MAX_MULT),
    blocks: fields.whole("blocks", 1, MAX_BLOCKS),
  };
}

function checkSongUNet(fields: Fields): SongUNetConfig {
  const share = (field: string) => fields.number(field, (p) => p >= 0 && p < 1, "a number from 0 to below 1");
  const inChannels = fields.whole("inChannels", 1, MAX_IMAGE_CHANNELS);
  return {
    architecture: "song-unet",
    resolution: fields.whole("resolution", 1, MAX_RESOLUTION),
    inChannels,
    outChannels: fields.whole("outChannels", inChannels, inChannels),
    labelDim: fields.whole("labelDim", 0, MAX_LABELS),
    augmentDim: fields.whole("augmentDim", 0, MAX_LABELS),
    modelChannels: fields.whole("modelChannels", 1, MAX_CHANNELS),
    channelMult: fields.wholes("channelMult", [1, MAX_LEVELS], MAX_MULT),
    channelMultEmb: fields.whole("channelMultEmb", 1, MAX_MULT),
    numBlocks: fields.whole("numBlocks", 1, MAX_BLOCKS),
    attnResolutions: fields.wholes("attnResolutions", [0, MAX_LEVELS], MAX_RESOLUTION),
    dropout: share("dropout"),
    labelDropout: share("labelDropout"),
    embeddingType: fields.choice("embeddingType", ["positional", "fourier"]),
    channelMultNoise: fields.whole("channelMultNoise", 1, MAX_MULT),
    encoderType: fields.choice("encoderType", ["standard", "skip", "residual"]),
    decoderType: fields.choice("decoderType", ["standard", "skip"]),
    resampleFilter: fields.list(
      "resampleFilter",
      (taps) => (taps.length === 2 || taps.length === 4) && taps.reduce((a, b) => a + b, 0) !== 0,
      "2 or 4 numbers whose sum is not 0",
    ),
  };
}

/** What surrounds a network; undefined, for EDM's with its constant, where nothing is said. */
export function checkPreconditioning(value: unknown, fail: Fail): Preconditioning | undefined {
  if (value === undefined) return undefined;
  const fields = new Fields(isObject(value) ? value : {}, "preconditioning", fail);
  const kind = fields.choice("kind", ["edm", "vp", "ve"]);
  const positive = (field: string) => fields.number(field, (n) => n > 0, "a positive number");
  switch (kind) {
    case "edm":
      return { kind, sigmaData: positive("sigmaData") };
    case "vp":
      return {
        kind,
        betaD: positive("betaD"),
        betaMin: fields.number("betaMin", (n) => n >= 0, "a number of 0 or more"),
        M: fields.number("M", (n) => n > 1, "a number above 1"),
        epsilonT: fields.number("epsilonT", (t) => t > 0 && t < 1, "a number between 0 and 1"),
      };
    case "ve":
      return { kind };
  }
}

/** Models from files of any program that is known: this one's, EDM's, and PyTorch's weights with settings beside them. */

import { FileError } from "../gpu/errors.ts";
import type { DenoiserConfig } from "../nn/networks.ts";
import {
  EDM_PRECONDITIONING,
  type Preconditioning,
  VE_PRECONDITIONING,
  VP_PRECONDITIONING,
} from "../nn/preconditioning.ts";
import { type SongUNetConfig, songUNetConfig } from "../nn/song_unet.ts";
import type { EdmArgument, EdmNetwork } from "./edm.ts";
import { decodeModel, isModelFile, type Model, weightsOf } from "./model.ts";
import { checkNetwork, NETWORK_RULES, PRECONDITIONING_RULES } from "./network_rules.ts";
import { checkSettings, type Fail } from "./settings.ts";
import type { FloatTensor } from "./torch.ts";
import { readTorchFile, type StateDict } from "./torch_file.ts";

/** What a file of weights alone does not say of its network: SongUNet's settings but for the sizes its tensors show. */
export type StateSettings =
  & Omit<SongUNetConfig, "resolution" | "inChannels" | "outChannels" | "labelDim" | "augmentDim">
  & { readonly preconditioning: Preconditioning };

/**
 * Reads a model: a model file, a network of EDM with its recorded settings, or, where `settings` are given, the weights
 * of a SongUNet from a PyTorch or safetensors file. Imported networks are teachers for data in [−1, 1].
 *
 * @param fileName names the file in errors.
 * @throws {FileError} where the file is damaged or of no such kind, its network is not one that there is here, or a tensor
 * is missing, foreign, of another shape or not finite.
 */
export async function importModel(
  bytes: Uint8Array<ArrayBuffer>,
  fileName: string,
  settings?: StateSettings,
): Promise<Model> {
  if (isModelFile(bytes)) return await decodeModel(bytes, fileName);
  const file = await readTorchFile(bytes, fileName);
  if (file.kind === "edm") return edmModel(file.network, fileName);
  if (!settings) {
    throw new FileError(
      `${fileName} is not a model of this program: it holds weights, but no settings of the network that they belong ` +
        "to. The command import takes those of a preset.",
    );
  }
  return stateModel(file, settings, fileName);
}

/** Names of this program's settings for the arguments of EDM's classes. */
const NETWORK_ARGUMENTS: Readonly<Record<string, keyof SongUNetConfig>> = {
  img_resolution: "resolution",
  in_channels: "inChannels",
  out_channels: "outChannels",
  label_dim: "labelDim",
  augment_dim: "augmentDim",
  model_channels: "modelChannels",
  channel_mult: "channelMult",
  channel_mult_emb: "channelMultEmb",
  num_blocks: "numBlocks",
  attn_resolutions: "attnResolutions",
  dropout: "dropout",
  label_dropout: "labelDropout",
  embedding_type: "embeddingType",
  channel_mult_noise: "channelMultNoise",
  encoder_type: "encoderType",
  decoder_type: "decoderType",
  resample_filter: "resampleFilter",
};

/** The preconditionings by EDM's names of their classes; their arguments by this program's names. */
const PRECONDITIONINGS: Readonly<
  Record<string, { readonly base: Preconditioning; readonly names: Readonly<Record<string, string>> }>
> = {
  EDMPrecond: { base: EDM_PRECONDITIONING, names: { sigma_data: "sigmaData" } },
  VPPrecond: {
    base: VP_PRECONDITIONING,
    names: { beta_d: "betaD", beta_min: "betaMin", M: "M", epsilon_t: "epsilonT" },
  },
  VEPrecond: { base: VE_PRECONDITIONING, names: {} },
};

/** Arguments that a preconditioning may only have with these values: EDM's defaults. */
const FIXED: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  EDMPrecond: { sigma_min: 0, sigma_max: Infinity },
  VEPrecond: { sigma_min: 0.02, sigma_max: 100 },
};

function edmModel(edm: EdmNetwork, fileName: string): Model {
  const fail: Fail = (message) => {
    throw new FileError(`${fileName}: of the network's recorded settings, ${message}.`);
  };
  const config = { network: songUNet(edm, fail), preconditioning: preconditioningOf(edm, fail) };
  return imported(config, edm.tensors, fileName, `EDM's ${edm.precondClass} of ${edm.networkClass}`);
}

function songUNet({ networkArgs }: EdmNetwork, fail: Fail): SongUNetConfig {
  const settings: Record<string, EdmArgument> = {};
  for (const [name, value] of Object.entries(networkArgs)) {
    if (!Object.hasOwn(NETWORK_ARGUMENTS, name)) fail(`"${name}" is none that is known`);
    settings[NETWORK_ARGUMENTS[name]!] = value;
  }
  const network = songUNetConfig(settings as unknown as SongUNetConfig);
  const { chosen, images } = NETWORK_RULES["song-unet"];
  checkSettings({ network }, { network: { ...chosen, ...images } }, fail);
  checkNetwork(network, fail);
  return network;
}

function preconditioningOf({ precondClass, precondArgs }: EdmNetwork, fail: Fail): Preconditioning {
  const { base, names } = PRECONDITIONINGS[precondClass]!;
  const given: Record<string, EdmArgument> = {};
  for (const [name, value] of Object.entries(precondArgs)) {
    const fixed = FIXED[precondClass]?.[name];
    if (Object.hasOwn(names, name)) given[names[name]!] = value;
    else if (fixed !== undefined && value !== fixed) fail(`"${name}" should be ${fixed}`);
  }
  const preconditioning = { ...base, ...given };
  checkSettings({ preconditioning }, { preconditioning: PRECONDITIONING_RULES[base.kind]! }, fail);
  return preconditioning as Preconditioning;
}

/** A network's own part of the names in a preconditioned module. */
const PREFIX = "model.";

function stateModel({ tensors, section }: StateDict, settings: StateSettings, fileName: string): Model {
  const prefixed = [...tensors.keys()].some((name) => name.startsWith(PREFIX));
  const named = prefixed ? tensors : new Map([...tensors].map(([name, tensor]) => [PREFIX + name, tensor]));
  const { preconditioning, ...rest } = settings;
  const network = { ...rest, ...sizes(named, fileName) };
  checkNetwork(network, (message) => {
    throw new FileError(`${fileName}: with the sizes of its tensors, ${message}.`);
  });
  return imported({ network, preconditioning }, named, fileName, `weights${section && ` of "${section}"`}`);
}

/** What the shapes of a SongUNet's first layers tell. */
function sizes(tensors: ReadonlyMap<string, FloatTensor>, fileName: string) {
  const first = /^model\.enc\.(\d+)x\1_conv\.weight$/;
  const name = [...tensors.keys()].find((name) => first.test(name));
  if (name === undefined) {
    throw new FileError(`${fileName} holds no SongUNet: there is no tensor "model.enc.<size>x<size>_conv.weight".`);
  }
  const inChannels = tensors.get(name)!.shape[1] ?? 0;
  const columns = (layer: string) => tensors.get(`model.${layer}.weight`)?.shape[1] ?? 0;
  return {
    ...{ resolution: Number(first.exec(name)![1]), inChannels, outChannels: inChannels },
    ...{ labelDim: columns("map_label"), augmentDim: columns("map_augment") },
  };
}

function imported(
  config: DenoiserConfig,
  tensors: ReadonlyMap<string, FloatTensor>,
  fileName: string,
  what: string,
): Model {
  const provenance = { source: `imported: ${what}`, licence: "that of the imported file" };
  return {
    info: { kind: "teacher", ...config, mean: 0, std: 0.5, provenance },
    weights: weightsOf(config, tensors, fileName),
  };
}

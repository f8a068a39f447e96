/** EDM's SongUNet: the networks DDPM++ and NCSN++ (Song et al. 2021) as EDM (Karras et al. 2022) reimplements them. */

import { GraphError } from "../gpu/errors.ts";
import {
  add,
  affine,
  attentionPacked,
  cast,
  concat,
  constant,
  downsample2x,
  dropout,
  frequencyEmbedding,
  pad,
  type RandomSource,
  reshape,
  silu,
  slice,
  swapAxes,
  type Tensor,
  upsample2x,
} from "../graph/mod.ts";
import { expectCondition, LabelEmbedding, type LabelSettings, type NextRandom, nextRandom } from "./conditions.ts";
import { Conv2d, GroupNorm, Linear, ParameterList, type ParameterLookup, type ParameterSpec } from "./layers.ts";
import type {
  Conditions,
  DenoisingNetwork,
  FeatureChannels,
  NetworkOptions,
  NetworkRun,
  Precision,
} from "./network.ts";
import { EDM_PRECONDITIONING, type Preconditioning } from "./preconditioning.ts";
import { type Around, around, resolutionName, SILENT, SKIP_SCALE } from "./residual.ts";
import { featureChannels } from "./unet.ts";

/** Settings of {@linkcode SongUNet}: the arguments of EDM's class of that name. */
export interface SongUNetConfig extends Required<LabelSettings> {
  /** Tells the networks apart. */
  readonly architecture: "song-unet";
  /** Height and width of the images. */
  readonly resolution: number;
  /** Channels of the images. */
  readonly inChannels: number;
  /** Channels of the result. */
  readonly outChannels: number;
  /** Length of a sample's augmentation label; 0 without. */
  readonly augmentDim: number;
  /** Channels that the multipliers are of. */
  readonly modelChannels: number;
  /** Channel multiplier of each level, full resolution first. */
  readonly channelMult: readonly number[];
  /** Multiplier of the embedding's length. */
  readonly channelMultEmb: number;
  /** Residual blocks a level in the encoder; the decoder has one more. */
  readonly numBlocks: number;
  /** Resolutions with self-attention. */
  readonly attnResolutions: readonly number[];
  /** Share of a block's activations that training drops. */
  readonly dropout: number;
  /** Embedding of the noise level: `positional` in DDPM++, `fourier` in NCSN++. */
  readonly embeddingType: "positional" | "fourier";
  /** Multiplier of the noise embedding's length: 1 in DDPM++, 2 in NCSN++. */
  readonly channelMultNoise: number;
  /** How the encoder sees the image at lower resolutions: not, added, or by a residual branch as in NCSN++. */
  readonly encoderType: "standard" | "skip" | "residual";
  /** `skip`: the result is summed up over the resolutions. */
  readonly decoderType: "standard" | "skip";
  /** Filter of the changes of resolution, 2 or 4 taps: [1, 1] in DDPM++, [1, 3, 3, 1] in NCSN++. */
  readonly resampleFilter: readonly number[];
}

/** EDM's defaults, where `settings` say nothing else. */
export function songUNetConfig(
  settings: Partial<SongUNetConfig> & Pick<SongUNetConfig, "resolution" | "inChannels">,
): SongUNetConfig {
  const { resolution, inChannels, ...rest } = settings;
  return {
    architecture: "song-unet",
    resolution,
    inChannels,
    outChannels: inChannels,
    labelDim: 0,
    augmentDim: 0,
    modelChannels: 128,
    channelMult: [1, 2, 2, 2],
    channelMultEmb: 4,
    numBlocks: 4,
    attnResolutions: [16],
    dropout: 0.1,
    labelDropout: 0,
    embeddingType: "positional",
    channelMultNoise: 1,
    encoderType: "standard",
    decoderType: "standard",
    resampleFilter: [1, 1],
    ...rest,
  };
}

/** Where {@linkcode resampleBuffers} are, in files of PyTorch. */
export const RESAMPLE_BUFFER = /\.resample_filter$/;

/** The filters that EDM's PyTorch modules store beside their parameters, by name: each [1, 1, taps, taps]. */
export function resampleBuffers(config: SongUNetConfig): Map<string, Float32Array<ArrayBuffer>> {
  const { resolution, channelMult, encoderType, decoderType, resampleFilter: taps } = config;
  const sum = taps.reduce((a, b) => a + b);
  const filter = Float32Array.from(taps.flatMap((a) => taps.map((b) => a * b / sum ** 2)));
  const sizes = channelMult.map((_, level) => resolutionName(resolution >> level));
  const encoder = sizes.slice(1).flatMap((size) => [
    ...[`enc.${size}_down.conv0`, `enc.${size}_down.skip`],
    ...encoderType === "skip" ? [`enc.${size}_aux_down`] : [],
    ...encoderType === "residual" ? [`enc.${size}_aux_residual`] : [],
  ]);
  const decoder = sizes.slice(0, -1).flatMap((size) => [
    ...[`dec.${size}_up.conv0`, `dec.${size}_up.skip`],
    ...decoderType === "skip" ? [`dec.${size}_aux_up`] : [],
  ]);
  return new Map([...encoder, ...decoder].map((module) => [`${NAME}${module}.resample_filter`, filter]));
}

/** Where a preconditioned module of EDM keeps its network: before every parameter's name. */
const NAME = "model.";

/** Standard deviation of the random frequencies of the Fourier embedding. */
const FOURIER_SCALE = 16;

/** Longest wavelength of the positional embedding, over 2π. */
const MAX_POSITIONS = 10000;

/** Noise level, class and augmentation → embedding [N, channelMultEmb · modelChannels]. */
class Mapping {
  readonly channels: number;
  private readonly frequencies: (p: ParameterLookup) => Tensor;
  private readonly label: LabelEmbedding;
  private readonly augment: Linear | undefined;
  private readonly layer0: Linear;
  private readonly layer1: Linear;

  constructor(list: ParameterList, private readonly config: SongUNetConfig) {
    const { modelChannels, channelMultNoise, channelMultEmb, augmentDim, embeddingType } = config;
    const noiseChannels = modelChannels * channelMultNoise;
    this.channels = modelChannels * channelMultEmb;
    this.frequencies = embeddingType === "positional"
      ? positionalFrequencies(noiseChannels / 2)
      : fourierFrequencies(list, `${NAME}map_noise.freqs`, noiseChannels / 2);
    this.label = new LabelEmbedding(list, `${NAME}map_label`, config, noiseChannels);
    this.augment = augmentDim > 0
      ? new Linear(list, `${NAME}map_augment`, augmentDim, noiseChannels, { bias: false })
      : undefined;
    this.layer0 = new Linear(list, `${NAME}map_layer0`, noiseChannels, this.channels);
    this.layer1 = new Linear(list, `${NAME}map_layer1`, this.channels, this.channels);
  }

  apply(p: ParameterLookup, noise: Tensor, conditions: Conditions, draw: NextRandom): Tensor {
    const samples = noise.size;
    const { labels, augment } = conditions;
    expectCondition("augment", augment, samples, this.config.augmentDim);
    let sum = frequencyEmbedding(noise, this.frequencies(p), { sinFirst: true });
    sum = this.label.addTo(p, sum, labels, draw);
    if (this.augment && augment) sum = add(sum, this.augment.apply(p, augment));
    return silu(this.layer1.apply(p, silu(this.layer0.apply(p, sum))));
  }
}

function positionalFrequencies(count: number): () => Tensor {
  const exponents = Array.from({ length: count }, (_, i) => Math.fround(i / Math.max(1, count - 1)));
  return () => constant(exponents.map((exponent) => (1 / MAX_POSITIONS) ** exponent), [count]);
}

function fourierFrequencies(list: ParameterList, name: string, count: number): (p: ParameterLookup) => Tensor {
  list.addFixed(name, [count], { kind: "normal", std: FOURIER_SCALE });
  return (p) => affine(p(name), 2 * Math.PI, 0);
}

/** Settings of {@linkcode SongUNetBlock}; what SongUNet itself has is the default. */
export interface BlockOptions {
  /** Change of resolution by two. */
  readonly resample?: "up" | "down" | undefined;
  /** Its filter; [1, 1] when absent. */
  readonly resampleFilter?: readonly number[];
  /** Whether self-attention follows. */
  readonly attention?: boolean;
  /** Heads of the attention; 1 when absent. */
  readonly heads?: number;
  /** Share of the activations that training drops; 0 when absent. */
  readonly dropout?: number;
  /** The embedding scales and shifts the second normalisation's result; otherwise, as in SongUNet, it shifts its input. */
  readonly adaptiveScale?: boolean;
}

/** EDM's residual block with an embedding, optional change of resolution and optional self-attention. */
export class SongUNetBlock {
  private readonly norm0: GroupNorm;
  private readonly conv0: Conv2d;
  private readonly affine: Linear;
  private readonly norm1: GroupNorm;
  private readonly conv1: Conv2d;
  private readonly skip: Conv2d | undefined;
  private readonly attention: { norm: GroupNorm; qkv: Qkv; proj: Conv2d } | undefined;

  /** Declares the block's parameters below `name`. */
  constructor(
    list: ParameterList,
    name: string,
    inChannels: number,
    readonly outChannels: number,
    embeddingChannels: number,
    private readonly options: BlockOptions = {},
  ) {
    const { resample, attention = false, heads = 1, adaptiveScale = false } = options;
    this.norm0 = new GroupNorm(list, `${name}.norm0`, inChannels);
    this.conv0 = new Conv2d(list, `${name}.conv0`, inChannels, outChannels, { kernel: 3 });
    this.affine = new Linear(list, `${name}.affine`, embeddingChannels, outChannels * (adaptiveScale ? 2 : 1));
    this.norm1 = new GroupNorm(list, `${name}.norm1`, outChannels);
    this.conv1 = new Conv2d(list, `${name}.conv1`, outChannels, outChannels, { kernel: 3, initScale: SILENT });
    this.skip = inChannels !== outChannels || resample
      ? new Conv2d(list, `${name}.skip`, inChannels, outChannels, { kernel: 1 })
      : undefined;
    this.attention = attention
      ? {
        norm: new GroupNorm(list, `${name}.norm2`, outChannels),
        qkv: new Qkv(list, `${name}.qkv`, outChannels, heads),
        proj: new Conv2d(list, `${name}.proj`, outChannels, outChannels, { kernel: 1, initScale: SILENT }),
      }
      : undefined;
  }

  /** `x` [N, in, H, W], `embedding` [N, embeddingChannels] → [N, out, H', W']; `source` is there in training. */
  apply(p: ParameterLookup, x: Tensor, embedding: Tensor, source?: RandomSource): Tensor {
    const { dropout: share = 0 } = this.options;
    const modulation = this.affine.apply(p, embedding);
    const h = this.normalise(p, this.resample(this.norm0.apply(p, x, { silu: true })), modulation);
    const kept = source && share > 0 ? dropout(h, share, source) : h;
    const residual = this.skip ? this.skip.apply(p, this.resample(x)) : x;
    const y = this.conv1.apply(p, kept, { residual, scale: SKIP_SCALE });
    return this.attention ? this.attend(p, y) : y;
  }

  /** Changes the resolution, where the block does. */
  private resample(x: Tensor): Tensor {
    const { resample, resampleFilter = [1, 1] } = this.options;
    if (!resample) return x;
    return resample === "up" ? upsample2x(x, resampleFilter) : downsample2x(x, resampleFilter);
  }

  /** The first convolution and the second normalisation. */
  private normalise(p: ParameterLookup, x: Tensor, modulation: Tensor): Tensor {
    if (!this.options.adaptiveScale) {
      return this.norm1.apply(p, this.conv0.apply(p, x, { shift: modulation }), { silu: true });
    }
    const scale = slice(modulation, 1, 0, this.outChannels);
    const shift = slice(modulation, 1, this.outChannels, 2 * this.outChannels);
    return this.norm1.apply(p, this.conv0.apply(p, x), { silu: true, scale, shift });
  }

  /** Adds self-attention. */
  private attend(p: ParameterLookup, x: Tensor): Tensor {
    const { norm, qkv, proj } = this.attention!;
    const attended = reshape(attentionPacked(qkv.apply(p, norm.apply(p, x, { silu: false }))), x.shape);
    return proj.apply(p, attended, { residual: x, scale: SKIP_SCALE });
  }
}

/**
 * The projection to queries, keys and values. Its parameters have EDM's order of rows, q, k, v of a head's first channel, then
 * of its second; what it gives has that of {@linkcode attentionPacked}, a head's queries, then its keys, then its values.
 */
class Qkv {
  private readonly conv: Conv2d;

  constructor(list: ParameterList, name: string, private readonly channels: number, private readonly heads: number) {
    if (channels % heads !== 0) throw new GraphError(`${name} cannot split ${channels} channels into ${heads} heads.`);
    this.conv = new Conv2d(list, name, channels, 3 * channels, { kernel: 1, initScale: Math.sqrt(0.2) });
  }

  /** [N, C, H, W] → [N · heads, 3 C / heads, H · W] */
  apply(p: ParameterLookup, x: Tensor): Tensor {
    const { channels, heads } = this;
    const ordered: ParameterLookup = (name) => {
      const given = p(name);
      const rows = reshape(given, [heads, channels / heads, 3, given.size / (3 * channels)]);
      return reshape(swapAxes(rows, 1), given.shape);
    };
    const [batch, , height, width] = x.shape;
    return reshape(this.conv.apply(ordered, x), [batch! * heads, 3 * channels / heads, height! * width!]);
  }
}

/** From the image down to the lowest resolution, keeping what the decoder joins. */
class Encoder {
  /** Channels at the lowest resolution. */
  readonly outChannels: number;
  /** Channels of each kept map, first to last. */
  readonly skipChannels: number[] = [];
  private readonly first: Conv2d;
  private readonly levels: { readonly down: Down | undefined; readonly blocks: readonly SongUNetBlock[] }[];

  constructor(list: ParameterList, config: SongUNetConfig, embedding: number) {
    const { inChannels, resolution, modelChannels, channelMult, numBlocks, attnResolutions } = config;
    let channels = modelChannels, auxChannels = inChannels;
    this.first = new Conv2d(list, `${NAME}enc.${resolutionName(resolution)}_conv`, inChannels, channels, { kernel: 3 });
    this.skipChannels.push(channels);
    this.levels = channelMult.map((mult, level) => {
      const size = resolution >> level;
      const prefix = `${NAME}enc.${resolutionName(size)}`;
      const down = level === 0 ? undefined : new Down(list, prefix, channels, auxChannels, config, embedding);
      if (down) {
        this.skipChannels.push(channels);
        if (config.encoderType === "residual") auxChannels = channels;
      }
      const blocks = Array.from({ length: numBlocks }, (_, i) => {
        const block = new SongUNetBlock(list, `${prefix}_block${i}`, channels, modelChannels * mult, embedding, {
          attention: attnResolutions.includes(size),
          dropout: config.dropout,
        });
        channels = block.outChannels;
        this.skipChannels.push(channels);
        return block;
      });
      return { down, blocks };
    });
    this.outChannels = channels;
  }

  apply(
    p: ParameterLookup,
    image: Tensor,
    embedding: Tensor,
    draw: NextRandom,
    around: Around,
  ): { readonly skips: Tensor[]; readonly levels: readonly Tensor[] } {
    let aux = image, x = this.first.apply(p, image);
    const skips = [x], levels: Tensor[] = [];
    for (const { down, blocks } of this.levels) {
      if (down) {
        x = around(() => down.block.apply(p, x, embedding, draw?.()));
        ({ x, aux } = down.join(p, x, aux));
        skips.push(x);
      }
      for (const block of blocks) skips.push(x = around(() => block.apply(p, x, embedding, draw?.())));
      levels.push(x);
    }
    return { skips, levels };
  }
}

/** To the next lower resolution: a block, and what the encoder's type adds to its result. */
class Down {
  readonly block: SongUNetBlock;
  private readonly branch: Conv2d | undefined;

  constructor(
    list: ParameterList,
    prefix: string,
    channels: number,
    auxChannels: number,
    private readonly config: SongUNetConfig,
    embedding: number,
  ) {
    const { dropout, resampleFilter, encoderType } = config;
    const options = { resample: "down", resampleFilter, dropout } as const;
    this.block = new SongUNetBlock(list, `${prefix}_down`, channels, channels, embedding, options);
    this.branch = encoderType === "skip"
      ? new Conv2d(list, `${prefix}_aux_skip`, auxChannels, channels, { kernel: 1 })
      : encoderType === "residual"
      ? new Conv2d(list, `${prefix}_aux_residual`, auxChannels, channels, { kernel: 3 })
      : undefined;
  }

  /** Adds to the block's result `x` what `aux`, the image or the last sum, gives at half its resolution. */
  join(p: ParameterLookup, x: Tensor, aux: Tensor): { readonly x: Tensor; readonly aux: Tensor } {
    const { encoderType, resampleFilter } = this.config;
    if (!this.branch) return { x, aux };
    if (encoderType === "skip") {
      const smaller = downsample2x(aux, resampleFilter);
      return { x: this.branch.apply(p, smaller, { residual: x }), aux: smaller };
    }
    // The convolution comes before the filter, which reads its results beyond the border too.
    const border = resampleFilter.length / 2 - 1;
    const convolved = this.branch.apply(p, bordered(aux, border));
    const sum = affine(add(x, downsample2x(convolved, resampleFilter, { bordered: border > 0 })), SKIP_SCALE, 0);
    return { x: sum, aux: sum };
  }
}

/** `x` with `border` zeros around every image. */
function bordered(x: Tensor, border: number): Tensor {
  return border === 0 ? x : [2, 3].reduce((y, axis) => pad(y, axis, border, y.shape[axis]! + 2 * border), x);
}

/** One resolution of the decoder. */
interface DecoderLevel {
  /** What comes before its blocks: two at the lowest resolution, else the one that doubles it. */
  readonly entry: readonly SongUNetBlock[];
  /** Blocks that join what the encoder kept. */
  readonly blocks: readonly SongUNetBlock[];
  /** Where the level contributes to the result. */
  readonly out: { readonly norm: GroupNorm; readonly conv: Conv2d } | undefined;
}

/**
 * EDM's SongUNet, parameters by the names of EDM's PyTorch modules. The constants are EDM's: √½ after every residual sum,
 * group norms of min(32, C/4) groups with ε = 1e-6, one attention head, embedding added before the second normalisation.
 */
export class SongUNet implements DenoisingNetwork {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
  /** What surrounds it. */
  readonly preconditioning: Preconditioning;
  /** Of the encoder's levels; the last is the map between encoder and decoder. */
  readonly featureChannels: FeatureChannels;
  private readonly mapping: Mapping;
  private readonly encoder: Encoder;
  private readonly levels: DecoderLevel[] = [];
  private readonly precision: Precision;
  private readonly around: Around;

  /**
   * Declares the network; EDM's preconditioning when none is given.
   *
   * @throws {GraphError} where a normalisation's groups do not divide its channels.
   */
  constructor(
    readonly config: SongUNetConfig,
    options: NetworkOptions & { readonly preconditioning?: Preconditioning } = {},
  ) {
    this.around = around(options);
    this.precision = options.precision ?? "f32";
    this.preconditioning = options.preconditioning ?? EDM_PRECONDITIONING;
    const list = new ParameterList();
    this.mapping = new Mapping(list, config);
    this.encoder = new Encoder(list, config, this.mapping.channels);
    this.featureChannels = featureChannels(config);
    const skips = [...this.encoder.skipChannels];
    let channels = this.encoder.outChannels;
    for (let level = config.channelMult.length - 1; level >= 0; level--) {
      const made = this.decoderLevel(list, level, channels, skips);
      channels = made.blocks.at(-1)!.outChannels;
      this.levels.push(made);
    }
    this.parameters = list.specs;
  }

  /** Declares one resolution of the decoder; takes what it joins off `skips`. */
  private decoderLevel(list: ParameterList, level: number, inChannels: number, skips: number[]): DecoderLevel {
    const { resolution, modelChannels, channelMult, numBlocks, attnResolutions, dropout, resampleFilter } = this.config;
    const size = resolution >> level;
    const prefix = `${NAME}dec.${resolutionName(size)}`;
    const lowest = level === channelMult.length - 1;
    const block = (name: string, from: number, to: number, options: BlockOptions) =>
      new SongUNetBlock(list, `${prefix}_${name}`, from, to, this.mapping.channels, { dropout, ...options });
    const entry = lowest
      ? [block("in0", inChannels, inChannels, { attention: true }), block("in1", inChannels, inChannels, {})]
      : [block("up", inChannels, inChannels, { resample: "up", resampleFilter })];
    const channels = modelChannels * channelMult[level]!;
    const blocks = Array.from({ length: numBlocks + 1 }, (_, i) => {
      const attention = i === numBlocks && attnResolutions.includes(size);
      return block(`block${i}`, (i === 0 ? inChannels : channels) + skips.pop()!, channels, { attention });
    });
    if (level > 0 && this.config.decoderType === "standard") return { entry, blocks, out: undefined };
    const norm = new GroupNorm(list, `${prefix}_aux_norm`, channels);
    const options = { kernel: 3, initScale: SILENT } as const;
    return {
      entry,
      blocks,
      out: { norm, conv: new Conv2d(list, `${prefix}_aux_conv`, channels, this.config.outChannels, options) },
    };
  }

  /** `x` [N, C, H, W], `noise` [N] → [N, outChannels, H, W]. */
  apply(p: ParameterLookup, x: Tensor, noise: Tensor, conditions?: Conditions): Tensor {
    return this.run(p, x, noise, conditions).output;
  }

  /** The same with the encoder's features. */
  run(p: ParameterLookup, x: Tensor, noise: Tensor, conditions: Conditions = {}): NetworkRun {
    const draw = nextRandom(conditions);
    const embedding = this.mapping.apply(p, noise, conditions, draw);
    const { skips, levels } = this.encoder.apply(p, cast(x, this.precision), embedding, draw, this.around);
    const bottleneck = skips.at(-1)!;
    let h = bottleneck, sum: Tensor | undefined;
    for (const { entry, blocks, out } of this.levels) {
      for (const block of entry) h = this.around(() => block.apply(p, h, embedding, draw?.()));
      if (sum) sum = upsample2x(sum, this.config.resampleFilter);
      for (const block of blocks) {
        const skip = skips.pop()!;
        const part = () => block.apply(p, concat([h, skip], 1), embedding, draw?.());
        // What the last block keeps is read at once.
        h = skips.length > 0 ? this.around(part) : part();
      }
      if (out) sum = out.conv.apply(p, out.norm.apply(p, h, { silu: true }), sum ? { residual: sum } : {});
    }
    return { output: cast(sum!, "f32"), features: { levels, bottleneck } };
  }
}

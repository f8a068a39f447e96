/** The UNet that denoises, and the time-conditional classifier made of its encoder half. */

import {
  attentionPacked,
  cast,
  concat,
  mean,
  reshape,
  silu,
  sinusoidalEmbedding,
  type Tensor,
  upsampleNearest2x,
} from "../graph/mod.ts";
import { expectCondition, LabelEmbedding, type LabelSettings, type NextRandom, nextRandom } from "./conditions.ts";
import { Conv2d, GroupNorm, Linear, ParameterList, type ParameterLookup, type ParameterSpec } from "./layers.ts";
import type {
  Conditions,
  DenoisingNetwork,
  FeatureChannels,
  Network,
  NetworkOptions,
  NetworkRun,
  Precision,
} from "./network.ts";
import { EDM_PRECONDITIONING, type Preconditioning } from "./preconditioning.ts";
import { type Around, around, resolutionName, SILENT, SKIP_SCALE } from "./residual.ts";

/** Settings of {@linkcode UNet} and {@linkcode Classifier}. */
export interface UNetConfig extends LabelSettings {
  /** Tells the networks apart. */
  readonly architecture?: "unet";
  /** Channels of the images. */
  readonly imageChannels: number;
  /** Height and width of the images; divisible by 2^(levels − 1). */
  readonly resolution: number;
  /** Channels at full resolution. */
  readonly modelChannels: number;
  /** Channel multiplier of each level, full resolution first. */
  readonly channelMult: readonly number[];
  /** Residual blocks a level in the encoder; the decoder has one more. */
  readonly blocks: number;
}

/** Noise level and class → conditioning vector [N, 2·modelChannels]. */
class NoiseEmbedding {
  readonly channels: number;
  private readonly label: LabelEmbedding;
  private readonly layer0: Linear;
  private readonly layer1: Linear;

  constructor(list: ParameterList, private readonly modelChannels: number, classes: LabelSettings) {
    this.channels = 2 * modelChannels;
    this.label = new LabelEmbedding(list, "map_label", classes, modelChannels);
    this.layer0 = new Linear(list, "map_layer0", modelChannels, this.channels);
    this.layer1 = new Linear(list, "map_layer1", this.channels, this.channels);
  }

  apply(p: ParameterLookup, noise: Tensor, labels: Tensor | undefined, next: NextRandom): Tensor {
    const waves = sinusoidalEmbedding(noise, { channels: this.modelChannels, sinFirst: true });
    const told = this.label.addTo(p, waves, labels, next);
    return silu(this.layer1.apply(p, silu(this.layer0.apply(p, told))));
  }
}

/** Residual block with noise conditioning and optional single-head self-attention. */
class Block {
  private readonly norm0: GroupNorm;
  private readonly conv0: Conv2d;
  private readonly affine: Linear;
  private readonly norm1: GroupNorm;
  private readonly conv1: Conv2d;
  private readonly skip: Conv2d | undefined;
  private readonly attention: { norm: GroupNorm; qkv: Conv2d; proj: Conv2d } | undefined;

  constructor(
    list: ParameterList,
    name: string,
    inChannels: number,
    outChannels: number,
    embedding: NoiseEmbedding,
    options: { readonly attention?: boolean } = {},
  ) {
    this.norm0 = new GroupNorm(list, `${name}.norm0`, inChannels);
    this.conv0 = new Conv2d(list, `${name}.conv0`, inChannels, outChannels, { kernel: 3 });
    this.affine = new Linear(list, `${name}.affine`, embedding.channels, outChannels);
    this.norm1 = new GroupNorm(list, `${name}.norm1`, outChannels);
    this.conv1 = new Conv2d(list, `${name}.conv1`, outChannels, outChannels, { kernel: 3, initScale: SILENT });
    this.skip = inChannels === outChannels
      ? undefined
      : new Conv2d(list, `${name}.skip`, inChannels, outChannels, { kernel: 1 });
    this.attention = options.attention
      ? {
        norm: new GroupNorm(list, `${name}.norm2`, outChannels),
        qkv: new Conv2d(list, `${name}.qkv`, outChannels, 3 * outChannels, { kernel: 1, initScale: Math.sqrt(0.2) }),
        proj: new Conv2d(list, `${name}.proj`, outChannels, outChannels, { kernel: 1, initScale: SILENT }),
      }
      : undefined;
  }

  apply(p: ParameterLookup, x: Tensor, embedding: Tensor): Tensor {
    const h = this.conv0.apply(p, this.norm0.apply(p, x, { silu: true }), { shift: this.affine.apply(p, embedding) });
    const residual = this.skip ? this.skip.apply(p, x) : x;
    const y = this.conv1.apply(p, this.norm1.apply(p, h, { silu: true }), { residual, scale: SKIP_SCALE });
    return this.attention ? this.attend(p, y) : y;
  }

  private attend(p: ParameterLookup, x: Tensor): Tensor {
    const { norm, qkv, proj } = this.attention!;
    const [batch, channels, height, width] = x.shape;
    const packed = reshape(qkv.apply(p, norm.apply(p, x, { silu: false })), [batch!, 3 * channels!, height! * width!]);
    const attended = reshape(attentionPacked(packed), x.shape);
    return proj.apply(p, attended, { residual: x, scale: SKIP_SCALE });
  }
}

/** From the image down to the lowest resolution, keeping what the decoder joins. */
class Encoder {
  readonly embedding: NoiseEmbedding;
  /** Channels at the lowest resolution. */
  readonly outChannels: number;
  /** Channels of each kept map, first to last. */
  readonly skipChannels: number[] = [];
  private readonly first: Conv2d;
  private readonly levels: { down: Conv2d | undefined; blocks: Block[] }[] = [];
  private readonly middle: Block[];

  constructor(list: ParameterList, config: UNetConfig) {
    const { imageChannels, resolution, modelChannels, channelMult, blocks } = config;
    this.embedding = new NoiseEmbedding(list, modelChannels, config);
    this.first = new Conv2d(list, `enc.${resolutionName(resolution)}_conv`, imageChannels, modelChannels, {
      kernel: 3,
    });
    let channels = modelChannels;
    this.skipChannels.push(channels);
    channelMult.forEach((mult, level) => {
      const name = resolutionName(resolution >> level);
      const down = level === 0
        ? undefined
        : new Conv2d(list, `enc.${name}_down`, channels, channels, { kernel: 3, stride: 2 });
      if (down) this.skipChannels.push(channels);
      const made = Array.from({ length: blocks }, (_, i) => {
        const block = new Block(list, `enc.${name}_block${i}`, channels, modelChannels * mult, this.embedding);
        channels = modelChannels * mult;
        this.skipChannels.push(channels);
        return block;
      });
      this.levels.push({ down, blocks: made });
    });
    this.outChannels = channels;
    this.middle = [
      new Block(list, "mid.block0", channels, channels, this.embedding, { attention: true }),
      new Block(list, "mid.block1", channels, channels, this.embedding),
    ];
  }

  apply(
    p: ParameterLookup,
    x: Tensor,
    noise: Tensor,
    around: Around,
    labels: Tensor | undefined,
    next: NextRandom,
  ): { h: Tensor; skips: Tensor[]; levels: Tensor[]; embedding: Tensor } {
    const embedding = this.embedding.apply(p, noise, labels, next);
    let h = this.first.apply(p, x);
    const skips = [h], levels: Tensor[] = [];
    for (const { down, blocks } of this.levels) {
      if (down) skips.push(h = down.apply(p, h));
      for (const block of blocks) skips.push(h = around(() => block.apply(p, h, embedding)));
      levels.push(h);
    }
    for (const block of this.middle) h = around(() => block.apply(p, h, embedding));
    return { h, skips, levels, embedding };
  }
}

/**
 * UNet in the style of DDPM (Ho et al. 2020) with the constants of EDM's DDPM++ (Karras et al. 2022): residual blocks
 * scaled by √½, strided convolutions down, nearest-neighbour and convolution up, self-attention at the lowest
 * resolution between encoder and decoder.
 */
export class UNet implements DenoisingNetwork {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
  /** What surrounds it. */
  readonly preconditioning: Preconditioning;
  /** Of the encoder's levels, and of what comes out of its middle. */
  readonly featureChannels: FeatureChannels;
  private readonly encoder: Encoder;
  private readonly levels: { blocks: Block[]; up: Conv2d | undefined }[] = [];
  private readonly norm: GroupNorm;
  private readonly conv: Conv2d;
  private readonly precision: Precision;
  private readonly around: Around;

  /** Declares the network; EDM's preconditioning when none is given. */
  constructor(
    readonly config: UNetConfig,
    options: NetworkOptions & { readonly preconditioning?: Preconditioning } = {},
  ) {
    this.around = around(options);
    this.precision = options.precision ?? "f32";
    this.preconditioning = options.preconditioning ?? EDM_PRECONDITIONING;
    const list = new ParameterList();
    const { imageChannels, resolution, modelChannels, channelMult, blocks } = config;
    this.encoder = new Encoder(list, config);
    this.featureChannels = featureChannels(config);
    const skips = [...this.encoder.skipChannels];
    let channels = this.encoder.outChannels;
    for (let level = channelMult.length - 1; level >= 0; level--) {
      const name = resolutionName(resolution >> level);
      const made = Array.from({ length: blocks + 1 }, (_, i) => {
        const inChannels = channels + skips.pop()!;
        channels = modelChannels * channelMult[level]!;
        return new Block(list, `dec.${name}_block${i}`, inChannels, channels, this.encoder.embedding);
      });
      const finer = resolutionName(resolution >> (level - 1));
      const up = level === 0 ? undefined : new Conv2d(list, `dec.${finer}_up`, channels, channels, { kernel: 3 });
      this.levels.push({ blocks: made, up });
    }
    this.norm = new GroupNorm(list, "out.norm", channels);
    this.conv = new Conv2d(list, "out.conv", channels, imageChannels, { kernel: 3, initScale: SILENT });
    this.parameters = list.specs;
  }

  /** `x` [N, C, H, W], `noise` [N] (ln σ / 4) → [N, C, H, W]; of the conditions it knows classes. */
  apply(p: ParameterLookup, x: Tensor, noise: Tensor, conditions?: Conditions): Tensor {
    return this.run(p, x, noise, conditions).output;
  }

  /** The same with the encoder's features. */
  run(p: ParameterLookup, x: Tensor, noise: Tensor, conditions: Conditions = {}): NetworkRun {
    expectCondition("augment", conditions.augment, noise.size, 0);
    const { h: bottleneck, skips, levels, embedding } = this.encoder.apply(
      p,
      cast(x, this.precision),
      noise,
      this.around,
      conditions.labels,
      nextRandom(conditions),
    );
    let h = bottleneck;
    for (const { blocks, up } of this.levels) {
      for (const block of blocks) {
        const skip = skips.pop()!;
        const part = () => block.apply(p, concat([h, skip], 1), embedding);
        // What the last block keeps is read at once.
        h = skips.length > 0 ? this.around(part) : part();
      }
      if (up) h = this.around(() => up.apply(p, upsampleNearest2x(h)));
    }
    const output = cast(this.conv.apply(p, this.norm.apply(p, h, { silu: true })), "f32");
    return { output, features: { levels, bottleneck } };
  }
}

/** Channels of the features of an encoder whose levels are multiples of `modelChannels`. */
export function featureChannels(
  { modelChannels, channelMult }: { readonly modelChannels: number; readonly channelMult: readonly number[] },
): FeatureChannels {
  const levels = channelMult.map((mult) => modelChannels * mult);
  return { levels, bottleneck: levels.at(-1)! };
}

/** Time-conditional binary classifier: the encoder half of a {@linkcode UNet}, pooled to one logit. */
export class Classifier implements Network {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
  private readonly encoder: Encoder;
  private readonly norm: GroupNorm;
  private readonly linear: Linear;
  private readonly precision: Precision;
  private readonly around: Around;

  /** Declares the network. */
  constructor(readonly config: UNetConfig, options: NetworkOptions = {}) {
    this.around = around(options);
    this.precision = options.precision ?? "f32";
    const list = new ParameterList();
    this.encoder = new Encoder(list, config);
    this.norm = new GroupNorm(list, "head.norm", this.encoder.outChannels);
    this.linear = new Linear(list, "head.linear", this.encoder.outChannels, 1);
    this.parameters = list.specs;
  }

  /** `x` [N, C, H, W], `noise` [N] (ln σ / 4), where it has classes their labels → [N]. */
  apply(p: ParameterLookup, x: Tensor, noise: Tensor, conditions: Conditions = {}): Tensor {
    const input = cast(x, this.precision);
    const { h } = this.encoder.apply(p, input, noise, this.around, conditions.labels, nextRandom(conditions));
    const pooled = mean(this.norm.apply(p, h, { silu: true }), [2, 3]);
    return reshape(this.linear.apply(p, pooled), [x.shape[0]!]);
  }
}

/** A trained model ready to sample: what programs and pages that embed one need. */

import { UsageError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Workspace } from "../graph/mod.ts";
import { toNHWC } from "../io/images.ts";
import { decodeModel, type ModelInfo } from "../io/model.ts";
import { checkSettings, whole } from "../io/settings.ts";
import { imageSize } from "../nn/networks.ts";
import { createSampler, type Sampler, type SamplerOptions, uploadWeights } from "./sampler.ts";

/** Images of one size, bytes in the order [count, height, width, channels]. */
export interface SampledImages {
  /** The bytes. */
  readonly pixels: Uint8Array<ArrayBuffer>;
  /** Number of images. */
  readonly count: number;
  /** Height in pixels. */
  readonly height: number;
  /** Width in pixels. */
  readonly width: number;
  /** Channels: 1 is grey, 3 is RGB. */
  readonly channels: number;
}

/** What counts images and names sequences. */
const COUNT = whole({ min: 0 });

/** Samples images from a model file. */
export class ImageSampler {
  private constructor(
    private readonly workspace: Workspace,
    private readonly sampler: Sampler,
    /** What the file says of the model. */
    readonly info: ModelInfo,
  ) {}

  /**
   * Loads a model file that `train` wrote: a one-step generator, or a teacher (sampled by Heun's method).
   *
   * @throws {FileError} where the bytes are no such model; `fileName` stands in its message.
   */
  static async load(
    gpu: Gpu,
    bytes: Uint8Array<ArrayBuffer>,
    options: SamplerOptions & { readonly fileName?: string } = {},
  ): Promise<ImageSampler> {
    const { info, weights } = await decodeModel(bytes, options.fileName ?? "model");
    const workspace = new Workspace(gpu);
    const sampler = await createSampler(uploadWeights(workspace, info, weights), info, options);
    return new ImageSampler(workspace, sampler, info);
  }

  /** Network evaluations an image costs. */
  get evaluations(): number {
    return this.sampler.evaluations;
  }

  /**
   * Images `first` … `first + n − 1` of the endless sequence that `seed` (u32) stands for.
   *
   * @throws {UsageError} where `n`, `seed` or `first` is no whole number from 0 on.
   * @throws {NonFiniteError} where the model gives a NaN or an infinity.
   */
  async sample(
    options: { readonly n: number; readonly seed?: number; readonly first?: number },
  ): Promise<SampledImages> {
    const { n, seed = 0, first = 0 } = options;
    checkSettings({ n, seed, first }, { n: COUNT, seed: COUNT, first: COUNT }, (message) => {
      throw new UsageError(`ImageSampler.sample: ${message}.`);
    });
    const { imageChannels: channels, resolution } = imageSize(this.info.network);
    const pixels = await this.sampler.sample(seed, first, n);
    return {
      pixels: toNHWC(pixels, channels, resolution, resolution),
      count: n,
      height: resolution,
      width: resolution,
      channels,
    };
  }

  /** Frees the model's buffers; the device stays. */
  destroy(): void {
    this.workspace.destroy();
  }
}

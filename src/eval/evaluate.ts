/** How good a set of generated images is: Fréchet distance with its floor, nearest real images, coverage. */

import type { ImageData8 } from "../data/image_data.ts";
import { GraphError, NonFiniteError } from "../gpu/errors.ts";
import type { Workspace } from "../graph/mod.ts";
import { FeatureNetwork, FEATURES } from "./feature_network.ts";
import { featureMoments, type Floor, frechetDistance, type Moments, resampleFloor } from "./frechet.ts";
import { nearestReal } from "./neighbours.ts";

/** What is measured of generated images. */
export interface Measures {
  /** Number of generated images. */
  readonly samples: number;
  /** Fréchet distance between the features of the generated and of all real images. */
  readonly frechetDistance: number;
  /** The same distance for as many real images drawn with replacement: what a perfect model would get. */
  readonly floor: Floor;
  /** Mean Euclidean distance of a generated image to its nearest real one, values in [0, 1]; 0 would be copies. */
  readonly nearestDistance: number;
  /** Share of the real images that are some generated image's nearest. */
  readonly coverage: number;
}

/** Repeats of the floor's resampling. */
const FLOOR_REPEATS = 10;

/** Measures images against one data set. */
export class Evaluator {
  private readonly floors = new Map<number, Floor>();

  private constructor(
    private readonly network: FeatureNetwork,
    private readonly real: ImageData8,
    private readonly realFeatures: Float32Array,
    private readonly realMoments: Moments,
  ) {}

  /** Computes the real images' features. The feature network takes 8x8 grey images only. */
  static async create(workspace: Workspace, real: ImageData8): Promise<Evaluator> {
    if (real.channels !== 1 || real.height !== 8 || real.width !== 8) {
      throw new GraphError("The feature network measures 8x8 grey images only.");
    }
    const network = await FeatureNetwork.create(workspace);
    const features = await network.features(real.pixels);
    return new Evaluator(network, real, features, featureMoments(features, real.count, FEATURES));
  }

  /** Fréchet distance of generated images [N, C, H, W] as bytes. */
  async frechetDistance(images: Uint8Array): Promise<number> {
    const count = images.length / (this.real.channels * this.real.height * this.real.width);
    const features = await this.network.features(images);
    if (!features.every(Number.isFinite)) {
      throw new NonFiniteError("The features of the generated images are not finite.");
    }
    return frechetDistance(featureMoments(features, count, FEATURES), this.realMoments);
  }

  /** All measures of generated images [N, C, H, W] as bytes. */
  async measure(images: Uint8Array): Promise<Measures> {
    const perImage = this.real.channels * this.real.height * this.real.width;
    const samples = images.length / perImage;
    const values = (bytes: Uint8Array) => Float32Array.from(bytes, (byte) => byte / 255);
    const { meanDistance, coverage } = nearestReal(values(this.real.pixels), values(images), perImage);
    return {
      samples,
      frechetDistance: await this.frechetDistance(images),
      floor: this.floor(samples),
      nearestDistance: meanDistance,
      coverage,
    };
  }

  /** Fréchet distance of `samples` real images, drawn with replacement, to all of them. */
  floor(samples: number): Floor {
    let floor = this.floors.get(samples);
    if (!floor) {
      floor = resampleFloor(this.realFeatures, this.real.count, FEATURES, samples, 0, FLOOR_REPEATS);
      this.floors.set(samples, floor);
    }
    return floor;
  }
}

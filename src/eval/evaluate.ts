/** How good a set of generated images is: Fréchet distance, shares of the classes, nearest real images, coverage. */

import type { ImageData8 } from "../data/image_data.ts";
import { NonFiniteError } from "../gpu/errors.ts";
import type { Workspace } from "../graph/mod.ts";
import { ClassShares } from "./class_shares.ts";
import { areDigits, FeatureNetwork, type FeatureOrigin, FEATURES } from "./feature_network.ts";
import { type TrainedFeatures, trainFeatures } from "./feature_training.ts";
import { featureMoments, type Floor, frechetDistance, type Moments, resampleFloor } from "./frechet.ts";
import { nearestReal, type Neighbours } from "./neighbours.ts";

/** What is measured of generated images. */
export interface Measures {
  /** Number of generated images. */
  readonly samples: number;
  /** Fréchet distance between the features of the generated and of all real images. */
  readonly frechetDistance: number;
  /**
   * Total variation between the shares of the classes among the generated and the real images, 0 to 1, both told by their
   * features ({@linkcode ClassShares}); null where the data have no classes.
   */
  readonly classError: number | null;
  /** Both for as many real images drawn with replacement: what a model gets that repeats these. */
  readonly floor: MeasureFloor;
  /**
   * Mean Euclidean distance of a generated image to its nearest real one: of digits between their values in [0, 1], of
   * others between their features. 0 would be copies.
   */
  readonly nearestDistance: number;
  /** Share of the real images that are some generated image's nearest. */
  readonly coverage: number;
}

/** What a model gets that repeats the real images: the Fréchet distance, and the error of the classes' shares. */
export interface MeasureFloor extends Floor {
  /** Its expectation; null where the data have no classes. */
  readonly classError: number | null;
}

/** Repeats of the floor's resampling. */
const FLOOR_REPEATS = 10;

/** Measures images against one data set. */
export class Evaluator {
  private readonly floors = new Map<number, MeasureFloor>();
  private readonly classes: ClassShares | undefined;

  private constructor(
    private readonly network: FeatureNetwork,
    private readonly real: ImageData8,
    private readonly realFeatures: Float32Array,
    private readonly realMoments: Moments,
  ) {
    if (real.classes > 1) this.classes = new ClassShares(realFeatures, real.labels, real.classes, FEATURES);
  }

  /**
   * Computes the real images' features: of digits by their embedded network, of others by the one that was `trained` on
   * them, or is now where none is given.
   */
  static async create(workspace: Workspace, real: ImageData8, trained?: TrainedFeatures): Promise<Evaluator> {
    const network = areDigits(real)
      ? await FeatureNetwork.digits(workspace)
      : await FeatureNetwork.trained(workspace, real, trained ?? await trainFeatures(workspace.gpu, real));
    const features = await network.features(real.pixels);
    return new Evaluator(network, real, features, featureMoments(features, real.count, FEATURES));
  }

  /** Where the features come from. */
  get features(): FeatureOrigin {
    return this.network.origin;
  }

  /** Fréchet distance of generated images [N, C, H, W] as bytes. */
  async frechetDistance(images: Uint8Array): Promise<number> {
    return this.#distance(await this.#featuresOf(images));
  }

  /** All measures of generated images [N, C, H, W] as bytes. */
  async measure(images: Uint8Array): Promise<Measures> {
    const features = await this.#featuresOf(images);
    const samples = features.length / FEATURES;
    const { meanDistance, coverage } = this.#nearest(images, features);
    return {
      samples,
      frechetDistance: this.#distance(features),
      classError: this.classes?.error(features) ?? null,
      floor: this.floor(samples),
      nearestDistance: meanDistance,
      coverage,
    };
  }

  async #featuresOf(images: Uint8Array): Promise<Float32Array> {
    const features = await this.network.features(images);
    if (!features.every(Number.isFinite)) {
      throw new NonFiniteError("The features of the generated images are not finite.");
    }
    return features;
  }

  #distance(features: Float32Array): number {
    return frechetDistance(featureMoments(features, features.length / FEATURES, FEATURES), this.realMoments);
  }

  #nearest(images: Uint8Array, features: Float32Array): Neighbours {
    // Pixels say which digits are alike; of photographs they say little, and would cost fifty times as much.
    if (this.features.network === "trained") return nearestReal(this.realFeatures, features, FEATURES);
    const values = (bytes: Uint8Array) => Float32Array.from(bytes, (byte) => byte / 255);
    return nearestReal(values(this.real.pixels), values(images), this.real.height * this.real.width);
  }

  /** Fréchet distance and class error of `samples` real images, drawn with replacement, against all of them. */
  floor(samples: number): MeasureFloor {
    let floor = this.floors.get(samples);
    if (!floor) {
      const distance = resampleFloor(this.realFeatures, this.real.count, FEATURES, samples, 0, FLOOR_REPEATS);
      floor = { ...distance, classError: this.classes?.floor(samples) ?? null };
      this.floors.set(samples, floor);
    }
    return floor;
  }
}

/** Features of images: by the embedded network of the digits, or by one that was trained on the images' data set. */

import type { ImageData8 } from "../data/image_data.ts";
import { bytesToData } from "../data/scaling.ts";
import { decodeBase64 } from "../io/base64.ts";
import { decodeSafetensors } from "../io/safetensors.ts";
import {
  add,
  averagePool2x,
  constant,
  conv2d,
  fromUint8,
  matmul,
  type Program,
  relu,
  reshape,
  type Tensor,
  type Variable,
  type Workspace,
} from "../graph/mod.ts";
import { DIGITS_FEATURES } from "./digits_features_data.ts";
import { FeatureClassifier, FEATURES } from "./feature_classifier.ts";
import {
  featureConfig,
  type FeatureTask,
  forwardBatch,
  imageVariable,
  type TrainedFeatures,
} from "./feature_training.ts";
import { sha256 } from "../io/sha256.ts";

export { FEATURES };

/** Where features come from: without it a distance of them says nothing. */
export interface FeatureOrigin {
  /** The digits' embedded network, or one trained on the data set itself. */
  readonly network: "embedded" | "trained";
  /** What it learned to tell. */
  readonly task: FeatureTask;
  /** Of a trained one: share (0 to 1) of the images not trained on that it tells rightly. */
  readonly accuracy?: number;
  /** Of a trained one: number of those images. */
  readonly heldOut?: number;
  /** Of a trained one: a hash of its weights. Figures are of one measure only where it is the same. */
  readonly fingerprint?: string;
  /** The same in words. */
  readonly description: string;
}

/** Images of a batch of digits. */
const DIGITS_BATCH = 250;

/** Levels of grey that the digits have above 0. */
const DIGITS_LEVELS = 16;

/** Whether the images are optical digits, for which there is an embedded network: 8x8, ten classes, values k/16. */
export function areDigits({ channels, height, width, classes, pixels }: ImageData8): boolean {
  const levels = Array.from({ length: DIGITS_LEVELS + 1 }, (_, k) => Math.round(255 * k / DIGITS_LEVELS));
  return channels === 1 && height === 8 && width === 8 && classes === 10 &&
    pixels.every((byte) => levels.includes(byte));
}

/** Computes the features of images of one size. */
export class FeatureNetwork {
  private constructor(
    /** Where the features come from. */
    readonly origin: FeatureOrigin,
    private readonly program: Program,
    private readonly input: Variable,
  ) {}

  /** The embedded network of the digits: a small CNN trained to classify them, cut before its last layer. */
  static async digits(workspace: Workspace): Promise<FeatureNetwork> {
    const { metadata, tensors } = await decodeSafetensors(decodeBase64(DIGITS_FEATURES), "digits features");
    const weight = (name: string) => {
      const { data, shape } = tensors.get(name)!;
      return constant(data as Float32Array, shape);
    };
    const conv = (name: string, x: Tensor, stride: 1 | 2) =>
      relu(conv2d(x, weight(`${name}.weight`), weight(`${name}.bias`), { stride }));
    const input = workspace.variable("features.images", [DIGITS_BATCH, 1, 8, 8], "u8");
    const scaling = bytesToData({ mean: Number(metadata.mean), std: Number(metadata.std) });
    const maps = conv("conv3", conv("conv2", conv("conv1", fromUint8(input.tensor, scaling), 1), 2), 1);
    const flat = reshape(averagePool2x(maps), [DIGITS_BATCH, -1]);
    const features = relu(add(matmul(flat, weight("fc1.weight"), { transposeB: true }), weight("fc1.bias")));
    const program = await workspace.compile({ label: "features", outputs: { features } });
    const description = "a small embedded network trained to classify the digits; a distance of them is not FID";
    return new FeatureNetwork({ network: "embedded", task: "classes", description }, program, input);
  }

  /** A network that was trained on `data`. */
  static async trained(workspace: Workspace, data: ImageData8, trained: TrainedFeatures): Promise<FeatureNetwork> {
    const network = new FeatureClassifier(featureConfig(data));
    const input = imageVariable(workspace, data, forwardBatch(data));
    const shapes = new Map(network.parameters.map(({ name, shape }) => [name, shape]));
    const weight = (name: string) => constant(trained.weights.get(name)!, shapes.get(name)!);
    const features = network.features(weight, fromUint8(input.tensor, bytesToData(data)));
    const program = await workspace.compile({ label: "features", outputs: { features } });
    return new FeatureNetwork(await originOf(data, trained), program, input);
  }

  /** Features [count, 64] of images [count, C, H, W] as bytes. */
  async features(images: Uint8Array): Promise<Float32Array> {
    const [batch, ...image] = this.input.tensor.shape as [number, ...number[]];
    const perImage = image.reduce((product, extent) => product * extent, 1);
    const count = images.length / perImage;
    const features = new Float32Array(count * FEATURES);
    for (let first = 0; first < count; first += batch) {
      const bytes = new Uint8Array(batch * perImage);
      bytes.set(images.subarray(first * perImage, (first + batch) * perImage));
      this.input.write(new Uint32Array(bytes.buffer));
      this.program.workspace.submit([this.program.at()]);
      const { features: part } = await this.program.read() as { features: Float32Array };
      features.set(part.subarray(0, Math.min(batch, count - first) * FEATURES), first * FEATURES);
    }
    return features;
  }
}

async function originOf(
  data: ImageData8,
  { task, accuracy, heldOut, weights }: TrainedFeatures,
): Promise<FeatureOrigin> {
  const bytes = new Uint8Array(await new Blob([...weights.values()]).arrayBuffer());
  const fingerprint = (await sha256(bytes)).slice(0, 16);
  const learned = task === "classes"
    ? `tell its ${data.classes} classes apart`
    : "tell by how many quarter turns its images, which have no classes, are turned";
  const description =
    `a small network trained on this data set to ${learned} (${(100 * accuracy).toFixed(1)} % right of ` +
    `${heldOut} held-out images); a distance of them is not FID and can be compared within this data set only`;
  return { network: "trained", task, accuracy, heldOut, fingerprint, description };
}

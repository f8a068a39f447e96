/** The frozen feature network of the digits: a small CNN trained to classify them, cut before its last layer. */

import { decodeBase64 } from "../io/base64.ts";
import { decodeSafetensors } from "../io/safetensors.ts";
import { bytesToData } from "../data/scaling.ts";
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

/** Features an image has. */
export const FEATURES = 64;

/** Side of the images the network takes. */
const SIZE = 8;

/** Computes the features of 8x8 grey images. */
export class FeatureNetwork {
  private constructor(
    private readonly program: Program,
    private readonly input: Variable,
    private readonly batch: number,
  ) {}

  /** Loads the embedded weights and compiles for batches of `batch` images. */
  static async create(workspace: Workspace, batch = 250): Promise<FeatureNetwork> {
    const { metadata, tensors } = await decodeSafetensors(decodeBase64(DIGITS_FEATURES), "digits features");
    const weight = (name: string) => {
      const { data, shape } = tensors.get(name)!;
      return constant(data as Float32Array, shape);
    };
    const conv = (name: string, x: Tensor, stride: 1 | 2) =>
      relu(conv2d(x, weight(`${name}.weight`), weight(`${name}.bias`), { stride }));
    const input = workspace.variable("features.images", [batch, 1, SIZE, SIZE], "u8");
    const scaling = bytesToData({ mean: Number(metadata.mean), std: Number(metadata.std) });
    const maps = conv("conv3", conv("conv2", conv("conv1", fromUint8(input.tensor, scaling), 1), 2), 1);
    const flat = reshape(averagePool2x(maps), [batch, -1]);
    const features = relu(add(matmul(flat, weight("fc1.weight"), { transposeB: true }), weight("fc1.bias")));
    const program = await workspace.compile({ label: "features", outputs: { features } });
    return new FeatureNetwork(program, input, batch);
  }

  /** Features [count, 64] of images [count, 1, 8, 8] as bytes. */
  async features(images: Uint8Array): Promise<Float32Array> {
    const perImage = SIZE * SIZE;
    const count = images.length / perImage;
    const features = new Float32Array(count * FEATURES);
    for (let first = 0; first < count; first += this.batch) {
      const bytes = new Uint8Array(this.batch * perImage);
      bytes.set(images.subarray(first * perImage, (first + this.batch) * perImage));
      this.input.write(new Uint32Array(bytes.buffer));
      this.program.workspace.submit([this.program.at()]);
      const { features: part } = await this.program.read() as { features: Float32Array };
      features.set(part.subarray(0, Math.min(this.batch, count - first) * FEATURES), first * FEATURES);
    }
    return features;
  }
}

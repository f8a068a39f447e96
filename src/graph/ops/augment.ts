/** EDM's augmentation of a batch of images. */

import { augment as augmentKernels, AUGMENT_DRAWS, AUGMENT_LABELS, augmentScratch } from "../../../kernels/augment.ts";
import { GraphError } from "../../gpu/errors.ts";
import { expectDType, Node, type Op, shapeText, type Tensor } from "../tensor.ts";
import { randomNormal, type RandomSource, randomUniform } from "./random.ts";

export { AUGMENT_LABELS };

interface AugmentAttrs {
  readonly p: number;
}

const augmentOp: Op<AugmentAttrs> = {
  name: "augment",
  vjp: () => [],
  lower: ({ inputs: [x, uniforms, normals], outputs: [y, labels], attrs: { p } }, { scratch }) => {
    const [batch, channels, height, width] = x!.shape as [number, number, number, number];
    const shape = { batch, channels, height, width, p };
    const { transforms, samples } = augmentScratch(shape);
    const between = { transforms: scratch(transforms), samples: scratch(samples) };
    return augmentKernels(
      { x: x!, uniforms: uniforms!, normals: normals!, y: y!, labels: labels!, ...between },
      shape,
    );
  },
};

/** Where an augmentation's random numbers come from: two streams. */
export interface AugmentOptions {
  /** Probability of each change but the flip of x, which always has 1/2. */
  readonly p: number;
  /** Source of the decisions. */
  readonly uniforms: RandomSource;
  /** Source of the sizes. */
  readonly normals: RandomSource;
}

/**
 * `images` [N, C, H, W], each flipped, scaled, rotated, stretched and shifted at random (Karras et al. 2022, "Elucidating
 * the Design Space of Diffusion-Based Generative Models", appendix F.2), and `labels` [N, 9] that tell what was done, all
 * zero where nothing was. No gradient flows through.
 *
 * An image's result depends on its own random numbers alone: what lies outside is always continued by reflection as far
 * as that goes, not as far as the batch's widest change needs.
 */
export function augment(images: Tensor, options: AugmentOptions): { images: Tensor; labels: Tensor } {
  expectDType("f32", "augment", images);
  const [batch, , height, width] = images.shape;
  if (images.shape.length !== 4 || height! < 2 || width! < 2) {
    throw new GraphError(`augment expects images [N, C, H, W] of at least 2x2 pixels; got ${shapeText(images.shape)}.`);
  }
  const { p } = options;
  if (!(p >= 0 && p <= 1)) throw new GraphError(`augment expects a probability; got ${p}.`);
  const uniforms = randomUniform([batch!, AUGMENT_DRAWS.uniforms], options.uniforms);
  const normals = randomNormal([batch!, AUGMENT_DRAWS.normals], options.normals);
  const node = new Node(augmentOp, { p }, [images, uniforms, normals], [
    { shape: images.shape, dtype: "f32" },
    { shape: [batch!, AUGMENT_LABELS], dtype: "f32" },
  ]);
  const [augmented, labels] = node.outputs;
  return { images: augmented!, labels: labels! };
}

/** Descriptors of EDM's geometric augmentation of images, with the labels that tell the network of it. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import parameters from "./augment.wgsl" with { type: "text" };
import downsample from "./augment_downsample.wgsl" with { type: "text" };
import warp from "./augment_warp.wgsl" with { type: "text" };

/** Images to augment. */
export interface AugmentShape {
  /** Images. */
  readonly batch: number;
  /** Channels. */
  readonly channels: number;
  /** Rows, at least 2. */
  readonly height: number;
  /** Columns, at least 2. */
  readonly width: number;
  /** Probability of each change but the flip of x, which has 1/2. */
  readonly p: number;
}

/** What {@linkcode augment} works on, all f32. */
export interface AugmentBuffers<B> {
  /** [batch, channels, height, width]. */
  readonly x: B;
  /** In (0, 1): [batch, AUGMENT_DRAWS.uniforms]; see augment.wgsl. */
  readonly uniforms: B;
  /** Standard normal: [batch, AUGMENT_DRAWS.normals]. */
  readonly normals: B;
  /** Like x, written. */
  readonly y: B;
  /** [batch, AUGMENT_LABELS], written. */
  readonly labels: B;
  /** Used in between: {@linkcode augmentScratch} elements each. */
  readonly transforms: B;
  /** See `transforms`. */
  readonly samples: B;
}

/** Random numbers an image takes. */
export const AUGMENT_DRAWS = { uniforms: 10, normals: 4 } as const;

/** Labels of an image. */
export const AUGMENT_LABELS = 9;

/** Pixels around the image that the filter needs. */
const MARGIN = 6;

const samplesPerPlane = ({ height, width }: AugmentShape) => 4 * (height + MARGIN) * (width + MARGIN);

/** Elements of the buffers in between. */
export function augmentScratch(s: AugmentShape): { transforms: number; samples: number } {
  return { transforms: 8 * s.batch, samples: s.batch * s.channels * samplesPerPlane(s) };
}

/** Flips, scales, rotates, stretches and shifts each image at random. */
export function augment<B>(b: AugmentBuffers<B>, s: AugmentShape): Dispatch<B>[] {
  const { batch, channels, height, width, p } = s;
  const { transforms, samples } = augmentScratch(s);
  const elements = batch * channels * height * width;
  const { uniforms, normals } = AUGMENT_DRAWS;
  return [
    {
      label: "augment.parameters",
      source: parameters,
      uniforms: [batch, new F32(p), new F32(width), new F32(height)],
      reads: [b.uniforms, b.normals],
      writes: [b.labels, b.transforms],
      workgroups: spread(ceilDiv(batch, 64)),
      flops: 100 * batch,
      bytes: 4 * batch * (uniforms + normals + AUGMENT_LABELS) + 4 * transforms,
    },
    {
      label: "augment.warp",
      source: warp,
      uniforms: [batch, channels, height, width],
      reads: [b.x, b.transforms],
      writes: [b.samples],
      workgroups: spread(ceilDiv(samples / channels, 64)),
      flops: 2 * 7 * 8 * samples,
      bytes: 4 * (elements + samples),
    },
    {
      label: "augment.downsample",
      source: downsample,
      uniforms: [width, height * width, elements, 2 * (width + MARGIN), samplesPerPlane(s)],
      reads: [b.samples],
      writes: [b.y],
      workgroups: spread(ceilDiv(elements, 64)),
      flops: 2 * 12 * 13 * elements,
      bytes: 4 * (elements + samples),
    },
  ];
}

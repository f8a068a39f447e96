/** Images as bytes: picking a batch from a data set, and converting to and from floats. */

import { fromUint8 as fromKernel, gatherImages as gatherKernel, toUint8 as toKernel } from "../../../kernels/image.ts";
import { apply, expectDType, type Op, type Tensor } from "../tensor.ts";

/** y = byte · scale + shift, or its inverse. */
export interface ByteScale {
  /** Factor. */
  readonly scale: number;
  /** Added after it. */
  readonly shift: number;
}

/** How images are picked. */
export interface GatherOptions extends ByteScale {
  /** True: every image counts twice; index 2 i is image i, 2 i + 1 the same mirrored along its last axis. */
  readonly mirror?: boolean | undefined;
  /** Where present, `data` are the images from this one on of a larger set, and the pixels of the others are 0. */
  readonly first?: number | undefined;
}

const gatherOp: Op<GatherOptions> = {
  name: "gatherImages",
  vjp: () => [],
  lower: ({ inputs: [data, indices], outputs: [y], attrs: { mirror, first, ...scale } }) => {
    const count = indices!.size, perImage = y!.size / count;
    const mirroredWidth = mirror ? y!.shape.at(-1)! : undefined;
    const part = first === undefined ? undefined : { first, images: data!.shape[0]! };
    return [
      gatherKernel({ data: data!, indices: indices!, y: y! }, { count, perImage, mirroredWidth, part, ...scale }),
    ];
  },
};

/** Images `indices` (u32 [N]) of `data` (u8 [M, …]) as floats byte · scale + shift → [N, …]. */
export function gatherImages(data: Tensor, indices: Tensor, options: GatherOptions): Tensor {
  const { scale, shift, mirror = false, first } = options;
  expectDType("u8", "gatherImages", data);
  expectDType("u32", "gatherImages", indices);
  return apply(gatherOp, { scale, shift, mirror, first }, [data, indices], [indices.size, ...data.shape.slice(1)]);
}

const toUint8Op: Op<ByteScale> = {
  name: "toUint8",
  vjp: () => [],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [toKernel({ x: x!, y: y! }, { count: x!.size, ...attrs })],
};

/** round(x · scale + shift), limited to 0 … 255, as packed bytes. */
export function toUint8(x: Tensor, { scale, shift }: ByteScale): Tensor {
  expectDType("f32", "toUint8", x);
  return apply(toUint8Op, { scale, shift }, [x], x.shape, "u8");
}

const fromUint8Op: Op<ByteScale> = {
  name: "fromUint8",
  vjp: () => [],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [fromKernel({ x: x!, y: y! }, { count: x!.size, ...attrs })],
};

/** byte · scale + shift as floats. */
export function fromUint8(x: Tensor, { scale, shift }: ByteScale): Tensor {
  expectDType("u8", "fromUint8", x);
  return apply(fromUint8Op, { scale, shift }, [x], x.shape);
}

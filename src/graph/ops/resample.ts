/** Halving and doubling the resolution of images. */

import { GraphError } from "../../gpu/errors.ts";
import {
  filterDown2x,
  type FilterShape,
  filterUp2x,
  sumPool2x,
  upsampleNearest2x as upsampleKernel,
} from "../../../kernels/resample.ts";
import { apply, elementCount, expectFloats, type Op, shapeText, type Tensor } from "../tensor.ts";

interface FactorAttrs {
  readonly factor: number;
}

const size = (x: Tensor) => ({ height: x.shape.at(-2)!, width: x.shape.at(-1)! });
const shapeOf = (x: Tensor) => ({ planes: elementCount(x.shape.slice(0, -2)), ...size(x), f16: x.dtype === "f16" });

const upsampleOp: Op<FactorAttrs> = {
  name: "upsampleNearest2x",
  vjp: ({ attrs: { factor } }, [dy]) => [dy && pool(dy, factor)],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [
    upsampleKernel({ x: x!, y: y! }, { ...shapeOf(x!), ...attrs }),
  ],
};

const poolOp: Op<FactorAttrs> = {
  name: "sumPool2x",
  vjp: ({ attrs: { factor } }, [dy]) => [dy && upsample(dy, factor)],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [
    sumPool2x({ x: x!, y: y! }, { ...shapeOf(x!), ...attrs }),
  ],
};

function resized(x: Tensor, scale: number): number[] {
  return [...x.shape.slice(0, -2), x.shape.at(-2)! * scale, x.shape.at(-1)! * scale];
}

function upsample(x: Tensor, factor: number): Tensor {
  return apply(upsampleOp, { factor }, [x], resized(x, 2), x.dtype);
}

function pool(x: Tensor, factor: number): Tensor {
  return apply(poolOp, { factor }, [x], resized(x, 0.5), x.dtype);
}

/** Every pixel of `x` […, H, W] repeated 2×2 → […, 2H, 2W]. */
export function upsampleNearest2x(x: Tensor): Tensor {
  expectFloats("upsampleNearest2x", x);
  if (x.shape.length < 2) throw new GraphError(`upsampleNearest2x expects images; got ${shapeText(x.shape)}.`);
  return upsample(x, 1);
}

/** The mean of each 2×2 block of `x` […, H, W] with even H and W → […, H/2, W/2]. */
export function averagePool2x(x: Tensor): Tensor {
  expectFloats("averagePool2x", x);
  const { height, width } = size(x);
  if (!(height % 2 === 0 && width % 2 === 0)) {
    throw new GraphError(`averagePool2x expects even heights and widths; got ${shapeText(x.shape)}.`);
  }
  return pool(x, 0.25);
}

type FilterAttrs = Pick<FilterShape, "taps" | "margin">;

const filterDownOp: Op<FilterAttrs> = {
  name: "filterDown2x",
  vjp: ({ inputs: [x], attrs }, [dy]) => [dy && apply(filterUpOp, attrs, [dy], x!.shape, dy.dtype)],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [filterDown2x({ x: x!, y: y! }, { ...shapeOf(y!), ...attrs })],
};

const filterUpOp: Op<FilterAttrs> = {
  name: "filterUp2x",
  vjp: ({ inputs: [x], attrs }, [dy]) => [dy && apply(filterDownOp, attrs, [dy], x!.shape, dy.dtype)],
  lower: ({ inputs: [x], outputs: [y], attrs }) => [filterUp2x({ x: x!, y: y! }, { ...shapeOf(x!), ...attrs })],
};

/**
 * A filter as four taps of the sum `total`: two lie in the middle. Undefined where it is a box of two, for which there are
 * faster kernels.
 */
function fourTaps(op: string, filter: readonly number[], total: number): FilterAttrs["taps"] | undefined {
  const sum = filter.reduce((a, b) => a + b, 0);
  if ((filter.length !== 2 && filter.length !== 4) || !filter.every(Number.isFinite) || sum === 0) {
    throw new GraphError(`${op} expects a filter of 2 or 4 numbers whose sum is not 0; got [${filter.join(", ")}].`);
  }
  const taps = filter.map((tap) => tap * total / sum);
  if (taps.length === 4) return taps as [number, number, number, number];
  return taps[0] === taps[1] ? undefined : [0, taps[0]!, taps[1]!, 0];
}

/**
 * Doubles the resolution of `x` […, H, W] with a separable `filter` of 2 or 4 taps (scaled to the sum 2 in each direction):
 * zeros between the pixels, then the filter; [1, 1] repeats pixels. → […, 2H, 2W].
 */
export function upsample2x(x: Tensor, filter: readonly number[]): Tensor {
  const taps = fourTaps("upsample2x", filter, 2);
  if (!taps) return upsampleNearest2x(x);
  expectFloats("upsample2x", x);
  if (x.shape.length < 2) throw new GraphError(`upsample2x expects images; got ${shapeText(x.shape)}.`);
  return apply(filterUpOp, { taps, margin: 1 }, [x], resized(x, 2), x.dtype);
}

/**
 * Halves the even resolution of `x` […, H, W] with a separable `filter` of 2 or 4 taps (scaled to the sum 1), every second
 * pixel of the filtered image; [1, 1] averages 2×2 blocks. → […, H/2, W/2].
 *
 * A filter of 4 reaches one pixel over the border: zeros, or with `bordered` pixels that x has there, → […, H/2 − 1, W/2 − 1].
 */
export function downsample2x(
  x: Tensor,
  filter: readonly number[],
  { bordered = false }: { readonly bordered?: boolean } = {},
): Tensor {
  const taps = fourTaps("downsample2x", filter, 1);
  if (!taps && !bordered) return averagePool2x(x);
  expectFloats("downsample2x", x);
  const { height, width } = size(x);
  if (!(height % 2 === 0 && width % 2 === 0)) {
    throw new GraphError(`downsample2x expects even heights and widths; got ${shapeText(x.shape)}.`);
  }
  const margin = bordered ? 0 : 1;
  const small = [height, width].map((extent) => extent / 2 - 1 + margin);
  const attrs = { taps: taps ?? [0, 0.5, 0.5, 0], margin } as const;
  return apply(filterDownOp, attrs, [x], [...x.shape.slice(0, -2), ...small], x.dtype);
}

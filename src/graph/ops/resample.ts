/** Halving and doubling the resolution of images. */

import { GraphError } from "../../gpu/errors.ts";
import { sumPool2x, upsampleNearest2x as upsampleKernel } from "../../../kernels/resample.ts";
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

/** Sinusoidal embedding of noise levels. */

import { GraphError } from "../../gpu/errors.ts";
import {
  frequencyEmbedding as frequencyKernel,
  sinusoidalEmbedding as embeddingKernel,
} from "../../../kernels/embedding.ts";
import { apply, expectDType, expectShapes, type Op, type Tensor } from "../tensor.ts";
import { mul } from "./pointwise.ts";
import { sum } from "./reduce.ts";

interface EmbeddingAttrs {
  readonly channels: number;
  readonly maxPositions: number;
  readonly endpoint: boolean;
  readonly sinFirst: boolean;
  readonly derivative: boolean;
}

const embeddingOp: Op<EmbeddingAttrs> = {
  name: "sinusoidalEmbedding",
  vjp: ({ inputs: [x], outputs: [y], attrs }, [dy]) => {
    if (!dy) return [undefined];
    if (attrs.derivative) throw new GraphError("A second derivative of sinusoidalEmbedding is not defined.");
    return [sum(mul(dy, apply(embeddingOp, { ...attrs, derivative: true }, [x!], y!.shape)), [1])];
  },
  lower: ({ inputs: [x], outputs: [y], attrs }) => [
    embeddingKernel({ x: x!, y: y! }, { batch: x!.shape[0]!, ...attrs }),
  ],
};

/** Settings of {@linkcode sinusoidalEmbedding}. */
export interface EmbeddingOptions {
  /** Even number of channels. */
  readonly channels: number;
  /** Longest wavelength over 2π. */
  readonly maxPositions?: number;
  /** Let the last frequency be exactly 1/maxPositions. */
  readonly endpoint?: boolean;
  /** Order the halves [sin | cos] instead of [cos | sin]. */
  readonly sinFirst?: boolean;
}

/** Positional embedding (EDM's) of `x` [N] → [N, channels]: cosines and sines of x·f, f = maxPositions^(−i/(channels/2 − 1)). */
export function sinusoidalEmbedding(x: Tensor, options: EmbeddingOptions): Tensor {
  const { channels, maxPositions = 10000, endpoint = true, sinFirst = false } = options;
  expectDType("f32", "sinusoidalEmbedding", x);
  expectShapes(x.shape.length === 1 && channels % 2 === 0, "sinusoidalEmbedding", "x [N] and even channels", x);
  const attrs: EmbeddingAttrs = { channels, maxPositions, endpoint, sinFirst, derivative: false };
  return apply(embeddingOp, attrs, [x], [x.shape[0]!, channels]);
}

const frequencyOp: Op<{ readonly sinFirst: boolean }> = {
  name: "frequencyEmbedding",
  lower: ({ inputs: [x, frequencies], outputs: [y], attrs }) => [
    frequencyKernel({ x: x!, frequencies: frequencies!, y: y! }, {
      batch: x!.size,
      half: frequencies!.size,
      ...attrs,
    }),
  ],
};

/**
 * Embedding of `x` [N] → [N, 2 F] by given `frequencies` [F], in radians: cosines and sines of x·f. It has no gradient.
 */
export function frequencyEmbedding(
  x: Tensor,
  frequencies: Tensor,
  options: Pick<EmbeddingOptions, "sinFirst"> = {},
): Tensor {
  expectDType("f32", "frequencyEmbedding", x, frequencies);
  const fits = x.shape.length === 1 && frequencies.shape.length === 1;
  expectShapes(fits, "frequencyEmbedding", "x [N] and frequencies [F]", x, frequencies);
  const { sinFirst = false } = options;
  return apply(frequencyOp, { sinFirst }, [x, frequencies], [x.size, 2 * frequencies.size]);
}

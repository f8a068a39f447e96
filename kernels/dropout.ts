/** Descriptor of dropout. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import source from "./dropout.wgsl" with { type: "text" };
import type { RandomBuffers, RandomShape } from "./random.ts";

/** What is dropped: see {@linkcode RandomShape} for how it is drawn. */
export interface DropoutShape extends RandomShape {
  /** Share of the elements that become 0, in [0, 1). */
  readonly probability: number;
  /** True where x and y are stored as f16, else f32. */
  readonly f16?: boolean | undefined;
}

/**
 * y = x / (1 − probability) where `randomUniform`'s value of the same source is at least `probability`, else 0;
 * x, y [batch, perSample].
 */
export function dropout<B>(b: RandomBuffers<B> & { readonly x: B }, s: DropoutShape): Dispatch<B> {
  const { batch, perSample, stream, offset = 0, probability, f16 } = s;
  return {
    label: "dropout",
    source,
    ...f16 && { f16: ["Scalar"] },
    uniforms: [batch, perSample, stream, offset, new F32(probability), new F32(1 / (1 - probability))],
    reads: [b.seed, b.step, b.first, b.x],
    writes: [b.y],
    workgroups: spread(ceilDiv(batch * ceilDiv(perSample, 4), 64)),
    flops: batch * perSample,
    bytes: (f16 ? 2 : 4) * 2 * batch * perSample,
  };
}

/** Descriptor of the running sum: a scaled vector is added to another in place. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import source from "./accumulate.wgsl" with { type: "text" };

/** Length and scale of a step of the sum. */
export interface AccumulateShape {
  /** Elements of each vector. */
  readonly count: number;
  /** Factor on what is added. */
  readonly share: number;
}

/** sum = share part where `keep` f32 [1] is 0, else sum + share part; `part` and `sum` f32 [count], `sum` in place. */
export function accumulate<B>(b: { part: B; keep: B; sum: B }, { count, share }: AccumulateShape): Dispatch<B> {
  const lanes = count % 4 === 0 ? 4 : 1;
  return {
    label: "accumulate",
    source: lanes === 4 ? source : source.replaceAll("vec4<f32>", "f32"),
    uniforms: [count / lanes, new F32(share)],
    reads: [b.part, b.keep],
    writes: [b.sum],
    workgroups: spread(ceilDiv(count / lanes, 64)),
    flops: 2 * count,
    bytes: 4 * 3 * count,
  };
}

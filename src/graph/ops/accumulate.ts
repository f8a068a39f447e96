/** A running sum as an op that rewrites it in place. */

import { accumulate as accumulateKernel } from "../../../kernels/accumulate.ts";
import { apply, expectDType, expectShapes, type Op, type Tensor } from "../tensor.ts";

interface AccumulateAttrs {
  readonly share: number;
}

const accumulateOp: Op<AccumulateAttrs> = {
  name: "accumulate",
  inPlace: { 0: 0 },
  lower: ({ inputs: [sum, part, keep], attrs }) => [
    accumulateKernel({ sum: sum!, part: part!, keep: keep! }, { count: sum!.size, ...attrs }),
  ],
};

/**
 * sum + share · part, or share · part alone where `keep` [] is 0; `sum` and `part` are flat. It is written over `sum`,
 * which must be a variable.
 */
export function accumulate(sum: Tensor, part: Tensor, keep: Tensor, share: number): Tensor {
  expectDType("f32", "accumulate", sum, part, keep);
  const fits = sum.shape.length === 1 && part.shape.length === 1 && sum.size === part.size && keep.size === 1;
  expectShapes(fits, "accumulate", "two equal vectors and keep []", sum, part, keep);
  return apply(accumulateOp, { share }, [sum, part, keep], sum.shape);
}

/** The kernel families, so that names in a tuning table can be checked. */

import { attention, attentionGrad } from "./attention.ts";
import { conv2d, conv2dWeightGrad } from "./conv2d.ts";
import { groupNorm, groupNormGrad } from "./group_norm.ts";
import { matmul } from "./matmul.ts";

/** Names of every family's variants, by the family's name. */
export const VARIANTS: ReadonlyMap<string, readonly string[]> = new Map(
  [matmul, conv2d, conv2dWeightGrad, groupNorm, groupNormGrad, attention, attentionGrad].map((
    { name, variants },
  ) => [name, Object.keys(variants)]),
);

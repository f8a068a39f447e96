/** The sum of a step's gradients over its microbatches as a program. */

import {
  accumulate,
  add,
  affine,
  constant,
  host,
  type Program,
  type Run,
  type Tensor,
  type Variable,
  where,
} from "../graph/mod.ts";
import type { Microbatches, Trainable } from "./weights.ts";

/** Adds up the gradients of microbatches; without microbatches there is nothing to run. */
export class Accumulator {
  private constructor(private readonly program: Program | undefined) {}

  /** Compiles the sum into `network.grad` of what the programs write into `network.microbatches`, for each network. */
  static async create(...networks: readonly Trainable[]): Promise<Accumulator> {
    const keep = host("keep");
    const updates = networks.flatMap(({ grad, microbatches }) =>
      microbatches ? sums(grad.flat.chunks, microbatches, keep) : []
    );
    if (updates.length === 0) return new Accumulator(undefined);
    const label = `${networks.map(({ name }) => name).join("+")}.accumulate`;
    return new Accumulator(await networks[0]!.workspace.compile({ label, updates }));
  }

  /** What is to run after the gradient of microbatch `index` of a step: nothing, or one program. */
  at(index: number): Run[] {
    return this.program ? [this.program.at({ keep: Number(index > 0) })] : [];
  }
}

function sums(
  chunks: readonly Variable[],
  { count, grad, weight, divisor }: Microbatches,
  keep: Tensor,
): (readonly [Variable, Tensor])[] {
  const before = where(keep, divisor.tensor, constant([0], []));
  return [
    ...chunks.map((sum, i) => [sum, accumulate(sum.tensor, grad.flat.chunks[i]!.tensor, keep, 1 / count)] as const),
    [divisor, add(before, affine(weight.tensor, 1 / count, 0))],
  ];
}

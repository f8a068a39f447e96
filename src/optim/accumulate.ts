/** The sum of a step's gradients over its microbatches as a program. */

import { accumulate, host, type Program, type Run, type Tensor, type Variable } from "../graph/mod.ts";
import type { Microbatches, Trainable } from "./weights.ts";

/** Adds up the gradients of microbatches; without microbatches there is nothing to add. */
export class Accumulator {
  private constructor(private readonly count: number, private readonly program: Program | undefined) {}

  /** Compiles the sum into `network.grad` of what the programs write into `network.microbatches`, for each network. */
  static async create(networks: readonly [Trainable, ...Trainable[]]): Promise<Accumulator> {
    const keep = host("keep");
    const updates = networks.flatMap(({ grad, microbatches }) =>
      microbatches ? sums(grad.flat.chunks, microbatches, keep) : []
    );
    const [{ workspace, runsAStep }] = networks;
    if (updates.length === 0) return new Accumulator(runsAStep, undefined);
    const label = `${networks.map(({ name }) => name).join("+")}.accumulate`;
    return new Accumulator(runsAStep, await workspace.compile({ label, updates }));
  }

  /**
   * The runs that leave the gradient of a step in `network.grad`: for every microbatch those that compute its gradient,
   * from its first sample on, and the sum.
   */
  runs(batch: number, gradientFrom: (first: number) => readonly Run[]): Run[] {
    return this.firsts(batch).flatMap((first) => {
      const part = gradientFrom(first);
      return this.program ? [...part, this.program.at({ keep: Number(first > 0) })] : part;
    });
  }

  /** The first sample of every microbatch. */
  firsts(batch: number): number[] {
    return Array.from({ length: this.count }, (_, i) => i * batch / this.count);
  }
}

function sums(
  chunks: readonly Variable[],
  { count, grad }: Microbatches,
  keep: Tensor,
): (readonly [Variable, Tensor])[] {
  return chunks.map((sum, i) => [sum, accumulate(sum.tensor, grad.flat.chunks[i]!.tensor, keep, 1 / count)] as const);
}

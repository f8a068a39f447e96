/** Running means of the density ratio by noise level, by which ratios are corrected. */

import {
  add,
  concat,
  constant,
  div,
  exp,
  greater,
  host,
  isFinite,
  log,
  mul,
  neg,
  type Program,
  reshape,
  type Run,
  slice,
  sub,
  sum,
  type Tensor,
  type Variable,
  where,
  type Workspace,
} from "../graph/mod.ts";
import type { ParameterSpec } from "../nn/layers.ts";
import { Weights } from "../optim/weights.ts";

/**
 * Means of p/q = 1/r over generated samples in bins of equal width in ln σ, where it would be 1 of an exact ratio; it is 1
 * until a sample falls into a bin. Dividing p/q by its mean corrects a classifier that is wrong for a whole noise level
 * (f-distill, Xu et al. 2025, arXiv 2502.15681). The mean of r itself is no such measure: it is 1 over samples of p.
 */
export class RatioBins {
  /** The means, by the name `mean` [bins]: part of the training's state. */
  readonly means: Weights;
  /** Sums of p/q, then numbers of samples, of the current step [2, bins]. */
  private readonly sums: Variable;
  private update: Program | undefined;

  /** `limits` are the least and the greatest σ; what lies beyond falls into the outermost bins. */
  constructor(
    private readonly workspace: Workspace,
    private readonly bins: number,
    private readonly limits: readonly [number, number],
  ) {
    const parameters: ParameterSpec[] = [{ name: "mean", shape: [bins], init: { kind: "constant", value: 1 } }];
    this.means = new Weights(workspace, "ratioBins", { parameters });
    this.means.write(new Map([["mean", new Float32Array(bins).fill(1)]]));
    this.sums = workspace.variable("ratioBins.sums", [2, bins]);
  }

  /** What is to be added to logits log p/q at noise levels `sigma` [N]: −ln of their bins' means. */
  offsets(sigma: Tensor): Tensor {
    return sum(mul(this.membership(sigma), reshape(neg(log(this.means.lookup("mean"))), [1, this.bins])), [1]);
  }

  /**
   * The update that adds p/q = e^logit of samples to the step's sums, for logits within the ratio's bounds; run-time value
   * `keep` is 0 for the first of a step.
   */
  collect(sigma: Tensor, logit: Tensor): readonly [Variable, Tensor] {
    const members = this.membership(sigma), samples = sigma.size;
    const finite = isFinite(logit);
    const ratio = where(finite, exp(logit), constant([0], []));
    const weighted = sum(mul(members, reshape(ratio, [samples, 1])), [0]);
    const counted = sum(mul(members, reshape(finite, [samples, 1])), [0]);
    const zero = constant([0], []);
    const kept = where(host("keep"), this.sums.tensor, zero);
    const rows = [weighted, counted].map((row, i) => add(slice(kept, 0, i, i + 1), reshape(row, [1, this.bins])));
    return [this.sums, concat(rows, 0)];
  }

  /** Compiles the running means' step. */
  async compile(): Promise<void> {
    const [total, count] = [0, 1].map((row) => reshape(slice(this.sums.tensor, 0, row, row + 1), [this.bins]));
    const means = this.means.flat.slices.get("mean")!;
    const old = means.tensor, empty = sub(constant([1], []), greater(count!, constant([0], [])));
    const batchMean = div(total!, add(count!, empty));
    const moved = add(mul(host("decay"), old), mul(sub(constant([1], []), host("decay")), batchMean));
    this.update = await this.workspace.compile({
      label: "ratioBins.update",
      updates: [[means, where(empty, old, moved)]],
    });
  }

  /** The run that moves the means towards those of the step; `decay` is the share of the old ones that is kept. */
  step(decay: number): Run {
    return this.update!.at({ decay });
  }

  /** The bin that a noise level falls into. */
  binOf(sigma: number): number {
    return this.edges().filter((edge) => Math.log(sigma) > edge).length;
  }

  /** Between the bins, in ln σ. */
  private edges(): number[] {
    const [low, high] = this.limits.map(Math.log) as [number, number];
    return Array.from({ length: this.bins - 1 }, (_, i) => low + (i + 1) * (high - low) / this.bins);
  }

  /** [N, bins]: 1 in the bin of each sample, else 0. */
  private membership(sigma: Tensor): Tensor {
    const edges = this.edges();
    const at = reshape(log(sigma), [sigma.size, 1]);
    const above = (values: ArrayLike<number>) => greater(at, constant(values, [1, this.bins]));
    return sub(above([-BEYOND, ...edges]), above([...edges, BEYOND]));
  }
}

/** Beyond every ln σ. */
const BEYOND = 1e30;

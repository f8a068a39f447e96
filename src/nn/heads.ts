/** Small classifiers that read the features of another network's encoder. */

import { add, affine, mean, reshape, type Tensor } from "../graph/mod.ts";
import { Conv2d, GroupNorm, Linear, ParameterList, type ParameterLookup, type ParameterSpec } from "./layers.ts";
import type { Network } from "./network.ts";

/** One map [N, C, H, W] → [N]: normalised, convolved, normalised, pooled, projected. */
class Head {
  private readonly norm0: GroupNorm;
  private readonly conv: Conv2d;
  private readonly norm1: GroupNorm;
  private readonly linear: Linear;

  constructor(list: ParameterList, name: string, channels: number) {
    this.norm0 = new GroupNorm(list, `${name}.norm0`, channels);
    this.conv = new Conv2d(list, `${name}.conv`, channels, channels, { kernel: 3 });
    this.norm1 = new GroupNorm(list, `${name}.norm1`, channels);
    this.linear = new Linear(list, `${name}.linear`, channels, 1);
  }

  apply(p: ParameterLookup, x: Tensor): Tensor {
    const h = this.norm1.apply(p, this.conv.apply(p, this.norm0.apply(p, x, { silu: true })), { silu: true });
    return reshape(this.linear.apply(p, mean(h, [2, 3])), [x.shape[0]!]);
  }
}

/** A head on each of several maps; their results are averaged. */
export class FeatureHeads implements Network {
  /** Parameters in order. */
  readonly parameters: readonly ParameterSpec[];
  private readonly heads: readonly Head[];

  /** Declares a head for each map, of so many channels. */
  constructor(channels: readonly number[]) {
    const list = new ParameterList();
    this.heads = channels.map((count, i) => new Head(list, `head${i}`, count));
    this.parameters = list.specs;
  }

  /** Maps [N, C, H, W], as many as there are heads → [N]. */
  apply(p: ParameterLookup, maps: readonly Tensor[]): Tensor {
    const outputs = this.heads.map((head, i) => head.apply(p, maps[i]!));
    return affine(outputs.reduce(add), 1 / outputs.length, 0);
  }
}

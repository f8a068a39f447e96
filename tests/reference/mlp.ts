/** A multi-layer perceptron of the engine's layers, for tests on points instead of images. */

import { silu, type Tensor } from "../../src/graph/mod.ts";
import { Linear, ParameterList, type ParameterLookup, type ParameterSpec } from "../../src/nn/layers.ts";
import type { Network } from "../../src/nn/network.ts";

/** Fully connected layers with SiLU between them. */
export class Mlp implements Network {
  readonly parameters: readonly ParameterSpec[];
  readonly #layers: readonly Linear[];

  /** `sizes`: extents of the input, of each hidden layer and of the output. */
  constructor(sizes: readonly number[]) {
    const list = new ParameterList();
    this.#layers = sizes.slice(1).map((size, i) => new Linear(list, `${i}`, sizes[i]!, size));
    this.parameters = list.specs;
  }

  /** [N, in] → [N, out]. */
  apply(p: ParameterLookup, x: Tensor): Tensor {
    return this.#layers.reduce((y, layer, i) => layer.apply(p, i === 0 ? y : silu(y)), x);
  }
}

/** The optimizer step as an op that rewrites its state in place. */

import { adamEma as adamKernel } from "../../../kernels/adam.ts";
import { expectDType, expectShapes, Node, type Op, type Tensor } from "../tensor.ts";

/** Constants of Adam. */
export interface AdamConstants {
  /** Decay of the first moment. */
  readonly beta1: number;
  /** Decay of the second moment. */
  readonly beta2: number;
  /** Added to the root of the second moment. */
  readonly epsilon: number;
  /** Decoupled weight decay (AdamW). */
  readonly weightDecay: number;
  /** True: NaN in the gradient, after control's factor, counts as 0 and ±∞ as ±1e5. */
  readonly sanitise?: boolean;
}

const adamOp: Op<AdamConstants> = {
  name: "adamEma",
  inPlace: { 0: 0, 1: 1, 2: 2, 3: 3 },
  lower: ({ inputs: [p, m, v, ema, grad, hyper, control], attrs }) => [
    adamKernel({ p: p!, m: m!, v: v!, ema: ema!, grad: grad!, hyper: hyper!, control: control! }, {
      count: p!.size,
      ...attrs,
    }),
  ],
};

/** Tensors of {@linkcode adamEma}: flat parameters with their state. */
export interface AdamTensors {
  /** Parameters. */
  readonly p: Tensor;
  /** First moments. */
  readonly m: Tensor;
  /** Second moments. */
  readonly v: Tensor;
  /** Exponential moving average of the parameters. */
  readonly ema: Tensor;
  /** Gradient. */
  readonly grad: Tensor;
  /** [learning rate, 1 − β₁ᵗ, 1 − β₂ᵗ, EMA decay]. */
  readonly hyper: Tensor;
  /** [factor on the gradient, 1 to update or 0 to leave everything as it is]. */
  readonly control: Tensor;
}

/** One Adam step and one EMA step on flat vectors → [p, m, v, ema], written over the inputs, which must be variables. */
export function adamEma(tensors: AdamTensors, constants: AdamConstants): readonly [Tensor, Tensor, Tensor, Tensor] {
  const { p, m, v, ema, grad, hyper, control } = tensors;
  expectDType("f32", "adamEma", p, m, v, ema, grad, hyper, control);
  const flat = [p, m, v, ema, grad].every((t) => t.shape.length === 1 && t.size === p.size);
  expectShapes(
    flat && hyper.size === 4 && control.size === 2,
    "adamEma",
    "five equal vectors, hyper [4], control [2]",
    p,
    m,
    v,
    ema,
    grad,
    hyper,
    control,
  );
  const node = new Node(adamOp, constants, [p, m, v, ema, grad, hyper, control], [p, m, v, ema]);
  return node.outputs as unknown as readonly [Tensor, Tensor, Tensor, Tensor];
}

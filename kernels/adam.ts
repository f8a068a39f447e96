/** Descriptor of the optimiser's step: Adam with decoupled weight decay and the moving average, in one pass. */

import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import source from "./adam.wgsl" with { type: "text" };

/** Length and fixed settings of a step; what changes from step to step is in the buffer `hyper`. */
export interface AdamShape {
  /** Elements of each vector. */
  readonly count: number;
  /** Decay of the first moment, in [0, 1). */
  readonly beta1: number;
  /** Decay of the second moment, in [0, 1). */
  readonly beta2: number;
  /** Added to the denominator. */
  readonly epsilon: number;
  /** Decoupled weight decay: parameters shrink by lr * weightDecay a step. */
  readonly weightDecay: number;
  /** True: NaN in the gradient, after control's factor, counts as 0 and +-infinity as +-1e5. */
  readonly sanitise?: boolean;
}

/** Buffers of a step, all f32. */
export interface AdamBuffers<B> {
  /** Gradient [count]. */
  readonly grad: B;
  /** [4]: learning rate, 1 - beta1^t, 1 - beta2^t (t counts from 1), the moving average's beta. */
  readonly hyper: B;
  /** [2]: factor on the gradient; 1, or 0 to leave everything untouched. */
  readonly control: B;
  /** Parameters [count]. */
  readonly p: B;
  /** First moment [count]. */
  readonly m: B;
  /** Second moment [count]. */
  readonly v: B;
  /** Moving average of the parameters [count]. */
  readonly ema: B;
}

/** One AdamW step on p, m and v in place (PyTorch's formula), then ema = beta ema + (1 - beta) p. */
export function adamEma<B>(b: AdamBuffers<B>, s: AdamShape): Dispatch<B> {
  const lanes = s.count % 4 === 0 ? 4 : 1;
  const floats = [s.beta1, 1 - s.beta1, s.beta2, 1 - s.beta2, s.epsilon, s.weightDecay];
  return {
    label: "adam",
    source: lanes === 4 ? source : source.replaceAll(/vec4<([fu]32)>/g, "$1"),
    constants: { SANITISE: Number(s.sanitise ?? false) },
    uniforms: [s.count / lanes, ...floats.map((value) => new F32(value)), 0],
    reads: [b.grad, b.hyper, b.control],
    writes: [b.p, b.m, b.v, b.ema],
    workgroups: spread(ceilDiv(s.count / lanes, 64)),
    flops: 18 * s.count,
    bytes: 4 * 9 * s.count,
  };
}

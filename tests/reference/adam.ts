/** Float64 reference of one AdamW step with the moving average. */

import type { AdamShape } from "../../kernels/adam.ts";

/** What a step changes; vectors of one length. */
export interface AdamState {
  /** Parameters. */
  readonly p: number[];
  /** First moment. */
  readonly m: number[];
  /** Second moment. */
  readonly v: number[];
  /** Moving average of the parameters. */
  readonly ema: number[];
}

/** The state after a step; `hyper` and `control` as in the kernel. */
export function adamReference(
  state: AdamState,
  grad: ArrayLike<number>,
  hyper: ArrayLike<number>,
  control: ArrayLike<number>,
  { beta1, beta2, epsilon, weightDecay }: AdamShape,
): AdamState {
  if (control[1] === 0) return state;
  const [lr, correction1, correction2, emaBeta] = Array.from(hyper) as [number, number, number, number];
  const g = state.p.map((_, i) => grad[i]! * control[0]!);
  const m = state.m.map((old, i) => beta1 * old + (1 - beta1) * g[i]!);
  const v = state.v.map((old, i) => beta2 * old + (1 - beta2) * g[i]! ** 2);
  const p = state.p.map((old, i) => {
    const direction = m[i]! / correction1 / (Math.sqrt(v[i]! / correction2) + epsilon);
    return old - lr * weightDecay * old - lr * direction;
  });
  return { p, m, v, ema: state.ema.map((old, i) => emaBeta * old + (1 - emaBeta) * p[i]!) };
}

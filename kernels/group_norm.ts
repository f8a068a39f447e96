/** Descriptors of group normalisation, with or without a SiLU behind it, and of its gradient. */

import type { Lowering } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import { sumPair } from "./reduce.ts";
import forwardSource from "./group_norm.wgsl" with { type: "text" };
import gradSource from "./group_norm_grad.wgsl" with { type: "text" };

/** Shape and options of a group normalisation of x [batch, channels, size]. */
export interface GroupNormShape {
  /** Samples. */
  readonly batch: number;
  /** Channels, a multiple of `groups`. */
  readonly channels: number;
  /** Groups of neighbouring channels that share a mean and a variance. */
  readonly groups: number;
  /** Elements of one channel: height * width. */
  readonly size: number;
  /** Added to the variance; positive. */
  readonly eps: number;
  /** True where y = silu(norm(x)), silu(z) = z / (1 + e^-z). */
  readonly silu: boolean;
  /** True where x, y and their gradients are stored as f16, else f32; the rest is f32. */
  readonly f16?: boolean | undefined;
}

/**
 * y = gamma (x - mean) / sqrt(var + eps) + beta, then SiLU where `silu` (Wu and He 2018, equation 1).
 *
 * x, y [batch, channels, size]; gamma, beta [channels]; stats [batch, groups, 2] receives mean and 1/sqrt(var + eps)
 * (biased variance) for {@linkcode groupNormGrad}.
 */
export function groupNormForward<B>(
  b: { x: B; gamma: B; beta: B; y: B; stats: B },
  s: GroupNormShape,
): Dispatch<B> {
  const elements = s.batch * s.channels * s.size;
  return {
    label: "groupNorm",
    ...division(forwardSource, s),
    uniforms: [s.batch * s.groups, s.groups, s.channels / s.groups, s.size / vector(s), new F32(s.eps)],
    reads: [b.x, b.gamma, b.beta],
    writes: [b.y, b.stats],
    flops: elements * (s.silu ? 10 : 7),
    bytes: 2 * elements * elementBytes(s) + 4 * (2 * s.channels + 2 * s.batch * s.groups),
  };
}

/**
 * Gradients of {@linkcode groupNormForward} from its inputs, its `stats` and dy [batch, channels, size]:
 * dx [batch, channels, size] (plus `residual`, of the same shape, where it is given), dgamma and dbeta [channels].
 */
export function groupNormGrad<B>(
  b: { x: B; gamma: B; beta: B; stats: B; dy: B; residual?: B | undefined; dx: B; dgamma: B; dbeta: B },
  s: GroupNormShape,
  lowering: Pick<Lowering<B>, "scratch">,
): Dispatch<B>[] {
  const sums = lowering.scratch(2 * s.batch * s.channels);
  const columns = { rows: s.batch, countA: s.channels, countB: s.channels };
  return [
    gradDispatch({ ...b, sums }, s),
    sumPair({ a: sums, b: sums, sumA: b.dgamma, sumB: b.dbeta }, { ...columns, startB: s.batch * s.channels }),
  ];
}

function gradDispatch<B>(
  b: { x: B; gamma: B; beta: B; stats: B; dy: B; residual?: B | undefined; dx: B; sums: B },
  s: GroupNormShape,
): Dispatch<B> {
  const elements = s.batch * s.channels * s.size;
  return {
    label: "groupNorm.grad",
    ...division(gradSource, s),
    uniforms: [
      ...[s.batch * s.groups, s.groups, s.channels / s.groups, s.size / vector(s)],
      b.residual === undefined ? 0 : 1,
    ],
    // What is not read is bound to something that is there.
    reads: [b.x, b.gamma, b.beta, b.stats, b.dy, b.residual ?? b.x],
    writes: [b.dx, b.sums],
    flops: elements * (s.silu ? 26 : 12),
    bytes: (b.residual === undefined ? 3 : 4) * elements * elementBytes(s) +
      4 * (2 * s.channels + 2 * s.batch * (s.channels + s.groups)),
  };
}

function elementBytes({ f16 }: GroupNormShape): number {
  return f16 ? 2 : 4;
}

/** Threads of a workgroup of the variant with one thread a group. */
const WIDTH = 16;

/** How groups are divided among threads: source, entry point, constants, workgroups. */
function division(
  source: string,
  s: GroupNormShape,
): Pick<Dispatch<never>, "source" | "f16" | "entry" | "constants" | "workgroups"> {
  const VECTOR = vector(s);
  const elements = s.size * s.channels / s.groups;
  const common = { SILU: Number(s.silu), VECTOR };
  const typed = {
    source: VECTOR === 4 ? source : source.replace(/^(alias \w+) = vec4<f32>;/gm, "$1 = f32;"),
    ...s.f16 && { f16: ["Stored"] },
  };
  if (elements / VECTOR <= 64) {
    const workgroups = spread(ceilDiv(s.batch * s.groups, WIDTH));
    return { ...typed, entry: "serial", constants: { ...common, WIDTH }, workgroups };
  }
  const LANES = lanes(elements, s.size);
  const workgroups = spread(s.batch * s.groups);
  return { ...typed, entry: "cooperative", constants: { ...common, LANES }, workgroups };
}

/** Elements a thread loads at once. */
function vector(s: GroupNormShape): number {
  return s.size % 4 === 0 ? 4 : 1;
}

/** Threads of a group: few where it is small, since barriers among many soon cost a CPU adapter more than they save. */
function lanes(elements: number, size: number): number {
  if (elements <= 1024 || size < 256) return 8;
  return elements <= 32768 || size < 1024 ? 64 : 256;
}

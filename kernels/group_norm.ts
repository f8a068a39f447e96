/** Families of group normalisation, with or without a scale and shift and a SiLU behind it, and of its gradient. */

import type { Buffers, Family, Lowering, Variant } from "../src/gpu/family.ts";
import { ceilDiv, type Dispatch, F32, spread } from "../src/gpu/kernel.ts";
import { sumPair } from "./reduce.ts";
import forwardSource from "./group_norm.wgsl" with { type: "text" };
import gradSource from "./group_norm_grad.wgsl" with { type: "text" };
import sumsSource from "./group_norm_sums.wgsl" with { type: "text" };

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

/** Elements of a normalisation's `stats`; `modulated` where it has a scale and a shift. */
export function groupNormStats({ batch, channels, groups }: GroupNormShape, modulated: boolean): number {
  return 2 * batch * (modulated ? groups + channels : groups);
}

type ForwardBuffer = "x" | "gamma" | "beta" | "y" | "stats";
type ForwardOption = "scale" | "shift";
type GradientBuffer = "x" | "gamma" | "beta" | "stats" | "dy" | "dx" | "dgamma" | "dbeta";
type GradientOption = "residual" | "scale" | "dscale" | "dshift";

type ForwardBuffers<B> = Buffers<B, ForwardBuffer, ForwardOption>;
type GradientBuffers<B> = Buffers<B, GradientBuffer, GradientOption>;

/** How a (sample, group) is divided among threads. */
interface Division {
  /** True where it can compute the shape. */
  fits(s: GroupNormShape): boolean;
  /** Entry point, constants and workgroups. */
  of(s: GroupNormShape): Required<Pick<Dispatch<never>, "entry" | "constants" | "workgroups">>;
}

/** Threads of a workgroup of the divisions with one thread a group. */
const WIDTH = 16;
/** Most Elements that one thread of a group, or of a share of it, keeps. */
const MOST_ALONE = 64, MOST_SHARED = 16;

const serial: Division = {
  fits: () => true,
  of: (s) => ({ entry: "serial", constants: { WIDTH }, workgroups: spread(ceilDiv(s.batch * s.groups, WIDTH)) }),
};

function lanes(LANES: number): Division {
  return {
    fits: () => true,
    of: (s) => ({ entry: "cooperative", constants: { LANES }, workgroups: spread(s.batch * s.groups) }),
  };
}

const registers: Division = {
  fits: (s) => groupLength(s) <= MOST_ALONE,
  of: (s) => ({
    entry: "registers",
    constants: { WIDTH, CHANNELS: s.channels / s.groups, HELD: channelLength(s), LANES: 8 },
    workgroups: spread(ceilDiv(s.batch * s.groups, WIDTH)),
  }),
};

function sharedRegisters(LANES: number): Division {
  // Whole eights, which are what is summed first.
  const share = (s: GroupNormShape) => 8 * Math.floor(LANES / 8 / (s.channels / s.groups));
  return {
    fits: (s) => share(s) > 0 && channelLength(s) <= MOST_SHARED * share(s),
    of: (s) => ({
      entry: "shared_registers",
      constants: { LANES, SHARE: share(s), HELD: ceilDiv(channelLength(s), share(s)), CHANNELS: 1 },
      workgroups: spread(s.batch * s.groups),
    }),
  };
}

const DIVISIONS = {
  serial,
  lanes8: lanes(8),
  lanes64: lanes(64),
  lanes256: lanes(256),
  registers,
  registers32: sharedRegisters(32),
  registers64: sharedRegisters(64),
  registers256: sharedRegisters(256),
} as const;

type Divisions = keyof typeof DIVISIONS;

/** One variant for each division. */
function variants<K extends string, O extends string>(
  dispatches: <B>(b: Buffers<B, K, O>, s: GroupNormShape, lowering: Lowering<B>, division: Division) => Dispatch<B>[],
): Record<Divisions, Variant<GroupNormShape, K, O>> {
  const entries = Object.entries(DIVISIONS).map(([name, division]) => {
    const variant: Variant<GroupNormShape, K, O> = {
      fits: division.fits,
      dispatches: (b, s, lowering) => dispatches(b, s, lowering, division),
    };
    return [name, variant];
  });
  return Object.fromEntries(entries);
}

function key({ batch, channels, groups, size, f16 }: GroupNormShape): string {
  return `${batch}x${channels}x${size} in ${groups} groups${f16 ? " f16" : ""}`;
}

/** Elements (vec4s, or scalars) of a channel. */
function channelLength(s: GroupNormShape): number {
  return s.size / vector(s);
}

/** Elements (vec4s, or scalars) of a group. */
function groupLength(s: GroupNormShape): number {
  return channelLength(s) * s.channels / s.groups;
}

/** Numbers a thread loads at once. */
function vector(s: GroupNormShape): number {
  return s.size % 4 === 0 ? 4 : 1;
}

/** On a CPU a barrier soon costs more than threads save: one thread while it can keep the group, then few. */
function preferredOnCpu(s: GroupNormShape): Divisions {
  const keeping = (["registers", "registers32", "registers64"] as const).find((name) => DIVISIONS[name].fits(s));
  if (keeping) return keeping;
  const numbers = s.size * s.channels / s.groups;
  if (numbers <= 1024 || s.size < 256) return "lanes8";
  return numbers <= 32768 || s.size < 1024 ? "lanes64" : "lanes256";
}

/** On a GPU a thread keeps a few Elements, as long as a workgroup of at most 256 can keep the whole group. */
function preferredOnGpu(s: GroupNormShape): Divisions {
  const length = groupLength(s);
  const least = length <= 64 ? 32 : length <= 256 ? 64 : 256;
  const keeping = ([32, 64, 256] as const).find((threads) =>
    threads >= least && DIVISIONS[`registers${threads}`].fits(s)
  );
  return keeping ? `registers${keeping}` : length <= 256 ? "lanes64" : "lanes256";
}

function preferred(s: GroupNormShape, adapter: "software" | "hardware"): Divisions {
  return adapter === "software" ? preferredOnCpu(s) : preferredOnGpu(s);
}

/** Of the gradient's other kernels on a CPU, Mesa's llvmpipe 22.3 loses 0.2 to 0.9 MB at every dispatch. */
function preferredGradient(s: GroupNormShape, adapter: "software" | "hardware"): Divisions {
  if (adapter === "hardware") return preferredOnGpu(s);
  return DIVISIONS.registers.fits(s) ? "registers" : "lanes64";
}

/**
 * y = gamma (x - mean) / sqrt(var + eps) + beta (Wu and He 2018, equation 1), then where they are given · (1 + scale) +
 * shift, then SiLU where `silu`.
 *
 * x, y [batch, channels, size]; gamma, beta [channels]; scale, shift [batch, channels], both or neither; stats receives
 * what {@linkcode groupNormGrad} needs: {@linkcode groupNormStats} elements, first [batch, groups, 2] = mean and
 * 1/sqrt(var + eps) (biased variance).
 */
export const groupNorm: Family<GroupNormShape, ForwardBuffer, ForwardOption> = {
  name: "groupNorm",
  variants: variants<ForwardBuffer, ForwardOption>((b, s, _, division) => [forwardDispatch(b, s, division)]),
  key,
  preferred,
};

/**
 * Gradients of {@linkcode groupNorm} from its inputs, its `stats` and dy [batch, channels, size]: dx [batch, channels,
 * size] (plus `residual`, of the same shape, where it is given), dgamma and dbeta [channels]; of a normalisation with
 * `scale`, dscale and dshift [batch, channels] too.
 */
export const groupNormGrad: Family<GroupNormShape, GradientBuffer, GradientOption> = {
  name: "groupNorm.grad",
  variants: variants<GradientBuffer, GradientOption>((b, s, lowering, division) => {
    const sums = lowering.scratch(2 * s.batch * s.channels);
    return [gradDispatch({ ...b, sums }, s, division), sumsDispatch({ ...b, sums }, s)];
  }),
  key,
  preferred: preferredGradient,
};

/** What the dispatches of both families take from the division. */
function divided(
  source: string,
  s: GroupNormShape,
  division: Division,
  constants: Readonly<Record<string, number>>,
): Pick<Dispatch<never>, "source" | "f16" | "entry" | "constants" | "workgroups"> {
  const { entry, workgroups, constants: own } = division.of(s);
  const VECTOR = vector(s);
  return {
    source: VECTOR === 4 ? source : source.replace(/^alias (Element|Stored) = vec4<f32>;/gm, "alias $1 = f32;"),
    ...s.f16 && { f16: ["Stored"] },
    entry,
    workgroups,
    constants: { SILU: Number(s.silu), VECTOR, ...constants, ...own },
  };
}

function forwardDispatch<B>(b: ForwardBuffers<B>, s: GroupNormShape, division: Division): Dispatch<B> {
  const elements = s.batch * s.channels * s.size;
  const modulated = b.scale !== undefined;
  return {
    label: "groupNorm",
    ...divided(forwardSource, s, division, { MODULATED: Number(modulated) }),
    uniforms: [s.batch * s.groups, s.groups, s.channels / s.groups, channelLength(s), new F32(s.eps)],
    // What is not read is bound to something that is there.
    reads: [b.x, b.gamma, b.beta, b.scale ?? b.gamma, b.shift ?? b.beta],
    writes: [b.y, b.stats],
    flops: elements * (s.silu ? 10 : 7),
    bytes: 2 * elements * elementBytes(s) +
      4 * (2 * (s.channels + (modulated ? s.batch * s.channels : 0)) + groupNormStats(s, modulated)),
  };
}

function gradDispatch<B>(
  b: GradientBuffers<B> & { readonly sums: B },
  s: GroupNormShape,
  division: Division,
): Dispatch<B> {
  const elements = s.batch * s.channels * s.size;
  const groups = s.batch * s.groups, modulated = b.scale !== undefined;
  // With a scale and shift every sample has a gamma and beta of its own, which the forward pass put behind its stats.
  const vectors = modulated
    ? { gamma: b.stats, beta: b.stats, period: groups, starts: [2 * groups, 2 * groups + s.batch * s.channels] }
    : { gamma: b.gamma, beta: b.beta, period: s.groups, starts: [0, 0] };
  return {
    label: "groupNorm.grad",
    ...divided(gradSource, s, division, { RESIDUAL: b.residual === undefined ? 0 : 1 }),
    uniforms: [groups, s.channels / s.groups, channelLength(s), vectors.period, ...vectors.starts],
    reads: [b.x, vectors.gamma, vectors.beta, b.stats, b.dy, b.residual ?? b.x],
    writes: [b.dx, b.sums],
    flops: elements * (s.silu ? 26 : 12),
    bytes: (b.residual === undefined ? 3 : 4) * elements * elementBytes(s) +
      4 * (groupNormStats(s, modulated) + (modulated ? 0 : 2 * s.channels) + 2 * s.batch * s.channels),
  };
}

function elementBytes({ f16 }: GroupNormShape): number {
  return f16 ? 2 : 4;
}

/** From each sample's channel sums, the gradients of all that is not x. */
function sumsDispatch<B>(b: GradientBuffers<B> & { readonly sums: B }, s: GroupNormShape): Dispatch<B> {
  const { scale, dscale, dshift, sums } = b, { batch, channels } = s;
  if (scale === undefined) {
    const columns = { rows: batch, countA: channels, countB: channels, startB: batch * channels };
    return sumPair({ a: sums, b: sums, sumA: b.dgamma, sumB: b.dbeta }, columns);
  }
  return {
    label: "groupNorm.sums",
    source: sumsSource,
    uniforms: [batch, channels],
    reads: [sums, b.gamma, b.beta, scale],
    writes: [b.dgamma, b.dbeta, dscale!, dshift!],
    workgroups: spread(ceilDiv(channels, 64)),
    flops: 8 * batch * channels,
    bytes: 4 * (5 * batch * channels + 4 * channels),
  };
}

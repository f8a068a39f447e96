/** The convex functions h of the Bregman divergence between a density ratio r and 1: the known, and users' own. */

import { BREGMAN_KINDS, type BregmanKind, LOG_BOUND } from "../../kernels/bregman.ts";
import { UsageError } from "../gpu/errors.ts";
import type { BregmanWeighting, Tensor } from "../graph/mod.ts";
import { scalarFunction } from "../graph/scalar_function.ts";
import { parseExpression } from "./expression.ts";

/** One h with its derivatives in r = q/p > 0, in double precision, and the weighting that it gives. */
export interface BregmanFunction {
  /** The kind, with its parameter; of one's own, the name it was given, or the expression. */
  readonly name: string;
  /** h(r); absent where only the weight is known. */
  readonly h?: (r: number) => number;
  /** h′(r); absent where only the weight is known. */
  readonly dh?: (r: number) => number;
  /** h″(r). */
  readonly d2h: (r: number) => number;
  /** c = h″(r)·r at r = exp(−logit). */
  readonly weight: (logit: number) => number;
  /** The same on the device. */
  readonly weighting: BregmanWeighting;
}

type Formulae = Required<Omit<BregmanFunction, "name" | "weighting">>;

const { exp, expm1, log, log1p } = Math;
const sigmoid = (l: number) => 1 / (1 + exp(-l));

/**
 * Every h by name ("One-step Diffusion Models with Bregman Density Ratio Matching", arXiv 2510.16983); c is written in
 * the logit l = −log r, where it neither cancels nor overflows early.
 */
const FORMULAE: Readonly<Record<BregmanKind, (lambda: number) => Formulae>> = {
  "kl": () => ({
    h: (r) => r * log(r) - r,
    dh: (r) => log(r),
    d2h: (r) => 1 / r,
    weight: () => 1,
  }),
  "lsif": () => ({
    h: (r) => (r - 1) ** 2 / 2,
    dh: (r) => r - 1,
    d2h: () => 1,
    weight: (l) => exp(-l),
  }),
  // r log r − (1 + r) log(1 + r)
  "logistic": () => ({
    h: (r) => -r * log1p(1 / r) - log1p(r),
    dh: (r) => -log1p(1 / r),
    d2h: (r) => 1 / (r * (1 + r)),
    weight: sigmoid,
  }),
  "itakura-saito": () => ({
    h: (r) => -log(r),
    dh: (r) => -1 / r,
    d2h: (r) => 1 / r ** 2,
    weight: exp,
  }),
  // (r^(1 + λ) − r) / (λ (1 + λ))
  "sba": (lambda) => ({
    h: (r) => r * expm1(lambda * log(r)) / (lambda * (1 + lambda)),
    dh: (r) => expm1(lambda * log(r)) / lambda + 1 / (1 + lambda),
    d2h: (r) => r ** (lambda - 1),
    weight: (l) => exp(-lambda * l),
  }),
  // (r^(1 + λ) − r) / λ
  "basu": (lambda) => ({
    h: (r) => r * expm1(lambda * log(r)) / lambda,
    dh: (r) => (1 + lambda) * expm1(lambda * log(r)) / lambda + 1,
    d2h: (r) => (1 + lambda) * r ** (lambda - 1),
    weight: (l) => (1 + lambda) * exp(-lambda * l),
  }),
  "softened-kl": () => ({
    h: (r) => (1 + r) * log1p(r) - r,
    dh: (r) => log1p(r),
    d2h: (r) => 1 / (1 + r),
    weight: (l) => sigmoid(-l),
  }),
  "jeffreys": () => ({
    h: (r) => r * log(r) - log(r),
    dh: (r) => log(r) + 1 - 1 / r,
    d2h: (r) => 1 / r + 1 / r ** 2,
    weight: (l) => 1 + exp(l),
  }),
};

/** Whether lambda is a parameter of the kind. */
export function usesLambda(kind: BregmanKind): boolean {
  return kind === "sba" || kind === "basu";
}

/**
 * Checks lambda for a kind that uses it.
 *
 * @throws {UsageError} unless lambda > -1 and lambda is not 0, where h would not be strictly convex or not defined.
 */
export function checkLambda(kind: BregmanKind, lambda: number | undefined): void {
  if (!usesLambda(kind)) return;
  if (lambda === undefined || !Number.isFinite(lambda) || lambda <= -1 || lambda === 0) {
    throw new UsageError(
      `Lambda of "${kind}" must be a number above -1 and not 0, but it is ${lambda} ` +
        `(its limits are "kl" at 0 and "itakura-saito" at -1).`,
    );
  }
}

/**
 * A known h. `lambda` is the parameter of `sba` and `basu`; the others ignore it.
 *
 * @throws {UsageError} where there is no such kind, or lambda does not fit it; see {@linkcode checkLambda}.
 */
export function bregmanFunction(kind: BregmanKind, lambda?: number): BregmanFunction {
  if (!BREGMAN_KINDS.includes(kind)) {
    throw new UsageError(`There is no Bregman function "${kind}"; there are ${BREGMAN_KINDS.join(", ")}.`);
  }
  checkLambda(kind, lambda);
  const parameter = usesLambda(kind) ? lambda! : 0;
  return {
    name: usesLambda(kind) ? `${kind}(${parameter})` : kind,
    ...FORMULAE[kind](parameter),
    weighting: { kind, lambda: parameter },
  };
}

/** An h of one's own. */
export interface BregmanDefinition {
  /** Names it in messages. */
  readonly name: string;
  /** h(r), strictly convex on r > 0. */
  readonly h: (r: number) => number;
  /** h′(r). */
  readonly dh: (r: number) => number;
  /** h″(r). */
  readonly d2h: (r: number) => number;
  /** c = h″(r)·r from logits −log r [N] to [N], made of pointwise ops and constants of one element. */
  readonly weight: (logit: Tensor) => Tensor;
}

/** Where an h of one's own is checked. */
export interface CheckOptions {
  /**
   * Logits within ± this are, or from the first to the second, at most ± 70; absent: ± 10. It should reach as far as the
   * bounds of the training's ratios.
   */
  readonly range?: number | readonly [number, number];
}

/**
 * An h given by code; {@linkcode BregmanFunction.weighting} is what a distillation takes.
 *
 * @example Pearson's divergence and Kullback-Leibler's together
 * ```ts
 * import { affine, defineBregman, exp, neg } from "@dibregman/dibregman";
 *
 * const { weighting } = defineBregman({
 *   name: "kl and lsif",
 *   h: (r) => r * Math.log(r) - r + (r - 1) ** 2 / 2,
 *   dh: (r) => Math.log(r) + r - 1,
 *   d2h: (r) => 1 / r + 1,
 *   weight: (logit) => affine(exp(neg(logit)), 1, 1), // 1 + r
 * });
 * ```
 *
 * It is taken once its parts are found to belong together: at every logit l of a grid within the range, the
 * weight is positive and finite (in float32 as well) and within 1e-4 of h″(e⁻ˡ)·e⁻ˡ, and within ± 10 also h′ and h″ are
 * the slopes of h and h′.
 *
 * @throws {UsageError} naming the logit and the values where they do not.
 * @throws {GraphError} where the weight is not made of pointwise ops.
 */
export function defineBregman(definition: BregmanDefinition, options: CheckOptions = {}): BregmanFunction {
  const { name, h, dh, d2h } = definition;
  const logits = grid(options);
  const weight = checkedWeight(`"${name}"`, definition.weight, logits);
  for (const l of logits) {
    const r = exp(-l);
    expectClose(name, l, "the weight", weight(l), "h″(r)·r", d2h(r) * r, 1e-4 * Math.abs(weight(l)));
  }
  for (const l of logits.filter((l) => Math.abs(l) <= MAX_SLOPE_LOGIT)) {
    const r = exp(-l);
    // What h loses by cancellation counts, and that its slope is a difference.
    const near = 1e-3 * (Math.abs(dh(r)) + r * Math.abs(d2h(r))) + 1e-9 * Math.abs(h(r)) / r;
    expectClose(name, l, "h′(r)", dh(r), "the slope of h", slope(h, r), near);
    expectClose(name, l, "h″(r)", d2h(r), "the slope of h′", slope(dh, r), 1e-3 * d2h(r) + 1e-9 * Math.abs(dh(r)) / r);
  }
  return { name, h, dh, d2h, weight, weighting: { weight: definition.weight } };
}

/** Beyond, h's own rounding may hide its slope. */
const MAX_SLOPE_LOGIT = 10;

/** Central difference. */
function slope(f: (r: number) => number, r: number): number {
  const step = 1e-4 * r;
  return (f(r + step) - f(r - step)) / (2 * step);
}

function expectClose(
  name: string,
  logit: number,
  what: string,
  value: number,
  other: string,
  expected: number,
  tolerance: number,
): void {
  if (Math.abs(value - expected) <= tolerance) return;
  throw new UsageError(
    `"${name}" contradicts itself at the logit ${logit}, r = ${exp(-logit)}: ` +
      `${what} is ${value}, but ${other} is ${expected}.`,
  );
}

/**
 * The h whose weight c(r) = h″(r)·r is an expression of `logit` = −log r and `r`, such as `exp(0.5 * logit)`: numbers,
 * + − * / ^, parentheses and the functions exp, log, sqrt, abs, sigmoid, softplus, tanh, min, max and clamp. h and h′
 * remain unknown.
 *
 * @throws {UsageError} where the text is no such expression, naming the position, or where its value is not positive and
 * finite (in float32 as well), naming the logit.
 */
export function weightExpression(text: string, options: CheckOptions = {}): BregmanFunction {
  const build = parseExpression(text);
  const weight = checkedWeight("The expression", build, grid(options));
  return { name: text, d2h: (r) => weight(-log(r)) / r, weight, weighting: { weight: build } };
}

/** Logits to check at, 0 and the ends among them. */
function grid({ range = 10 }: CheckOptions): number[] {
  const [low, high] = typeof range === "number" ? [-range, range] : range, most = Math.max(-low, high);
  if (!(low <= 0 && high >= 0 && most > 0 && most <= LOG_BOUND)) {
    throw new UsageError(`The range of logits must be above 0 and at most ${LOG_BOUND}, but it is ${range}.`);
  }
  const inside = Array.from({ length: 2001 }, (_, i) => most * ((i - 1000) / 1000)).filter((l) => l > low && l < high);
  return [low, ...inside, high];
}

/** The weight as a function of numbers; throws where it is not positive and finite, or where float32 loses it. */
function checkedWeight(
  subject: string,
  weight: (logit: Tensor) => Tensor,
  logits: readonly number[],
): (logit: number) => number {
  const exact = scalarFunction(weight), single = scalarFunction(weight, "f32");
  for (const logit of logits) {
    const value = exact(logit), rounded = single(logit);
    if (value > 0 && value < Infinity && Math.abs(rounded - value) <= MOST_LOST * value) continue;
    const range = `from ${logits[0]} to ${logits.at(-1)}`;
    throw new UsageError(
      `${subject} gives no weight: it should be positive and finite at every logit ${range}, in float32 as well, ` +
        `but at ${logit} it is ${value}, in float32 ${rounded}.`,
    );
  }
  return exact;
}

/** Relative error of float32 that is still taken for rounding: more means that the formula cancels. */
const MOST_LOST = 0.01;

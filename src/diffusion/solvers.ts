/** Sampling as a list of steps: solvers of the diffusion ODE and SDE, in float64, apart from the network. */

import { UsageError } from "../gpu/errors.ts";
import { karrasLevels, type SigmaRange } from "./edm.ts";

/** Names of the solvers. */
export const SOLVERS = ["heun", "euler", "ddim", "dpm-solver++"] as const;

/** Name of a solver. */
export type SolverName = typeof SOLVERS[number];

/** Noise added before a step (EDM, algorithm 2). */
export interface Churn {
  /** S_churn: all the steps' relative increase of σ together, each at most √2 − 1. */
  readonly amount: number;
  /** S_min: below this σ nothing is added; 0 when absent. */
  readonly min?: number | undefined;
  /** S_max: above this σ nothing is added; no limit when absent. */
  readonly max?: number | undefined;
  /** S_noise: standard deviation of the noise; 1 when absent. */
  readonly noise?: number | undefined;
}

/** How images are drawn from a denoiser. */
export interface SolverSettings {
  /** Classifier-free guidance of a teacher of classes; 1, when absent, for none. */
  readonly guidance?: number;
  /**
   * `heun`: EDM's, of second order with two evaluations a step but the last. `euler`: of first order. `ddim`: Euler's step,
   * stochastic where `eta` > 0. `dpm-solver++`: the multistep method of second order, 2M (Lu et al. 2022,
   * arXiv 2211.01095), one evaluation a step.
   */
  readonly solver: SolverName;
  /** Steps from σ_max to 0, at least 1. */
  readonly steps: number;
  /** For `heun` and `euler`; nothing is added when absent. */
  readonly churn?: Churn | undefined;
  /** For `ddim` (Song et al. 2021, arXiv 2010.02502, equation 16): 0, when absent, to 1, the ancestral sampler. */
  readonly eta?: number | undefined;
}

/** What every step has. */
export interface CommonStep {
  /** Noise level of the x that the step takes. */
  readonly level: number;
  /** Standard deviation of the noise added to it before: x̂ = x + before n. */
  readonly before: number;
  /** Noise level of x̂, at which the denoiser is evaluated. */
  readonly sigma: number;
}

/** A step with one evaluation: D = D(x̂, sigma), x' = x x̂ + denoised D + previous D₋₁ + after n'. */
export interface LinearStep extends CommonStep {
  /** Tells the steps apart. */
  readonly kind: "linear";
  /** Coefficient of x̂. */
  readonly x: number;
  /** Coefficient of D. */
  readonly denoised: number;
  /** Coefficient of the last step's D. */
  readonly previous: number;
  /** Standard deviation of the noise added after. */
  readonly after: number;
}

/** Heun's step from `sigma` to `next`. */
export interface HeunStep extends CommonStep {
  /** Tells the steps apart. */
  readonly kind: "heun";
  /** Noise level of the result, above 0. */
  readonly next: number;
}

/** One step of a sampler. */
export type SolverStep = LinearStep | HeunStep;

/**
 * The steps from x = σ_max n to an image, on Karras's levels between those that the network is made for.
 *
 * @throws {UsageError} where a setting is out of range or none of the solver's.
 */
export function solverSteps(settings: SolverSettings, limits?: SigmaRange): SolverStep[] {
  check(settings);
  const { solver, steps, churn, eta = 0 } = settings;
  const levels = karrasLevels(steps, limits);
  return levels.slice(0, -1).map((level, i) => {
    const next = levels[i + 1]!;
    const sigma = level * (1 + churnShare(level, steps, churn));
    const common = { level, sigma, before: Math.sqrt(sigma ** 2 - level ** 2) * (churn?.noise ?? 1) };
    if (solver === "heun" && next > 0) return { ...common, kind: "heun", next };
    if (solver === "dpm-solver++") {
      return { ...common, kind: "linear", after: 0, ...multistep(sigma, next, levels[i - 1]) };
    }
    const after = eta * next * Math.sqrt(1 - (next / sigma) ** 2);
    const x = Math.sqrt(next ** 2 - after ** 2) / sigma;
    return { ...common, kind: "linear", x, denoised: 1 - x, previous: 0, after };
  });
}

/** Evaluations of the network that the steps cost. */
export function evaluationsOf(steps: readonly SolverStep[]): number {
  return steps.reduce((sum, { kind }) => sum + (kind === "heun" ? 2 : 1), 0);
}

/** Relative increase of σ before a step. */
function churnShare(sigma: number, steps: number, churn: Churn | undefined): number {
  if (!churn || sigma < (churn.min ?? 0) || sigma > (churn.max ?? Infinity)) return 0;
  return Math.min(churn.amount / steps, Math.SQRT2 - 1);
}

/**
 * DPM-Solver++(2M) in terms of σ (α = 1, so λ = −ln σ): x' = (σ'/σ) x + (1 − σ'/σ) ((1 + 1/2r) D − (1/2r) D₋₁) with
 * r = (λ − λ₋₁)/(λ' − λ). The first step and the one to σ' = 0 are of first order.
 */
function multistep(sigma: number, next: number, last?: number): Pick<LinearStep, "x" | "denoised" | "previous"> {
  const x = next / sigma;
  const extrapolation = next > 0 && last !== undefined ? Math.log(sigma / next) / (2 * Math.log(last / sigma)) : 0;
  return { x, denoised: (1 - x) * (1 + extrapolation), previous: (x - 1) * extrapolation };
}

function check({ solver, steps, churn, eta }: SolverSettings): void {
  if (!Number.isInteger(steps) || steps < 1) throw new UsageError(`A sampler takes at least 1 step, not ${steps}.`);
  if (churn && solver !== "heun" && solver !== "euler") {
    throw new UsageError(`Churn is for heun and euler; the solver is ${solver}.`);
  }
  if (eta !== undefined && solver !== "ddim") throw new UsageError(`Eta is for ddim; the solver is ${solver}.`);
  const range = (name: string, value: number | undefined, most: number) => {
    if (value !== undefined && !(value >= 0 && value <= most)) {
      throw new UsageError(`${name} should be ${most === 1 ? "from 0 to 1" : "0 or more"}, not ${value}.`);
    }
  };
  range("Eta", eta, 1);
  range("S_churn", churn?.amount, Infinity);
  range("S_min", churn?.min, Infinity);
  range("S_max", churn?.max, Infinity);
  range("S_noise", churn?.noise, Infinity);
}

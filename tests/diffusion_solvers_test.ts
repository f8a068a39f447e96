/** Solvers against closed forms: on Gaussian data the denoiser, the ODE's solution and every marginal are known. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { KARRAS, karrasLevels } from "../src/diffusion/edm.ts";
import { evaluationsOf, SOLVERS, type SolverSettings, solverSteps } from "../src/diffusion/solvers.ts";
import { UsageError } from "../src/gpu/errors.ts";

/** Standard deviation of the data. */
const DATA = 0.5;

/** E[x₀ | x] of Gaussian data. */
const denoised = (x: number, sigma: number) => x * DATA ** 2 / (DATA ** 2 + sigma ** 2);

/** Where a sampler takes `x`; `noise` is asked for every standard normal number it adds. */
function solve(settings: SolverSettings, x: number, noise = () => 0): number {
  let previous = 0;
  for (const step of solverSteps(settings)) {
    const hat = x + (step.before > 0 ? step.before * noise() : 0);
    const d = denoised(hat, step.sigma);
    if (step.kind === "heun") {
      const slope = (hat - d) / step.sigma, dt = step.next - step.sigma;
      const euler = hat + dt * slope;
      x = hat + dt * 0.5 * (slope + (euler - denoised(euler, step.next)) / step.next);
    } else {
      x = step.x * hat + step.denoised * d + step.previous * previous + (step.after > 0 ? step.after * noise() : 0);
      previous = d;
    }
  }
  return x;
}

/** The ODE keeps x/√(σ² + DATA²); at σ = 0 the first-order last step from σ_min is exact in the limit. */
const EXACT = DATA / Math.hypot(DATA, KARRAS.sigmaMax);

for (const [solver, order] of [["heun", 2], ["euler", 1], ["ddim", 1], ["dpm-solver++", 2]] as const) {
  Deno.test(`${solver}: of order ${order}, as the ODE's solution on Gaussian data shows`, () => {
    const error = (steps: number) => Math.abs(solve({ solver, steps }, 1) / EXACT - 1);
    assert(error(400) < (order === 1 ? 0.03 : 1e-3), `error ${error(400)}`);
    // The last step, from sigma_min, errs by the same in all: so little that orders show up to here.
    const measured = Math.log2(error(40) / error(80));
    assert(Math.abs(measured - order) < 0.25, `order ${measured}`);
  });
}

Deno.test("the levels are Karras's, and evaluations are counted", () => {
  const levels = karrasLevels(18);
  for (const solver of SOLVERS) {
    const steps = solverSteps({ solver, steps: 18 });
    assertEquals(steps.map(({ sigma }) => sigma), levels.slice(0, 18));
    assertEquals(evaluationsOf(steps), solver === "heun" ? 35 : 18);
  }
});

Deno.test("the last step is the denoiser's output, for every solver", () => {
  for (const solver of SOLVERS) {
    const { kind, x, denoised, previous, after } = solverSteps({ solver, steps: 5 }).at(-1) as never;
    assertEquals({ kind, x, denoised, previous, after }, { kind: "linear", x: 0, denoised: 1, previous: 0, after: 0 });
  }
});

/** Standard normal numbers: a linear congruential generator through Box and Muller's formula. */
function normals(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) + 0.5) / 2 ** 32;
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const STOCHASTIC: readonly SolverSettings[] = [
  { solver: "heun", steps: 60, churn: { amount: 20 } },
  { solver: "euler", steps: 400, churn: { amount: 40, min: 0.05, max: 50 } },
  { solver: "ddim", steps: 400, eta: 1 },
  { solver: "ddim", steps: 400, eta: 0.5 },
];

for (const settings of STOCHASTIC) {
  Deno.test(`stochastic sampling keeps the data's standard deviation: ${JSON.stringify(settings)}`, () => {
    const noise = normals(1), count = 4000;
    let squares = 0;
    for (let i = 0; i < count; i++) squares += solve(settings, KARRAS.sigmaMax * noise(), noise) ** 2;
    // Standard error of a standard deviation: 1/√(2 count) = 1.1 %; first-order steps leave up to 3 %.
    assertAlmostEquals(Math.sqrt(squares / count) / DATA, 1, 0.055);
  });
}

Deno.test("stochastic sampling forgets where it started", () => {
  const noise = normals(2), count = 2000;
  let correlation = 0;
  for (let i = 0; i < count; i++) {
    const z = noise();
    correlation += z * solve({ solver: "ddim", steps: 50, eta: 1 }, KARRAS.sigmaMax * z, noise) / DATA / count;
  }
  assert(Math.abs(correlation) < 0.1, `correlation ${correlation}`);
});

Deno.test("churn: EDM's levels, and nothing outside its range", () => {
  const levels = karrasLevels(10);
  const steps = solverSteps({ solver: "heun", steps: 10, churn: { amount: 2, min: 0.1, max: 50, noise: 1.003 } });
  steps.forEach(({ sigma, before }, i) => {
    const level = levels[i]!, share = level >= 0.1 && level <= 50 ? 0.2 : 0;
    assertAlmostEquals(sigma, level * (1 + share), 1e-12 * level);
    assertAlmostEquals(before, 1.003 * level * Math.sqrt((1 + share) ** 2 - 1), 1e-6 * level);
  });
  const most = solverSteps({ solver: "euler", steps: 10, churn: { amount: 1e6 } });
  assertAlmostEquals(most[0]!.sigma, levels[0]! * Math.SQRT2, 1e-9);
});

Deno.test("settings out of range, or of another solver, are refused", () => {
  const wrong: readonly [SolverSettings, string][] = [
    [{ solver: "heun", steps: 0 }, "at least 1 step"],
    [{ solver: "heun", steps: 1.5 }, "not 1.5"],
    [{ solver: "ddim", steps: 5, churn: { amount: 1 } }, "Churn is for heun and euler"],
    [{ solver: "euler", steps: 5, eta: 0.5 }, "Eta is for ddim"],
    [{ solver: "ddim", steps: 5, eta: 1.5 }, "Eta should be from 0 to 1"],
    [{ solver: "heun", steps: 5, churn: { amount: -1 } }, "S_churn should be 0 or more"],
    [{ solver: "heun", steps: 5, churn: { amount: 1, noise: NaN } }, "S_noise should be 0 or more"],
  ];
  for (const [settings, message] of wrong) assertThrows(() => solverSteps(settings), UsageError, message);
});

/** The options that say how a teacher is sampled. */

import { SOLVERS, type SolverSettings, solverSteps } from "../diffusion/solvers.ts";
import { checkGuidance } from "../diffusion/edm.ts";
import { DEFAULT_SOLVER } from "../diffusion/sampler.ts";
import { UsageError } from "../gpu/errors.ts";
import type { Model } from "../io/model.ts";
import { camelCase, type Option, type Values } from "./options.ts";

/** Options of every command that samples a teacher. */
export const SOLVER_OPTIONS = [
  { name: "solver", kind: "choice", choices: SOLVERS, help: "how a teacher is sampled (default: heun)" },
  { name: "steps", kind: "integer", min: 1, max: 10000, help: "steps of the teacher's solver (default: 18)" },
  { name: "churn", kind: "number", min: 0, help: "S_churn of heun and euler: noise added on the way (default: none)" },
  { name: "churn-min", kind: "number", min: 0, help: "S_min: the least sigma at which it is added" },
  { name: "churn-max", kind: "number", min: 0, help: "S_max: the greatest" },
  { name: "churn-noise", kind: "number", min: 0, help: "S_noise: its standard deviation (default: 1)" },
  {
    name: "guidance",
    kind: "number",
    min: 0,
    help: "classifier-free guidance of a teacher of classes (default: 1, none)",
  },
  { name: "eta", kind: "number", min: 0, max: 1, help: "noise of ddim's steps (default: 0)" },
] as const satisfies readonly Option[];

/**
 * How the model is to be sampled.
 *
 * @throws {UsageError} where an option is none of the solver's, or any was given for a generator.
 */
export function solverOf(values: Values<typeof SOLVER_OPTIONS>, { info }: Model): SolverSettings {
  const given = SOLVER_OPTIONS.find(({ name }) => values[camelCase(name) as keyof typeof values] !== undefined);
  if (given && info.kind === "generator") {
    throw new UsageError(`--${given.name} goes with a teacher only: a generator has its own steps.`);
  }
  const { churn: amount, churnMin: min, churnMax: max, churnNoise: noise, eta, guidance } = values;
  if (amount === undefined && [min, max, noise].some((value) => value !== undefined)) {
    throw new UsageError("--churn-min, --churn-max and --churn-noise go with --churn only.");
  }
  const settings: SolverSettings = {
    solver: values.solver ?? DEFAULT_SOLVER.solver,
    steps: values.steps ?? DEFAULT_SOLVER.steps,
    ...amount !== undefined && { churn: { amount, min, max, noise } },
    ...eta !== undefined && { eta },
    ...guidance !== undefined && { guidance },
  };
  checkGuidance(info, guidance ?? 1);
  solverSteps(settings); // says what does not go together
  return settings;
}

/**
 * A small generator distilled on a ring of eight Gaussians of unequal mass: the modes and masses that each h reaches.
 *
 * `deno run -A tests/reference/ring.ts` prints the table of every h, three seeds each, after the 600 steps of the test; a
 * number behind it is that of the steps.
 */

import {
  add,
  affine,
  bregmanGradient,
  div,
  exp,
  log,
  matmul,
  mul,
  randomNormal,
  randomUniform,
  reshape,
  softmax,
  square,
  stopGradient,
  sub,
  sum,
  type Tensor,
  Workspace,
} from "../../src/graph/mod.ts";
import { randomValues, stepLeaves } from "../../src/diffusion/teacher.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { gradientUpdates, Optimizer } from "../../src/optim/adam.ts";
import { initialWeights, Trainable } from "../../src/optim/weights.ts";
import { getGpu } from "../gpu.ts";
import { bregmanWeight } from "../theory.ts";
import { type Divergence, DIVERGENCES } from "./divergence.ts";
import { denoisedGraph, logDensityGraph, logSumExp } from "./gaussian_graphs.ts";
import type { Mixture } from "./gaussians.ts";
import { Mlp } from "./mlp.ts";

const RADIUS = 2, STD = 0.2;
const MASSES = [1, 4, 2, 3, 1, 4, 2, 3].map((share) => share / 20);

/** The teacher: neighbours lie 7.7 standard deviations apart. */
export const RING: Mixture = MASSES.map((weight, k) => {
  const angle = 2 * Math.PI * k / MASSES.length;
  return { weight, mean: [RADIUS * Math.cos(angle), RADIUS * Math.sin(angle)], std: [STD, STD] };
});

/** The generator's samples a step, and as many more of them as its density is estimated from. */
const BATCH = 128, REFERENCES = 512;

const LEARNING_RATE = 4e-3;

/** ln σ is uniform between these: a larger σ than the modes' distance would show the generator all of them at once. */
const SIGMA = { least: 0.2, greatest: 0.7 };

/** The ratio's bounds, as in training. */
const RATIO = { ratioMin: 0.05, ratioMax: 10 };

/** Samples that the result is judged by: a mass of 5 % is known to 0.2 %. */
const JUDGED = 8192;

/** What a generator has reached. */
export interface RingResult {
  /** Share of the samples within three standard deviations of each mode; of the teacher's own, 98.9 % of its mass. */
  readonly masses: readonly number[];
  /** Modes with at least {@linkcode REACHED} of their mass. */
  readonly modes: number;
  /** Share of the samples near no mode; 1.1 % of the teacher's own. */
  readonly stray: number;
  /** Total variation between the masses, divided by their sum, and the teacher's. */
  readonly massError: number;
}

/** Share of its mass from which on a mode counts as reached. */
export const REACHED = 0.3;

/** log q_t [N] and E[x | x_t] [N, d], at `xt` [N, d] and `sigma` [N], where q is no more than the samples `y` [M, d]. */
function ofSamples(y: Tensor, xt: Tensor, sigma: Tensor): { readonly logDensity: Tensor; readonly denoised: Tensor } {
  const [m, d] = y.shape as [number, number];
  const n = xt.shape[0]!;
  const squares = add(reshape(sum(square(xt), [1]), [n, 1]), reshape(sum(square(y), [1]), [m]));
  const products = matmul(xt, y, { transposeB: true });
  const logs = div(sub(products, affine(squares, 0.5, 0)), reshape(square(sigma), [n, 1]));
  const normaliser = affine(log(sigma), -d, -Math.log(m) - d / 2 * Math.log(2 * Math.PI));
  return { logDensity: add(logSumExp(logs), normaliser), denoised: matmul(softmax(logs), y) };
}

/** Starts the generator with all its mass around the first mode, of 5 %. */
function start(generator: Trainable, seed: number): void {
  const weights = initialWeights(generator.network.parameters, [seed, 0]);
  weights.get(generator.network.parameters.at(-1)!.name)!.set(RING[0]!.mean);
  generator.start(weights);
}

/**
 * Trains a generator from there with training's Bregman gradient. The teacher is exact, and so are, for the distribution of
 * as many samples, the fake score and the ratio: what is seen is h's doing, not that of critics that lag behind.
 */
export async function distilRing(gpu: Gpu, divergence: Divergence, seed: number, steps = 600): Promise<RingResult> {
  const workspace = new Workspace(gpu);
  const network = new Mlp([2, 32, 32, 32, 2]);
  const generator = new Trainable(workspace, "generator", network);
  start(generator, seed);
  const { random } = stepLeaves();
  const generate = ({ lookup }: Trainable["values"], count: number, stream: number) =>
    network.apply(lookup, randomNormal([count, 2], random(stream)));

  const x = generate(generator.values, BATCH, 0);
  const spread = Math.log(SIGMA.greatest / SIGMA.least);
  const sigma = exp(affine(randomUniform([BATCH], random(1)), spread, Math.log(SIGMA.least)));
  const xt = add(stopGradient(x), mul(reshape(sigma, [BATCH, 1]), randomNormal(x.shape, random(2))));
  const fake = ofSamples(stopGradient(generate(generator.values, REFERENCES, 3)), xt, sigma);
  const logits = sub(logDensityGraph(RING, xt, sigma), fake.logDensity);
  const weights = bregmanWeight(logits, divergence, { ...RATIO, normalise: true });
  const tensors = { weights, x, fake: fake.denoised, teacher: denoisedGraph(RING, xt, sigma) };
  const g = bregmanGradient(tensors, { normaliser: true });
  const gradient = await workspace.compile({ label: "ring", updates: gradientUpdates(generator, [x], [g]) });
  const judged = generate(generator.ema, JUDGED, 4);
  const sample = await workspace.compile({ label: "ring.samples", outputs: { judged } });
  const ema = { halfLife: 50 * BATCH, rampRatio: 0.05 };
  const optimizer = await Optimizer.create(generator, { batch: BATCH, beta1: 0.9, beta2: 0.999, clipNorm: 10, ema });

  for (let step = 0; step < steps; step++) {
    const rate = LEARNING_RATE * Math.min(1, 2 * (1 - step / steps));
    workspace.submit([gradient.at(randomValues([seed, 1], step)), optimizer.at(step, rate)]);
    if (step % 50 === 49) await optimizer.readGradNorms();
  }
  workspace.submit([sample.at(randomValues([seed, 1], 0))]);
  const points = (await sample.read()).judged as Float32Array;
  workspace.destroy();
  return judge(points);
}

/** The masses of `points` [N, 2]. */
function judge(points: Float32Array): RingResult {
  const share = 2 / points.length;
  const masses = RING.map(() => 0);
  for (let i = 0; i < points.length; i += 2) {
    const k = RING.findIndex(({ mean }) => Math.hypot(points[i]! - mean[0]!, points[i + 1]! - mean[1]!) <= 3 * STD);
    if (k >= 0) masses[k]! += share;
  }
  const total = masses.reduce((sum, mass) => sum + mass, 0);
  return {
    masses,
    modes: masses.filter((mass, k) => mass >= REACHED * MASSES[k]!).length,
    stray: 1 - total,
    massError: masses.reduce((sum, mass, k) => sum + Math.abs(mass / total - MASSES[k]!), 0) / 2,
  };
}

/** A line of the table; masses and errors in percent. */
export function ringLine(label: string, { masses, modes, stray, massError }: RingResult): string {
  const percent = (value: number) => (100 * value).toFixed(1).padStart(5);
  return `${label.padEnd(16)} ${modes} of ${MASSES.length}  ${percent(stray)} ${percent(massError)}   ${
    masses.map(percent).join(" ")
  }`;
}

/** Heads {@linkcode ringLine}s. */
export const RING_HEADER: string = `h                 modes  stray error   mass of each mode (%)\n${
  ringLine("teacher", { masses: MASSES, modes: MASSES.length, stray: Math.exp(-4.5), massError: 0 })
}`;

/** Averages over seeds, with the standard error of the masses' error. */
function summaryLine(label: string, results: readonly RingResult[]): string {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const errors = results.map(({ massError }) => massError);
  const squares = errors.map((error) => (error - mean(errors)) ** 2);
  const standardError = Math.sqrt(mean(squares) / (errors.length - 1));
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  return `| \`${label}\` | ${results.map(({ modes }) => modes).join(", ")} | ${
    percent(mean(results.map(({ stray }) => stray)))
  } | ${(100 * mean(errors)).toFixed(1)} ± ${percent(standardError)} |`;
}

if (import.meta.main) {
  const steps = Number(Deno.args[0] ?? 600);
  if (!Number.isInteger(steps) || steps < 1) throw new Error(`The number of steps is ${Deno.args[0]}.`);
  const gpu = await getGpu();
  const summary = ["| h | modes reached, by seed | near no mode | error of the masses |", "| --- | --- | --- | --- |"];
  console.log(RING_HEADER);
  for (const divergence of DIVERGENCES) {
    const results: RingResult[] = [];
    for (const seed of [0, 1, 2]) {
      const result = await distilRing(gpu, divergence, seed, steps);
      console.log(ringLine(`${divergence.label} ${seed}`, result));
      results.push(result);
    }
    summary.push(summaryLine(divergence.label, results));
  }
  console.log(`\n${summary.join("\n")}`);
  gpu.destroy();
}

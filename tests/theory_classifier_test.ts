/** The classifier's loss finds the closed-form log ratio: a small network is trained on samples of known densities. */

import { assert } from "@std/assert";
import {
  add,
  affine,
  concat,
  constant,
  div,
  evaluate,
  exp,
  log,
  mul,
  randomNormal,
  randomUniform,
  reshape,
  slice,
  sqrt,
  square,
  type Tensor,
  Workspace,
} from "../src/graph/mod.ts";
import { randomValues, stepLeaves } from "../src/diffusion/teacher.ts";
import { classifierLoss } from "../src/distill/classifier.ts";
import type { ParameterLookup } from "../src/nn/layers.ts";
import { gradientUpdates, Optimizer } from "../src/optim/adam.ts";
import { initialWeights, Trainable } from "../src/optim/weights.ts";
import { deviceTest, uniformSource } from "./gpu.ts";
import { mixtureSamples } from "./reference/gaussian_graphs.ts";
import { logDensity, type Mixture, noised } from "./reference/gaussians.ts";
import { Mlp } from "./reference/mlp.ts";

const REAL: Mixture = [
  { weight: 0.3, mean: [-1, 0], std: [0.6, 0.6] },
  { weight: 0.5, mean: [0.9, 0.6], std: [0.6, 0.7] },
  { weight: 0.2, mean: [0.6, -1], std: [0.6, 0.6] },
];
const GENERATED: Mixture = [
  { weight: 0.5, mean: [-0.6, -0.5], std: [0.6, 0.6] },
  { weight: 0.5, mean: [0.8, 0], std: [0.6, 0.6] },
];

/** ln σ is uniform between these in training. */
const SIGMA = { least: 0.1, greatest: 3 };

/** Samples of each density a step. */
const BATCH = 512;
const STEPS = 1000, LEARNING_RATE = 1e-2;

/**
 * Mean error of the logit that is allowed, and of its probability in bins: about 1.5 times what half a million samples of
 * each density leave at the least noise. The logits' own mean size is 0.15 to 0.7.
 */
const LOGIT_ERROR = 0.12, CALIBRATION_ERROR = 0.01;

const network = new Mlp([3, 64, 64, 1]);

/** The logit [N] of `xt` [N, 2] at `sigma` [N]. */
function classify(p: ParameterLookup, xt: Tensor, sigma: Tensor): Tensor {
  const n = sigma.size;
  const column = (x: Tensor) => reshape(x, [n, 1]);
  const scaled = div(xt, column(sqrt(affine(square(sigma), 1, 1))));
  return reshape(network.apply(p, concat([scaled, column(affine(log(sigma), 0.25, 0))], 1)), [n]);
}

async function train(workspace: Workspace): Promise<Trainable> {
  const classifier = new Trainable(workspace, "classifier", network);
  classifier.start(initialWeights(network.parameters, [1, 2]));
  const { random } = stepLeaves();
  const clean = [REAL, GENERATED].map((mixture, i) => mixtureSamples(mixture, BATCH, random(2 * i), random(2 * i + 1)));
  const x = concat(clean, 0);
  const u = randomUniform([2 * BATCH], random(4));
  const sigma = exp(affine(u, Math.log(SIGMA.greatest / SIGMA.least), Math.log(SIGMA.least)));
  const xt = add(x, mul(reshape(sigma, [2 * BATCH, 1]), randomNormal(x.shape, random(5))));
  const logits = classify(classifier.values.lookup, xt, sigma);
  const loss = classifierLoss(slice(logits, 0, 0, BATCH), slice(logits, 0, BATCH, 2 * BATCH));
  const step = await workspace.compile({ label: "classifier", updates: gradientUpdates(classifier, [loss]) });
  const ema = { halfLife: 50 * BATCH, rampRatio: 0.05 };
  const optimizer = await Optimizer.create(classifier, { batch: BATCH, beta1: 0.9, beta2: 0.999, clipNorm: 10, ema });
  for (let i = 0; i < STEPS; i++) {
    workspace.submit([
      step.at(randomValues([3, 4], i)),
      optimizer.at(i, LEARNING_RATE * Math.min(1, 2 * (1 - i / STEPS))),
    ]);
    if (i % 50 === 49) await optimizer.readGradNorms();
  }
  return classifier;
}

/** Points of a mixture: held-out samples. */
function points(mixture: Mixture, count: number, seed: number): number[][] {
  const uniform = uniformSource(seed);
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return Array.from({ length: count }, () => {
    let rest = uniform();
    const { mean, std } = mixture.find(({ weight }) => (rest -= weight) < 0) ?? mixture.at(-1)!;
    return mean.map((m, i) => m + std[i]! * normal());
  });
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
const sigmoid = (logit: number) => 1 / (1 + Math.exp(-logit));

/** Mean difference of two probabilities, averaged in each of ten bins of the first before its size is taken. */
function calibrationError(predicted: readonly number[], exact: readonly number[]): number {
  const bins = new Float64Array(10);
  predicted.forEach((p, i) => bins[Math.min(9, Math.floor(10 * p))]! += (p - exact[i]!) / predicted.length);
  return bins.reduce((sum, bin) => sum + Math.abs(bin), 0);
}

deviceTest("theory: a classifier trained on samples finds log p/q at every noise level", async (gpu) => {
  const workspace = new Workspace(gpu);
  const classifier = await train(workspace);
  for (const sigma of [0.15, 0.4, 1, 2]) {
    const real = noised(REAL, sigma), generated = noised(GENERATED, sigma);
    const held = [...points(real, 2000, 5), ...points(generated, 2000, 6)];
    const exact = held.map((x) => logDensity(real, x) - logDensity(generated, x));
    const sigmas = constant(held.map(() => sigma), [held.length]);
    const xt = constant(held.flat(), [held.length, 2]);
    const { logits } = await evaluate(workspace, { logits: classify(classifier.ema.lookup, xt, sigmas) });
    const error = mean(exact.map((l, i) => Math.abs(logits[i]! - l)));
    const size = mean(exact.map(Math.abs));
    const calibration = calibrationError([...logits].map(sigmoid), exact.map(sigmoid));
    console.log(
      `sigma ${sigma}: logits of mean size ${size.toFixed(3)} are off by ${error.toFixed(3)}, ` +
        `probabilities in bins by ${calibration.toFixed(4)}`,
    );
    assert(error <= LOGIT_ERROR, `sigma ${sigma}: logits of mean size ${size} are off by ${error}.`);
    assert(size > LOGIT_ERROR, `sigma ${sigma}: logits of mean size ${size} show nothing.`);
    assert(calibration <= CALIBRATION_ERROR, `sigma ${sigma}: the calibration error is ${calibration}.`);
  }
  workspace.destroy();
});

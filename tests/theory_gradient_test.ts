/**
 * The generator's gradient on Gaussian mixtures, where r, the scores and D_h are closed forms: what the production ops
 * give in expectation is the derivative of the divergence, for every h.
 *
 * Conventions. x = G(z), x_t = x + σ n, scores (D − x_t)/σ², r = q_t/p_t, logit l = −log r. With parameters θ of G
 *
 *   ∂/∂θ D_h(r‖1) = ∂/∂θ ∫ p_t h(q_t/p_t) = ∫ h'(r) ∂q_t/∂θ = E[∇(h'(r))·∂x/∂θ]
 *                 = E[h''(r) r (∇log q_t − ∇log p_t)·∂x/∂θ] = E[c(r) (D_fake − D_teacher)·∂x/∂θ] / σ²
 *
 * (the third step because q_t is the density of x_t = G(z) + σ n). So with w = σ² the cotangent at x is
 * c(r) (D_fake − D_teacher), with plus sign: the gradient of σ² D_h, to be descended.
 */

import { assert } from "@std/assert";
import {
  add,
  affine,
  bregmanGradient,
  concat,
  constant,
  evaluate,
  gradients,
  mul,
  type Shape,
  stopGradient,
  sub,
  type Tensor,
  Workspace,
} from "../src/graph/mod.ts";
import { deviceTest, randomArray, relativeError } from "./gpu.ts";
import { convexFunction, divergenceGradients, DIVERGENCES } from "./reference/divergence.ts";
import { logDensityGraph } from "./reference/gaussian_graphs.ts";
import { denoised, logDensity, type Mixture, noised } from "./reference/gaussians.ts";
import { bregmanWeight, estimate, latticeNormals, REPLICATES } from "./theory.ts";

/**
 * A generator x = mean + k·offset + scale·z with k = ±1, every other sample: a Gaussian or a mixture of two. The variances
 * are such that E_p[h(r)] and E_q[c²] exist for λ from −1 to 2: (1+λ)/v_q > λ/v_p, (1+2λ)/v_q > 2λ/v_p.
 */
interface Case {
  readonly name: string;
  readonly mean: readonly number[];
  readonly offset: readonly number[];
  readonly scale: readonly number[];
  readonly teacher: Mixture;
}

const CASES: readonly Case[] = [
  {
    name: "1-D Gaussians",
    mean: [0.3],
    offset: [0],
    scale: [0.9],
    teacher: [{ weight: 1, mean: [0], std: [1] }],
  },
  {
    name: "1-D mixtures",
    mean: [0.2],
    offset: [0.8],
    scale: [0.5],
    teacher: [{ weight: 0.35, mean: [-1], std: [0.5] }, { weight: 0.65, mean: [1], std: [0.6] }],
  },
  {
    name: "2-D Gaussians",
    mean: [0.3, -0.2],
    offset: [0, 0],
    scale: [0.85, 0.72],
    teacher: [{ weight: 1, mean: [0, 0], std: [1, 0.8] }],
  },
  {
    name: "2-D mixtures",
    mean: [0.1, -0.25],
    offset: [0.7, 0.3],
    scale: [0.6, 0.6],
    teacher: [
      { weight: 0.3, mean: [-1, 0], std: [0.6, 0.6] },
      { weight: 0.5, mean: [0.9, 0.6], std: [0.6, 0.7] },
      { weight: 0.2, mean: [0.6, -1], std: [0.6, 0.6] },
    ],
  },
];

const SIGMAS = [0.2, 0.7, 2];

/** Samples in each replicate. */
const COUNT = 2048;
const BATCH = REPLICATES * COUNT;

/** Share of the gradient's norm that a standard error may be, and standard errors that a difference may be. */
const PRECISION = 0.02, STANDARD_ERRORS = 5;

function isMixed({ offset }: Case): boolean {
  return offset.some((value) => value !== 0);
}

/** The generator's density, from its parameters in the order of `parametersOf`. */
function density(c: Case): (parameters: readonly number[]) => Mixture {
  const d = c.mean.length;
  const mixed = isMixed(c);
  return (parameters) => {
    const part = (i: number) => parameters.slice(i * d, (i + 1) * d);
    const middle = part(0), std = part(1), aside = mixed ? part(2) : [];
    return (mixed ? [-1, 1] : [0]).map((k) => ({
      weight: mixed ? 0.5 : 1,
      mean: middle.map((value, i) => value + k * (aside[i] ?? 0)),
      std,
    }));
  };
}

/** The generator's parameters, one after another: mean, scale and, of a mixture, offset. */
function parametersOf(c: Case): number[] {
  return [...c.mean, ...c.scale, ...isMixed(c) ? c.offset : []];
}

/** One noise level's samples of a case: what the device computes from, and what the closed forms say about it. */
interface Samples {
  readonly z: Float32Array<ArrayBuffer>;
  readonly noise: Float32Array<ArrayBuffer>;
  /** ±1 [BATCH]. */
  readonly side: Float32Array<ArrayBuffer>;
  /** log p_t(x_t) − log q_t(x_t) [BATCH]. */
  readonly logits: readonly number[];
  /** Denoised x_t for the generator's density and the teacher's, [BATCH, d]. */
  readonly fake: readonly number[];
  readonly teacher: readonly number[];
}

function drawSamples(c: Case, sigma: number, seed: number): Samples {
  const d = c.mean.length;
  const normals = latticeNormals(COUNT, 2 * d, seed);
  const columns = (from: number) =>
    Float32Array.from({ length: BATCH * d }, (_, i) => normals[Math.floor(i / d) * 2 * d + from + i % d]!);
  const z = columns(0), noise = columns(d);
  // Every other point of a lattice is one again: both sides are covered evenly.
  const side = Float32Array.from({ length: BATCH }, (_, n) => n % 2 === 0 ? 1 : -1);
  const q = density(c)(parametersOf(c));
  const qt = noised(q, sigma), pt = noised(c.teacher, sigma);
  const points = Array.from({ length: BATCH }, (_, n) =>
    c.mean.map((mean, i) => {
      const at = n * d + i;
      return mean + side[n]! * c.offset[i]! + c.scale[i]! * z[at]! + sigma * noise[at]!;
    }));
  return {
    ...{ z, noise, side },
    logits: points.map((x) => logDensity(pt, x) - logDensity(qt, x)),
    fake: points.flatMap((x) => denoised(q, x, sigma)),
    teacher: points.flatMap((x) => denoised(c.teacher, x, sigma)),
  };
}

/** The generator on the device: its parameters as leaves, and x [BATCH, d]. */
function generatorGraph(c: Case, { z, side }: Samples): { readonly parameters: Tensor[]; readonly x: Tensor } {
  const d = c.mean.length;
  const [mean, scale, offset] = [c.mean, c.scale, c.offset].map((values) => constant(values, [d])) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  const x = add(mean, mul(scale, constant(z, [BATCH, d])));
  return isMixed(c)
    ? { parameters: [mean, scale, offset], x: add(x, mul(constant(side, [BATCH, 1]), offset)) }
    : { parameters: [mean, scale], x };
}

/** g·∂x/∂θ of every sample, for each parameter θ in the order of `parametersOf`, from g [BATCH, d]. */
function perSample(c: Case, { z, side }: Samples, g: ArrayLike<number>): number[][] {
  const d = c.mean.length;
  const column = (i: number, slope: (n: number, at: number) => number) =>
    Array.from({ length: BATCH }, (_, n) => g[n * d + i]! * slope(n, n * d + i));
  return [
    ...c.mean.map((_, i) => column(i, () => 1)),
    ...c.mean.map((_, i) => column(i, (_, at) => z[at]!)),
    ...isMixed(c) ? c.mean.map((_, i) => column(i, (n) => side[n]!)) : [],
  ];
}

/** Every component within its Monte-Carlo error of the exact gradient, and that error small beside the gradient. */
function assertExpected(
  what: string,
  gradient: readonly number[],
  standardErrors: readonly number[],
  exact: readonly number[],
): void {
  const norm = Math.hypot(...exact);
  exact.forEach((value, i) => {
    const error = standardErrors[i]!, off = Math.abs(gradient[i]! - value) / error;
    assert(error <= PRECISION * norm, `${what}: standard error ${error} of component ${i}, gradient [${exact}].`);
    assert(
      off <= STANDARD_ERRORS,
      `${what}: component ${i} is ${gradient[i]}, ${off.toFixed(1)} standard errors from ${value}.`,
    );
  });
}

for (const [index, c] of CASES.entries()) {
  deviceTest(`theory: the expected gradient is that of σ² D_h for every h, ${c.name}`, async (gpu) => {
    const workspace = new Workspace(gpu);
    for (const sigma of SIGMAS) {
      const samples = drawSamples(c, sigma, index);
      const shape = [BATCH, c.mean.length];
      const { parameters, x } = generatorGraph(c, samples);
      const logits = constant(samples.logits, [BATCH]);
      const fake = constant(samples.fake, shape), teacher = constant(samples.teacher, shape);
      const results = await evaluateAll(
        workspace,
        DIVERGENCES.map((divergence) => {
          const g = bregmanGradient({ weights: bregmanWeight(logits, divergence), x, fake, teacher }, {
            normaliser: false,
          });
          return { g, gradients: gradients([x], parameters, { seeds: [g] }) };
        }),
      );
      const exact = divergenceGradients(density(c), parametersOf(c), c.teacher, sigma);
      results.forEach(({ g, gradient }, row) => {
        // The op divides by the batch.
        const errors = perSample(c, samples, g).map((values) => BATCH * estimate(values).standardError);
        const wanted = exact[row]!.map((value) => sigma ** 2 * value);
        assertExpected(`${DIVERGENCES[row]!.label}, sigma ${sigma}`, gradient, errors, wanted);
      });
    }
    workspace.destroy();
  });
}

/** Computes cotangents and the gradients they give in the parameters, all in one program. */
async function evaluateAll(
  workspace: Workspace,
  wanted: readonly { readonly g: Tensor; readonly gradients: readonly Tensor[] }[],
): Promise<{ readonly g: Float32Array; readonly gradient: readonly number[] }[]> {
  const named = wanted.flatMap(({ g, gradients }, row) => [
    [`g ${row}`, g] as const,
    [`gradient ${row}`, concat(gradients, 0)] as const,
  ]);
  const values = await evaluate(workspace, Object.fromEntries(named));
  return wanted.map((_, row) => ({
    g: values[`g ${row}`] as Float32Array,
    gradient: [...values[`gradient ${row}`]!],
  }));
}

/** Norm-wise error of a logit's gradient in f32: those of its two log densities, which nearly cancel. */
const LOGIT_GRADIENT_ERROR = 1e-5;

for (const [index, c] of CASES.entries()) {
  deviceTest(`theory: the gradient through the logit is the scores' difference, ${c.name}`, async (gpu) => {
    const workspace = new Workspace(gpu);
    const sigma = 0.7;
    const samples = drawSamples(c, sigma, index);
    const { parameters, x } = generatorGraph(c, samples);
    const xt = add(x, affine(constant(samples.noise, x.shape), sigma, 0));
    const level = constant(new Float32Array(BATCH).fill(sigma), [BATCH]);
    const [real, generated] = [c.teacher, density(c)(parametersOf(c))].map((m) => logDensityGraph(m, xt, level));
    const logits = sub(real!, generated!);
    // The loss E[h'(e^(−l))], w = σ²: its cotangent at l is −σ² c, where c, and the classifier, are given.
    const results = await evaluateAll(
      workspace,
      DIVERGENCES.map((divergence) => {
        const weights = bregmanWeight(stopGradient(logits), divergence);
        const seed = affine(weights, -(sigma ** 2) / BATCH, 0);
        const [g, ...slopes] = gradients([logits], [x, ...parameters], { seeds: [seed] });
        return { g: g!, gradients: slopes };
      }),
    );
    const exact = divergenceGradients(density(c), parametersOf(c), c.teacher, sigma);
    results.forEach(({ g, gradient }, row) => {
      const { label } = DIVERGENCES[row]!;
      const { weight } = convexFunction(DIVERGENCES[row]!);
      const difference = samples.fake.map((fake, at) => {
        const n = Math.floor(at / c.mean.length);
        return weight(samples.logits[n]!) * (fake - samples.teacher[at]!) / BATCH;
      });
      const error = relativeError(g, difference);
      assert(error <= LOGIT_GRADIENT_ERROR, `${label}: the two forms differ by ${error}.`);
      const errors = perSample(c, samples, g).map((values) => BATCH * estimate(values).standardError);
      assertExpected(label, gradient, errors, exact[row]!.map((value) => sigma ** 2 * value));
    });
    workspace.destroy();
  });
}

/** Rounding of float32 in a mean of 48 numbers and four operations. */
const DMD_ERROR = 1e-6;

deviceTest("theory: kl with the normaliser is DMD's update", async (gpu) => {
  const workspace = new Workspace(gpu);
  const shape: Shape = [37, 3, 4, 4];
  const [n, size] = [shape[0]!, 48];
  const [x, fake, teacher] = [1, 2, 3].map((seed) => randomArray(n * size, seed)) as [
    Float32Array<ArrayBuffer>,
    Float32Array<ArrayBuffer>,
    Float32Array<ArrayBuffer>,
  ];
  const tensors = { x: constant(x, shape), fake: constant(fake, shape), teacher: constant(teacher, shape) };
  const logits = constant(randomArray(n, 4).map((value) => 5 * value), [n]);
  // As in training: clipped and divided by the batch's mean, which changes no weight of 1.
  const weights = bregmanWeight(logits, { kind: "kl", lambda: 0 }, { ratioMin: 0.05, ratioMax: 10, normalise: true });
  const { g } = await evaluate(workspace, { g: bregmanGradient({ weights, ...tensors }, { normaliser: true }) });
  workspace.destroy();
  // Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation":
  // (μ_fake − μ_real) / mean|x − μ_real|, averaged over the batch.
  for (let i = 0; i < n; i++) {
    const at = Array.from({ length: size }, (_, e) => i * size + e);
    const distance = at.reduce((total, e) => total + Math.abs(x[e]! - teacher[e]!), 0) / size;
    for (const e of at) {
      const expected = (fake[e]! - teacher[e]!) / distance / n;
      const off = Math.abs(g[e]! - expected);
      assert(off <= DMD_ERROR * (Math.abs(fake[e]!) + Math.abs(teacher[e]!)) / n, `element ${e}: ${g[e]}, ${expected}`);
    }
  }
});

/** EDM (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"): preconditioning, loss, noise levels. */

import {
  add,
  affine,
  broadcastTo,
  constant,
  div,
  exp,
  log,
  mean,
  mul,
  reshape,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
} from "../graph/mod.ts";
import { GraphError, UsageError } from "../gpu/errors.ts";
import type { ParameterLookup } from "../nn/layers.ts";
import { conditionSizes, type DenoiserConfig } from "../nn/networks.ts";
import type { Conditions, DenoisingNetwork, Features } from "../nn/network.ts";
import { coefficients, lossWeight } from "./preconditioning.ts";

/** Standard deviation of the data, in data units. */
export const SIGMA_DATA = 0.5;

/** `sigma` [N] as [N, 1, 1, 1]. */
export function perSample(sigma: Tensor): Tensor {
  return reshape(sigma, [sigma.size, 1, 1, 1]);
}

/** c_in · x for `x` [N, C, H, W] at noise levels `sigma` [N]: c_in = 1/√(σ² + σ_d²). */
export function scaleInput(x: Tensor, sigma: Tensor): Tensor {
  return div(x, perSample(sqrt(affine(square(sigma), 1, SIGMA_DATA ** 2))));
}

/** c_noise = ln(σ)/4, the networks' noise condition. */
export function noiseCondition(sigma: Tensor): Tensor {
  return affine(log(sigma), 0.25, 0);
}

/**
 * The denoiser D(x, σ) = c_skip x + c_out F(c_in x, c_noise) around a network F (EDM, equation 7), with the coefficients of
 * the network's preconditioning.
 *
 * `x` is [N, C, H, W], `sigma` [N] > 0 in data units.
 */
export function denoise(
  network: DenoisingNetwork,
  p: ParameterLookup,
  x: Tensor,
  sigma: Tensor,
  conditions?: Conditions,
): Tensor {
  return denoiseWithFeatures(network, p, x, sigma, conditions).denoised;
}

/** {@linkcode denoise} with what the network's encoder found on the way. */
export function denoiseWithFeatures(
  network: DenoisingNetwork,
  p: ParameterLookup,
  x: Tensor,
  sigma: Tensor,
  conditions?: Conditions,
): { readonly denoised: Tensor; readonly features: Features } {
  const { cSkip, cOut, inputScale, cNoise } = coefficients(network.preconditioning, sigma);
  const input = inputScale ? div(x, perSample(inputScale)) : x;
  const { output, features } = network.run(p, input, cNoise, conditions);
  return { denoised: add(cSkip ? mul(perSample(cSkip), x) : x, mul(perSample(cOut), output)), features };
}

/**
 * Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) of denoised images [N, C, H, W]: D(x, ∅) +
 * g (D(x, class) − D(x, ∅)).
 */
export function guide(free: Tensor, conditioned: Tensor, guidance: number): Tensor {
  return add(free, affine(sub(conditioned, free), guidance, 0));
}

/**
 * Checks that a teacher can be guided.
 *
 * @throws {UsageError} where the guidance is not 1 and the network has no classes, or was always told them in training.
 */
export function checkGuidance({ network }: Pick<DenoiserConfig, "network">, guidance: number): void {
  if (guidance === 1) return;
  if (conditionSizes(network).labelDim === 0) {
    throw new UsageError(`Guidance ${guidance} needs a teacher of classes; this one has none.`);
  }
  if (!network.labelDropout) {
    throw new UsageError(
      `Guidance ${guidance} needs a teacher that knows images without their class too: one that was trained with some ` +
        'labels dropped ("network.labelDropout"), and this one was not.',
    );
  }
}

/** x + σ n for `x` and `noise` [N, C, H, W], `sigma` [N]. */
export function addNoise(x: Tensor, noise: Tensor, sigma: Tensor): Tensor {
  return add(x, mul(perSample(sigma), noise));
}

/**
 * Denoising loss: the batch mean of Σ_CHW λ(σ) (D(x₀ + σ n, σ) − x₀)² with λ = 1/c_out² (EDM, table 1); with EDM's
 * preconditioning λ = (σ² + σ_d²)/(σ σ_d)².
 */
export function denoisingLoss(
  network: DenoisingNetwork,
  p: ParameterLookup,
  tensors: { readonly x0: Tensor; readonly noise: Tensor; readonly sigma: Tensor },
  conditions?: Conditions,
): Tensor {
  const { x0, noise, sigma } = tensors;
  const denoised = denoise(network, p, addNoise(x0, noise, sigma), sigma, conditions);
  return weightedError(denoised, x0, lossWeight(network.preconditioning, sigma));
}

/** The batch mean of λ Σ_CHW (D − x₀)² for images [N, C, H, W] and weights λ [N]. */
export function weightedError(denoised: Tensor, x0: Tensor, weight: Tensor): Tensor {
  return mean(mul(weight, sum(square(sub(denoised, x0)), [1, 2, 3])));
}

/** Noise levels with ln σ ~ N(mean, std²) from standard normal `normal` [N]. EDM trains with −1.2 and 1.2. */
export function logNormalSigma(normal: Tensor, law: { readonly mean: number; readonly std: number }): Tensor {
  return exp(affine(normal, law.std, law.mean));
}

/** Limits of Karras's noise levels. */
export const KARRAS = { sigmaMin: 0.002, sigmaMax: 80, rho: 7 } as const;

/**
 * Noise levels from the lower part of Karras's schedule: σ = (σ_min^{1/ρ} + u·range·(σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ for
 * uniform `uniform` [N] in (0, 1). SiD's range is 0.8: σ from 0.002 to 24.4.
 */
export function karrasSigma(uniform: Tensor, range: number): Tensor {
  const { sigmaMin, sigmaMax, rho } = KARRAS;
  const low = sigmaMin ** (1 / rho), high = sigmaMax ** (1 / rho);
  return exp(affine(log(affine(uniform, range * (high - low), low)), rho, 0));
}

/** The noise level at `share` of the way from one to another in Karras's spacing (EDM, equation 5). */
export function karrasBetween(from: number, to: number, share: number): number {
  const { rho } = KARRAS;
  const begin = from ** (1 / rho), end = to ** (1 / rho);
  return (begin + share * (end - begin)) ** rho;
}

/** The least and the greatest noise level of {@linkcode karrasSigma}. */
export function karrasLimits(range: number): [number, number] {
  const { sigmaMin, sigmaMax } = KARRAS;
  return [sigmaMin, karrasBetween(sigmaMin, sigmaMax, range)];
}

/** A range of noise levels. */
export interface SigmaRange {
  /** The least. */
  readonly sigmaMin: number;
  /** The greatest. */
  readonly sigmaMax: number;
}

/** `count` descending sampling levels, then 0 (EDM, equation 5), within `limits`. */
export function karrasLevels(count: number, limits: SigmaRange = KARRAS): number[] {
  const sigmaMin = Math.max(KARRAS.sigmaMin, limits.sigmaMin), sigmaMax = Math.min(KARRAS.sigmaMax, limits.sigmaMax);
  const share = (i: number) => i / Math.max(1, count - 1);
  return [...Array.from({ length: count }, (_, i) => karrasBetween(sigmaMax, sigmaMin, share(i))), 0];
}

/** One noise level, a number or a scalar tensor, for every sample of a batch: [batch]. */
export function sameSigma(sigma: Tensor | number, batch: number): Tensor {
  const level = typeof sigma === "number" ? constant([sigma], [1]) : reshape(sigma, [1]);
  return broadcastTo(level, [batch]);
}

/** What a generator's images are made of. */
export interface GeneratorInputs {
  /** Standard normal [N, C, H, W]. */
  readonly z: Tensor;
  /** Standard normal [N, C, H, W] for each level but the first. */
  readonly noises: readonly Tensor[];
  /** Classes. */
  readonly conditions?: Conditions;
}

/**
 * A generator's images, of one evaluation at each of its noise levels: at the first G(z) = D(σ z, σ), at a later one D(x + σ n, σ)
 * of the result x so far (the multistep sampling of consistency models, Song et al. 2023, arXiv 2303.01469, algorithm 1).
 */
export function generate(
  network: DenoisingNetwork,
  p: ParameterLookup,
  { z, noises, conditions }: GeneratorInputs,
  [first, ...later]: readonly [number, ...number[]],
): Tensor {
  if (noises.length !== later.length) {
    throw new GraphError(`${later.length + 1} levels take ${later.length} noises; got ${noises.length}.`);
  }
  const at = (level: number, xt: Tensor) => denoise(network, p, xt, sameSigma(level, z.shape[0]!), conditions);
  return later.reduce(
    (x, level, i) => at(level, addNoise(x, noises[i]!, sameSigma(level, z.shape[0]!))),
    at(first, affine(z, first, 0)),
  );
}

/**
 * The noise levels of a generator of `steps` steps that starts at `sigmaInit`: Karras's spacing (ρ = 7) towards 0.002,
 * without its end.
 */
export function generatorLevels(sigmaInit: number, steps: number): [number, ...number[]] {
  const later = Array.from({ length: steps - 1 }, (_, i) => karrasBetween(sigmaInit, KARRAS.sigmaMin, (i + 1) / steps));
  return [sigmaInit, ...later];
}

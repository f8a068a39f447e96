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
import type { ParameterLookup } from "../nn/layers.ts";
import type { UNet } from "../nn/unet.ts";

/** Standard deviation of the data, in data units. */
export const SIGMA_DATA = 0.5;

/** `sigma` [N] as [N, 1, 1, 1]. */
function perSample(sigma: Tensor): Tensor {
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
 * The denoiser D(x, σ) = c_skip x + c_out F(c_in x, c_noise) around a network F (EDM, equation 7).
 *
 * `x` is [N, C, H, W], `sigma` [N] > 0 in data units; c_skip = σ_d²/(σ² + σ_d²), c_out = σ σ_d/√(σ² + σ_d²).
 */
export function denoise(network: UNet, p: ParameterLookup, x: Tensor, sigma: Tensor): Tensor {
  const variance = affine(square(sigma), 1, SIGMA_DATA ** 2);
  const cSkip = perSample(div(affine(sigma, 0, SIGMA_DATA ** 2), variance));
  const cOut = perSample(div(affine(sigma, SIGMA_DATA, 0), sqrt(variance)));
  const f = network.apply(p, scaleInput(x, sigma), noiseCondition(sigma));
  return add(mul(cSkip, x), mul(cOut, f));
}

/** x + σ n for `x` and `noise` [N, C, H, W], `sigma` [N]. */
export function addNoise(x: Tensor, noise: Tensor, sigma: Tensor): Tensor {
  return add(x, mul(perSample(sigma), noise));
}

/**
 * Denoising loss: the batch mean of Σ_CHW λ(σ) (D(x₀ + σ n, σ) − x₀)², λ = (σ² + σ_d²)/(σ σ_d)² (EDM, table 1).
 */
export function denoisingLoss(
  network: UNet,
  p: ParameterLookup,
  tensors: { readonly x0: Tensor; readonly noise: Tensor; readonly sigma: Tensor },
): Tensor {
  const { x0, noise, sigma } = tensors;
  const error = square(sub(denoise(network, p, addNoise(x0, noise, sigma), sigma), x0));
  const weight = div(affine(square(sigma), 1, SIGMA_DATA ** 2), square(affine(sigma, SIGMA_DATA, 0)));
  return mean(mul(weight, sum(error, [1, 2, 3])));
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

/** `count` descending sampling levels, then 0 (EDM, equation 5). */
export function karrasLevels(count: number): number[] {
  const { sigmaMin, sigmaMax, rho } = KARRAS;
  const low = sigmaMin ** (1 / rho), high = sigmaMax ** (1 / rho);
  const levels = Array.from({ length: count }, (_, i) => (high + (i / Math.max(1, count - 1)) * (low - high)) ** rho);
  return [...levels, 0];
}

/** A noise level given as a scalar tensor, for every sample of a batch: [batch]. */
export function sameSigma(sigma: Tensor, batch: number): Tensor {
  return broadcastTo(reshape(sigma, [1]), [batch]);
}

/** G(z) = D(σ_init z, σ_init): one evaluation of the network, `z` [N, C, H, W] standard normal. */
export function generate(network: UNet, p: ParameterLookup, z: Tensor, sigmaInit: number): Tensor {
  const sigma = sameSigma(constant([sigmaInit], []), z.shape[0]!);
  return denoise(network, p, affine(z, sigmaInit, 0), sigma);
}

/** The divergences themselves, by quadrature: their sign, where they vanish, and their closed forms between Gaussians. */

import { assert, assertAlmostEquals } from "@std/assert";
import { convexFunction, DIVERGENCES, divergences } from "./reference/divergence.ts";
import type { Mixture } from "./reference/gaussians.ts";

const SIGMAS = [0.2, 0.7, 2];

/** Of the quadrature and of float64 in sums of 15,000 terms, relative to a divergence of order 1. */
const QUADRATURE_ERROR = 1e-11;

const gaussian = (mean: number, std: number): Mixture => [{ weight: 1, mean: [mean], std: [std] }];

const MIXTURE: Mixture = [{ weight: 0.35, mean: [-1], std: [0.5] }, { weight: 0.65, mean: [1], std: [0.6] }];
const PLANE: Mixture = [
  { weight: 0.3, mean: [-1, 0], std: [0.6, 0.6] },
  { weight: 0.7, mean: [0.9, 0.6], std: [0.6, 0.7] },
];

/** Pairs that differ little: by a mean, a width or a mass alone. */
const UNEQUAL: readonly (readonly [string, Mixture, Mixture])[] = [
  ["mean", gaussian(0.1, 1), gaussian(0, 1)],
  ["width", gaussian(0, 0.95), gaussian(0, 1)],
  ["mass", MIXTURE.map((component, i) => ({ ...component, weight: [0.4, 0.6][i]! })), MIXTURE],
  ["one mode's place in the plane", PLANE.map((c, i) => i === 0 ? { ...c, mean: [-1, 0.1] } : c), PLANE],
];

Deno.test("theory: D_h is 0 where the densities are equal", () => {
  for (const mixture of [gaussian(0.3, 0.8), MIXTURE, PLANE]) {
    for (const sigma of SIGMAS) {
      divergences(mixture, mixture, sigma).forEach((value, i) =>
        assertAlmostEquals(value, 0, QUADRATURE_ERROR, DIVERGENCES[i]!.label)
      );
    }
  }
});

Deno.test("theory: D_h is positive where the densities differ, and its integrand nowhere negative", () => {
  for (const [what, q, p] of UNEQUAL) {
    for (const sigma of SIGMAS) {
      divergences(q, p, sigma).forEach((value, i) =>
        assert(value > 1e4 * QUADRATURE_ERROR, `${DIVERGENCES[i]!.label}, ${what}, sigma ${sigma}: ${value}`)
      );
    }
  }
  for (const divergence of DIVERGENCES) {
    const { h, dh } = convexFunction(divergence);
    for (let logR = -12; logR <= 12; logR += 0.25) {
      const r = Math.exp(logR), value = h(r) - h(1) - dh(1) * (r - 1);
      assert(logR === 0 ? value === 0 : value > 0, `${divergence.label} at r = ${r}: ${value}`);
    }
  }
});

Deno.test("theory: noise brings the densities together, for every h", () => {
  for (const [what, q, p] of UNEQUAL) {
    const levels = SIGMAS.map((sigma) => divergences(q, p, sigma));
    DIVERGENCES.forEach(({ label }, i) =>
      assert(levels[0]![i]! > levels[1]![i]! && levels[1]![i]! > levels[2]![i]!, `${label}, ${what}`)
    );
  }
});

/** Kullback and Leibler's divergence of N(m, s²) from N(n, t²). */
function kullbackLeibler([m, s]: readonly [number, number], [n, t]: readonly [number, number]): number {
  return Math.log(t / s) + (s ** 2 + (m - n) ** 2) / (2 * t ** 2) - 0.5;
}

/** ∫ q^(1+λ) p^(−λ) of q = N(m, s²) and p = N(n, t²): the integral of a Gaussian with this quadratic exponent. */
function powerIntegral(lambda: number, [m, s]: readonly [number, number], [n, t]: readonly [number, number]): number {
  const a = (1 + lambda) / s ** 2, b = -lambda / t ** 2;
  const exponent = -(a * b / (a + b)) * (m - n) ** 2 / 2;
  return s ** -(1 + lambda) * t ** lambda * (a + b) ** -0.5 * Math.exp(exponent);
}

Deno.test("theory: D_h between Gaussians has its closed forms", () => {
  for (const sigma of SIGMAS) {
    const q = [0.3, 0.8] as const, p = [-0.2, 0.9] as const;
    const [qt, pt] = [q, p].map(([mean, std]) => [mean, Math.hypot(std, sigma)] as const);
    const power = (lambda: number) => (powerIntegral(lambda, qt!, pt!) - 1) / lambda;
    const reverse = kullbackLeibler(qt!, pt!), forward = kullbackLeibler(pt!, qt!);
    const values = divergences(gaussian(...q), gaussian(...p), sigma);
    DIVERGENCES.forEach(({ kind, lambda, label }, i) => {
      const expected = {
        "kl": reverse,
        "itakura-saito": forward,
        "jeffreys": reverse + forward,
        "lsif": power(1) / 2,
        "sba": power(lambda) / (1 + lambda),
        "basu": power(lambda),
        // r log r − (1 + r) log(1 + r) and (1 + r) log(1 + r) − r add up to kl's h.
        "logistic": reverse - values[DIVERGENCES.findIndex(({ kind }) => kind === "softened-kl")]!,
        "softened-kl": reverse - values[DIVERGENCES.findIndex(({ kind }) => kind === "logistic")]!,
      }[kind];
      assertAlmostEquals(values[i]!, expected, QUADRATURE_ERROR, label);
    });
  }
});

/** How well a classifier's probabilities agree with frequencies. */

import type { Calibration } from "./diagnostics.ts";

/** Bins of equal width of the probability. */
const BINS = 10;

/**
 * The calibration of probabilities 1/(1 + e^(−logit)) on images of which it is known whether they are real.
 *
 * (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".)
 */
export function calibration(logits: ArrayLike<number>, isReal: (i: number) => boolean): Calibration {
  const bins = Array.from({ length: BINS }, () => ({ predicted: 0, observed: 0, count: 0 }));
  let logLoss = 0;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!, real = isReal(i);
    const probability = 1 / (1 + Math.exp(-logit));
    const bin = bins[Math.min(BINS - 1, Math.floor(probability * BINS))]!;
    bin.predicted += probability;
    bin.observed += Number(real);
    bin.count++;
    const wrong = real ? -logit : logit;
    logLoss += Math.max(0, wrong) + Math.log1p(Math.exp(-Math.abs(logit)));
  }
  const total = logits.length;
  const ece = bins.reduce((sum, { predicted, observed }) => sum + Math.abs(predicted - observed), 0) / total;
  return {
    ece,
    logLoss: logLoss / total,
    bins: bins.filter(({ count }) => count > 0).map(({ predicted, observed, count }) => ({
      ...{ predicted: predicted / count, observed: observed / count },
      count,
    })),
  };
}

/** Diagnostics of a density ratio: how well it is calibrated, and which weights come of it at which noise level. */

import { checkSettings, type Fail, list, number, type Rule, type Rules, whole } from "../io/settings.ts";

/** Pairs whose predicted probability of being real is alike. */
export interface CalibrationBin {
  /** Mean predicted probability; of no consequence where there are none. */
  readonly predicted: number;
  /** Share that is real. */
  readonly observed: number;
  /** How many there are. */
  readonly count: number;
}

/** Calibration of a classifier on real and generated images that it was not trained on. */
export interface Calibration {
  /** Expected calibration error: mean of |predicted − observed|, weighted by the counts, in [0, 1]. */
  readonly ece: number;
  /** Mean of −log of the probability given to what is the case; ln 2 = 0.693 is that of knowing nothing. */
  readonly logLoss: number;
  /** The bins of the predicted probability. */
  readonly bins: readonly CalibrationBin[];
}

/** How often which weight c(r) occurred at which noise level. */
export interface WeightHistogram {
  /** Edges of the bins of σ, rising. */
  readonly sigmaEdges: readonly number[];
  /** Edges of the bins of log10 of the weight over its mean, rising. */
  readonly logWeightEdges: readonly number[];
  /** For every bin of σ, the counts of the bins of the weight. */
  readonly counts: readonly (readonly number[])[];
}

/** What a checkpoint of the distillation tells of the ratio. */
export interface Diagnostics {
  /** Absent where the classifier has no ratio. */
  readonly calibration?: Calibration;
  /** Absent where no weights are computed. */
  readonly weights?: WeightHistogram;
  /** Of the weights, see {@linkcode evenness}. */
  readonly evenness?: number;
}

const share = number({ min: 0, max: 1 });
const counts: Rule = list(whole({ min: 0 }), { min: 1 });
const edges: Rule = list(number({}), { min: 2 });
const BIN: Rules = { predicted: share, observed: share, count: whole({ min: 0 }) };

/** Checks what a file holds; calls `fail` with the field that is not as it should be. */
export function checkDiagnostics(value: unknown, fail: Fail): Diagnostics {
  const { calibration, weights, evenness } = value as {
    calibration?: Partial<Calibration>;
    weights?: Partial<WeightHistogram>;
    evenness?: number;
  };
  if (evenness !== undefined) checkSettings({ evenness }, { evenness: share }, fail);
  if (calibration !== undefined) {
    if (calibration === null) fail('the field "calibration" should hold settings');
    const { bins, ...rest } = calibration;
    checkSettings({ calibration: rest }, { calibration: { ece: share, logLoss: number({ min: 0 }) } }, fail);
    if (!Array.isArray(bins)) fail('the field "calibration.bins" should be a list');
    // A bin of nothing has no means.
    for (const bin of bins as Partial<CalibrationBin>[]) {
      if (bin?.count !== 0) checkSettings({ "calibration.bins": bin }, { "calibration.bins": BIN }, fail);
    }
  }
  if (weights !== undefined) {
    const rules = { sigmaEdges: edges, logWeightEdges: edges, counts: list(counts, {}) };
    checkSettings({ weights }, { weights: rules }, fail);
    const { sigmaEdges, logWeightEdges, counts: rows } = weights as WeightHistogram;
    const [height, width] = [sigmaEdges.length - 1, logWeightEdges.length - 1];
    if (rows.length !== height || rows.some((row) => row.length !== width)) {
      fail(`the field "weights.counts" should hold ${height} rows of ${width} counts, as its edges say`);
    }
  }
  return {
    ...calibration && { calibration: calibration as Calibration },
    ...weights && { weights: weights as WeightHistogram },
    ...evenness !== undefined && { evenness },
  };
}

/** Bins of the predicted probability, of equal width. */
const RANGES = 10;

/** The bin of a probability. */
function rangeOf(probability: number): number {
  return Math.min(RANGES - 1, Math.floor(probability * RANGES));
}

/**
 * The calibration of probabilities 1/(1 + e^(−logit)) on images of which it is known whether they are real.
 *
 * (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".)
 */
export function calibration(logits: ArrayLike<number>, isReal: (i: number) => boolean): Calibration {
  const bins = Array.from({ length: RANGES }, () => ({ predicted: 0, observed: 0, count: 0 }));
  let logLoss = 0;
  for (let i = 0; i < logits.length; i++) {
    const logit = logits[i]!, real = isReal(i);
    const probability = 1 / (1 + Math.exp(-logit));
    const bin = bins[rangeOf(probability)]!;
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

/** One calibration of several: bins by their mean predictions and counts, the errors' means. Undefined of none. */
export function pooledCalibration(all: readonly Calibration[]): Calibration | undefined {
  if (all.length === 0) return undefined;
  const mean = (value: (one: Calibration) => number) => all.reduce((sum, one) => sum + value(one), 0) / all.length;
  const filled = all.flatMap(({ bins }) => bins).filter(({ count }) => count > 0);
  const bins = Array.from(
    { length: RANGES },
    (_, range) => filled.filter(({ predicted }) => rangeOf(predicted) === range),
  )
    .filter((parts) => parts.length > 0).map((parts) => {
      const count = parts.reduce((sum, part) => sum + part.count, 0);
      const weighted = (name: "predicted" | "observed") =>
        parts.reduce((sum, part) => sum + part.count * part[name], 0) / count;
      return { predicted: weighted("predicted"), observed: weighted("observed"), count };
    });
  return { ece: mean(({ ece }) => ece), logLoss: mean(({ logLoss }) => logLoss), bins };
}

/** The sum of several histograms. Undefined of none, or where their edges differ. */
export function summedWeights(all: readonly WeightHistogram[]): WeightHistogram | undefined {
  const [first] = all;
  const edges = ({ sigmaEdges, logWeightEdges }: WeightHistogram) => JSON.stringify([sigmaEdges, logWeightEdges]);
  if (!first || all.some((one) => edges(one) !== edges(first))) return undefined;
  const counts = first.counts.map((row, i) =>
    row.map((_, j) => all.reduce((sum, { counts }) => sum + counts[i]![j]!, 0))
  );
  return { ...first, counts };
}

/**
 * How evenly images count under weights c_i > 0: (Σ c)² / (n Σ c²) in (0, 1], 1 where all are alike (Kish's effective sample
 * size over n).
 */
export function evenness(weights: readonly number[]): number {
  const sum = weights.reduce((sum, weight) => sum + weight, 0);
  // Rounding could come to a little more than 1.
  return Math.min(1, sum ** 2 / (weights.length * weights.reduce((sum, weight) => sum + weight ** 2, 0)));
}

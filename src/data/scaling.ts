/** Bytes, values in [0, 1] and data units: how images are scaled for the networks. */

/** y = x · scale + shift. */
export interface Scaling {
  /** Factor. */
  readonly scale: number;
  /** Added after it. */
  readonly shift: number;
}

/** Mean and standard deviation of 2 v − 1 over a data set's values v in [0, 1]. */
export interface Statistics {
  /** Mean. */
  readonly mean: number;
  /** Standard deviation. */
  readonly std: number;
}

/** From bytes to data units, in which the data set has mean 0 and standard deviation ½: ½ (2 byte/255 − 1 − mean)/std. */
export function bytesToData({ mean, std }: Statistics): Scaling {
  return { scale: 1 / (255 * std), shift: -0.5 * (1 + mean) / std };
}

/** From data units to bytes (before rounding). */
export function dataToBytes({ mean, std }: Statistics): Scaling {
  return { scale: 255 * std, shift: 127.5 * (1 + mean) };
}

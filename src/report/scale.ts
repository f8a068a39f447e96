/** Scales of a chart's axes: from values to places, with ticks at round values. */

/** From values to places. */
export interface Scale {
  /** Place of a value. */
  at(value: number): number;
  /** Round values within the range. */
  readonly ticks: readonly number[];
}

/** What a scale is made from. */
export interface ScaleSettings {
  /** Least and greatest value to be shown. */
  readonly domain: readonly [number, number];
  /** Their places. */
  readonly range: readonly [number, number];
  /** Logarithmic; all values are above 0 then. */
  readonly log?: boolean;
  /** About how many ticks. */
  readonly count?: number;
}

/** A scale whose domain is widened to ticks where `nice`, else as it is. */
export function makeScale({ domain, range: [from, to], log = false, count = 5 }: ScaleSettings): Scale {
  let [low, high] = domain;
  if (!(Number.isFinite(low) && Number.isFinite(high) && low <= high && (!log || low > 0))) {
    throw new RangeError(`A ${log ? "logarithmic " : ""}scale cannot go from ${low} to ${high}.`);
  }
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
  const of = log ? Math.log : (value: number) => value;
  const at = (value: number) => from + (of(value) - of(low)) / (of(high) - of(low)) * (to - from);
  return { at, ticks: log ? logTicks(low, high, count) : linearTicks(low, high, count) };
}

/** Multiples of 1, 2 or 5 times a power of ten. */
function linearTicks(low: number, high: number, count: number): number[] {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= raw) ?? 10);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** 1, 2 and 5 times powers of ten, or the powers alone where that gives enough; at least two of some kind. */
function logTicks(low: number, high: number, count: number): number[] {
  const inside = (factors: readonly number[]) => {
    const ticks: number[] = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
    }
    return ticks.filter((tick) => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9));
  };
  const powers = inside([1]);
  if (powers.length >= Math.min(count, 4)) return powers;
  const fine = inside([1, 2, 5]);
  return fine.length >= 2 ? fine : linearTicks(low, high, count);
}

/** A value of an axis in words. */
export function tickText(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  return size > 0 && size < 1e-3 ? value.toExponential() : String(Number(value.toPrecision(4)));
}

/** Fair timing: long samples, taken in turn. */

/** Something whose runs are timed. */
export interface Timed {
  /** Runs `times` times and waits once. */
  run(times: number): Promise<void>;
}

/** How long and how often is measured. */
export interface TimingOptions {
  /** Milliseconds a sample lasts, many times the 11 ms that a wait costs in Deno. */
  readonly sampleMs: number;
  /** Samples of each. */
  readonly rounds: number;
  /** No further sample is taken of what has been measured for this many milliseconds. */
  readonly budgetMs: number;
}

/** The samples of one entry. */
interface Samples {
  /** Runs in a sample. */
  times: number;
  /** Milliseconds measured in all. */
  total: number;
  /** Milliseconds of one run, the best. */
  best: number;
}

/**
 * Milliseconds of one run of each, the best of all samples. Samples are taken in turn, so that what slows the machine for a
 * while slows all of them.
 *
 * An entry whose run throws gets the error instead of a time.
 */
export async function timeAll<K>(
  entries: ReadonlyMap<K, Timed>,
  { sampleMs, rounds, budgetMs }: TimingOptions,
): Promise<Map<K, number | Error>> {
  const samples = new Map<K, Samples>();
  const errors = new Map<K, Error>();
  const attempt = async (key: K, action: () => Promise<void>) => {
    try {
      await action();
    } catch (error) {
      errors.set(key, error instanceof Error ? error : new Error(String(error)));
    }
  };
  for (const [key, timed] of entries) {
    await attempt(key, async () => {
      samples.set(key, await calibrate(timed, sampleMs));
    });
  }
  for (let round = 1; round < rounds; round++) {
    for (const [key, own] of samples) {
      if (own.total < budgetMs && !errors.has(key)) {
        await attempt(key, async () => {
          await take(entries.get(key)!, own);
        });
      }
    }
  }
  return new Map([...entries.keys()].map((key) => [key, errors.get(key) ?? samples.get(key)!.best]));
}

/** Finds how many runs fill a sample, and takes the first; the runs until then warm up. */
async function calibrate(timed: Timed, sampleMs: number): Promise<Samples> {
  const samples = { times: 1, total: 0, best: Infinity };
  for (;;) {
    const { times } = samples;
    const ms = await take(timed, samples);
    if (ms >= 0.8 * sampleMs) return samples;
    Object.assign(samples, { total: 0, best: Infinity });
    samples.times = Math.ceil(times * Math.min(10, Math.max(1.25, sampleMs / ms)));
  }
}

/** Takes one sample; returns its milliseconds. */
async function take(timed: Timed, samples: Samples): Promise<number> {
  const start = performance.now();
  await timed.run(samples.times);
  const ms = performance.now() - start;
  samples.total += ms;
  samples.best = Math.min(samples.best, ms / samples.times);
  return ms;
}

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
}

/**
 * Milliseconds of one run of each, the best of all samples. Samples are taken in turn, so that what slows the machine for a
 * while slows all of them.
 *
 * An entry whose run throws gets the error instead of a time.
 */
export async function timeAll<K>(
  entries: ReadonlyMap<K, Timed>,
  { sampleMs, rounds }: TimingOptions,
): Promise<Map<K, number | Error>> {
  const results = new Map<K, number | Error>();
  const counts = new Map<K, number>();
  const attempt = async (key: K, action: () => Promise<void>) => {
    try {
      await action();
    } catch (error) {
      results.set(key, error instanceof Error ? error : new Error(String(error)));
      counts.delete(key);
    }
  };
  for (const [key, timed] of entries) {
    await attempt(key, async () => {
      counts.set(key, await runsFor(timed, sampleMs));
    });
  }
  for (let round = 0; round < rounds; round++) {
    for (const [key, times] of [...counts]) {
      await attempt(key, async () => {
        const ms = await sample(entries.get(key)!, times) / times;
        results.set(key, Math.min(ms, (results.get(key) ?? Infinity) as number));
      });
    }
  }
  return results;
}

/** Runs that fill a sample; runs it warm on the way. */
async function runsFor(timed: Timed, sampleMs: number): Promise<number> {
  await timed.run(1);
  let times = 1;
  for (;;) {
    const ms = await sample(timed, times);
    if (ms >= sampleMs / 3) return Math.ceil(times * sampleMs / ms);
    times *= Math.min(10, Math.max(2, Math.ceil(sampleMs / 2 / ms)));
  }
}

async function sample(timed: Timed, times: number): Promise<number> {
  const start = performance.now();
  await timed.run(times);
  return performance.now() - start;
}

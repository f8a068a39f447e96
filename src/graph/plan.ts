/** Assigns transient tensors to pooled buffers by their lifetimes. */

/** A tensor's need of memory: from step `first` to step `last`, inclusive. */
export interface Lifetime {
  /** Bytes needed. */
  readonly bytes: number;
  /** Step that writes it. */
  readonly first: number;
  /** Last step that reads it. */
  readonly last: number;
}

/** The outcome of {@linkcode planBuffers}. */
export interface BufferPlan {
  /** For every lifetime, the index of its buffer. */
  readonly assignment: readonly number[];
  /** Bytes of every buffer; the first ones are those that existed. */
  readonly sizes: readonly number[];
  /** Largest sum of live bytes at any step: no plan can need less. */
  readonly peakLiveBytes: number;
}

/**
 * Walks the steps in order and gives each tensor the smallest free buffer that holds it; where none does, the largest
 * free one that is not yet made grows, else a new one is added. `existing` are the sizes of buffers that cannot grow.
 */
export function planBuffers(lifetimes: readonly Lifetime[], existing: readonly number[] = []): BufferPlan {
  const sizes = [...existing];
  const freeAt = existing.map(() => -1);
  const assignment = new Array<number>(lifetimes.length).fill(-1);
  const order = lifetimes.map((_, i) => i).sort((a, b) => lifetimes[a]!.first - lifetimes[b]!.first || a - b);
  for (const i of order) {
    const { bytes, first, last } = lifetimes[i]!;
    let fitting = -1, growing = -1;
    sizes.forEach((size, b) => {
      if (freeAt[b]! >= first) return;
      if (size >= bytes && (fitting < 0 || size < sizes[fitting]!)) fitting = b;
      if (size < bytes && b >= existing.length && (growing < 0 || size > sizes[growing]!)) growing = b;
    });
    let chosen = fitting >= 0 ? fitting : growing;
    if (chosen < 0) {
      chosen = sizes.length;
      sizes.push(bytes);
      freeAt.push(-1);
    }
    sizes[chosen] = Math.max(sizes[chosen]!, bytes);
    freeAt[chosen] = last;
    assignment[i] = chosen;
  }
  return { assignment, sizes, peakLiveBytes: peakLiveBytes(lifetimes) };
}

function peakLiveBytes(lifetimes: readonly Lifetime[]): number {
  const changes = new Map<number, number>();
  const change = (step: number, bytes: number) => changes.set(step, (changes.get(step) ?? 0) + bytes);
  for (const { bytes, first, last } of lifetimes) {
    change(first, bytes);
    change(last + 1, -bytes);
  }
  let live = 0, peak = 0;
  for (const step of [...changes.keys()].sort((a, b) => a - b)) {
    live += changes.get(step)!;
    peak = Math.max(peak, live);
  }
  return peak;
}

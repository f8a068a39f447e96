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
 * Places the tensors from the largest to the smallest, each in the smallest buffer that holds it and is free all its life;
 * where there is none, a new one of its size is added. `existing` are the sizes of buffers that are there already.
 */
export function planBuffers(lifetimes: readonly Lifetime[], existing: readonly number[] = []): BufferPlan {
  const sizes = [...existing];
  const held: Lifetime[][] = existing.map(() => []);
  const assignment = new Array<number>(lifetimes.length).fill(-1);
  const order = lifetimes.map((_, i) => i).sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || a - b);
  for (const i of order) {
    const tensor = lifetimes[i]!;
    let chosen = -1;
    sizes.forEach((size, b) => {
      if (size < tensor.bytes || (chosen >= 0 && size >= sizes[chosen]!)) return;
      if (held[b]!.every(({ first, last }) => last < tensor.first || tensor.last < first)) chosen = b;
    });
    if (chosen < 0) {
      chosen = sizes.length;
      sizes.push(tensor.bytes);
      held.push([]);
    }
    held[chosen]!.push(tensor);
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

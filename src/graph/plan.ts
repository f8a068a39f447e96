/** Assigns transient tensors to pooled buffers by their lifetimes. */

import { BINDING_ALIGNMENT } from "../gpu/gpu.ts";

/** A tensor's need of memory: from step `first` to step `last`, inclusive. */
export interface Lifetime {
  /** Bytes needed. */
  readonly bytes: number;
  /** Step that writes it. */
  readonly first: number;
  /** Last step that reads it. */
  readonly last: number;
  /** Indices of those it may not share a buffer with while both live: a dispatch writes one of the two. */
  readonly apart?: ReadonlySet<number>;
}

/** Where a tensor lies. */
export interface Place {
  /** Index of the buffer. */
  readonly buffer: number;
  /** Bytes before it in the buffer. */
  readonly offset: number;
}

/** The outcome of {@linkcode planBuffers}. */
export interface BufferPlan {
  /** For every lifetime, its place. */
  readonly places: readonly Place[];
  /** Bytes of every buffer; the first ones are those that existed. */
  readonly sizes: readonly number[];
  /** Bytes used: of every buffer, those up to the end of its last tensor. */
  readonly plannedBytes: number;
  /** Largest sum of live bytes at any step: no plan can need less. */
  readonly peakLiveBytes: number;
}

/** A tensor in a buffer. */
interface Tenant extends Lifetime {
  readonly index: number;
  readonly offset: number;
}

/**
 * Plans over buffers that are there already, whose sizes are `existing`: in one way as if there were none, each planned
 * buffer then taking the place of one that holds it, in the other tensor by tensor. What needs fewer new bytes is chosen,
 * or else fewer bytes at all.
 */
export function planBuffers(lifetimes: readonly Lifetime[], existing: readonly number[] = []): BufferPlan {
  const plans = [inPlaceOf(placeTensors(lifetimes, []), existing), placeTensors(lifetimes, existing)];
  const total = (sizes: readonly number[]) => sizes.reduce((sum, size) => sum + size, 0);
  const [plan] = plans.sort((a, b) => total(a.sizes) - total(b.sizes) || a.plannedBytes - b.plannedBytes);
  return { ...plan!, peakLiveBytes: peakLiveBytes(lifetimes) };
}

type Placement = Omit<BufferPlan, "peakLiveBytes">;

/** Lets each buffer of a plan, the largest first, be the smallest existing one that holds it, or else a new one. */
function inPlaceOf({ places, sizes, plannedBytes }: Placement, existing: readonly number[]): Placement {
  const all = [...existing];
  const taken = new Set<number>();
  const target = new Map<number, number>();
  for (const { size, buffer } of sizes.map((size, buffer) => ({ size, buffer })).sort((a, b) => b.size - a.size)) {
    let best = -1;
    existing.forEach((bytes, i) => {
      if (bytes >= size && !taken.has(i) && (best < 0 || bytes < existing[best]!)) best = i;
    });
    if (best < 0) best = all.push(size) - 1;
    taken.add(best);
    target.set(buffer, best);
  }
  return {
    places: places.map(({ buffer, offset }) => ({ buffer: target.get(buffer)!, offset })),
    sizes: all,
    plannedBytes,
  };
}

/**
 * Places the tensors from the largest to the smallest, each in the smallest buffer that holds it and is free all its
 * life; where there is none, in the smallest gap beside the tensors of another; where there is none either, a new buffer
 * of its size is added. Beside others comes second because the GPU runs dispatches that write one buffer one by one.
 */
function placeTensors(lifetimes: readonly Lifetime[], existing: readonly number[]): Placement {
  const sizes = [...existing];
  const tenants: Tenant[][] = existing.map(() => []);
  const places = new Array<Place>(lifetimes.length);
  const order = lifetimes.map((_, i) => i).sort((a, b) => lifetimes[b]!.bytes - lifetimes[a]!.bytes || a - b);
  for (const index of order) {
    const tensor = lifetimes[index]!;
    let free: Place | undefined, gap: Place & { bytes: number } | undefined;
    sizes.forEach((size, buffer) => {
      if (size < tensor.bytes) return;
      const beside = tenants[buffer]!.filter(({ first, last }) => first <= tensor.last && tensor.first <= last);
      if (beside.length === 0) {
        if (!free || size < sizes[free.buffer]!) free = { buffer, offset: 0 };
      } else if (!free && !beside.some((other) => tensor.apart?.has(other.index))) {
        const found = smallestGap(beside, size, tensor.bytes);
        if (found && (!gap || found.bytes < gap.bytes)) gap = { buffer, ...found };
      }
    });
    const { buffer, offset } = free ?? gap ?? { buffer: sizes.push(tensor.bytes) - 1, offset: 0 };
    (tenants[buffer] ??= []).push({ ...tensor, index, offset });
    places[index] = { buffer, offset };
  }
  const ends = tenants.map((all) => all.reduce((end, { offset, bytes }) => Math.max(end, offset + bytes), 0));
  return { places, sizes, plannedBytes: ends.reduce((total, end) => total + end, 0) };
}

/** The smallest stretch of `bytes` or more between tensors that live at once in a buffer of `size`. */
function smallestGap(
  beside: readonly Tenant[],
  size: number,
  bytes: number,
): { readonly offset: number; readonly bytes: number } | undefined {
  let best: { offset: number; bytes: number } | undefined, end = 0;
  const consider = (until: number) => {
    const gap = until - end;
    if (gap >= bytes && (!best || gap < best.bytes)) best = { offset: end, bytes: gap };
  };
  for (const tenant of beside.toSorted((a, b) => a.offset - b.offset)) {
    consider(tenant.offset);
    end = Math.max(end, Math.ceil((tenant.offset + tenant.bytes) / BINDING_ALIGNMENT) * BINDING_ALIGNMENT);
  }
  consider(size);
  return best;
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

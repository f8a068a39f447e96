/** Timings of a program's dispatches, summed a kernel and as text. */

import { GraphError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";

/** One line of a profile or listing: all dispatches of one kernel. */
export interface KernelLine {
  /** The kernel's label. */
  readonly kernel: string;
  /** Dispatches. */
  readonly calls: number;
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes moved at least. */
  readonly bytes: number;
  /** Microseconds on the device; 0 in a listing. */
  readonly microseconds: number;
}

/** One dispatch of a profiled program; times are means over the profiled runs. */
export interface TimedDispatch {
  /** The kernel's label. */
  readonly kernel: string;
  /** Number of workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes moved at least. */
  readonly bytes: number;
  /** Microseconds on the device from the start of the run's first dispatch to the start of this one. */
  readonly start: number;
  /** Microseconds on the device; 0 where the device's clock did not advance. */
  readonly microseconds: number;
}

/** What `Program.profile` measured. */
export interface Profile {
  /** The program's label. */
  readonly label: string;
  /** Runs with every dispatch in a pass of its own, which the times of the dispatches are means of. */
  readonly runs: number;
  /** Every dispatch in its order. */
  readonly dispatches: readonly TimedDispatch[];
  /** The dispatches of each kernel together, the longest time first. */
  readonly kernels: readonly KernelLine[];
  /** Runs as in training, a submit each, without a wait between them. */
  readonly replays: number;
  /** Microseconds such a run takes by the wall clock, mean over `replays`. */
  readonly replayMicroseconds: number;
  /** Microseconds the calling thread takes to encode and submit a run while the device is idle, median of `runs`. */
  readonly submitMicroseconds: number;
}

/** Throws a {@linkcode GraphError} where the adapter has no timestamps, so that nothing can be profiled. */
export function expectTimestamps({ hasTimestamps, adapter }: Pick<Gpu, "hasTimestamps" | "adapter">): void {
  if (hasTimestamps) return;
  throw new GraphError(
    `The adapter ${adapter.name} has no timestamps (WebGPU's feature "timestamp-query"), so nothing can be profiled.`,
  );
}

/**
 * The times of dispatches as means over runs.
 *
 * @param stamps nanoseconds of the device's clock, a run a list: start and end of the first dispatch, of the second, …
 */
export function timeDispatches(
  dispatches: readonly Dispatch<unknown>[],
  stamps: readonly (readonly bigint[])[],
): TimedDispatch[] {
  // Relative to each run's own start, before the mean: a sum of absolute nanoseconds would not be exact as a number.
  const mean = (i: number) => stamps.reduce((sum, run) => sum + Number(run[i]! - run[0]!), 0) / stamps.length / 1000;
  return dispatches.map(({ label, workgroups, flops, bytes }, i) => {
    const start = mean(2 * i);
    return { kernel: label, workgroups, flops, bytes, start, microseconds: Math.max(0, mean(2 * i + 1) - start) };
  });
}

/** Sums a kernel, the longest time first, then the most work. */
export function summarise(
  dispatches: readonly Pick<TimedDispatch, "kernel" | "flops" | "bytes" | "microseconds">[],
): KernelLine[] {
  const lines = new Map<string, KernelLine>();
  for (const { kernel, flops, bytes, microseconds } of dispatches) {
    const old = lines.get(kernel) ?? { kernel, calls: 0, flops: 0, bytes: 0, microseconds: 0 };
    lines.set(kernel, {
      kernel,
      calls: old.calls + 1,
      flops: old.flops + flops,
      bytes: old.bytes + bytes,
      microseconds: old.microseconds + microseconds,
    });
  }
  return [...lines.values()].sort((a, b) => b.microseconds - a.microseconds || b.flops - a.flops);
}

/** GFLOP/s or GB/s of so many operations or bytes; undefined where no time passed. */
export function gigaPerSecond(count: number, microseconds: number): number | undefined {
  return microseconds > 0 ? count / microseconds / 1e3 : undefined;
}

const HEADER = ["kernel", "calls", "µs", "% of step", "GFLOP", "GFLOP/s", "MB", "GB/s"];

/**
 * Kernels as a table: a header line, a line a kernel, their total. Shares are of the total time; a rate without a time
 * is a dash.
 */
export function profileTable(kernels: readonly KernelLine[]): string {
  const total = totalOf(kernels);
  const rows = [...kernels, total].map(({ kernel, calls, flops, bytes, microseconds: us }) => [
    kernel,
    String(calls),
    us.toFixed(0),
    total.microseconds > 0 ? (100 * us / total.microseconds).toFixed(1) : "-",
    (flops / 1e9).toFixed(4),
    gigaPerSecond(flops, us)?.toFixed(2) ?? "-",
    (bytes / 1e6).toFixed(2),
    gigaPerSecond(bytes, us)?.toFixed(2) ?? "-",
  ]);
  const widths = HEADER.map((_, i) => Math.max(...[HEADER, ...rows].map((row) => row[i]!.length)));
  return [HEADER, ...rows].map((row) =>
    "  " + row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ")
  ).join("\n");
}

/** One line that sets the sum of the kernels' times beside what a run takes that is not profiled. */
export function profileTimes({ kernels, runs, replays, replayMicroseconds, submitMicroseconds }: Profile): string {
  const { calls, microseconds } = totalOf(kernels);
  return `kernels ${microseconds.toFixed(0)} µs (mean of ${runs} runs with a pass for every dispatch); unprofiled ` +
    `${replayMicroseconds.toFixed(0)} µs a run (mean of ${replays}), of the caller's time ` +
    `${submitMicroseconds.toFixed(0)} µs to encode and submit ${calls} dispatches`;
}

function totalOf(kernels: readonly KernelLine[]): KernelLine {
  const sum = (of: (line: KernelLine) => number) => kernels.reduce((total, line) => total + of(line), 0);
  return {
    kernel: "total",
    calls: sum(({ calls }) => calls),
    flops: sum(({ flops }) => flops),
    bytes: sum(({ bytes }) => bytes),
    microseconds: sum(({ microseconds }) => microseconds),
  };
}

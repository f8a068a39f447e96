/** Profiles in Chrome's trace event format, which ui.perfetto.dev and chrome://tracing open. */

import { FileError } from "../gpu/errors.ts";
import { gigaPerSecond, type Profile } from "../graph/profile.ts";

/** What took how long, within its process. */
export interface TraceSlice {
  /** What it is called in the picture. */
  readonly name: string;
  /** Microseconds from the start of the process. */
  readonly ts: number;
  /** Microseconds. */
  readonly dur: number;
  /** What is shown when it is clicked on. */
  readonly args: Readonly<Record<string, unknown>>;
}

/** Slices by the name of the process they belong to. */
export type Trace = ReadonlyMap<string, readonly TraceSlice[]>;

/** A slice for every dispatch of a profiled program, in order. */
export function traceSlices({ dispatches }: Profile): TraceSlice[] {
  return dispatches.map(({ kernel, workgroups, flops, bytes, start, microseconds }) => ({
    name: kernel,
    ts: start,
    dur: microseconds,
    args: {
      kernel,
      workgroups,
      flops,
      bytes,
      "GFLOP/s": gigaPerSecond(flops, microseconds),
      "GB/s": gigaPerSecond(bytes, microseconds),
    },
  }));
}

/** The trace as JSON: for every process a metadata event with its name, then a complete event a slice. */
export function encodeTrace(trace: Trace): string {
  const events = [...trace].flatMap(([name, slices], i) => {
    const place = { pid: i + 1, tid: 1 };
    return [
      { ph: "M", ...place, name: "process_name", args: { name } },
      ...slices.map((slice) => ({ ph: "X", ...place, cat: "dispatch", ...slice })),
    ];
  });
  const lines = events.map((event) => JSON.stringify(event));
  return `{"displayTimeUnit":"ns","traceEvents":[\n${lines.join(",\n")}\n]}\n`;
}

/** An event as a file may hold it. */
interface RawEvent extends TraceSlice {
  readonly ph: "M" | "X";
  readonly pid: number;
}

/**
 * Reads what {@linkcode encodeTrace} wrote.
 *
 * @throws {FileError} naming `path` where `text` is anything else.
 */
export function decodeTrace(text: string, path: string): Map<string, TraceSlice[]> {
  const trace = new Map<string, TraceSlice[]>();
  const names = new Map<number, string>();
  try {
    for (const { ph, pid, name, ts, dur, args } of JSON.parse(text).traceEvents as RawEvent[]) {
      if (ph === "M") {
        names.set(pid, String(args.name));
        trace.set(String(args.name), []);
      } else trace.get(names.get(pid)!)!.push({ name, ts, dur, args });
    }
  } catch (error) {
    throw new FileError(`${path} is not a trace that train --profile wrote; move it away.`, { cause: error });
  }
  return trace;
}

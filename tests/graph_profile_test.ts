/** Profiles on made-up timings: means, sums, the table, the trace file. */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { FileError, GraphError } from "../src/gpu/errors.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import {
  expectTimestamps,
  type Profile,
  profileTable,
  profileTimes,
  summarise,
  timeDispatches,
} from "../src/graph/profile.ts";
import { decodeTrace, encodeTrace, traceSlices } from "../src/io/trace.ts";

function dispatch(label: string, flops: number, bytes: number): Dispatch<never> {
  return { label, source: "", uniforms: [], reads: [], writes: [], workgroups: [3, 2, 1], flops, bytes };
}

/** A profile of the given times, as a program would make it. */
function profileOf(timed: readonly (readonly [label: string, flops: number, bytes: number, us: number])[]): Profile {
  let now = 0n;
  const stamps = timed.flatMap(([, , , us]) => [now, now += BigInt(us * 1000)]);
  const dispatches = timeDispatches(timed.map(([label, flops, bytes]) => dispatch(label, flops, bytes)), [stamps]);
  return {
    label: "made-up",
    runs: 1,
    dispatches,
    kernels: summarise(dispatches),
    replays: 7,
    replayMicroseconds: 1234.4,
    submitMicroseconds: 56.6,
  };
}

const EXAMPLE = profileOf([
  ["conv", 4e6, 1e6, 250],
  ["add", 0, 3e6, 100],
  ["conv", 6e6, 2e6, 600],
  ["mul", 2e5, 0, 50],
  ["nothing", 1000, 1000, 0],
]);

Deno.test("timeDispatches: means over runs, from each run's own start, and no time where the clock ran backwards", () => {
  const start = 2n ** 62n; // far beyond what a number holds exactly
  const [a, b] = timeDispatches([dispatch("a", 1, 2), dispatch("b", 3, 4)], [
    [start, start + 1000n, start + 3000n, start + 9000n],
    [7n, 3007n, 6007n, 5007n],
  ]);
  assertEquals(a, { kernel: "a", workgroups: [3, 2, 1], flops: 1, bytes: 2, start: 0, microseconds: 2 });
  assertEquals(b, { kernel: "b", workgroups: [3, 2, 1], flops: 3, bytes: 4, start: 4.5, microseconds: 2.5 });
  assertEquals(timeDispatches([dispatch("a", 0, 0)], [[9n, 4n]])[0]!.microseconds, 0);
});

Deno.test("profileTable: sums, shares of 100 %, rates, the longest first", () => {
  const [header, ...rows] = profileTable(EXAMPLE.kernels).split("\n");
  assertEquals(header!.trim().split(/ {2,}/), [
    "kernel",
    "calls",
    "µs",
    "% of step",
    "GFLOP",
    "GFLOP/s",
    "MB",
    "GB/s",
  ]);
  assertEquals(rows.map((row) => row.trim().split(/ +/)), [
    ["conv", "2", "850", "85.0", "0.0100", "11.76", "3.00", "3.53"],
    ["add", "1", "100", "10.0", "0.0000", "0.00", "3.00", "30.00"],
    ["mul", "1", "50", "5.0", "0.0002", "4.00", "0.00", "0.00"],
    ["nothing", "1", "0", "0.0", "0.0000", "-", "0.00", "-"],
    ["total", "5", "1000", "100.0", "0.0102", "10.20", "6.00", "6.00"],
  ]);
  assertEquals(new Set([header!, ...rows].map(({ length }) => length)).size, 1, "columns are aligned");
});

Deno.test("profileTable: where no time passed there are no shares and no rates", () => {
  const rows = profileTable(profileOf([["a", 1e9, 1e6, 0]]).kernels).split("\n");
  for (const row of rows.slice(1, 3)) assertMatch(row, / 0 +- +1\.0000 +- +1\.00 +-$/);
});

Deno.test("profileTimes: the kernels' time beside that of a run which is not profiled", () => {
  assertMatch(
    profileTimes(EXAMPLE),
    /^kernels 1000 µs \(mean of 1 runs .*; unprofiled 1234 µs a run \(mean of 7\), .* 57 µs .* submit 5 dispatches$/,
  );
});

Deno.test("expectTimestamps: an adapter without them is named", () => {
  const adapter = { name: "Abacus", software: true, vendor: "" };
  assertThrows(() => expectTimestamps({ hasTimestamps: false, adapter }), GraphError, "Abacus has no timestamps");
  expectTimestamps({ hasTimestamps: true, adapter });
});

Deno.test("a trace: a process a program, a complete event a dispatch; it reads back as it was", () => {
  const slices = traceSlices(EXAMPLE);
  const trace = new Map([["first", slices], ["second", slices.slice(0, 1)], ["idle", []]]);
  const text = encodeTrace(trace);
  const { traceEvents, displayTimeUnit } = JSON.parse(text);
  assert(["ms", "ns"].includes(displayTimeUnit), "the only units there are");
  assertEquals(traceEvents.map(({ ph, pid, name }: Record<string, unknown>) => `${ph} ${pid} ${name}`), [
    "M 1 process_name",
    "X 1 conv",
    "X 1 add",
    "X 1 conv",
    "X 1 mul",
    "X 1 nothing",
    "M 2 process_name",
    "X 2 conv",
    "M 3 process_name",
  ]);
  assertEquals(traceEvents[6].args, { name: "second" });
  const { ts, dur, tid, args } = traceEvents[3];
  assertEquals([ts, dur, tid], [350, 600, 1]);
  assertEquals(args, {
    kernel: "conv",
    workgroups: [3, 2, 1],
    flops: 6e6,
    bytes: 2e6,
    "GFLOP/s": 10,
    "GB/s": 2e6 / 600 / 1e3,
  });
  assertEquals(Object.keys(traceEvents[5].args), ["kernel", "workgroups", "flops", "bytes"], "no rate without a time");
  assertEquals(encodeTrace(decodeTrace(text, "t")), text);
});

Deno.test("decodeTrace: what is no trace is named", () => {
  for (const text of ["", "{}", '{"traceEvents":[{"ph":"X","pid":1,"name":"a","ts":0,"dur":1}]}', "[1]", "null"]) {
    assertThrows(() => decodeTrace(text, "runs/x/trace.json"), FileError, "runs/x/trace.json is not a trace");
  }
});

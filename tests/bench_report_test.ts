/** The bench report's own arithmetic: rows, rendering, timing, checks, layouts. */

import { assertAlmostEquals, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { permuted, swapLast } from "../bench/peers/layout.ts";
import { check } from "../bench/report/measure.ts";
import {
  bindingCeiling,
  makeRow,
  type Measured,
  renderMarkdown,
  renderText,
  type Report,
} from "../bench/report/table.ts";
import { timeAll } from "../bench/report/timing.ts";

const CEILINGS = { gflops: 100, gbps: 10 };

function measured(changes: Partial<Measured>): Measured {
  const peers = new Map<string, number | Error>([["jax-js", 6], ["tensorflow.js", 5]]);
  return { kernel: "matmul", shape: "8x8x8", flops: 4e7, bytes: 1e6, ours: 2, peers, wasm: 7, ...changes };
}

Deno.test("makeRow: rates, percent of the arithmetic ceiling, ratio to the fastest peer on the adapter", () => {
  // 4e7 flops in 2 ms are 20 GFLOP/s; 40 flops a byte lie above the adapter's 10.
  assertEquals(makeRow(measured({ wasm: 0.5 }), CEILINGS), {
    kernel: "matmul",
    shape: "8x8x8",
    ours_ms: 2,
    gflops: 20,
    gbps: 0.5,
    percent_of_ceiling: 20,
    peers: { "jax-js": 6, "tensorflow.js": 5 },
    wasm_ms: 0.5,
    ratio: 2.5,
  });
});

Deno.test("makeRow: where few operations meet many bytes, memory is the ceiling", () => {
  const row = makeRow(measured({ flops: 1e6, bytes: 1e7, ours: 4 }), CEILINGS);
  assertAlmostEquals(row.gbps!, 2.5);
  assertAlmostEquals(row.percent_of_ceiling!, 25);
  assertEquals(bindingCeiling(99, 10, CEILINGS), "gbps");
  assertEquals(bindingCeiling(101, 10, CEILINGS), "gflops");
});

Deno.test("makeRow: what failed is an error, not a time, and never the fastest", () => {
  const peers = new Map<string, number | Error>([["jax-js", new Error("y differs")], ["tensorflow.js", 5]]);
  const row = makeRow(measured({ peers, wasm: undefined }), CEILINGS);
  assertEquals(row.peers, { "jax-js": null, "tensorflow.js": 5 });
  assertEquals(row.wasm_ms, null);
  assertEquals(row.ratio, 2.5);
  assertEquals(row.errors, { "jax-js": "y differs" });

  const wrong = makeRow(measured({ ours: new Error("wrong"), wasm: new Error("none") }), CEILINGS);
  const { ours_ms, gflops, gbps, percent_of_ceiling, ratio, errors } = wrong;
  assertEquals([ours_ms, gflops, gbps, percent_of_ceiling, ratio], [null, null, null, null, null]);
  assertEquals(errors, { ours: "wrong", wasm: "none" });

  assertEquals(makeRow(measured({ peers: new Map() }), CEILINGS).ratio, null);
});

const REPORT: Report = {
  adapter: "an adapter",
  driver: "a driver 1.2",
  deno: "2.9.6",
  date: "2026-01-02T03:04:05.000Z",
  ceilings: CEILINGS,
  rows: [
    makeRow(measured({ ours: 123.456 }), CEILINGS),
    makeRow(measured({ kernel: "a|b", peers: new Map([["jax-js", new Error("off by\n  1.0e-2")]]) }), CEILINGS),
  ],
};

Deno.test("renderText: heading, aligned columns, errors below", () => {
  assertEquals(renderText(REPORT).split("\n"), [
    "an adapter, driver a driver 1.2, Deno 2.9.6, 2026-01-02T03:04:05.000Z",
    "ceilings measured in this run: 100 GFLOP/s, 10.0 GB/s",
    "",
    "kernel  shape  ours ms  GFLOP/s     GB/s  % of ceiling  jax-js ms  tensorflow.js ms  wasm ms   ratio",
    "matmul  8x8x8      123    0.324  0.00810         0.324       6.00              5.00     7.00  0.0405",
    "a|b     8x8x8     2.00     20.0    0.500          20.0      error                 -     7.00       -",
    "",
    "a|b (8x8x8), jax-js: off by 1.0e-2",
  ]);
});

Deno.test("renderMarkdown: the same cells, numbers to the right, bars escaped", () => {
  const lines = renderMarkdown(REPORT).split("\n");
  assertEquals(lines[5], "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
  assertEquals(lines[6], "| matmul | 8x8x8 | 123 | 0.324 | 0.00810 | 0.324 | 6.00 | 5.00 | 7.00 | 0.0405 |");
  assertStringIncludes(lines[7]!, "| a\\|b | 8x8x8 | 2.00 |");
  assertEquals(lines.slice(9), ["- a|b (8x8x8), jax-js: off by 1.0e-2", ""]);
});

Deno.test("a report as JSON has the fields that are promised, and no other", () => {
  const { rows, ...head } = JSON.parse(JSON.stringify(REPORT));
  assertEquals(Object.keys(head), ["adapter", "driver", "deno", "date", "ceilings"]);
  assertEquals(
    Object.keys(rows[0]).join(" "),
    "kernel shape ours_ms gflops gbps percent_of_ceiling peers wasm_ms ratio",
  );
});

/** Entries whose run takes `ms` of a clock that only they move; `taken` records the runs of each sample. */
async function withClock(
  costs: Readonly<Record<string, () => number>>,
  options: Parameters<typeof timeAll>[1],
): Promise<{ results: Map<string, number | Error>; taken: [string, number][] }> {
  const taken: [string, number][] = [];
  const real = performance.now;
  let clock = 0;
  performance.now = () => clock;
  try {
    const entries = Object.entries(costs).map(([name, ms]) => {
      const run = (times: number) => {
        taken.push([name, times]);
        for (let i = 0; i < times; i++) clock += ms();
        return Promise.resolve();
      };
      return [name, { run }] as const;
    });
    return { results: await timeAll(new Map(entries), options), taken };
  } finally {
    performance.now = real;
  }
}

Deno.test("timeAll: samples last long enough, are taken in turn, and the best counts", async () => {
  const slowdown = [9, 1, 5];
  let call = 0;
  const { results, taken } = await withClock(
    { fast: () => 2, slow: () => 100 * (slowdown[call++] ?? 3) },
    { sampleMs: 100, rounds: 4, budgetMs: 1e6 },
  );
  assertEquals(results, new Map([["fast", 2], ["slow", 100]]));
  const rounds = taken.slice(-6);
  assertEquals(rounds.map(([name]) => name), ["fast", "slow", "fast", "slow", "fast", "slow"]);
  assertEquals(rounds.map(([, times]) => times), [50, 1, 50, 1, 50, 1]);
});

Deno.test("timeAll: what has used its budget is measured no further, what throws gets its error", async () => {
  const { results, taken } = await withClock({
    slow: () => 5000,
    broken: () => {
      throw new Error("lost");
    },
  }, { sampleMs: 100, rounds: 4, budgetMs: 1000 });
  assertEquals(results.get("slow"), 5000);
  assertEquals((results.get("broken") as Error).message, "lost");
  assertEquals(taken, [["slow", 1], ["broken", 1]]);
});

Deno.test("check: missing, short, wrong and NaN results are refused, rounding is not", () => {
  const y = Float32Array.of(1, 2, 3);
  check({ y: Float32Array.of(1.00005, 2, 3) }, { y });
  assertThrows(() => check({}, { y }), Error, "y has no elements instead of 3");
  assertThrows(() => check({ y: y.slice(1) }, { y }), Error, "y has 2 elements instead of 3");
  assertThrows(
    () => check({ y: Float32Array.of(1, 2, 3.001) }, { y }),
    Error,
    "y differs from the reference by 2.7e-4",
  );
  assertThrows(() => check({ y: Float32Array.of(1, NaN, 3) }, { y }), Error, "by NaN");
});

Deno.test("permuted: axes in any order, and back", () => {
  const data = Float32Array.from({ length: 24 }, (_, i) => i);
  const moved = permuted(data, [2, 3, 4], [2, 0, 1]);
  assertEquals([...moved.slice(0, 7)], [0, 4, 8, 12, 16, 20, 1]);
  assertEquals(permuted(moved, [4, 2, 3], [1, 2, 0]), data);
  assertEquals([...swapLast(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3])], [1, 4, 2, 5, 3, 6]);
});

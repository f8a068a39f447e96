/** The command `bench:report`: the engine's kernels and training steps beside other libraries', in one table. */

import { type Command, parseOptions } from "../src/cli/options.ts";
import { runProcess } from "../src/cli/process.ts";
import { NO_INSTALL, openGpu } from "../src/cli/setup.ts";
import { UsageError } from "../src/gpu/errors.ts";
import { expectWritable, writeFileAtomic } from "../src/io/disk.ts";
import { jaxPeer, loadJax } from "./peers/jax.ts";
import { tensorflowPeer } from "./peers/tensorflow.ts";
import { kernelCases } from "./report/cases.ts";
import { measureCeilings } from "./report/ceilings.ts";
import { driverName } from "../src/cli/driver.ts";
import { measureCase } from "./report/measure.ts";
import { stepCases } from "./report/step.ts";
import { makeRow, type Measured, renderMarkdown, renderText, type Report } from "./report/table.ts";

const COMMAND = {
  name: "bench:report",
  summary: "Measures the kernels and a whole training step beside jax-js and TensorFlow.js on this adapter.",
  options: [
    { name: "json", kind: "string", placeholder: "FILE", help: "also write the report to this file as JSON" },
    { name: "markdown", kind: "string", placeholder: "FILE", help: "also write the report to this file as markdown" },
    { name: "only", kind: "string", placeholder: "KERNEL", help: "measure only kernels whose name starts with this" },
    NO_INSTALL,
  ],
} as const satisfies Command;

/** The peers' packages have a lock file of their own: Deno fetches all that deno.lock names, whatever it runs. */
const LOCK = "--lock=bench/peers/deno.lock";

/** 300 ms keep what a wait costs, 11 ms in Deno, below 4 %. */
const TIMING = { sampleMs: 300, rounds: 5, budgetMs: 6000 };

const allCases = () => [...kernelCases(), ...stepCases()];

await runProcess(async () => {
  const { values } = parseOptions(COMMAND, Deno.args);
  const { json, markdown, only = "" } = values;
  const cases = allCases().filter(({ kernel }) => kernel.startsWith(only));
  if (cases.length === 0) {
    const names = [...new Set(allCases().map(({ kernel }) => kernel))];
    throw new UsageError(`No kernel's name starts with ${JSON.stringify(only)}; there are ${names.join(", ")}.`);
  }
  for (const file of [json, markdown]) if (file !== undefined) await expectWritable(file);
  const gpu = await openGpu({ install: !values.noInstall, flags: [LOCK] });
  const first = await measureCeilings(gpu);
  const jax = await loadJax();
  const peers = [jaxPeer(jax, "webgpu"), await tensorflowPeer()];
  const contestants = { gpu, peers, wasm: jaxPeer(jax, "wasm") };
  const measured: Measured[] = [];
  for (const item of cases) {
    console.error(`${item.kernel}, ${item.shape}`);
    measured.push(await measureCase(item, contestants, TIMING));
  }
  // Whatever else ran on the machine at the beginning may have been quiet at the end.
  const last = await measureCeilings(gpu);
  const ceilings = {
    gflops: Math.max(first.gflops, last.gflops),
    gbps: Math.max(first.gbps, last.gbps),
  };
  const report: Report = {
    adapter: gpu.adapter.name,
    driver: await driverName(gpu.adapter.vendor) ?? "unknown",
    deno: Deno.version.deno,
    date: new Date().toISOString(),
    ceilings,
    rows: measured.map((one) => makeRow(one, ceilings)),
  };
  console.log(renderText(report));
  const encoder = new TextEncoder();
  if (json !== undefined) await writeFileAtomic(json, encoder.encode(JSON.stringify(report, null, 2) + "\n"));
  if (markdown !== undefined) await writeFileAtomic(markdown, encoder.encode(renderMarkdown(report)));
  Deno.exit(report.rows.some(({ ours_ms }) => ours_ms === null) ? 1 : 0);
});

/** The command `bench`: runs the benchmarks on a machine that may have no WebGPU adapter yet. */

import { runSuite } from "./suite.ts";

/** Runs the command with the arguments that follow its name. */
export async function run(args: string[]): Promise<void> {
  await runSuite({ name: "bench", folder: "bench/", browser: false, summary: "Runs the benchmarks." }, args);
}

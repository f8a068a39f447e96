/** The command `test`: runs the tests on a machine that may have no WebGPU adapter yet. */

import { runSuite } from "./suite.ts";

/** Runs the command with the arguments that follow its name. */
export async function run(args: string[]): Promise<void> {
  const files = { folder: "tests/", beside: "tests/cli_*_test.ts" };
  await runSuite({ name: "test", ...files, browser: true, summary: "Runs the tests." }, args);
}

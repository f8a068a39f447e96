/** The command `test`: runs the tests on a machine that may have no WebGPU adapter yet. */

import { runSuite } from "./suite.ts";

/** Runs the command with the arguments that follow its name. */
export async function run(args: string[]): Promise<void> {
  await runSuite(
    { name: "test", folder: "tests/", browser: "tests/browser_test.ts", summary: "Runs the tests." },
    args,
  );
}

/** What the test and the bench command share: an adapter first, then Deno's own runner on a folder. */

import { ensureBrowser } from "./browser.ts";
import { runChild } from "./child.ts";
import { type Command, parseOptions } from "./options.ts";
import { NO_INSTALL, openAdapter } from "./setup.ts";

/** A runner of Deno and the folder it runs. */
export interface Suite {
  /** Deno's subcommand and the command's name. */
  readonly name: "test" | "bench";
  /** What it runs where no file is named. */
  readonly folder: string;
  /** Whether something in that folder needs a browser. */
  readonly browser: boolean;
  /** Files of the folder, as a pattern, that the whole of it runs in a second process. */
  readonly beside?: string;
  /** One sentence for the help text. */
  readonly summary: string;
}

/** Runs a suite with a command's arguments and ends the process with the runner's exit code. */
export async function runSuite(
  { name, folder, browser, beside, summary }: Suite,
  args: readonly string[],
): Promise<void> {
  const command = {
    name,
    summary,
    options: [NO_INSTALL],
    passThrough: `options of deno ${name}, and files to run instead of ${folder}`,
  } as const satisfies Command;
  const { values, rest } = parseOptions(command, args);
  const install = !values.noInstall;
  const gpu = await openAdapter({ install });
  gpu.destroy();
  const whole = !rest.some(isPath);
  if (browser && whole) await ensureBrowser(install);
  if (!beside || rest.length > 0) Deno.exit(await runChild([name, "-A", ...whole ? [folder] : [], ...rest]));
  // Each of the two spends most of its time on one core.
  const others = runChild([name, "-A", folder, `--ignore=${beside}`]);
  const codes = await Promise.all([others, runChild([name, "-A", beside], { showAfter: others })]);
  Deno.exit(Math.max(...codes));
}

function isPath(argument: string): boolean {
  try {
    Deno.statSync(argument);
    return true;
  } catch {
    return false;
  }
}

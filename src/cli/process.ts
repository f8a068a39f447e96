/** What every command's process does around the command: environment first, errors as exit codes last. */

import { DiBregmanError, UsageError } from "../gpu/errors.ts";
import { HelpRequest } from "./options.ts";

/** Runs `main` as this process's command; what it throws is reported and ends the process with an exit code. */
export async function runProcess(main: () => Promise<void>): Promise<void> {
  if (Deno.build.os === "linux") {
    // OpenGL would silently stand in for a missing Vulkan driver, and its library crashes some processes at their exit.
    Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
    // Without a desktop, Mesa's device selection finds no display and prints an error that is none.
    if (!Deno.env.get("XDG_RUNTIME_DIR")) Deno.env.set("NODEVICE_SELECT", "1");
  }
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    Deno.exit(report(event.reason));
  });
  try {
    await main();
  } catch (error) {
    Deno.exit(report(error));
  }
}

/** Says what went wrong and returns the exit code that goes with it. */
function report(error: unknown): number {
  if (error instanceof HelpRequest) {
    console.log(error.text);
    return 0;
  }
  if (error instanceof DiBregmanError) {
    console.error(`error: ${error.message.replace(/\s*\n\s*/g, " ")}`);
    return error instanceof UsageError ? 2 : 1;
  }
  console.error(`internal error: ${error instanceof Error ? error.stack ?? error.message : String(error)}`);
  return 70;
}

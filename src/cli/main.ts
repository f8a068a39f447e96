/** The command line: runs the command that the first argument names, and turns what it throws into an exit code. */

import { DiBregmanError, UsageError } from "../gpu/errors.ts";
import { HelpRequest, suggestion } from "./options.ts";

/** The commands, each the file `src/cli/<command>.ts`, with a sentence for the help text. */
const COMMANDS: Readonly<Record<string, string>> = {
  train: "Train a teacher, distil it into a one-step generator, and measure both.",
  sample: "Draw images from a trained model.",
  eval: "Measure a trained model.",
  test: "Run the tests.",
  bench: "Run the benchmarks.",
};

/** What a module of a command exports. */
interface CommandModule {
  /** Runs the command with the arguments that follow its name. */
  run(args: string[]): Promise<void>;
}

const OVERVIEW = [
  "Di-Bregman on WebGPU: one-step generators by Bregman density-ratio matching.",
  "",
  "Usage: deno task <command> [options]",
  "",
  ...Object.entries(COMMANDS).map(([name, summary]) => `  ${name.padEnd(8)}${summary}`),
  "",
  "deno task <command> --help lists a command's options.",
].join("\n");

async function main([name, ...args]: string[]): Promise<void> {
  if (name === "--help" || name === "-h") throw new HelpRequest(OVERVIEW);
  const names = Object.keys(COMMANDS);
  if (name === undefined) throw new UsageError(`A command is missing; it is one of ${names.join(", ")}.`);
  if (!names.includes(name)) {
    const hint = suggestion(name, names);
    throw new UsageError(`There is no command ${JSON.stringify(name)}; it is one of ${names.join(", ")}.${hint}`);
  }
  const command: CommandModule = await import(import.meta.resolve(`./${name}.ts`));
  await command.run(args);
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
  await main(Deno.args);
} catch (error) {
  Deno.exit(report(error));
}

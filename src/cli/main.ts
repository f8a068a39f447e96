/** The command line: runs the command that the first argument names. */

import { UsageError } from "../gpu/errors.ts";
import { HelpRequest } from "./options.ts";
import { suggestion } from "../io/words.ts";
import { runProcess } from "./process.ts";

/** The commands, each the file `src/cli/<command>.ts`, with a sentence for the help text. */
const COMMANDS: Readonly<Record<string, string>> = {
  train: "Train a teacher, distil it into a one-step generator, and measure both.",
  sample: "Draw images from a trained model.",
  eval: "Measure a trained model.",
  compare: "Run settings over several seeds and report how they differ.",
  import: "Convert a network of another program to a model file.",
  denoise: "Evaluate a network on arrays of noisy images.",
  test: "Run the tests.",
  bench: "Run the benchmarks.",
  tune: "Time the variants of the kernels and keep the fastest.",
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

await runProcess(() => main(Deno.args));

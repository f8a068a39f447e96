/** Runs the command line as a user types it. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { getGpu } from "./gpu.ts";

const MAIN = new URL("../src/cli/main.ts", import.meta.url).href;

/** What a command left behind. */
export interface Outcome {
  /** Exit code. */
  readonly code: number;
  /** Standard output. */
  readonly out: string;
  /** Lines of stderr. */
  readonly errors: string[];
}

/** The folder of caches of all commands: the user's own is neither read nor written. */
export const CACHE: string = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(CACHE, { recursive: true }));

/** The process of a command; whatever this test run itself was started with must not matter. */
export function command(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  cwd: string = Deno.cwd(),
): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, ...args],
    env: {
      NO_COLOR: "1",
      DIBREGMAN_NO_INSTALL: "",
      DIBREGMAN_INSTALLED: "",
      DIBREGMAN_CHROMIUM: "",
      DIBREGMAN_CACHE: CACHE,
      ...env,
    },
    cwd,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

/** Runs a command to its end, in the folder `cwd`. */
export function dibregman(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  cwd: string = Deno.cwd(),
): Promise<Outcome> {
  return outcome(command(args, env, cwd));
}

/** Runs a command to its end in a shell that bounds its memory. */
export function dibregmanBounded(args: readonly string[], kibibytes: number): Promise<Outcome> {
  const script = `ulimit -d ${kibibytes} && exec "$0" "$@"`;
  return outcome(
    new Deno.Command("sh", {
      args: ["-c", script, Deno.execPath(), "run", "-A", MAIN, ...args],
      env: { NO_COLOR: "1", DIBREGMAN_NO_INSTALL: "1", DIBREGMAN_CACHE: CACHE },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }),
  );
}

async function outcome(command: Deno.Command): Promise<Outcome> {
  const { code, stdout, stderr } = await command.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  return { code, out: text(stdout), errors: text(stderr).split("\n") };
}

/** Whether the adapter takes its memory from the process, which a shell can bound (`ulimit -d`, in KiB). */
export async function memoryCanBeBounded(): Promise<boolean> {
  return Deno.build.os === "linux" && (await getGpu()).adapter.software;
}

/** Names in a folder, sorted. */
export async function files(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).sort();
}

/** Asserts that the files of these names are the same in two folders. */
export async function sameFiles(a: string, b: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const [one, two] = [await Deno.readFile(`${a}/${name}`), await Deno.readFile(`${b}/${name}`)];
    assert(one.length === two.length && one.every((byte, i) => byte === two[i]), `${name} differs`);
  }
}

/** Asserts that two runs made the same models. */
export function sameModels(a: string, b: string): Promise<void> {
  return sameFiles(a, b, ["teacher.safetensors", "generator.safetensors"]);
}

/** Starts a run in `folder` and kills it as soon as `seen` comes up on stderr; returns what stood there by then. */
export async function startAndKill(folder: string, start: readonly string[], seen: RegExp): Promise<string> {
  const child = command(start).spawn();
  let text = "";
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (seen.test(text)) break;
  }
  child.kill("SIGKILL");
  await child.stdout.cancel();
  await child.status;
  assert(!(await files(folder)).includes("summary.json"), "the run had ended before it was killed");
  return text;
}

/** Starts a run, kills it as soon as `seen` comes up on stderr, and resumes it; returns what stood there both times. */
export async function killAndResume(
  folder: string,
  start: readonly string[],
  seen: RegExp,
  options: readonly string[] = [],
): Promise<[started: string, resumed: string]> {
  const started = await startAndKill(folder, [...start, ...options], seen);
  const { code, errors } = await dibregman(["train", "--resume", folder, ...options]);
  assertEquals(code, 0, errors.join("\n"));
  return [started, errors.join("\n")];
}

/** Runs a command that must be refused with one line, before any adapter is sought; returns the line. */
export async function refused(args: readonly string[], code: number): Promise<string> {
  const { code: exit, errors } = await dibregman(args);
  assertEquals(exit, code, errors.join("\n"));
  assertEquals(errors.length, 1, errors.join("\n"));
  assertMatch(errors[0]!, /^error: /);
  return errors[0]!;
}

/** Runs the command line as a user types it. */

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

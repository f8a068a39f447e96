/** Deno in a child process that shares this one's terminal. */

/** Runs Deno with `args` and `env` on top of this process's environment; returns the exit code to pass on. */
export async function runChild(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), { args: [...args], env: { ...env } }).spawn();
  // The terminal sends its interrupt to both processes: this one waits for what the child makes of it.
  const wait = () => {};
  const forward = () => child.kill("SIGTERM");
  Deno.addSignalListener("SIGINT", wait);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", forward);
  try {
    return (await child.status).code;
  } finally {
    Deno.removeSignalListener("SIGINT", wait);
    if (Deno.build.os !== "windows") Deno.removeSignalListener("SIGTERM", forward);
  }
}

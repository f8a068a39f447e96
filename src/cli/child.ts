/** Deno in a child process that shares this one's terminal. */

/** How {@linkcode runChild} runs its child. */
export interface ChildOptions {
  /** Variables on top of this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** What the child says is kept back until this is settled; by default it writes to the terminal itself. */
  readonly showAfter?: Promise<unknown>;
}

/** Runs Deno with `args` in a child process; returns the exit code to pass on. */
export async function runChild(args: readonly string[], { env = {}, showAfter }: ChildOptions = {}): Promise<number> {
  const output = showAfter ? "piped" : "inherit";
  const command = new Deno.Command(Deno.execPath(), {
    args: [...args],
    env: { ...env },
    stdout: output,
    stderr: output,
  });
  const child = command.spawn();
  // The terminal sends its interrupt to both processes: this one waits for what the child makes of it.
  const wait = () => {};
  const forward = () => child.kill("SIGTERM");
  Deno.addSignalListener("SIGINT", wait);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", forward);
  try {
    if (showAfter) {
      await Promise.all([show(child.stdout, showAfter, Deno.stdout), show(child.stderr, showAfter, Deno.stderr)]);
    }
    return (await child.status).code;
  } finally {
    Deno.removeSignalListener("SIGINT", wait);
    if (Deno.build.os !== "windows") Deno.removeSignalListener("SIGTERM", forward);
  }
}

/** Writes a child's output to this process's, from when `after` is settled; until then all of it is kept. */
async function show(
  output: ReadableStream<Uint8Array<ArrayBuffer>>,
  after: Promise<unknown>,
  { writable }: { readonly writable: WritableStream<Uint8Array<ArrayBuffer>> },
): Promise<void> {
  const kept = output.pipeThrough(new TransformStream(undefined, { highWaterMark: Infinity }));
  await after.catch(() => {});
  await kept.pipeTo(writable, { preventClose: true });
}

/** Debian packages that a command lacks: installed where that may be, otherwise named. */

/** What is missing. */
export interface Missing {
  /** The packages that hold it. */
  readonly packages: readonly string[];
  /** What is said before they are installed. */
  readonly notice: string;
  /** What the user can do on a machine without apt. */
  readonly elsewhere: string;
}

/**
 * Installs packages on Linux with apt, where `allowed` (`DIBREGMAN_NO_INSTALL=1` forbids it as well) and the user is root
 * or has password-less sudo. Returns what the user can do where they were not installed.
 */
export async function installPackages(missing: Missing, allowed: boolean): Promise<string | undefined> {
  if (Deno.build.os !== "linux" || !(await capture(["apt-get", "--version"])).success) return missing.elsewhere;
  const command = ["apt-get", "install", "-y", ...missing.packages];
  const asRoot = Deno.uid() === 0 ? [] : ["sudo", "-n"];
  const mayInstall = asRoot.length === 0 || (await capture([...asRoot, "true"])).success;
  if (!allowed || Deno.env.get("DIBREGMAN_NO_INSTALL") === "1" || !mayInstall) {
    return `To install what is missing, run: ${[...asRoot.slice(0, 1), ...command].join(" ")}`;
  }
  console.error(`${missing.notice}: ${[...asRoot, ...command].join(" ")}`);
  const apt = [...asRoot, "env", "DEBIAN_FRONTEND=noninteractive"];
  if ((await capture([...apt, ...command])).success) return;
  // A fresh image has no package lists yet, and an old one may name versions that are gone.
  console.error(`Fetching the package lists first: ${[...asRoot, "apt-get", "update"].join(" ")}`);
  await capture([...apt, "apt-get", "update"]);
  const { success, message } = await capture([...apt, ...command]);
  if (!success) return `${command.join(" ")} failed: ${message}`;
}

/** Runs a program in silence; `message` is the last line of its complaints. */
async function capture([program, ...args]: readonly string[]): Promise<{ success: boolean; message: string }> {
  try {
    const { success, stderr } = await new Deno.Command(program!, { args, stdin: "null" }).output();
    return { success, message: new TextDecoder().decode(stderr).trim().split("\n").at(-1)! };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { success: false, message: `there is no ${program}` };
    throw error;
  }
}

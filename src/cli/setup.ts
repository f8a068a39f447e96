/** A GPU for a command: opens the adapter, or installs a software Vulkan driver where there is none. */

import { AdapterError } from "../gpu/errors.ts";
import { Gpu } from "../gpu/gpu.ts";
import { runChild } from "./child.ts";
import type { FlagOption } from "./options.ts";

/** How {@linkcode openGpu} may go about it. */
export interface SetupOptions {
  /** False where nothing may be installed (`DIBREGMAN_NO_INSTALL=1` forbids it as well). */
  readonly install: boolean;
  /** Flags of `deno run` with which this command was started, for the process that starts it anew. */
  readonly flags?: readonly string[];
}

/** The option that forbids installing, for the table of every command that opens a GPU. */
export const NO_INSTALL = {
  name: "no-install",
  kind: "flag",
  help: "where no WebGPU adapter is found, say what to install instead of installing it",
} as const satisfies FlagOption;

const PACKAGES = ["mesa-vulkan-drivers", "libvulkan1"];
const INSTALL = ["apt-get", "install", "-y", ...PACKAGES];

/** Set in the child that runs after an installation, so that there is never a second one. */
const MARKER = "DIBREGMAN_INSTALLED";

/**
 * Opens the GPU and prints the adapter's name. Where there is no adapter, on Linux with apt, and the user is root or has
 * password-less sudo, installs a software Vulkan driver first. The command then starts anew in a child process, because an
 * adapter that was missing stays missing in a process, and this process ends with the child's exit code.
 *
 * Parse the arguments before: a wrong one must be reported before anything is installed.
 *
 * @throws {AdapterError} with the command to run where there is no adapter and nothing may or can be installed.
 */
export async function openGpu(options: SetupOptions): Promise<Gpu> {
  try {
    const gpu = await Gpu.create();
    console.error(`adapter: ${gpu.adapter.name} (${gpu.adapter.software ? "software" : "hardware"})`);
    return gpu;
  } catch (error) {
    if (!(error instanceof AdapterError)) throw error;
    await installDriver(error, options.install && Deno.env.get("DIBREGMAN_NO_INSTALL") !== "1");
    Deno.exit(await runAgain(options.flags));
  }
}

/** Installs a driver, or throws `missing` with what the user can do. */
async function installDriver(missing: AdapterError, allowed: boolean): Promise<void> {
  const hasApt = Deno.build.os === "linux" && await succeeds(["apt-get", "--version"]);
  if (!hasApt) {
    throw new AdapterError(`${missing.message} Install a Vulkan, Metal or Direct3D 12 driver for this machine's GPU.`);
  }
  if (Deno.env.get(MARKER) === "1") {
    throw new AdapterError(`${missing.message} ${PACKAGES.join(" and ")} were installed, but did not change that.`);
  }
  const asRoot = Deno.uid() === 0 ? [] : ["sudo", "-n"];
  const mayInstall = asRoot.length === 0 || await succeeds([...asRoot, "true"]);
  if (!allowed || !mayInstall) {
    const command = [...(Deno.uid() === 0 ? [] : ["sudo"]), ...INSTALL].join(" ");
    throw new AdapterError(`${missing.message} To install a software driver, run: ${command}`);
  }
  console.error(`${missing.message} Installing a software Vulkan driver: ${[...asRoot, ...INSTALL].join(" ")}`);
  await aptInstall(asRoot);
}

async function aptInstall(asRoot: readonly string[]): Promise<void> {
  const environment = ["env", "DEBIAN_FRONTEND=noninteractive"];
  const install = [...asRoot, ...environment, ...INSTALL];
  if (await succeeds(install)) return;
  // A fresh image has no package lists yet, and an old one may name versions that are gone.
  const update = [...asRoot, ...environment, "apt-get", "update"];
  console.error(`Fetching the package lists first: ${[...asRoot, "apt-get", "update"].join(" ")}`);
  await succeeds(update);
  const { success, message } = await capture(install);
  if (!success) throw new AdapterError(`${INSTALL.join(" ")} failed: ${message}`);
}

/** Runs the same command line in a new process. */
function runAgain(flags: readonly string[] = []): Promise<number> {
  return runChild(["run", "-A", ...flags, Deno.mainModule, ...Deno.args], { [MARKER]: "1" });
}

async function succeeds(command: readonly string[]): Promise<boolean> {
  return (await capture(command)).success;
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

/** A GPU for a command: opens the adapter, or installs a software Vulkan driver where there is none. */

import { AdapterError } from "../gpu/errors.ts";
import { Gpu } from "../gpu/gpu.ts";
import { runChild } from "./child.ts";
import type { FlagOption } from "./options.ts";
import { installPackages } from "./packages.ts";
import { useTuning } from "./tuning.ts";

/** How {@linkcode openAdapter} may go about it. */
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
  help: "where no WebGPU adapter (for the tests: or browser) is found, say what to install instead of installing it",
} as const satisfies FlagOption;

const PACKAGES = ["mesa-vulkan-drivers", "libvulkan1"];

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
export async function openAdapter(options: SetupOptions): Promise<Gpu> {
  try {
    const gpu = await Gpu.create();
    console.error(`adapter: ${gpu.adapter.name} (${gpu.adapter.software ? "software" : "hardware"})`);
    // A software adapter takes what it is asked for from this machine's memory, which the system grants without having it.
    if (gpu.adapter.software) gpu.memoryLimit = Deno.systemMemoryInfo().available;
    return gpu;
  } catch (error) {
    if (!(error instanceof AdapterError)) throw error;
    await installDriver(error, options);
    Deno.exit(await runAgain(options.flags));
  }
}

/**
 * {@linkcode openAdapter} with the kernels tuned for it: by the file `tuning`, or where none is named by the user's cache.
 *
 * @throws {AdapterError} as openAdapter does.
 * @throws {FileError} where `tuning` cannot be read or is no table of tuned kernels.
 */
export async function openGpu(options: SetupOptions & { readonly tuning?: string | undefined }): Promise<Gpu> {
  const gpu = await openAdapter(options);
  await useTuning(gpu, options.tuning);
  return gpu;
}

/** Installs a driver, or throws `missing` with what the user can do. */
async function installDriver(missing: AdapterError, { install }: SetupOptions): Promise<void> {
  if (Deno.env.get(MARKER) === "1") {
    throw new AdapterError(`${missing.message} ${PACKAGES.join(" and ")} were installed, but did not change that.`);
  }
  const advice = await installPackages({
    packages: PACKAGES,
    notice: `${missing.message} Installing a software Vulkan driver`,
    elsewhere: "Install a Vulkan, Metal or Direct3D 12 driver for this machine's GPU.",
  }, install);
  if (advice) throw new AdapterError(`${missing.message} ${advice}`);
}

/** Runs the same command line in a new process. */
function runAgain(flags: readonly string[] = []): Promise<number> {
  return runChild(["run", "-A", ...flags, Deno.mainModule, ...Deno.args], { env: { [MARKER]: "1" } });
}

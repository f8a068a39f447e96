/** The driver behind an adapter: WebGPU does not tell, the system may. */

/** Commands that print a driver's version, by the vendor's PCI id as Deno reports it. */
const COMMANDS: Readonly<Record<string, { readonly name: string; readonly command: readonly string[] }>> = {
  "65541": { name: "Mesa", command: ["dpkg-query", "-W", "-f", "${Version}", "mesa-vulkan-drivers"] },
  "4318": { name: "NVIDIA", command: ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"] },
};

/** Name and version of the driver; undefined where they cannot be found out. */
export async function driverName(vendor: string): Promise<string | undefined> {
  const known = COMMANDS[vendor];
  if (!known) return undefined;
  const [program, ...args] = known.command as [string, ...string[]];
  try {
    const { success, stdout } = await new Deno.Command(program, { args, stderr: "null" }).output();
    const version = new TextDecoder().decode(stdout).trim().split("\n")[0];
    return success && version ? `${known.name} ${version}` : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Tables of tuned kernels on the disk: one for every adapter and driver in the user's cache folder, or a file that is named. */

import { join } from "@std/path";
import { VARIANTS } from "../../kernels/families.ts";
import { FileError } from "../gpu/errors.ts";
import { KernelChoices, type TuningTable } from "../gpu/family.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type AdapterIdentity, adapterMismatch, encodeTuning, parseTuning, type Tuning } from "../gpu/tuning.ts";
import { cacheFolder } from "../train/cache.ts";
import { onDisk, statIfThere, writeFileAtomic } from "../io/disk.ts";
import { driverName } from "./driver.ts";
import type { StringOption } from "./options.ts";
import { sha256 } from "../io/sha256.ts";

/** The option that names a table, for the commands that compute with tuned kernels. */
export const TUNING = {
  name: "tuning",
  kind: "string",
  placeholder: "FILE",
  help: "choose kernels by this file of deno task tune --out FILE (default: as tuned on this machine)",
} as const satisfies StringOption;

/** The adapter as far as WebGPU and this machine tell. */
export async function identify({ adapter: { name, vendor } }: Gpu): Promise<AdapterIdentity> {
  const driver = await driverName(vendor);
  return { adapter: name, vendor, ...driver !== undefined && { driver } };
}

/** Path of the cached table of an adapter; undefined where there is no cache folder. */
export async function cachedTuningPath(
  { adapter, vendor, driver = "" }: AdapterIdentity,
  folder: string | undefined = cacheFolder(),
): Promise<string | undefined> {
  if (folder === undefined) return undefined;
  const readable = `${adapter} ${driver}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replace(/^-/, "").slice(0, 80);
  const digest = (await sha256(JSON.stringify([adapter, vendor, driver]))).slice(0, 8);
  return join(folder, `tuning-${readable.replace(/-$/, "")}-${digest}.json`);
}

/**
 * Reads a table.
 *
 * @throws {FileError} where it cannot be read or is none.
 */
export async function readTuning(path: string): Promise<Tuning> {
  return parseTuning(await onDisk(path, "read", () => Deno.readTextFile(path)), path);
}

/** Reads a table of the cache; one that is damaged was not made by the user: it is named, and none. */
export async function readCachedTuning(path: string): Promise<Tuning | undefined> {
  if (!await statIfThere(path)) return undefined;
  try {
    return await readTuning(path);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    console.error(`tuned kernels are ignored: ${error.message} deno task tune replaces the file.`);
    return undefined;
  }
}

/** Writes a table, whole or not at all. */
export function writeTuning(path: string, tuning: Tuning): Promise<void> {
  return writeFileAtomic(path, new TextEncoder().encode(encodeTuning(tuning)));
}

/**
 * Lets programs compiled on `gpu` choose kernels as tuned: by `file` where it is named, else by the cached table where there is
 * one. A table of another adapter is ignored, and so are entries that this program does not know; stderr says so.
 *
 * @throws {FileError} where `file` cannot be read or is no table.
 */
export async function useTuning(gpu: Gpu, file?: string): Promise<void> {
  const own = await identify(gpu);
  const path = file ?? await cachedTuningPath(own);
  if (path === undefined) return;
  const tuning = file === undefined ? await readCachedTuning(path) : await readTuning(path);
  if (!tuning) return;
  const mismatch = adapterMismatch(tuning, own);
  if (mismatch) {
    console.error(`tuned kernels are ignored: ${path} is of another adapter; ${mismatch}.`);
    return;
  }
  const { table, unknown } = knownChoices(tuning.choices);
  for (const notice of unknown) console.error(`${path}: ${notice}`);
  gpu.choices = new KernelChoices(gpu.choices.adapter, table);
  const shapes = shapeCount(table);
  if (shapes > 0) console.error(`kernels: ${shapes} shapes as tuned in ${path}`);
}

/** Shapes in a table. */
export function shapeCount(table: TuningTable): number {
  return Object.values(table).reduce((total, shapes) => total + Object.keys(shapes).length, 0);
}

/** What of a table names families and variants that there are, and sentences on the rest. */
export function knownChoices(choices: TuningTable): { table: TuningTable; unknown: string[] } {
  const unknown: string[] = [];
  const table: Record<string, Record<string, string>> = {};
  for (const [family, shapes] of Object.entries(choices)) {
    const variants = VARIANTS.get(family);
    if (!variants) {
      unknown.push(`there is no kernel family ${JSON.stringify(family)}; its entries are ignored.`);
      continue;
    }
    table[family] = {};
    for (const [shape, variant] of Object.entries(shapes)) {
      if (variants.includes(variant)) table[family][shape] = variant;
      else unknown.push(`${family} has no variant ${JSON.stringify(variant)}; its entry ${shape} is ignored.`);
    }
  }
  return { table, unknown };
}

/** Measured choices of kernels as they are stored: with the adapter they were measured on. */

import { FileError } from "./errors.ts";
import type { TuningTable } from "./family.ts";

/** What tells an adapter from others. */
export interface AdapterIdentity {
  /** Its name. */
  readonly adapter: string;
  /** Its vendor as WebGPU reports it. */
  readonly vendor: string;
  /** Its driver, which WebGPU does not report; absent: not known. */
  readonly driver?: string;
}

/** Contents of a file of tuned kernels. */
export interface Tuning extends AdapterIdentity {
  /** Of the format: 1. */
  readonly version: number;
  /** Version of the Deno it was measured with. */
  readonly deno?: string;
  /** When. */
  readonly date?: string;
  /** The variant of every shape that was measured. */
  readonly choices: TuningTable;
}

/** Version of the format that {@linkcode encodeTuning} writes. */
export const TUNING_VERSION = 1;

/** The text of a file of tuned kernels. */
export function encodeTuning(tuning: Tuning): string {
  return JSON.stringify(tuning, null, 2) + "\n";
}

/**
 * Reads a file of tuned kernels. Whether there are such kernels, and whether they compute the shapes, is not looked at.
 *
 * @throws {FileError} naming the file and the field that is not what it should be.
 */
export function parseTuning(text: string, fileName: string): Tuning {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FileError(`${fileName} should be JSON: ${(error as Error).message}.`, { cause: error });
  }
  const expect = (holds: boolean, field: string, what: string) => {
    if (!holds) throw new FileError(`${fileName}: the field "${field}" should be ${what}.`);
  };
  if (!isRecord(value)) throw new FileError(`${fileName} should hold a table of tuned kernels.`);
  expect(value.version === TUNING_VERSION, "version", String(TUNING_VERSION));
  for (const field of ["adapter", "vendor"]) expect(typeof value[field] === "string", field, "a text");
  for (const field of ["driver", "deno", "date"]) {
    expect(["string", "undefined"].includes(typeof value[field]), field, "a text, where it is there");
  }
  const { choices } = value;
  expect(isRecord(choices), "choices", "a table by kernel family");
  for (const [family, shapes] of Object.entries(choices as Record<string, unknown>)) {
    expect(isRecord(shapes), `choices.${family}`, "a table by shape");
    for (const [shape, variant] of Object.entries(shapes as Record<string, unknown>)) {
      expect(typeof variant === "string", `choices.${family}.${shape}`, "the name of a variant");
    }
  }
  return value as unknown as Tuning;
}

/** Why what was measured on `measured` is not for `own`, as a clause; undefined where both are the same as far as is known. */
export function adapterMismatch(measured: AdapterIdentity, own: AdapterIdentity): string | undefined {
  const sameDriver = measured.driver === undefined || own.driver === undefined || measured.driver === own.driver;
  if (measured.adapter === own.adapter && measured.vendor === own.vendor && sameDriver) return undefined;
  return `it was measured on ${identityText(measured)}, and this adapter is ${identityText(own)}`;
}

/** An adapter's identity in a sentence. */
export function identityText({ adapter, vendor, driver }: AdapterIdentity): string {
  return `${adapter} (vendor ${vendor}${driver === undefined ? "" : `, driver ${driver}`})`;
}

/** `old` with what `measured` holds put in its place. */
export function mergeTables(old: TuningTable, measured: TuningTable): TuningTable {
  const families = new Set([...Object.keys(old), ...Object.keys(measured)]);
  return Object.fromEntries(
    [...families].sort().map((family) => {
      const shapes = { ...old[family], ...measured[family] };
      return [family, Object.fromEntries(Object.keys(shapes).sort().map((shape) => [shape, shapes[shape]!]))];
    }),
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

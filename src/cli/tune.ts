/** `tune`: times every variant of every kernel that a preset's programs use on this adapter, and keeps the fastest. */

import { dirname } from "@std/path";
import {
  chooseVariant,
  measureVariants,
  ShapeRecorder,
  type UsedShape,
  type VariantTimes,
} from "../../kernels/tuner.ts";
import { FileError, UsageError } from "../gpu/errors.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type AdapterIdentity, adapterMismatch, mergeTables, type Tuning, TUNING_VERSION } from "../gpu/tuning.ts";
import type { Tensor } from "../graph/mod.ts";
import { loadDigits } from "../data/digits.ts";
import { type Precision, PRECISIONS } from "../nn/network.ts";
import { defaultPreset, presetConfig, type PresetName, PRESETS, type RunConfig } from "../train/config.ts";
import { expectWritable, onDisk, statIfThere } from "../io/disk.ts";
import { Progress } from "../train/progress.ts";
import { compileAll } from "../train/run.ts";
import { type Command, parseOptions } from "./options.ts";
import { NO_INSTALL, openAdapter } from "./setup.ts";
import { cachedTuningPath, identify, readCachedTuning, readTuning, shapeCount, writeTuning } from "./tuning.ts";

const COMMAND = {
  name: "tune",
  summary: "Time the variants of the kernels on this adapter; train, sample, eval and bench then run the fastest.",
  options: [
    {
      name: "preset",
      kind: "choice",
      choices: Object.keys(PRESETS) as PresetName[],
      help: "whose programs to look at (default: digits, or digits-small on a software adapter)",
    },
    { name: "batch", kind: "integer", min: 1, max: 4096, help: "images a step, or a microbatch, in both stages" },
    { name: "precision", kind: "choice", choices: PRECISIONS, help: "storage of activations (default: f32)" },
    {
      name: "out",
      kind: "string",
      placeholder: "FILE",
      help: "write the table to this file, for --tuning, instead of the user's cache folder",
    },
    NO_INSTALL,
  ],
} as const satisfies Command;

/** What was found for one shape. */
interface Tuned {
  readonly shape: UsedShape;
  readonly times: VariantTimes;
  readonly chosen: string;
}

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  if (values.out !== undefined) await expectWritable(values.out);
  const gpu = await openAdapter({ install: !values.noInstall });
  const identity = await identify(gpu);
  const { path, old } = await destination(identity, values.out);
  const config = configOf(values.preset ?? defaultPreset(gpu.adapter.software), values.precision, values.batch);
  const shapes = await usedShapes(gpu, config);
  const tuned = await measureAll(gpu, shapes.filter(({ variants }) => variants.length > 1));
  console.log(table(tuned));
  const choices = mergeTables(old, choicesOf(tuned));
  const date = new Date().toISOString();
  await writeTuning(path, { version: TUNING_VERSION, ...identity, deno: Deno.version.deno, date, choices });
  console.log(`${path}: ${shapeCount(choices)} shapes, ${tuned.length} of them measured now`);
}

/** Where the table goes, and what of it stays. */
async function destination(own: AdapterIdentity, out?: string): Promise<{ path: string; old: Tuning["choices"] }> {
  if (out !== undefined) {
    if (!await statIfThere(out)) return { path: out, old: {} };
    const tuning = await readTuning(out);
    const mismatch = adapterMismatch(tuning, own);
    if (mismatch) throw new FileError(`${out} holds another adapter's table (${mismatch}); choose another --out.`);
    return { path: out, old: tuning.choices };
  }
  const path = await cachedTuningPath(own);
  if (path === undefined) throw new UsageError("The system names no folder for caches; name a file with --out.");
  await onDisk(path, "written", () => Deno.mkdir(dirname(path), { recursive: true }));
  await expectWritable(path);
  const tuning = await readCachedTuning(path);
  return { path, old: tuning && !adapterMismatch(tuning, own) ? tuning.choices : {} };
}

/** The preset with another precision and batch size. */
function configOf(name: PresetName, precision: Precision = "f32", batch?: number): RunConfig {
  const preset = presetConfig(name);
  return {
    ...preset,
    precision,
    teacher: { ...preset.teacher, batch: batch ?? preset.teacher.batch },
    distill: { ...preset.distill, batch: batch ?? preset.distill.batch },
  };
}

/** Every shape that a run's programs compute. */
async function usedShapes(gpu: Gpu, config: RunConfig): Promise<UsedShape[]> {
  const recorder = new ShapeRecorder(gpu.choices.adapter, (buffer) => buffer as Tensor);
  gpu.choices = recorder;
  await compileAll(gpu, config, await loadDigits());
  return recorder.used;
}

async function measureAll(gpu: Gpu, shapes: readonly UsedShape[]): Promise<Tuned[]> {
  const progress = new Progress({ stage: "tune", total: shapes.length });
  const tuned: Tuned[] = [];
  for (const shape of shapes) {
    const times = await measureVariants(gpu, shape);
    tuned.push({ shape, times, chosen: chooseVariant(times, shape.preferred) });
    progress.update(tuned.length);
  }
  progress.done();
  // What slowed the machine for a moment must not decide: where there is a gain, it is measured once more.
  const confirmed: Tuned[] = [];
  for (const one of tuned) confirmed.push(await confirm(gpu, one));
  return confirmed;
}

async function confirm(gpu: Gpu, { shape, times, chosen }: Tuned): Promise<Tuned> {
  const { preferred } = shape;
  if (chosen === preferred) return { shape, times, chosen };
  const again = await measureVariants(gpu, { ...shape, variants: [preferred, chosen] });
  const least = new Map([...times].map(([name, ms]) => [name, Math.min(ms, again.get(name) ?? ms)]));
  return { shape, times: least, chosen: chooseVariant(least, preferred) };
}

function choicesOf(tuned: readonly Tuned[]): Tuning["choices"] {
  const choices: Record<string, Record<string, string>> = {};
  for (const { shape: { family, key }, chosen } of tuned) (choices[family] ??= {})[key] = chosen;
  return choices;
}

/** A block a family, a line a shape: uses, milliseconds of the variants, what is chosen, and how much faster it is. */
function table(tuned: readonly Tuned[]): string {
  const lines: string[] = [];
  const width = Math.max(...tuned.map(({ shape: { key } }) => key.length));
  for (const family of new Set(tuned.map(({ shape }) => shape.family))) {
    lines.push(`${family}: uses, ms of every variant (* where nothing is tuned), choice, gain`);
    for (const { shape, times, chosen } of tuned.filter((one) => one.shape.family === family)) {
      const all = [...times].map(([name, ms]) => `${name}${name === shape.preferred ? "*" : ""} ${ms.toFixed(3)}`);
      const gain = chosen === shape.preferred
        ? ""
        : `  ${(times.get(shape.preferred)! / times.get(chosen)!).toFixed(2)}x`;
      lines.push(
        `  ${shape.key.padEnd(width)} ${String(shape.uses).padStart(4)}  ${all.join("  ")}  -> ${chosen}${gain}`,
      );
    }
  }
  const total = (of: (one: Tuned) => string) =>
    tuned.reduce((sum, one) => sum + one.shape.uses * one.times.get(of(one))!, 0).toFixed(1);
  lines.push(
    `all uses together: ${total(({ shape }) => shape.preferred)} ms untuned, ${total(({ chosen }) => chosen)} ms tuned`,
  );
  return lines.join("\n");
}

/** Settings as options: what commands that begin runs have in common. */

import { UsageError } from "../gpu/errors.ts";
import { type Fail, settingAt } from "../io/settings.ts";
import { defaultPreset, isDigits, type PresetName } from "../train/config.ts";

/** Calls it a mistake in the options. */
export const refuse: Fail = (message) => {
  throw new UsageError(`Of the settings given, ${message}${message.endsWith("?") ? "" : "."}`);
};

/** `NAME=VALUE` of `--set` as nested settings. */
export function changeOf(setting: string): Record<string, unknown> {
  const [, name, text] = /^([^=]+)=(.*)$/s.exec(setting) ?? [];
  if (name === "preset") throw new UsageError("The preset is chosen by --preset, or by a --config file.");
  if (name === undefined) throw new UsageError(`--set ${setting} should be a setting's name, "=" and its value.`);
  return settingAt(name, text!);
}

/** Throws where a preset is named that needs a data set, and none is. */
export function expectData(preset: PresetName | undefined, data: string | undefined): void {
  if (preset !== undefined && !isDigits(preset) && data === undefined) {
    throw new UsageError(`The preset ${preset} needs a data set, named by --data.`);
  }
}

/**
 * Checks settings before any adapter is sought: those of the preset that is named, or of those that an adapter may choose,
 * where one of them has to pass.
 */
export function checkEarly(named: PresetName | undefined, check: (preset: PresetName) => void): void {
  const presets = named ? [named] : [defaultPreset(false), defaultPreset(true)], errors: unknown[] = [];
  for (const preset of presets) {
    try {
      return check(preset);
    } catch (error) {
      errors.push(error);
    }
  }
  throw errors[0];
}

/** A folder in `parent` that is named by the preset and the time. */
export function timedFolder(parent: string, preset: PresetName): string {
  return `${parent}/${preset}-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}`;
}

/**
 * Throws where an option was given that cannot go with `--resume`, which keeps the settings of a file.
 *
 * @param free names of the options that can, as values are called.
 * @param what keeps its settings, and where: "a run keeps the settings in its config.json".
 */
export function expectResumable(values: object, free: readonly string[], what: string): void {
  const other = Object.entries(values).find(([name, value]) =>
    value !== undefined && value !== false && !(Array.isArray(value) && value.length === 0) && !free.includes(name)
  );
  if (other) {
    throw new UsageError(`${optionName(other[0])} cannot go with --resume: ${what}.`);
  }
}

/** An option as it is typed: `--eval-samples` of `evalSamples`. */
export function optionName(value: string): string {
  return `--${value.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

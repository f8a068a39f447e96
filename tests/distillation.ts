/** Settings of distillations as the tests use them. */

import type { DistillSettings } from "../src/distill/settings.ts";
import { presetConfig } from "../src/train/config.ts";
import { programSettings } from "../src/train/stages.ts";

const PRESET = presetConfig("digits-tiny");

/** Programs in batches of 12 under jeffreys, with an encoder of the classifier's own and without adversarial term. */
export const SETTINGS: DistillSettings = {
  ...programSettings({ ...PRESET, distill: { ...PRESET.distill, h: "jeffreys" } }),
  ...{ batch: 12, adversarialWeight: 0, classifier: { ...PRESET.distill.classifier, kind: "own" } },
};

/** Settings of distillations as the tests use them. */

import type { DistillSettings } from "../src/distill/settings.ts";
import { presetConfig } from "../src/train/config.ts";
import { programSettings } from "../src/train/stages.ts";

/** The preset's programs, with batches of 12 under jeffreys. */
export const SETTINGS: DistillSettings = { ...programSettings(presetConfig("digits-tiny")), batch: 12 };

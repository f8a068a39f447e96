/** What a dry run times. */

import { assert, assertEquals } from "@std/assert";
import { loadDigits } from "../src/data/digits.ts";
import { presetConfig } from "../src/train/config.ts";
import { imagesToTime, planRun } from "../src/train/dry_run.ts";
import { deviceTest } from "./gpu.ts";

Deno.test("a dry run times the step, or as many images as the time is for, never more at once than the run", () => {
  assertEquals(imagesToTime(512, 1), 512);
  assertEquals(imagesToTime(512, 3, 16), 512);
  assertEquals(imagesToTime(512, 0.7), 358);
  assertEquals(imagesToTime(512, 0.7, 16), 16);
  assertEquals(imagesToTime(512, 0.01, 16), 5);
  assertEquals(imagesToTime(512, 1e-6, 16), 1);
});

deviceTest("a dry run plans the generator's update too, where the critics are trained alone at first", async (gpu) => {
  const config = presetConfig("digits-tiny"), data = await loadDigits();
  const plans = await planRun(gpu, { ...config, distill: { ...config.distill, criticWarmupImages: 64 } }, data);
  const { programs } = plans.find(({ name }) => name === "distill")!;
  for (const label of ["critics.gradient", "generator.gradient", "generator.update"]) {
    assert(programs.some((program) => program.startsWith(`${label}:`)), label);
  }
});

/** What a dry run times. */

import { assertEquals } from "@std/assert";
import { imagesToTime } from "../src/train/dry_run.ts";

Deno.test("a dry run times the step, or as many images as the time is for, never more at once than the run", () => {
  assertEquals(imagesToTime(512, 1), 512);
  assertEquals(imagesToTime(512, 3, 16), 512);
  assertEquals(imagesToTime(512, 0.7), 358);
  assertEquals(imagesToTime(512, 0.7, 16), 16);
  assertEquals(imagesToTime(512, 0.01, 16), 5);
  assertEquals(imagesToTime(512, 1e-6, 16), 1);
});

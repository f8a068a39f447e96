/** A run's folder: what a killed process left half-written. */

import { assertEquals } from "@std/assert";
import { presetConfig } from "../src/train/config.ts";
import { RunFolder } from "../src/train/folder.ts";

Deno.test("a run that is tidied up loses what was half-written, in every folder, and nothing else", async () => {
  const path = await Deno.makeTempDir();
  try {
    const config = { ...presetConfig("digits-tiny"), snapshotEvery: { teacher: 64, distill: 0 } };
    const tuning = { version: 1, adapter: "none", vendor: "none", choices: {} };
    await RunFolder.create(path, config, tuning);
    const parts = [path, ...["checkpoints", "samples", "snapshots"].map((name) => `${path}/${name}`)];
    for (const part of parts) {
      await Deno.mkdir(part, { recursive: true });
      await Deno.writeTextFile(`${part}/whole`, "");
      await Deno.writeTextFile(`${part}/half.tmp`, "");
    }
    const { folder } = await RunFolder.open(path);
    assertEquals(await folder.has("half.tmp"), true, "who only looks changes nothing");
    await folder.tidy(config);
    const files = parts.map((part) =>
      [...Deno.readDirSync(part)].filter(({ isFile }) => isFile).map(({ name }) => name)
    );
    assertEquals(files.map((names) => names.sort()), [["config.json", "tuning.json", "whole"], ["whole"], ["whole"], [
      "whole",
    ]]);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});

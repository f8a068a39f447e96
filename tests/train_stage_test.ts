/** A training stage's metrics: steps that are lost, passed over or not. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { NonFiniteError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { Workspace } from "../src/graph/mod.ts";
import { Classifier } from "../src/nn/unet.ts";
import { initialWeights, Trainable } from "../src/optim/weights.ts";
import { presetConfig } from "../src/train/config.ts";
import { RunFolder } from "../src/train/folder.ts";
import { runStage } from "../src/train/stage.ts";
import { deviceTest } from "./gpu.ts";

const STEPS = 50;
const NETWORK = new Classifier({ imageChannels: 1, resolution: 8, modelChannels: 4, channelMult: [1], blocks: 1 });

interface Options {
  /** The values of step `step`, counted from 0. */
  readonly loss: (step: number) => readonly number[];
  readonly tolerant?: boolean;
  readonly checkpointEvery?: number;
  readonly logEvery?: number;
}

/** Runs a stage that computes nothing and has the given loss; returns the lines of its log. */
async function logOf(gpu: Gpu, { loss, tolerant = true, checkpointEvery = 1000, logEvery = 20 }: Options) {
  const path = await Deno.makeTempDir(), workspace = new Workspace(gpu);
  try {
    const folder = await RunFolder.create(path, presetConfig("digits-tiny"), gpu.tuning);
    const network = new Trainable(workspace, "network", NETWORK);
    network.start(initialWeights(NETWORK.parameters, [1, 2]));
    let held: number[] = [];
    await runStage(folder, "run", {
      ...{ name: "teacher", steps: STEPS, imagesPerStep: 1, checkpointEvery, snapshotEvery: 0, logEvery, tolerant },
      snapshot: () => Promise.resolve(),
      state: network.state,
      runs: (step) => {
        held.push(...loss(step));
        return [];
      },
      metrics: () => {
        const values = held;
        held = [];
        return Promise.resolve({ loss: values, gradNorm: values.map(() => 1) });
      },
    });
    const lines = (await Deno.readTextFile(folder.file("metrics.jsonl"))).trim().split("\n");
    return lines.map((line) => JSON.parse(line) as Record<string, number>);
  } finally {
    workspace.destroy();
    await Deno.remove(path, { recursive: true });
  }
}

/** 1, but lost from step `from` for `count` steps. */
const lost = (from: number, count: number, value = NaN) => (step: number) => [
  step >= from && step < from + count ? value : 1,
];

deviceTest("stage: single steps that are not finite are passed over where gradients are sanitised", async (gpu) => {
  const lines = await logOf(gpu, { loss: (step) => [step === 3 || step === 5 ? NaN : step] });
  assertEquals(lines.map(({ step, notFinite }) => [step, notFinite]), [[20, 2], [40, 0], [50, 0]]);
  assertEquals(lines[0]!.loss, (190 - 8) / 18);
  assertEquals(lines[1]!.loss, 29.5);
});

deviceTest("stage: one step that is not finite ends a run whose gradients are not sanitised", async (gpu) => {
  await assertRejects(
    () => logOf(gpu, { loss: lost(7, 1, Infinity), tolerant: false }),
    NonFiniteError,
    "teacher: loss became Infinity by step 20; the last checkpoint is from before that. Try a lower learning rate.",
  );
});

for (const settings of [{}, { checkpointEvery: 7 }, { logEvery: 10 }]) {
  deviceTest(
    `stage: 19 lost steps in a row are passed over, 20 end the run: ${JSON.stringify(settings)}`,
    async (gpu) => {
      const lines = await logOf(gpu, { loss: lost(5, 19), ...settings });
      assertEquals(lines.reduce((sum, { notFinite }) => sum + notFinite!, 0), 19);
      assertEquals(lines.at(-1)!.step, STEPS);
      for (const from of [0, 5, 30]) {
        await assertRejects(() => logOf(gpu, { loss: lost(from, 20), ...settings }), NonFiniteError, "loss became NaN");
      }
    },
  );
}

deviceTest("stage: a step is lost where none of its microbatches is finite", async (gpu) => {
  const last = Array.from({ length: 30 }, (_, i) => i < 29 ? NaN : 2);
  const lines = await logOf(gpu, { loss: () => last, logEvery: 10 });
  assert(lines.every(({ loss, notFinite }) => loss === 2 && notFinite === 290));
  const alternate = await logOf(gpu, { loss: (step) => step % 2 === 0 ? [NaN, NaN, NaN] : [2, 2, 2], logEvery: 10 });
  assert(alternate.every(({ loss, notFinite }) => loss === 2 && notFinite === 15));
  await assertRejects(() => logOf(gpu, { loss: () => [NaN, NaN, NaN], logEvery: 1 }), NonFiniteError, "by step 20;");
});

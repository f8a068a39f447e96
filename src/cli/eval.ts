/** `eval`: Fréchet distance, nearest real images and coverage of a trained model. */

import { Workspace } from "../graph/mod.ts";
import { expectWritable, writeFileAtomic } from "../io/disk.ts";
import { openEvaluator } from "../train/features.ts";
import { expectModel, measure, samplerOf } from "../train/run.ts";
import { readImages, readModel } from "./files.ts";
import { type Command, parseOptions } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { SOLVER_OPTIONS, solverOf } from "./solver.ts";
import { TUNING } from "./tuning.ts";

const COMMAND = {
  name: "eval",
  summary: "Measure a trained model against real images.",
  options: [
    {
      name: "model",
      kind: "string",
      required: true,
      placeholder: "FILE",
      help: "teacher or generator: a model file or a pickle of EDM",
    },
    { name: "n", kind: "integer", min: 65, max: 1000000, default: 5000, help: "number of images" },
    { name: "seed", kind: "integer", min: 0, max: 4294967295, default: 0, help: "seed of the images" },
    ...SOLVER_OPTIONS,
    {
      name: "data",
      kind: "string",
      placeholder: "PATH",
      help: "real images instead of the embedded digits, in any form that train takes",
    },
    { name: "json", kind: "string", placeholder: "FILE", help: "also write the figures to this file" },
    TUNING,
    NO_INSTALL,
  ],
} as const satisfies Command;

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  const { model } = await readModel(values.model);
  const solver = solverOf(values, model);
  const { data } = await readImages(values.data);
  expectModel(model.info, model.info.kind, data, values.model);
  if (values.json !== undefined) await expectWritable(values.json);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  const workspace = new Workspace(gpu);
  const evaluator = await openEvaluator(workspace, data);
  const measured = await measure(evaluator, await samplerOf(workspace, model, solver), values.n, values.seed);
  const { frechetDistance, classError, floor, nearestDistance, coverage, evaluations, imagesPerSecond } = measured;
  const space = evaluator.features.network === "embedded" ? "pixels" : "features";
  console.log(`${values.model} (${model.info.kind}), ${values.n} images against the ${data.count} of ${data.name}`);
  console.log(`  features            ${evaluator.features.description}`);
  console.log(`  Fréchet distance    ${frechetDistance.toFixed(3)}`);
  console.log(
    `  floor at this N     ${floor.mean.toFixed(3)} ± ${floor.std.toFixed(3)} (real images against themselves)`,
  );
  if (classError !== null) {
    console.log(
      `  class error         ${
        (100 * classError).toFixed(1)
      } %: by so much the shares of the classes are off (real images: ${(100 * floor.classError!).toFixed(1)} %)`,
    );
  }
  console.log(`  nearest real image  ${nearestDistance.toFixed(3)} (mean distance of ${space})`);
  console.log(`  coverage            ${(100 * coverage).toFixed(1)} % of the real images are someone's nearest`);
  console.log(`  evaluations         ${evaluations} an image, ${imagesPerSecond} images/s on ${gpu.adapter.name}`);
  if (values.json !== undefined) {
    const report = {
      model: values.model,
      kind: model.info.kind,
      data: data.name,
      seed: values.seed,
      adapter: gpu.adapter.name,
      features: evaluator.features,
      ...measured,
    };
    await writeFileAtomic(values.json, new TextEncoder().encode(JSON.stringify(report, null, 2) + "\n"));
  }
}

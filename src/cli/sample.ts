/** `sample`: images from a trained model, as a picture or as arrays. */

import { extname } from "@std/path";
import { FileError, UsageError } from "../gpu/errors.ts";
import { Workspace } from "../graph/mod.ts";
import type { ModelInfo } from "../io/model.ts";
import { conditionSizes, imageSize } from "../nn/networks.ts";
import { expectWritable, writeFileAtomic } from "../io/disk.ts";
import { toNHWC } from "../io/images.ts";
import { encodeNpz } from "../io/npz.ts";
import { encodePng, imageGrid } from "../io/png.ts";
import { samplerOf } from "../train/run.ts";
import { readModel } from "./files.ts";
import { type Command, parseOptions } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { SOLVER_OPTIONS, solverOf } from "./solver.ts";
import { TUNING } from "./tuning.ts";

const COMMAND = {
  name: "sample",
  summary: "Draw images from a trained model; the same seed gives the same images.",
  options: [
    {
      name: "model",
      kind: "string",
      required: true,
      placeholder: "FILE",
      help: "teacher or generator: a model file or a pickle of EDM",
    },
    { name: "n", kind: "integer", min: 1, max: 1000000, default: 64, help: "number of images" },
    {
      name: "seed",
      kind: "integer",
      min: 0,
      max: 4294967295,
      default: 0,
      help: "the first k of n images are the same for every n",
    },
    {
      name: "out",
      kind: "string",
      required: true,
      placeholder: "FILE",
      help: "grid.png, or images.npz (`images` uint8 NHWC)",
    },
    {
      name: "class",
      kind: "integer",
      min: 0,
      help: "class of all images, of a model with classes (default: each of a random one)",
    },
    ...SOLVER_OPTIONS,
    TUNING,
    NO_INSTALL,
  ],
} as const satisfies Command;

/** Images a picture can hold. */
const MAX_GRID = 10000;

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  const format = extname(values.out).toLowerCase();
  if (format !== ".png" && format !== ".npz") {
    throw new UsageError(`--out ${values.out} should end in .png or .npz.`);
  }
  const { model } = await readModel(values.model);
  const solver = solverOf(values, model);
  if (values.class !== undefined) expectClass(values.class, model.info, values.model);
  const { imageChannels, resolution } = imageSize(model.info.network);
  if (format === ".png" && imageChannels !== 1 && imageChannels !== 3) {
    throw new FileError(`${values.model} makes images of ${imageChannels} channels; a .png has 1 or 3.`);
  }
  if (format === ".png" && values.n > MAX_GRID) {
    throw new UsageError(`--n ${values.n} is too many for one picture (at most ${MAX_GRID}); use --out images.npz.`);
  }
  await expectWritable(values.out);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  const workspace = new Workspace(gpu);
  const sampler = await samplerOf(workspace, model, solver);
  await sampler.sample(values.seed, 0, 1, values.class);
  const started = performance.now();
  const pixels = await sampler.sample(values.seed, 0, values.n, values.class);
  const seconds = (performance.now() - started) / 1000;
  const images = toNHWC(pixels, imageChannels, resolution, resolution);
  if (format === ".npz") {
    const shape = [values.n, resolution, resolution, imageChannels];
    await writeFileAtomic(values.out, encodeNpz({ images: { dtype: "u1", shape, data: images } }));
  } else {
    const columns = Math.ceil(Math.sqrt(values.n));
    const scale = Math.max(1, Math.floor(64 / resolution / (columns > 16 ? 2 : 1)));
    const grid = imageGrid(images, values.n, resolution, resolution, imageChannels as 1 | 3, columns, scale, 2);
    await writeFileAtomic(values.out, await encodePng(grid.pixels, grid.width, grid.height, imageChannels as 1 | 3));
  }
  const each = sampler.evaluations === 1 ? "1 network evaluation" : `${sampler.evaluations} network evaluations`;
  console.log(`${values.out}: ${values.n} images, ${each} each, ${(values.n / seconds).toFixed(1)} images/s`);
}

function expectClass(label: number, info: ModelInfo, path: string): void {
  const { labelDim } = conditionSizes(info.network);
  if (labelDim === 0) throw new UsageError(`--class ${label} needs a model with classes; ${path} has none.`);
  if (label >= labelDim) {
    throw new UsageError(`--class ${label} is none of ${path}: its classes are 0 to ${labelDim - 1}.`);
  }
}

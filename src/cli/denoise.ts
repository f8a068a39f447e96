/** `denoise`: a network's denoised images of given arrays, to check one program against another. */

import { denoise } from "../diffusion/edm.ts";
import { uploadWeights } from "../diffusion/sampler.ts";
import { FileError, NonFiniteError, UsageError } from "../gpu/errors.ts";
import { shapeText, Workspace } from "../graph/mod.ts";
import type { ModelInfo } from "../io/model.ts";
import { encodeNpz, type NpyArray } from "../io/npz.ts";
import type { DenoisingNetwork } from "../nn/network.ts";
import { conditionSizes, imageSize } from "../nn/networks.ts";
import { expectWritable, writeFileAtomic } from "../io/disk.ts";
import { readArrays, readModel } from "./files.ts";
import { type Command, parseOptions } from "./options.ts";
import { NO_INSTALL, openGpu } from "./setup.ts";
import { TUNING } from "./tuning.ts";

const COMMAND = {
  name: "denoise",
  summary: "Evaluate a network on arrays, to check one program against another.",
  options: [
    {
      name: "model",
      kind: "string",
      required: true,
      placeholder: "FILE",
      help: "a model, or anything that import takes",
    },
    {
      name: "in",
      kind: "string",
      required: true,
      placeholder: "FILE",
      help: "npz with x [N, C, H, W], sigma [N] and, for a network with classes, labels [N] or one-hot [N, classes]",
    },
    { name: "out", kind: "string", required: true, placeholder: "FILE", help: "npz, gets denoised [N, C, H, W]" },
    { name: "batch", kind: "integer", min: 1, max: 4096, default: 8, help: "images at a time" },
    TUNING,
    NO_INSTALL,
  ],
} as const satisfies Command;

/** What is evaluated: all as f32, a class as a one-hot row. */
interface Inputs {
  readonly count: number;
  readonly x: Float32Array<ArrayBuffer>;
  readonly sigma: Float32Array<ArrayBuffer>;
  readonly labels: Float32Array<ArrayBuffer> | undefined;
}

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values } = parseOptions(COMMAND, args);
  if (!values.out.endsWith(".npz")) throw new UsageError(`--out ${values.out} should end in .npz.`);
  const { model } = await readModel(values.model);
  const inputs = readInputs(await readArrays(values.in), model.info, values.in);
  await expectWritable(values.out);
  const gpu = await openGpu({ install: !values.noInstall, tuning: values.tuning });
  const workspace = new Workspace(gpu);
  const batch = Math.min(values.batch, inputs.count);
  const evaluate = await compile(uploadWeights(workspace, model.info, model.weights), model.info, batch);
  const { imageChannels, resolution } = imageSize(model.info.network);
  const denoised = new Float32Array(inputs.x.length);
  for (let first = 0; first < inputs.count; first += batch) {
    const part = await evaluate(inputs, first);
    denoised.set(part, first * imageChannels * resolution ** 2);
  }
  if (!denoised.every(Number.isFinite)) {
    throw new NonFiniteError(`${values.in}: ${values.model} makes NaN or infinite pixels of it; nothing is written.`);
  }
  const shape = [inputs.count, imageChannels, resolution, resolution];
  await writeFileAtomic(values.out, encodeNpz({ denoised: { dtype: "f4", shape, data: denoised } }));
  console.log(`${values.out}: denoised ${shapeText(shape)}`);
}

/** Compiles the evaluation of `batch` images; where fewer are left, ones take the others' place and are left out again. */
async function compile(weights: ReturnType<typeof uploadWeights>, info: ModelInfo, batch: number) {
  const { workspace } = weights;
  const { imageChannels, resolution } = imageSize(info.network);
  const { labelDim } = conditionSizes(info.network);
  const x = workspace.variable("denoise.x", [batch, imageChannels, resolution, resolution]);
  const sigma = workspace.variable("denoise.sigma", [batch]);
  const labels = labelDim > 0 ? workspace.variable("denoise.labels", [batch, labelDim]) : undefined;
  const network = weights.network as DenoisingNetwork;
  const program = await workspace.compile({
    label: "denoise",
    outputs: { denoised: denoise(network, weights.lookup, x.tensor, sigma.tensor, { labels: labels?.tensor }) },
  });
  return async (inputs: Inputs, first: number): Promise<Float32Array> => {
    const used = Math.min(batch, inputs.count - first), perImage = x.tensor.size / batch;
    const rows = (data: Float32Array, size: number) => {
      const padded = new Float32Array(batch * size).fill(1);
      padded.set(data.subarray(first * size, (first + used) * size));
      return padded;
    };
    x.write(rows(inputs.x, perImage));
    sigma.write(rows(inputs.sigma, 1));
    labels?.write(rows(inputs.labels ?? new Float32Array(inputs.count * labelDim), labelDim));
    workspace.submit([program.at()]);
    const { denoised } = await program.read() as { denoised: Float32Array };
    return denoised.subarray(0, used * perImage);
  };
}

function readInputs(arrays: Record<string, NpyArray>, info: ModelInfo, path: string): Inputs {
  const array = (name: string, expected: string, fits: (shape: readonly number[]) => boolean) => {
    const found = arrays[name];
    if (!found || !fits(found.shape)) {
      const got = found ? ` but is ${shapeText(found.shape)}` : " and is missing";
      throw new FileError(`${path}: the array "${name}" should be ${expected}${got}.`);
    }
    const data = Float32Array.from(found.data, Number);
    if (!data.every(Number.isFinite)) throw new FileError(`${path}: the array "${name}" is not finite.`);
    return { shape: found.shape, data };
  };
  const { imageChannels, resolution } = imageSize(info.network);
  const size = [imageChannels, resolution, resolution];
  const x = array(
    "x",
    `[N, ${size.join(", ")}]`,
    (shape) => shape.length === 4 && shape[0]! > 0 && shape.slice(1).join() === size.join(),
  );
  const count = x.shape[0]!;
  const sigma = array("sigma", `[${count}]`, (shape) => shape.join() === String(count));
  const negative = sigma.data.find((value) => value <= 0);
  if (negative !== undefined) throw new FileError(`${path}: the array "sigma" holds ${negative}; sigmas are above 0.`);
  return { count, x: x.data, sigma: sigma.data, labels: arrays.labels && readLabels(array, info, count, path) };
}

function readLabels(
  array: (name: string, expected: string, fits: (shape: readonly number[]) => boolean) => {
    readonly shape: readonly number[];
    readonly data: Float32Array<ArrayBuffer>;
  },
  info: ModelInfo,
  count: number,
  path: string,
): Float32Array<ArrayBuffer> {
  const { labelDim } = conditionSizes(info.network);
  if (labelDim === 0) throw new FileError(`${path}: there are labels, but the network knows no classes.`);
  const { shape, data } = array(
    "labels",
    `[${count}] or [${count}, ${labelDim}]`,
    (shape) => [`${count}`, `${count},${labelDim}`].includes(shape.join()),
  );
  if (shape.length === 2) return data;
  const rows = new Float32Array(count * labelDim);
  data.forEach((label, i) => {
    if (!Number.isInteger(label) || label < 0 || label >= labelDim) {
      throw new FileError(`${path}: the array "labels" holds ${label}; classes are 0 to ${labelDim - 1}.`);
    }
    rows[i * labelDim + label] = 1;
  });
  return rows;
}

/** Whole training steps: their cases, and the engine's way to make them. */

import { denoisingLoss } from "../../src/diffusion/edm.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { constant, type Tensor, Workspace } from "../../src/graph/mod.ts";
import { UNet, type UNetConfig } from "../../src/nn/unet.ts";
import { gradientUpdates, Optimizer } from "../../src/optim/adam.ts";
import { initialWeights, Trainable, type Weights } from "../../src/optim/weights.ts";
import { PRESETS } from "../../src/train/config.ts";
import { randomArray } from "../../tests/gpu.ts";
import { interpret } from "../../tests/reference/interpreter.ts";
import type { Arrays, Counted, StepProblem } from "./case.ts";
import type { Case } from "./cases.ts";

const { teacher, network: { modelChannels } } = PRESETS.digits;

/** The digits UNet of the preset `digits`, and one for 32x32 colour images. */
const NETWORKS: readonly { readonly name: string; readonly batch: number; readonly config: UNetConfig }[] = [
  {
    name: "digits UNet",
    batch: 64,
    config: { imageChannels: 1, resolution: 8, modelChannels, channelMult: [1, 2], blocks: 1 },
  },
  {
    name: "32x32 UNet",
    batch: 4,
    config: { imageChannels: 3, resolution: 32, modelChannels: 32, channelMult: [1, 2, 2], blocks: 1 },
  },
];

/**
 * One training step each. The loss has a float64 reference; gradient norm, weights and average of the others must agree
 * with the engine's, whose gradients the tests hold against PyTorch: in float64 they would take minutes.
 */
export function stepCases(): Case[] {
  return NETWORKS.map(({ name, batch, config }) => {
    const network = new UNet(config);
    const { imageChannels, resolution } = config;
    const elements = batch * imageChannels * resolution ** 2;
    const { beta1, beta2 } = { beta1: teacher.betas[0], beta2: teacher.betas[1] };
    const step: StepProblem = {
      network,
      batch,
      weights: initialWeights(network.parameters, [1, 2]),
      settings: { batch, beta1, beta2, ema: teacher.ema, clipNorm: teacher.clipNorm },
      learningRate: teacher.learningRate,
    };
    return {
      kernel: "trainingStep",
      shape: `${name}, ${resolution}x${resolution}x${imageChannels}, batch ${batch}`,
      problem: { op: "unetStep", step },
      inputs: () => ({
        x0: randomArray(elements, 1),
        noise: randomArray(elements, 2),
        sigma: randomArray(batch, 3).map((z) => Math.exp(teacher.sigma.mean + teacher.sigma.std * z)),
      }),
      expected: (inputs) => ({ loss: referenceLoss(step, inputs) }),
      agreed: ["gradNorm", "p", "ema"],
    };
  });
}

/** The loss of a step's batch in float64. */
function referenceLoss({ network, weights }: StepProblem, inputs: Arrays): Float64Array {
  const shapes = new Map(network.parameters.map(({ name, shape }) => [name, shape]));
  const parameter = (name: string) => constant(weights.get(name)!, shapes.get(name)!);
  const batch = batchLeaves(network, inputs, (data, shape) => constant(data, shape));
  return interpret({ loss: denoisingLoss(network, parameter, batch) }).loss;
}

/** The tensors of a batch, each made by `leaf`. */
function batchLeaves(
  { config: { imageChannels, resolution } }: UNet,
  { x0, noise, sigma }: Arrays,
  leaf: (data: Float32Array<ArrayBuffer>, shape: number[], name: string) => Tensor,
): { readonly x0: Tensor; readonly noise: Tensor; readonly sigma: Tensor } {
  const batch = sigma!.length;
  const images = [batch, imageChannels, resolution, resolution];
  return {
    x0: leaf(x0!, images, "x0"),
    noise: leaf(noise!, images, "noise"),
    sigma: leaf(sigma!, [batch], "sigma"),
  };
}

/** Steps whose metrics the programs hold. */
const STEPS_PER_READ = 60;

/** The engine's training step: one submit of the gradient's program and the optimiser's, as a run makes it. */
export async function ourStep(gpu: Gpu, step: StepProblem, inputs: Arrays): Promise<Counted> {
  const { network, weights, settings, learningRate } = step;
  const workspace = new Workspace(gpu);
  const trainable = new Trainable(workspace, "network", network);
  trainable.start(weights);
  const batch = batchLeaves(network, inputs, (data, shape, name) => {
    const variable = workspace.variable(name, shape);
    variable.write(data);
    return variable.tensor;
  });
  const loss = denoisingLoss(network, trainable.values.lookup, batch);
  const updates = gradientUpdates(trainable, [loss]);
  const gradient = await workspace.compile({ label: "gradient", updates, metrics: { loss } });
  const optimizer = await Optimizer.create(trainable, settings);
  const runs = [gradient.at(), optimizer.at(0, learningRate)];
  const sum = (count: "flops" | "bytes") => runs.reduce((total, { program }) => total + program.cost[count], 0);
  const readMetrics = () => Promise.all([gradient.readMetrics(), optimizer.readGradNorms()]);
  return {
    flops: sum("flops"),
    bytes: sum("bytes"),
    async run(times) {
      for (let left = times; left > 0; left -= STEPS_PER_READ) {
        for (let i = 0; i < Math.min(left, STEPS_PER_READ); i++) workspace.submit(runs);
        await readMetrics();
      }
    },
    async results() {
      workspace.submit(runs);
      const [[metrics], [gradNorm]] = await readMetrics();
      const [p, ema] = await Promise.all([trainable.values, trainable.ema].map((part) => allOf(part)));
      return {
        loss: metrics!.loss as Float32Array<ArrayBuffer>,
        gradNorm: Float32Array.of(gradNorm!),
        p: p!,
        ema: ema!,
      };
    },
    free: () => workspace.destroy(),
  };
}

/** Every parameter in the network's order, without padding. */
async function allOf(weights: Weights): Promise<Float32Array<ArrayBuffer>> {
  return joined([...(await weights.read()).values()]);
}

/** Vectors one after another. */
export function joined(parts: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const result = new Float32Array(parts.reduce((total, { length }) => total + length, 0));
  let end = 0;
  for (const part of parts) {
    result.set(part, end);
    end += part.length;
  }
  return result;
}

/** Tests of generators of several steps, of guidance, and of the critics' losses. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { normalArray, type Seed } from "../src/data/philox.ts";
import { denoise, generatorLevels, karrasLevels, sameSigma } from "../src/diffusion/edm.ts";
import { createSampler, latentValues } from "../src/diffusion/sampler.ts";
import { imageValues, randomValues, stepLeaves } from "../src/diffusion/teacher.ts";
import { FAKE_WEIGHTINGS } from "../src/distill/settings.ts";
import { compileCriticStep } from "../src/distill/critics.ts";
import { generatorGradient } from "../src/distill/generator.ts";
import { generated, inputsOf } from "../src/distill/samples.ts";
import { constant, gradients, mul, sum, Workspace } from "../src/graph/mod.ts";
import { createNetwork, type NetworkConfig } from "../src/nn/networks.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { initialWeights, Trainable, type WeightArrays, Weights } from "../src/optim/weights.ts";
import { SETTINGS } from "./distillation.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

const NETWORK: NetworkConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };
const CLASSES = songUNetConfig({
  ...{ resolution: 8, inChannels: 1, modelChannels: 8, channelMult: [1, 2], numBlocks: 1, attnResolutions: [4] },
  ...{ labelDim: 3, labelDropout: 0.1 },
});
const SEED: Seed = [7, 8];

/** Weights that are random everywhere. */
function randomWeights(network: NetworkConfig, key: number): WeightArrays {
  const initial = initialWeights(createNetwork({ network }).parameters, [key, 0]);
  return new Map(
    [...initial].map(([name, values]) => [name, values.map((value, i) => value + 0.1 * Math.sin(1 + i * (key + 1)))]),
  );
}

/** The denoised images of `x` [N, 1, 8, 8] in double precision. */
function denoised(weights: WeightArrays, x: ArrayLike<number>, sigma: number): Float64Array {
  const network = createNetwork({ network: NETWORK });
  const shapes = new Map(network.parameters.map(({ name, shape }) => [name, shape]));
  const lookup = (name: string) => constant(weights.get(name)!, shapes.get(name)!);
  const batch = x.length / 64;
  return interpret({ d: denoise(network, lookup, constant(x, [batch, 1, 8, 8]), sameSigma(sigma, batch)) }).d;
}

Deno.test("generatorLevels: Karras's spacing without its end", () => {
  generatorLevels(80, 17).forEach((level, i) => assertAlmostEquals(level, karrasLevels(18)[i]!, 1e-9));
  assertEquals(generatorLevels(2.5, 1), [2.5]);
  const [first, second] = generatorLevels(2.5, 2);
  assertEquals(first, 2.5);
  assertAlmostEquals(second!, ((2.5 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 1e-12);
});

gpuTest("training differentiates a generator of three steps through all of them", async (gpu) => {
  const workspace = new Workspace(gpu), networks = networksOf(workspace, NETWORK), batch = 3;
  const settings = { sigmaInit: 2.5, laterSigmas: [0.8, 0.3] }, leaves = stepLeaves();
  const drawn = inputsOf(networks, settings, batch, leaves, "generator");
  const x = generated(networks, drawn, settings);
  const direction = randomArray(batch * 64, 4);
  const loss = sum(mul(x, constant(direction, x.shape)));
  const { parameters } = networks.generator.network, { lookup } = networks.generator.values;
  const grads = gradients([loss], parameters.map(({ name }) => lookup(name)));
  const program = await workspace.compile({
    label: "test",
    outputs: { x, ...Object.fromEntries(grads.map((grad, i) => [i, grad])) },
  });
  workspace.submit([program.at(randomValues(SEED, 2))]);
  const { x: images, ...got } = await program.read() as Record<string, Float32Array>;

  const z = normalArray(SEED, 2, 0, batch, 64, 0x20);
  const noises = [0x50, 0x51].map((stream) => normalArray(SEED, 2, 0, batch, 64, stream));
  const arrays = randomWeights(NETWORK, 1);
  const allSteps = (weights: WeightArrays) =>
    noises.reduce((x, noise, step) => {
      const sigma = settings.laterSigmas[step]!;
      return denoised(weights, x.map((value, i) => value + sigma * noise[i]!), sigma);
    }, denoised(weights, z.map((value) => 2.5 * value), 2.5));
  assert(relativeError(images!, allSteps(arrays)) < 1e-5);
  // All weights move at once, by what is left of 5e-5 of a random direction in f32.
  const moved = (h: number) =>
    new Map([...arrays].map(([name, values], i) => {
      const direction = randomArray(values.length, 20 + i);
      return [name, values.map((value, j) => value + h * direction[j]!)];
    }));
  const [up, down] = [moved(5e-5), moved(-5e-5)];
  const value = (weights: WeightArrays) => allSteps(weights).reduce((all, pixel, i) => all + pixel * direction[i]!, 0);
  const slope = parameters.reduce(
    (total, { name }, i) =>
      total + got[i]!.reduce((part, g, j) => part + g * (up.get(name)![j]! - down.get(name)![j]!), 0),
    0,
  );
  const expected = value(up) - value(down);
  assert(Math.abs(slope / expected - 1) < 3e-4, `${slope} and ${expected}`);
  workspace.destroy();
});

gpuTest("a generator of three steps is sampled by all of them", async (gpu) => {
  const workspace = new Workspace(gpu), arrays = randomWeights(NETWORK, 2);
  const weights = new Weights(workspace, "generator", createNetwork({ network: NETWORK }));
  weights.write(arrays);
  const sampler = await createSampler(weights, {
    ...{ kind: "generator", network: NETWORK, mean: 0, std: 0.5, provenance: {} },
    ...{ sigmaInit: 2.5, laterSigmas: [0.8, 0.3] },
  }, { batch: 2 });
  assertEquals(sampler.evaluations, 3);
  const { seed } = latentValues(9, 0);
  const z = normalArray(seed, 0, 0, 2, 64, 0x200);
  const [noise1, noise2] = [0x211, 0x212].map((stream) => normalArray(seed, 0, 0, 2, 64, stream));
  const x0 = denoised(arrays, z.map((value) => 2.5 * value), 2.5);
  const x1 = denoised(arrays, x0.map((value, i) => value + 0.8 * noise1![i]!), 0.8);
  const x = denoised(arrays, x1.map((value, i) => value + 0.3 * noise2![i]!), 0.3);
  // Bytes are 255 v with 2 v − 1 in units of the data: here the unit is 1.
  const bytes = [...x].map((value) => Math.min(255, Math.max(0, 255 * (value + 1) / 2)));
  const got = await sampler.sample(9, 0, 2);
  bytes.forEach((value, i) => assert(Math.abs(value - got[i]!) < 0.51, `${i}: ${value} and ${got[i]}`));
  workspace.destroy();
});

function networksOf(workspace: Workspace, network: NetworkConfig) {
  const made = () => createNetwork({ network });
  const networks = {
    generator: new Trainable(workspace, "generator", made()),
    fakeScore: new Trainable(workspace, "fakeScore", made()),
    teacher: new Weights(workspace, "teacher", made()),
  };
  networks.generator.start(randomWeights(network, 1));
  networks.fakeScore.start(randomWeights(network, 2));
  networks.teacher.write(randomWeights(network, 3));
  return networks;
}

/** The divergence kl of a classifier that tells no ratio: no classifier is needed. */
const KL = {
  ...SETTINGS,
  bregman: { ...SETTINGS.bregman, h: { kind: "kl", lambda: 0 } as const },
  classifier: { ...SETTINGS.classifier, loss: "hinge" as const },
};

gpuTest("guidance: the teacher's images move from those without a class through those with it", async (gpu) => {
  const workspace = new Workspace(gpu), networks = networksOf(workspace, CLASSES), batch = 3;
  const image = (seed: number) => constant(randomArray(batch * 64, seed), [batch, 1, 8, 8]);
  const labels = constant([1, 0, 0, 0, 0, 1, 0, 1, 0], [batch, 3]);
  const inputs = {
    ...{ x: image(1), noise: image(2), sigma: constant([0.3, 1, 2], [batch]), blend: constant([1], []) },
    conditions: { labels },
  };
  const g = (guidance: number) =>
    generatorGradient(networks, inputs, { ...KL, weighting: "sigma2", guidance }).terms[0]!.cotangent;
  const xt = workspace.variable("xt", [batch, 1, 8, 8]);
  const { network, lookup } = networks.teacher;
  const teacher = (conditions: object) =>
    denoise(network as ReturnType<typeof createNetwork>, lookup, xt.tensor, inputs.sigma, conditions);
  const program = await workspace.compile({
    label: "test",
    outputs: { plain: g(1), guided: g(2.5), free: teacher({}), told: teacher({ labels }) },
  });
  const [x, noise] = [randomArray(batch * 64, 1), randomArray(batch * 64, 2)];
  xt.write(x.map((value, i) => value + [0.3, 1, 2][Math.floor(i / 64)]! * noise[i]!));
  workspace.submit([program.at()]);
  const { plain, guided, free, told } = await program.read() as Record<string, Float32Array>;
  const moved = guided!.map((value, i) => value - plain![i]!);
  const expected = told!.map((value, i) => -(2.5 - 1) * (value - free![i]!) / batch);
  const error = relativeError(moved, expected);
  assert(error < 1e-4, `relative error ${error}`);
  workspace.destroy();
});

gpuTest("the fake score's loss under every weighting", async (gpu) => {
  const losses = new Map<string, number>();
  for (const weighting of FAKE_WEIGHTINGS) {
    const workspace = new Workspace(gpu);
    const data = workspace.variable("images", [4, 1, 8, 8], "u8");
    const settings = { ...KL, batch: 1, fakeScore: { ...KL.fakeScore, weighting } };
    const step = await compileCriticStep(networksOf(workspace, NETWORK), { data, scale: 1, shift: 0 }, settings);
    workspace.submit([step.atOwn(imageValues(SEED, 3, 1))]);
    losses.set(weighting, (await step.readMetrics())[0]!.fakeLoss![0]!);
    workspace.destroy();
  }
  const { mean, std } = KL.fakeScore.sigma;
  const sigma = Math.exp(mean + std * normalArray(SEED, 3, 0, 1, 1, 0x11)[0]!);
  const none = losses.get("none")!;
  assertAlmostEquals(losses.get("noise")! / none, 1 / sigma ** 2, 1e-5 / sigma ** 2);
  assertAlmostEquals(losses.get("edm")! / none, (sigma ** 2 + 0.25) / (0.5 * sigma) ** 2, 1e-4);
});

gpuTest("the classifier's penalty grows with its weight, and with the square of the noise", async (gpu) => {
  const loss = async (r1Weight: number, r1Sigma: number) => {
    const workspace = new Workspace(gpu);
    const data = workspace.variable("images", [16, 1, 8, 8], "u8");
    const classifier = { ...SETTINGS.classifier, kind: "fake-mean" as const, r1Weight, r1Sigma };
    const settings = { ...SETTINGS, batch: 16, classifier };
    const step = await compileCriticStep(networksOf(workspace, NETWORK), { data, scale: 1, shift: 0 }, settings);
    workspace.submit([step.atOwn(imageValues(SEED, 3, 16))]);
    const value = (await step.readMetrics())[0]!.classifierLoss![0]!;
    workspace.destroy();
    return value;
  };
  const plain = await loss(0, 0.01), weight = 1e8;
  const [once, twice, wider] = [await loss(weight, 0.01), await loss(2 * weight, 0.01), await loss(weight, 0.02)]
    .map((value) => value - plain) as [number, number, number];
  assert(once > 1, `a penalty of ${once}`);
  assertAlmostEquals(twice / once, 2, 1e-3);
  assertAlmostEquals(wider / once, 4, 0.4);
});

/** SongUNet and its preconditionings against PyTorch, and what its training does at random. */

import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { addNoise, denoise, denoisingLoss } from "../src/diffusion/edm.ts";
import { GraphError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { constant, evaluate, type Shape, slice, type Tensor, Workspace } from "../src/graph/mod.ts";
import { ParameterList, type ParameterSpec } from "../src/nn/layers.ts";
import type { Conditions, Network } from "../src/nn/network.ts";
import {
  EDM_PRECONDITIONING,
  type Preconditioning,
  VE_PRECONDITIONING,
  VP_PRECONDITIONING,
} from "../src/nn/preconditioning.ts";
import {
  type BlockOptions,
  SongUNet,
  SongUNetBlock,
  type SongUNetConfig,
  songUNetConfig,
} from "../src/nn/song_unet.ts";
import { classifierConfig } from "../src/nn/networks.ts";
import type { UNetConfig } from "../src/nn/unet.ts";
import { gradientUpdates } from "../src/optim/adam.ts";
import { initialWeights, Trainable, Weights } from "../src/optim/weights.ts";
import { readFixture } from "./fixtures.ts";
import { gpuTest, relativeError } from "./gpu.ts";
import { compareSketch, hashed, hashedWeights } from "./hashed.ts";

const SMALL = { resolution: 8, inChannels: 3, modelChannels: 16 };

interface Case {
  readonly preconditioning: Preconditioning;
  readonly config: SongUNetConfig;
  /** Relative error of gradients: where the embedding's angles are large, float32 knows them less well. */
  readonly tolerance: number;
}

/** As in make_song.py. */
const NETWORKS: Readonly<Record<string, Case>> = {
  ddpmpp: {
    preconditioning: EDM_PRECONDITIONING,
    tolerance: 1e-5,
    config: songUNetConfig({
      ...SMALL,
      channelMult: [1, 2],
      numBlocks: 1,
      attnResolutions: [4],
      labelDim: 3,
      augmentDim: 9,
    }),
  },
  ncsnpp: {
    preconditioning: VE_PRECONDITIONING,
    tolerance: 5e-5,
    config: songUNetConfig({
      ...SMALL,
      channelMult: [1, 1, 2],
      numBlocks: 1,
      attnResolutions: [4],
      embeddingType: "fourier",
      channelMultNoise: 2,
      encoderType: "residual",
      resampleFilter: [1, 3, 3, 1],
    }),
  },
  skip: {
    preconditioning: VP_PRECONDITIONING,
    tolerance: 2e-4,
    config: songUNetConfig({
      ...SMALL,
      channelMult: [2, 1, 1],
      numBlocks: 1,
      attnResolutions: [],
      encoderType: "skip",
      decoderType: "skip",
      resampleFilter: [1, 3, 3, 1],
    }),
  },
};

/** Inputs of a network by the rule. */
function given(name: string, shape: Shape): Tensor {
  return constant(hashed(name, shape.reduce((a, b) => a * b, 1)), shape);
}

const trainedNames = (parameters: readonly ParameterSpec[]) =>
  parameters.filter(({ trained }) => trained !== false).map(({ name }) => name);

for (const [name, { preconditioning, config, tolerance }] of Object.entries(NETWORKS)) {
  gpuTest(`SongUNet: ${name}, denoised image, loss and gradients against PyTorch`, async (gpu) => {
    const fixture = await readFixture("song");
    const workspace = new Workspace(gpu);
    const network = new SongUNet(config, { preconditioning });
    const net = new Trainable(workspace, "song", network);
    net.start(hashedWeights(network.parameters));
    const [x0, noise] = [given(`${name}.x0`, [3, 3, 8, 8]), given(`${name}.n`, [3, 3, 8, 8])];
    const sigma = constant(fixture.get(`${name}.sigma`), [3]);
    const conditions: Conditions = config.labelDim > 0
      ? { labels: given(`${name}.labels`, [3, 3]), augment: given(`${name}.augment`, [3, 9]) }
      : {};
    const denoised = denoise(network, net.values.lookup, addNoise(x0, noise, sigma), sigma, conditions);
    const loss = denoisingLoss(network, net.values.lookup, { x0, noise, sigma }, conditions);
    const program = await workspace.compile({
      label: "test",
      outputs: { denoised, loss },
      updates: gradientUpdates(net, [loss]),
    });
    workspace.submit([program.at()]);
    const out = await program.read();
    const expected = fixture.get(`${name}.denoised`);
    for (let i = 0; i < 3; i++) {
      const error = relativeError(out.denoised!.slice(192 * i, 192 * (i + 1)), expected.slice(192 * i, 192 * (i + 1)));
      assert(error < 1e-5, `sample ${i} is off by ${error}`);
    }
    const lossError = relativeError(out.loss!, fixture.get(`${name}.loss`));
    assert(lossError < 1e-5, `the loss is off by ${lossError}`);
    const names = trainedNames(network.parameters);
    const { worst, whole, norm } = compareSketch(await net.grad.read(), names, fixture.get(`${name}.sketch`));
    assert(whole < tolerance && worst < 10 * tolerance && norm < 10 * tolerance, `gradients: ${[whole, worst, norm]}`);
    workspace.destroy();
  });
}

/** As in make_song.py. */
const BLOCKS: Readonly<Record<string, readonly [inChannels: number, BlockOptions]>> = {
  adaptive: [8, {
    attention: true,
    heads: 2,
    adaptiveScale: true,
    resample: "down",
    resampleFilter: [1, 3, 3, 1],
  }],
  up: [16, { attention: true, heads: 4, resample: "up" }],
  same: [16, { adaptiveScale: true }],
};

for (const [name, [inChannels, options]] of Object.entries(BLOCKS)) {
  gpuTest(`SongUNetBlock: ${name}, result and gradients against PyTorch`, async (gpu) => {
    const fixture = await readFixture("song");
    const workspace = new Workspace(gpu);
    const list = new ParameterList();
    const block = new SongUNetBlock(list, "", inChannels, 16, 12, options);
    const network: Network = { parameters: list.specs.map((spec) => ({ ...spec, name: spec.name.slice(1) })) };
    const net = new Trainable(workspace, "block", network);
    net.start(hashedWeights(network.parameters));
    const x = given(`${name}.x`, [2, inChannels, 6, 4]), embedding = given(`${name}.emb`, [2, 12]);
    const y = block.apply((parameter) => net.values.lookup(parameter.slice(1)), x, embedding);
    const program = await workspace.compile({
      label: "test",
      outputs: { y },
      updates: gradientUpdates(net, [y], [given(`${name}.weights`, y.shape)]),
    });
    workspace.submit([program.at()]);
    const out = await program.read();
    assertEquals(y.shape, fixture.shape(`block.${name}.y`));
    const error = relativeError(out.y!, fixture.get(`block.${name}.y`));
    const names = trainedNames(network.parameters);
    const { worst, whole, norm } = compareSketch(await net.grad.read(), names, fixture.get(`block.${name}.sketch`));
    assert(error < 1e-5, `the result is off by ${error}`);
    assert(whole < 1e-5 && worst < 1e-4 && norm < 1e-4, `gradients: ${[whole, worst, norm]}`);
    workspace.destroy();
  });
}

const CONDITIONAL = NETWORKS.ddpmpp!.config;

/** Random numbers of step 7, the batch's first sample being `first`; of use i, stream 0x1000 + i. */
function randomFrom(first: number): Conditions["random"] {
  const word = (value: number) => constant([value], [], "u32");
  const seed = constant([1, 2], [2], "u32");
  return (use) => ({ seed, step: word(7), first: word(first), stream: 0x1000 + use });
}

/** Results of `network` for four noisy images under each of the conditions. */
async function resultsOf<K extends string>(
  gpu: Gpu,
  network: SongUNet,
  conditions: Readonly<Record<K, Conditions>>,
): Promise<Record<K, Float32Array>> {
  const workspace = new Workspace(gpu);
  const weights = new Weights(workspace, "song", network);
  weights.write(hashedWeights(network.parameters));
  const x = given("x", [4, 3, 8, 8]), noise = given("noise", [4]);
  const results = Object.fromEntries(
    Object.entries<Conditions>(conditions).map((
      [name, given],
    ) => [name, network.apply(weights.lookup, x, noise, given)]),
  );
  const values = await evaluate(workspace, results) as Record<K, Float32Array>;
  workspace.destroy();
  return values;
}

gpuTest("SongUNet: without a label as with one of zeros, and not so with others", async (gpu) => {
  const network = new SongUNet(CONDITIONAL);
  const zeros = constant(new Float32Array(12), [4, 3]), labels = constant([1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0], [4, 3]);
  const augment = given("augment", [4, 9]), unaugmented = constant(new Float32Array(36), [4, 9]);
  const { none, unlabelled, labelled, augmented } = await resultsOf(gpu, network, {
    none: {},
    unlabelled: { labels: zeros, augment: unaugmented },
    labelled: { labels },
    augmented: { augment },
  });
  assert(relativeError(unlabelled, none) < 1e-6);
  assert(relativeError(labelled, none) > 0.01 && relativeError(augmented, none) > 0.01);
});

gpuTest("SongUNet: labels drop in training, as often as asked for", async (gpu) => {
  const labels = given("labels", [4, 3]);
  const dropping = (labelDropout: number) => new SongUNet({ ...CONDITIONAL, dropout: 0, labelDropout });
  const random = randomFrom(0);
  const { none, labelled, always } = await resultsOf(gpu, dropping(0.999), {
    none: {},
    labelled: { labels },
    always: { labels, random },
  });
  const { never } = await resultsOf(gpu, dropping(0), { never: { labels, random } });
  assertEquals(always, none);
  assertEquals(never, labelled);
  const { some } = await resultsOf(gpu, dropping(0.5), { some: { labels, random } });
  const sample = (values: Float32Array, i: number) => values.slice(192 * i, 192 * (i + 1));
  const dropped = [0, 1, 2, 3].map((i) => relativeError(sample(some, i), sample(none, i)) < 1e-6);
  const kept = [0, 1, 2, 3].map((i) => relativeError(sample(some, i), sample(labelled, i)) < 1e-6);
  assertEquals(kept, dropped.map((drop) => !drop));
  assertEquals(new Set(dropped), new Set([true, false]));
});

/** The gradient of the mean loss of four images, or of the two from `first` on. */
async function trainingGradient(
  gpu: Gpu,
  { first = 0, count = 4, training = true, checkpointBlocks = false },
): Promise<Float32Array[]> {
  const workspace = new Workspace(gpu);
  const network = new SongUNet({ ...CONDITIONAL, dropout: 0.4, labelDropout: 0.5 }, { checkpointBlocks });
  const net = new Trainable(workspace, "song", network);
  net.start(hashedWeights(network.parameters));
  const part = (name: string, shape: Shape) => slice(given(name, [4, ...shape]), 0, first, first + count);
  const tensors = {
    x0: part("x0", [3, 8, 8]),
    noise: part("n", [3, 8, 8]),
    sigma: slice(constant([0.1, 0.5, 1, 4], [4]), 0, first, first + count),
  };
  const conditions: Conditions = {
    labels: part("labels", [3]),
    ...training && { random: randomFrom(first) },
  };
  const loss = denoisingLoss(network, net.values.lookup, tensors, conditions);
  const program = await workspace.compile({ label: "test", updates: gradientUpdates(net, [loss]) });
  workspace.submit([program.at()]);
  const gradients = [...(await net.grad.read()).values()];
  workspace.destroy();
  return gradients;
}

gpuTest("SongUNet: dropout is the same to the bit with checkpointed blocks, and in parts of a batch", async (gpu) => {
  const whole = await trainingGradient(gpu, {});
  assert(whole.every((values) => values.every(Number.isFinite)));
  assertEquals(await trainingGradient(gpu, { checkpointBlocks: true }), whole);
  const [low, high] = [await trainingGradient(gpu, { count: 2 }), await trainingGradient(gpu, { first: 2, count: 2 })];
  const mean = low.map((values, i) => values.map((value, j) => (value + high[i]![j]!) / 2));
  const error = relativeError(mean.flatMap((values) => [...values]), whole.flatMap((values) => [...values]));
  assert(error < 1e-5, `two halves of a batch are off by ${error}`);
  const evaluated = await trainingGradient(gpu, { training: false });
  assertNotEquals(evaluated[0], whole[0]);
});

gpuTest("SongUNet: every random use has a stream of its own", (gpu) => {
  const workspace = new Workspace(gpu);
  const network = new SongUNet({ ...CONDITIONAL, labelDropout: 0.5 });
  const { lookup } = new Weights(workspace, "song", network);
  const uses: number[] = [], random = randomFrom(0)!;
  const conditions: Conditions = {
    random: (use) => {
      uses.push(use);
      return random(use);
    },
  };
  network.apply(lookup, given("x", [4, 3, 8, 8]), given("noise", [4]), conditions);
  workspace.destroy();
  // The labels, three blocks of the encoder and seven of the decoder.
  assertEquals(uses, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  return Promise.resolve();
});

gpuTest("SongUNet: neither the Fourier frequencies nor what a loss does not depend on are trained", (gpu) => {
  const network = new SongUNet(NETWORKS.ncsnpp!.config), workspace = new Workspace(gpu);
  const names = network.parameters.map(({ name }) => name);
  assert(names.includes("model.map_noise.freqs"));
  assertEquals(trainedNames(network.parameters), names.filter((name) => name !== "model.map_noise.freqs"));
  const net = new Trainable(workspace, "song", new SongUNet(CONDITIONAL));
  const tensors = { x0: given("x0", [1, 3, 8, 8]), noise: given("n", [1, 3, 8, 8]), sigma: constant([1], [1]) };
  const loss = denoisingLoss(net.network as SongUNet, net.values.lookup, tensors);
  const written = gradientUpdates(net, [loss]).map(([variable]) => variable);
  const without = net.network.parameters.filter(({ name }) => !written.includes(net.grad.flat.slices.get(name)!));
  workspace.destroy();
  assertEquals(without.map(({ name }) => name), ["model.map_augment.weight"]);
  return Promise.resolve();
});

gpuTest("SongUNet: conditions that the network has none of, or of another shape, are refused", (gpu) => {
  const workspace = new Workspace(gpu);
  const apply = (config: SongUNetConfig, conditions: Conditions) => () => {
    const network = new SongUNet(config);
    const { lookup } = new Weights(workspace, "song", network);
    network.apply(lookup, given("x", [4, 3, 8, 8]), given("noise", [4]), conditions);
  };
  const { config } = NETWORKS.skip!;
  assertThrows(
    apply(config, { labels: given("l", [4, 3]) }),
    GraphError,
    "expects labels of the shape none; got [4, 3]",
  );
  assertThrows(apply(config, { augment: given("a", [4, 9]) }), GraphError, "expects augment of the shape none");
  assertThrows(
    apply(CONDITIONAL, { labels: given("l", [4, 2]) }),
    GraphError,
    "expects labels of the shape [4, 3]; got [4, 2]",
  );
  workspace.destroy();
  return Promise.resolve();
});

Deno.test("networks: the classifier beside a SongUNet has its resolution, channels, multipliers and classes", () => {
  const unet: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };
  assertEquals(classifierConfig(unet), unet);
  assertEquals(classifierConfig(NETWORKS.ncsnpp!.config), {
    ...{ imageChannels: 3, resolution: 8, modelChannels: 16, channelMult: [1, 1, 2], blocks: 1, labelDim: 0 },
  });
  assertEquals(classifierConfig(NETWORKS.ddpmpp!.config).labelDim, 3);
});

Deno.test("SongUNet: EDM's initial weights", () => {
  const { parameters } = new SongUNet(songUNetConfig({
    ...{
      resolution: 16,
      inChannels: 3,
      modelChannels: 64,
      channelMult: [1],
      numBlocks: 1,
      labelDim: 10,
      augmentDim: 9,
    },
    ...{ embeddingType: "fourier", channelMultNoise: 2 },
  }));
  const weights = initialWeights(parameters, [5, 6]);
  const xavier = (fanIn: number, fanOut: number, scale = 1) => scale * Math.sqrt(6 / (fanIn + fanOut));
  const bounds: Record<string, number> = {
    "map_label.weight": xavier(10, 128),
    "map_augment.weight": xavier(9, 128),
    "map_layer0.weight": xavier(128, 256),
    "map_layer1.weight": xavier(256, 256),
    "enc.16x16_conv.weight": xavier(27, 576),
    "enc.16x16_block0.conv0.weight": xavier(576, 576),
    "enc.16x16_block0.affine.weight": xavier(256, 64),
    "enc.16x16_block0.conv1.weight": xavier(576, 576, 1e-5),
    "enc.16x16_block0.qkv.weight": xavier(64, 192, Math.sqrt(0.2)),
    "enc.16x16_block0.proj.weight": xavier(64, 64, 1e-5),
    "dec.16x16_block0.skip.weight": xavier(128, 64),
    "dec.16x16_aux_conv.weight": xavier(576, 27, 1e-5),
  };
  for (const [name, bound] of Object.entries(bounds)) {
    const values = weights.get(`model.${name}`)!;
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    assert(largest <= bound && largest > 0.98 * bound, `${name}: ${largest} of ${bound}`);
  }
  const frequencies = weights.get("model.map_noise.freqs")!;
  const square = frequencies.reduce((sum, value) => sum + value ** 2, 0) / frequencies.length;
  assert(
    frequencies.length === 64 && Math.abs(Math.sqrt(square) / 16 - 1) < 0.3,
    `frequencies of ${Math.sqrt(square)}`,
  );
  for (const { name, shape } of parameters) {
    if (shape.length > 1 || name.endsWith("freqs")) continue;
    const start = name.endsWith("weight") ? 1 : 0;
    assert(weights.get(name)!.every((value) => value === start), name);
  }
});

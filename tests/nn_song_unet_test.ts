/** SongUNet and its preconditionings against PyTorch, and what its training does at random. */

import { assert, assertEquals } from "@std/assert";
import { addNoise, denoise, denoisingLoss } from "../src/diffusion/edm.ts";
import { constant, type Shape, type Tensor, Workspace } from "../src/graph/mod.ts";
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
import { gradientUpdates } from "../src/optim/adam.ts";
import { Trainable } from "../src/optim/weights.ts";
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
      channelMult: [2, 1],
      numBlocks: 2,
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

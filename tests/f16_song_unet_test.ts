/** SongUNet with its activations in f16. */

import { assert } from "@std/assert";
import { denoise, denoisingLoss } from "../src/diffusion/edm.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { constant, Workspace } from "../src/graph/mod.ts";
import type { Precision } from "../src/nn/network.ts";
import { createNetwork } from "../src/nn/networks.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { gradientUpdates } from "../src/optim/adam.ts";
import { f16LossScale, Trainable } from "../src/optim/weights.ts";
import { f16Test } from "./f16.ts";
import { relativeError } from "./gpu.ts";
import { hashed, hashedWeights } from "./hashed.ts";

/** Everything that stores activations of its own: filters, dropout, attention, sums of branches. */
const SONG = songUNetConfig({
  ...{ resolution: 8, inChannels: 3, modelChannels: 16, channelMult: [1, 2], numBlocks: 1, attnResolutions: [4] },
  ...{ embeddingType: "fourier", encoderType: "residual", decoderType: "skip", resampleFilter: [1, 3, 3, 1] },
});

async function outcome(gpu: Gpu, precision: Precision) {
  const workspace = new Workspace(gpu);
  const network = createNetwork({ network: SONG }, { precision });
  const net = new Trainable(workspace, "song", network, 1, precision === "f16" ? f16LossScale(2) : 1);
  net.start(hashedWeights(network.parameters));
  const image = (name: string) => constant(hashed(name, 2 * 3 * 64), [2, 3, 8, 8]);
  const sigma = constant([0.3, 2], [2]), first = constant([0], [], "u32");
  const seed = constant([1, 2], [2], "u32");
  const loss = denoisingLoss(network, net.values.lookup, { x0: image("x"), noise: image("n"), sigma }, {
    random: (use) => ({ seed, step: first, first, stream: use }),
  });
  const images = denoise(network, net.values.lookup, image("x"), sigma);
  const program = await workspace.compile({
    label: "test",
    outputs: { images, loss },
    updates: gradientUpdates(net, [loss]),
  });
  workspace.submit([program.at()]);
  const outputs = await program.read();
  const gradient = [...(await net.grad.read()).values()].flatMap((values) => [...values].map((v) => v / net.lossScale));
  workspace.destroy();
  return { images: outputs.images!, loss: outputs.loss!, gradient };
}

f16Test("f16: SongUNet's images, loss and gradients are those of f32 within a hundredth", async (gpu) => {
  const [half, whole] = [await outcome(gpu, "f16"), await outcome(gpu, "f32")];
  for (const name of ["images", "loss", "gradient"] as const) {
    const error = relativeError(half[name], whole[name]);
    assert(error > 0 && error < 1e-2, `${name}: relative error ${error}`);
  }
});

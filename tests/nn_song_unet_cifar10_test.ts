/** The network of EDM's published CIFAR-10 teachers at its real size. Not by the name of `gpuTest`: too slow for SwiftShader. */

import { assert, assertEquals } from "@std/assert";
import { denoise } from "../src/diffusion/edm.ts";
import { constant, Workspace } from "../src/graph/mod.ts";
import { parameterCount } from "../src/nn/layers.ts";
import { SongUNet, songUNetConfig } from "../src/nn/song_unet.ts";
import { Weights } from "../src/optim/weights.ts";
import { readFixture } from "./fixtures.ts";
import { getGpu, relativeError } from "./gpu.ts";
import { hashed, hashedWeights } from "./hashed.ts";

const CIFAR10 = songUNetConfig({ resolution: 32, inChannels: 3, channelMult: [2, 2, 2], augmentDim: 9 });

Deno.test({
  name: "SongUNet: 55.7 million parameters, a denoised image against PyTorch",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const fixture = await readFixture("song");
    const network = new SongUNet(CIFAR10);
    const count = parameterCount(network.parameters);
    assertEquals([Math.floor(count / 1000), count % 1000], [...fixture.get("cifar10.parameters")]);
    const workspace = new Workspace(await getGpu());
    const weights = new Weights(workspace, "song", network);
    weights.write(hashedWeights(network.parameters));
    const x = constant(hashed("cifar10.x", 3 * 32 * 32), [1, 3, 32, 32]);
    const denoised = denoise(network, weights.lookup, x, constant([0.7], [1]));
    const program = await workspace.compile({ label: "test", outputs: { denoised } });
    workspace.submit([program.at()]);
    const out = (await program.read()).denoised!;
    const error = relativeError(out.filter((_, i) => i % 97 === 0), fixture.get("cifar10.denoised"));
    assert(error < 1e-5, `the image is off by ${error}`);
    workspace.destroy();
  },
});

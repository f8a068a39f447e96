/** The samplers: Heun's against PyTorch, noise levels, images that depend on seed and index alone. */

import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { karrasLevels } from "../src/diffusion/edm.ts";
import { compileHeun, createSampler, heunRuns, uploadWeights } from "../src/diffusion/sampler.ts";
import { Workspace } from "../src/graph/mod.ts";
import type { ModelInfo } from "../src/io/model.ts";
import { createNetwork } from "../src/nn/networks.ts";
import { VE_PRECONDITIONING, VP_PRECONDITIONING } from "../src/nn/preconditioning.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { UNet, type UNetConfig } from "../src/nn/unet.ts";
import { Weights } from "../src/optim/weights.ts";
import { readFixture } from "./fixtures.ts";
import { gpuTest, relativeError } from "./gpu.ts";
import { hashedWeights } from "./hashed.ts";

const NETWORK: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 16, channelMult: [1, 2], blocks: 1 };

async function fixtureWeights(workspace: Workspace): Promise<Weights> {
  const weights = new Weights(workspace, "unet", new UNet(NETWORK));
  weights.write((await readFixture("unet")).pick("param."));
  return weights;
}

Deno.test("Karras's levels: 80 down to 0.002, then 0, as in PyTorch", async () => {
  const levels = karrasLevels(18);
  assertAlmostEquals(levels[0]!, 80, 1e-12);
  assertAlmostEquals(levels[17]!, 0.002, 1e-12);
  assert(relativeError(levels, (await readFixture("heun")).get("sigmas")) < 1e-6);
  assertEquals(karrasLevels(1).length, 2);
});

Deno.test("Karras's levels stay inside a preconditioning's limits", () => {
  const [first, last] = [0, 17].map((i) => karrasLevels(18, VE_PRECONDITIONING)[i]!);
  assertAlmostEquals(first!, 80, 1e-12);
  assertAlmostEquals(last!, 0.02, 1e-12);
  assertEquals(karrasLevels(18, VP_PRECONDITIONING), karrasLevels(18));
});

gpuTest("Heun's sampler: 18 steps and 35 evaluations against PyTorch", async (gpu) => {
  const fixture = await readFixture("heun");
  const workspace = new Workspace(gpu);
  const weights = await fixtureWeights(workspace);
  const levels = karrasLevels(18);
  const state = workspace.variable("x", [2, 1, 8, 8]);
  state.write(fixture.get("z").map((z) => z * levels[0]!));
  const programs = await compileHeun(
    weights,
    state.tensor,
    (label, x) => workspace.compile({ label, updates: [[state, x]] }),
  );
  const runs = heunRuns(programs, levels);
  workspace.submit(runs);
  const error = relativeError(await state.read() as Float32Array, fixture.get("x0"));
  assert(error < 1e-5, `images: ${error}`);
  const evaluations = runs.reduce((total, { program }) => total + (program === programs.heun ? 2 : 1), 0);
  assertEquals(evaluations, fixture.get("evaluations")[0]);
  workspace.destroy();
});

gpuTest("samplers: an image depends on the seed and its index alone, whatever the batch", async (gpu) => {
  const workspace = new Workspace(gpu);
  const weights = await fixtureWeights(workspace);
  const common = { network: NETWORK, mean: -0.4, std: 0.75, provenance: {} };
  const infos: ModelInfo[] = [{ ...common, kind: "generator", sigmaInit: 2.5 }, { ...common, kind: "teacher" }];
  for (const info of infos) {
    const small = await createSampler(weights, info, { batch: 3, steps: 4 });
    const large = await createSampler(weights, info, { batch: 8, steps: 4 });
    assertEquals([small.evaluations, large.evaluations], info.kind === "generator" ? [1, 1] : [7, 7]);
    const images = await large.sample(5, 0, 8);
    assertEquals(images.length, 8 * 64);
    assertEquals(await small.sample(5, 0, 8), images);
    assertEquals(await small.sample(5, 2, 4), images.slice(2 * 64, 6 * 64));
    assert((await large.sample(6, 0, 8)).some((byte, i) => byte !== images[i]));
  }
  workspace.destroy();
});

gpuTest("samplers: a SongUNet is sampled in its own preconditioning", async (gpu) => {
  const network = songUNetConfig({
    ...{ resolution: 8, inChannels: 1, modelChannels: 16, channelMult: [1, 2], numBlocks: 1 },
    ...{ attnResolutions: [4], labelDim: 2 },
  });
  const common = { kind: "teacher", network, mean: 0, std: 0.5, provenance: {} } as const;
  const infos: ModelInfo[] = [common, { ...common, preconditioning: VP_PRECONDITIONING }];
  const workspace = new Workspace(gpu);
  const images = await Promise.all(infos.map(async (info) => {
    const weights = uploadWeights(workspace, info, hashedWeights(createNetwork(info).parameters));
    const sampler = await createSampler(weights, info, { batch: 2, steps: 2 });
    return await sampler.sample(1, 0, 2);
  }));
  workspace.destroy();
  assertEquals(images.map(({ length }) => length), [128, 128]);
  assert(images[0]!.some((byte, i) => byte !== images[1]![i]));
});

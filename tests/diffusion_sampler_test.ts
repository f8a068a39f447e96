/** The samplers: Heun's against PyTorch, noise levels, images that depend on seed and index alone. */

import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { normalArray } from "../src/data/philox.ts";
import { denoise, karrasLevels, sameSigma } from "../src/diffusion/edm.ts";
import { sigmaLimits } from "../src/diffusion/preconditioning.ts";
import { compileSolver, createSampler, DEFAULT_SOLVER, latentValues, uploadWeights } from "../src/diffusion/sampler.ts";
import { evaluationsOf, type SolverSettings, solverSteps } from "../src/diffusion/solvers.ts";
import { constant, evaluate, Workspace } from "../src/graph/mod.ts";
import { ImageSampler } from "../src/diffusion/image_sampler.ts";
import { NonFiniteError, UsageError } from "../src/gpu/errors.ts";
import { encodeModel, type ModelInfo } from "../src/io/model.ts";
import { createNetwork } from "../src/nn/networks.ts";
import { VE_PRECONDITIONING, VP_PRECONDITIONING } from "../src/nn/preconditioning.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { UNet, type UNetConfig } from "../src/nn/unet.ts";
import { Weights } from "../src/optim/weights.ts";
import { readFixture } from "./fixtures.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
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
  const [first, last] = [0, 17].map((i) => karrasLevels(18, sigmaLimits(VE_PRECONDITIONING))[i]!);
  assertAlmostEquals(first!, 80, 1e-12);
  assertAlmostEquals(last!, 0.02, 1e-12);
  assertEquals(karrasLevels(18, sigmaLimits(VP_PRECONDITIONING)), karrasLevels(18));
});

gpuTest("Heun's sampler: 18 steps and 35 evaluations against PyTorch", async (gpu) => {
  const fixture = await readFixture("heun");
  const workspace = new Workspace(gpu);
  const weights = await fixtureWeights(workspace);
  const steps = solverSteps({ solver: "heun", steps: 18 });
  const state = workspace.variable("x", [2, 1, 8, 8]);
  state.write(fixture.get("z").map((z) => z * steps[0]!.level));
  const runs = await compileSolver(weights, state, steps);
  workspace.submit(runs(latentValues(0, 0)));
  const error = relativeError(await state.read() as Float32Array, fixture.get("x0"));
  assert(error < 1e-5, `images: ${error}`);
  assertEquals(evaluationsOf(steps), fixture.get("evaluations")[0]);
  workspace.destroy();
});

const SETTINGS: readonly SolverSettings[] = [
  { solver: "heun", steps: 3, churn: { amount: 0.6, min: 0.01, max: 50, noise: 1.003 } },
  { solver: "euler", steps: 3, churn: { amount: 0.6 } },
  { solver: "ddim", steps: 4, eta: 0.7 },
  { solver: "dpm-solver++", steps: 5 },
];

for (const settings of SETTINGS) {
  gpuTest(`a solver's steps, one by one on the host: ${JSON.stringify(settings)}`, async (gpu) => {
    const workspace = new Workspace(gpu);
    const weights = await fixtureWeights(workspace);
    const steps = solverSteps(settings);
    const shape = [3, 1, 8, 8], seed = 5, first = 7;
    const z = randomArray(3 * 64, 1).map((v) => v * steps[0]!.level);
    const state = workspace.variable("x", shape);
    state.write(z);
    const runs = await compileSolver(weights, state, steps);
    workspace.submit(runs(latentValues(seed, first)));
    const got = await state.read() as Float32Array;

    const denoised = async (x: readonly number[], sigma: number) => {
      const d = denoise(
        weights.network as UNet,
        weights.lookup,
        constant(Float32Array.from(x), shape),
        sameSigma(constant([sigma], []), 3),
      );
      return Array.from((await evaluate(workspace, { d })).d as Float32Array);
    };
    const noise = (step: number, stream: number) =>
      normalArray(latentValues(seed, first).seed, step, first, 3, 64, stream);
    const sum = (...terms: (readonly [number, ArrayLike<number>])[]) =>
      Array.from(z, (_, i) => terms.reduce((total, [factor, values]) => total + factor * values[i]!, 0));
    let x = [...z], previous = z.map(() => 0) as ArrayLike<number>;
    for (const [i, step] of steps.entries()) {
      const { sigma } = step;
      const hat = sum([1, x], [step.before, noise(i + 1, 0x201)]);
      const d = await denoised(hat, sigma);
      if (step.kind === "heun") {
        const dt = step.next - sigma;
        const slope = sum([1 / sigma, hat], [-1 / sigma, d]);
        const euler = sum([1, hat], [dt, slope]);
        const after = await denoised(euler, step.next);
        x = sum([1, hat], [dt / 2, slope], [dt / 2 / step.next, euler], [-dt / 2 / step.next, after]);
      } else {
        const after = noise(i + 1, 0x202);
        x = sum([step.x, hat], [step.denoised, d], [step.previous, previous], [step.after, after]);
        previous = d;
      }
    }
    // Steps from sigma 80 down cancel all but a few digits.
    const error = relativeError(got, x);
    assert(error < 1e-4, `images: ${error}`);
    workspace.destroy();
  });
}

gpuTest("samplers: an image depends on the seed and its index alone, whatever the batch", async (gpu) => {
  const workspace = new Workspace(gpu);
  const weights = await fixtureWeights(workspace);
  const common = { network: NETWORK, mean: -0.4, std: 0.75, provenance: {} };
  const teacher: ModelInfo = { ...common, kind: "teacher" };
  const runs: [ModelInfo, SolverSettings, number][] = [
    [{ ...common, kind: "generator", sigmaInit: 2.5 }, DEFAULT_SOLVER, 1],
    [teacher, { solver: "heun", steps: 4 }, 7],
    [teacher, { solver: "ddim", steps: 3, eta: 1 }, 3],
  ];
  for (const [info, solver, evaluations] of runs) {
    const small = await createSampler(weights, info, { batch: 3, solver });
    const large = await createSampler(weights, info, { batch: 8, solver });
    assertEquals([small.evaluations, large.evaluations], [evaluations, evaluations]);
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
    const sampler = await createSampler(weights, info, { batch: 2, solver: { solver: "heun", steps: 2 } });
    return await sampler.sample(1, 0, 2);
  }));
  workspace.destroy();
  assertEquals(images.map(({ length }) => length), [128, 128]);
  assert(images[0]!.some((byte, i) => byte !== images[1]![i]));
});

gpuTest("samplers: classes are drawn by the model's shares, or are the one that is wanted", async (gpu) => {
  const network = { ...NETWORK, labelDim: 2 }, common = { network, mean: 0, std: 0.5, provenance: {} };
  const workspace = new Workspace(gpu);
  for (const kind of [{ kind: "teacher" }, { kind: "generator", sigmaInit: 2.5 }] as const) {
    const sample = async (label?: number, classShares?: number[]) => {
      const info: ModelInfo = { ...common, ...kind, ...classShares && { classShares } };
      const weights = uploadWeights(workspace, info, hashedWeights(createNetwork(info).parameters));
      const sampler = await createSampler(weights, info, { solver: { solver: "heun", steps: 2 } });
      return await sampler.sample(1, 0, 12, label);
    };
    const [zeros, ones, even] = [await sample(0), await sample(1), await sample()];
    assert(zeros.some((byte, i) => byte !== ones[i]));
    assertEquals(await sample(undefined, [0, 1]), ones);
    assertEquals(await sample(undefined, [1, 0]), zeros);
    assertEquals(await sample(0, [0, 1]), zeros);
    assert(even.some((byte, i) => byte !== ones[i]) && even.some((byte, i) => byte !== zeros[i]));
  }
  workspace.destroy();
});

gpuTest("samplers: a model whose weights are finite and whose images are not is an error", async (gpu) => {
  const common = { network: NETWORK, mean: 0, std: 0.5, provenance: {} };
  const workspace = new Workspace(gpu);
  for (const kind of [{ kind: "teacher" }, { kind: "generator", sigmaInit: 2.5 }] as const) {
    const info: ModelInfo = { ...common, ...kind };
    const arrays = new Map(
      [...hashedWeights(createNetwork(info).parameters)].map(([name, values]) => [name, values.map((v) => v * 1e35)]),
    );
    const sampler = await createSampler(uploadWeights(workspace, info, arrays), info, { batch: 2 });
    await assertRejects(
      () => sampler.sample(1, 0, 3),
      NonFiniteError,
      `The ${kind.kind} draws images with NaN or infinite pixels`,
    );
  }
  workspace.destroy();
});

gpuTest("ImageSampler: what is no number of images is refused", async (gpu) => {
  const info: ModelInfo = { network: NETWORK, mean: 0, std: 0.5, provenance: {}, kind: "generator", sigmaInit: 2.5 };
  const bytes = await encodeModel({ info, weights: hashedWeights(createNetwork(info).parameters) });
  const sampler = await ImageSampler.load(gpu, bytes);
  assertEquals((await sampler.sample({ n: 2, seed: 3, first: 1 })).count, 2);
  for (const options of [{ n: -1 }, { n: 2.5 }, { n: NaN }, { n: 1, seed: -1 }, { n: 1, first: 0.5 }]) {
    await assertRejects(() => sampler.sample(options), UsageError, "should be a whole number, at least 0");
  }
  sampler.destroy();
});

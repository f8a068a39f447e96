/** Memory: checkpoints keep every bit and less memory, plans are tight, what does not fit is refused with figures. */

import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { compileTeacherStep } from "../src/diffusion/teacher.ts";
import { compileCriticStep } from "../src/distill/critics.ts";
import { compileGeneratorStep } from "../src/distill/generator.ts";
import { GraphError, LimitError, OutOfMemoryError } from "../src/gpu/errors.ts";
import * as g from "../src/graph/mod.ts";
import { type Program, type Tensor, type Variable, Workspace } from "../src/graph/mod.ts";
import { Classifier, UNet, type UNetConfig } from "../src/nn/unet.ts";
import { Trainable, Weights } from "../src/optim/weights.ts";
import { isDigits, type PresetName, PRESETS } from "../src/train/config.ts";
import { SETTINGS } from "./distillation.ts";
import { type getGpu, gpuTest, randomArray, relativeError } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

const leaf = (seed: number, ...shape: number[]) => g.constant(randomArray(g.elementCount(shape), seed), shape);

/** A network of blocks with random masks in them, each led through `around`. */
function blocks(around: (part: () => Tensor) => Tensor) {
  const source = {
    seed: g.constant([1, 2], [2], "u32"),
    step: g.constant([3], [], "u32"),
    first: g.constant([0], [], "u32"),
  };
  const weights = [1, 2, 3, 4].map((seed) => leaf(seed, 4, 4, 3, 3));
  let h = leaf(9, 2, 4, 6, 6);
  weights.forEach((w, stream) => {
    const x = h;
    h = around(() => {
      const mask = g.step(g.affine(g.randomUniform(x.shape, { ...source, stream }), 1, -0.3));
      return g.add(x, g.tanh(g.mul(mask, g.conv2d(g.silu(x), w))));
    });
  });
  return { result: h, weights };
}

async function gradientsOf(workspace: Workspace, { result, weights }: ReturnType<typeof blocks>) {
  const gradients = g.gradients([g.sumSquares(result)], weights);
  const outputs = Object.fromEntries([result, ...gradients].map((tensor, i) => [`${i}`, tensor]));
  const program = await workspace.compile({ label: "blocks", outputs });
  workspace.submit([program.at()]);
  return { outputs, got: await program.read(), cost: program.cost };
}

gpuTest("checkpoint: the same values and gradients to the bit, more work, less memory", async (gpu) => {
  const workspace = new Workspace(gpu);
  const plain = await gradientsOf(workspace, blocks((part) => part()));
  const expected = interpret(plain.outputs);
  for (const name of Object.keys(expected)) assert(relativeError(plain.got[name]!, expected[name]!) < 1e-5);
  const kept = await gradientsOf(workspace, blocks(g.checkpoint));
  assertEquals(kept.got, plain.got);
  assert(kept.cost.flops > plain.cost.flops && kept.cost.peakLiveBytes < 0.7 * plain.cost.peakLiveBytes);
  const nest = async (inner: (part: () => Tensor) => Tensor) => {
    const longer = (part: () => Tensor) => () => {
      const y = g.tanh(part());
      return inner(() => g.tanh(g.square(y)));
    };
    const { got, cost } = await gradientsOf(workspace, blocks((part) => g.checkpoint(longer(part))));
    return { got, flops: cost.flops, peak: cost.peakLiveBytes };
  };
  assertEquals(
    await nest(g.checkpoint),
    await nest((part) => part()),
    "a checkpoint inside another counts for nothing",
  );
  workspace.destroy();
});

gpuTest("checkpoint: tensors from inside may be used and differentiated outside", async (gpu) => {
  const workspace = new Workspace(gpu);
  const build = (around: (part: () => Tensor) => Tensor, wanted: boolean) => {
    const x = leaf(1, 3, 5), w = leaf(2, 5, 5);
    let inside!: Tensor;
    const y = around(() => g.exp(g.matmul(inside = g.tanh(g.matmul(x, w)), w)));
    const ys = [g.sum(g.mul(y, inside))];
    return g.gradients(ys, wanted ? [x, w, inside] : [x, w]);
  };
  for (const wanted of [false, true]) {
    const compute = async (tensors: readonly Tensor[]) =>
      await g.evaluate(workspace, Object.fromEntries(tensors.map((tensor, i) => [`${i}`, tensor])));
    const [kept, plain] = [await compute(build(g.checkpoint, wanted)), await compute(build((part) => part(), wanted))];
    for (const [name, data] of Object.entries(plain)) assert(relativeError(kept[name]!, data) < 1e-6, name);
  }
  workspace.destroy();
});

gpuTest("checkpoint: evaluate knows equal structures, and ops in place are refused", async (gpu) => {
  const workspace = new Workspace(gpu);
  const value = (data: number[]) => ({ y: g.checkpoint(() => g.exp(g.constant(data, [2]))) });
  await g.evaluate(workspace, value([1, 2]));
  const { y } = await g.evaluate(workspace, value([0, 0]));
  assertEquals([[...y], workspace.evaluated.size], [[1, 1], 1]);
  const v = workspace.variable("v", [4]).tensor;
  assertThrows(
    () => g.checkpoint(() => g.accumulate(v, g.constant([1, 2, 3, 4], [4]), g.host("keep"), 1)),
    GraphError,
    "checkpoint cannot repeat accumulate, which rewrites its inputs",
  );
  workspace.destroy();
});

/** Three levels at 32x32, as for CIFAR-10. */
const THREE_LEVELS: UNetConfig = {
  imageChannels: 3,
  resolution: 32,
  modelChannels: 16,
  channelMult: [1, 2, 2],
  blocks: 2,
};

function images(workspace: Workspace, { imageChannels, resolution }: UNetConfig) {
  const data = workspace.variable("images", [16, imageChannels, resolution, resolution], "u8");
  data.write(new Uint32Array(data.tensor.bytes / 4).map((_, i) => Math.imul(i + 1, 2654435761)));
  return { data, scale: 1 / 128, shift: -1 };
}

gpuTest("a network with checkpointed blocks: the same gradients to the bit", async (gpu) => {
  const digits = { ...THREE_LEVELS, imageChannels: 1, resolution: 8, channelMult: [1, 2] };
  // Batches large enough that activations, not weights, need most of the memory.
  for (const [config, batch] of [[THREE_LEVELS, 2], [digits, 24]] as const) {
    const run = async (checkpointBlocks: boolean) => {
      const workspace = new Workspace(gpu);
      const net = new Trainable(workspace, "net", new UNet(config, { checkpointBlocks }));
      const [weights] = net.values.flat.chunks as [Variable];
      weights.write(randomArray(weights.tensor.size, 5).map((value) => 0.1 * value));
      const law = { mean: -1.2, std: 1.2 };
      const program = await compileTeacherStep(net, images(workspace, config), { batch, sigma: law });
      workspace.submit([program.at({ seed: [1, 2], step: 0, first: 0, position: 0 })]);
      const result = { grad: await net.grad.flat.chunks[0]!.read(), cost: program.cost };
      workspace.destroy();
      return result;
    };
    const [plain, kept] = [await run(false), await run(true)];
    assert(plain.grad.every(Number.isFinite));
    assertNotEquals(plain.grad, new Float32Array(plain.grad.length));
    assertEquals(kept.grad, plain.grad);
    const share = kept.cost.peakLiveBytes / plain.cost.peakLiveBytes, work = kept.cost.flops / plain.cost.flops;
    assert(share < 0.65, `${share} of the memory`);
    assert(work > 1 && work < 1.2, `${work} of the work`);
  }
});

/** The training programs of a network, in the workspaces that a run has for its two stages. */
async function trainingPrograms(
  gpu: Awaited<ReturnType<typeof getGpu>>,
  config: UNetConfig,
  batches: { readonly teacher: number; readonly distill: number },
  checkpointBlocks: boolean,
  seen: (name: string, program: Program, workspace: Workspace) => void,
): Promise<void> {
  const stage = async (body: (workspace: Workspace) => Promise<void>) => {
    const workspace = new Workspace(gpu);
    await body(workspace);
    workspace.destroy();
  };
  const unet = () => new UNet(config, { checkpointBlocks });
  await stage(async (workspace) => {
    const settings = { batch: batches.teacher, sigma: SETTINGS.fakeScore.sigma };
    const teacher = new Trainable(workspace, "teacher", unet());
    seen("teacher", await compileTeacherStep(teacher, images(workspace, config), settings), workspace);
  });
  const networks = (workspace: Workspace) => ({
    generator: new Trainable(workspace, "generator", unet()),
    fakeScore: new Trainable(workspace, "fakeScore", unet()),
    classifier: new Trainable(workspace, "classifier", new Classifier(config, { checkpointBlocks })),
    teacher: new Weights(workspace, "teacher", new UNet(config)),
  });
  const settings = { ...SETTINGS, batch: batches.distill };
  await stage(async (workspace) => {
    const made = networks(workspace);
    seen("critics", await compileCriticStep(made, images(workspace, config), settings), workspace);
    seen("generator", (await compileGeneratorStep(made, settings)).gradient, workspace);
  });
}

gpuTest("training programs plan at most 1.3 times their largest live set", async (gpu) => {
  const digits = (Object.keys(PRESETS) as PresetName[]).filter(isDigits).map((name) => {
    const { network: { modelChannels }, teacher, distill } = PRESETS[name];
    const config: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels, channelMult: [1, 2], blocks: 1 };
    return [name, config, { teacher: teacher.batch, distill: distill.batch }] as const;
  });
  for (const [name, config, batches] of [...digits, ["32x32", THREE_LEVELS, { teacher: 16, distill: 8 }] as const]) {
    for (const checkpointBlocks of [false, true]) {
      let pool = 0;
      await trainingPrograms(gpu, config, batches, checkpointBlocks, (program, { cost }, workspace) => {
        const share = cost.plannedBytes / cost.peakLiveBytes;
        assert(share >= 1 && share <= 1.3, `${name}, ${program}, checkpoints ${checkpointBlocks}: ${share}`);
        // The programs of a stage share the pool: it is that of the largest.
        if (program !== "generator") pool = workspace.poolBytes;
        assert(pool < 1.01 * cost.plannedBytes || program === "generator");
        assert(workspace.poolBytes < 1.2 * pool, `${name}: the pool grew from ${pool} to ${workspace.poolBytes}`);
      });
    }
  }
});

gpuTest("the planned bytes of a program are its own, whatever the pool holds", async (gpu) => {
  const workspace = new Workspace(gpu);
  const spec = (size: number) => ({
    label: `size ${size}`,
    metrics: { loss: g.sumSquares(g.matmul(leaf(1, size, size), leaf(2, size, size))) },
  });
  await workspace.compile(spec(256));
  const { cost } = await workspace.compile(spec(16));
  assert(cost.plannedBytes <= 1.3 * cost.peakLiveBytes && workspace.poolBytes > 256 * 256 * 4);
  workspace.destroy();
});

gpuTest("a program that needs more than the memory limit is refused with figures, and leaves nothing", async (gpu) => {
  const workspace = new Workspace(gpu);
  const net = new Trainable(workspace, "net", new UNet(THREE_LEVELS));
  const compile = () =>
    compileTeacherStep(net, images(workspace, THREE_LEVELS), { batch: 4, sigma: { mean: -1, std: 1 } });
  const pool = workspace.pool.length;
  gpu.memoryLimit = gpu.allocatedBytes + 8e6;
  try {
    const error = await assertRejects(compile, OutOfMemoryError, "Program teacher.gradient, whose planned memory is");
    const [planned, live, more, taken, limit] = error.message.match(/[\d.]+(?= MB)/g)!.map(Number);
    assert(planned! >= live! && live! > 8 && more === planned, error.message);
    assert(taken! + more! > limit! && Math.abs(limit! - gpu.memoryLimit / 1e6) < 0.1, error.message);
    assertEquals(workspace.pool.length, pool);
    assertThrows(() => workspace.variable("large", [3e6]), OutOfMemoryError, "large needs 12.0 MB more, but");
  } finally {
    gpu.memoryLimit = Infinity;
  }
  assert((await compile()).cost.plannedBytes > 8e6);
  workspace.destroy();
});

gpuTest("a tensor that cannot be bound is named before any buffer is made", async (gpu) => {
  const { maxBufferSize, maxStorageBufferBindingSize } = gpu.device.limits;
  const rows = Math.ceil((Math.min(maxBufferSize, maxStorageBufferBindingSize) + 1) / 4096);
  const workspace = new Workspace(gpu);
  const { allocatedBytes } = gpu;
  gpu.memoryLimit = allocatedBytes; // any buffer would be one too many
  try {
    const large = g.matmul(g.host("x", [1, 1]), g.constant(new Float32Array(1024), [1, 1024]));
    const product = g.matmul(g.reshape(g.broadcastTo(g.host("y"), [rows]), [rows, 1]), large);
    const error = await assertRejects(
      () => workspace.compile({ label: "huge", metrics: { y: g.sum(product) } }),
      LimitError,
      `Program huge: matmul [${rows}, 1024] needs max`,
    );
    assertEquals(error.needed, rows * 4096);
  } finally {
    gpu.memoryLimit = Infinity;
  }
  workspace.destroy();
});

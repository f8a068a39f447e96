/** Graphs, networks and trainings whose activations are stored as f16, beside those in f32. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { measureVariants, ShapeRecorder } from "../kernels/tuner.ts";
import { addNoise, denoise, denoisingLoss } from "../src/diffusion/edm.ts";
import { classifierLoss, classify } from "../src/distill/classifier.ts";
import { GraphError } from "../src/gpu/errors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import * as g from "../src/graph/mod.ts";
import { type Tensor, Workspace } from "../src/graph/mod.ts";
import type { Precision } from "../src/nn/network.ts";
import { Classifier, UNet, type UNetConfig } from "../src/nn/unet.ts";
import { gradientUpdates } from "../src/optim/adam.ts";
import { f16LossScale, Trainable } from "../src/optim/weights.ts";
import { train } from "./browser/training.ts";
import { f16Test, rounded } from "./f16.ts";
import { readFixture } from "./fixtures.ts";
import { randomArray, relativeError } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

/** What rounding one result to f16 may cost, towards zero at worst. */
const STORED = 1e-3;

const half = (x: Tensor) => g.cast(x, "f16");

/** Normal numbers that f16 holds exactly. */
function normal(shape: readonly number[], seed: number): Tensor {
  return g.constant(rounded(randomArray(g.elementCount(shape), seed)), shape);
}

/** Evaluates tensors, those of f16 as f32. */
async function evaluate<K extends string>(gpu: Gpu, tensors: Record<K, Tensor>): Promise<Record<K, Float32Array>> {
  const workspace = new Workspace(gpu);
  const wanted = Object.entries<Tensor>(tensors).map(([name, tensor]) => [name, g.cast(tensor, "f32")]);
  const got = await g.evaluate(workspace, Object.fromEntries(wanted));
  workspace.destroy();
  return got as Record<K, Float32Array>;
}

f16Test("cast rounds to f16, fused or not, and its gradient is rounded the other way", async (gpu) => {
  const values = [...randomArray(50, 1), 0, 65504, 1e-7, 3e-8, -5.9604645e-8, 1 / 3];
  const x = g.constant(values, [values.length]), dy = normal([values.length], 2);
  const [dx] = g.gradients([half(g.square(x))], [x], { seeds: [half(dy)] });
  // Fused: both casts and the sum are one kernel. Stored: the slice keeps its operand in memory.
  const got = await evaluate(gpu, {
    fused: g.affine(g.cast(half(x), "f32"), 1, 0),
    stored: g.slice(g.pad(half(x), 0, 1, values.length + 2), 0, 1, values.length + 1),
    sum: g.add(half(x), half(dy)),
    dx: dx!,
  });
  const nearest = rounded(values);
  for (const [name, result] of [["fused", got.fused], ["stored", got.stored]] as const) {
    const ulps = [...result].map((value, i) =>
      Math.abs(value - nearest[i]!) / Math.max(2 ** -24, 2 ** -10 * Math.abs(value))
    );
    assert(Math.max(...ulps) <= 1, `${name} is off by ${Math.max(...ulps)} last digits`);
  }
  assertEquals(got.fused, got.stored);
  const { sum, dx: slope } = interpret({ sum: g.add(x, dy), dx: g.mul(dy, g.affine(x, 2, 0)) });
  assert(relativeError(got.sum, sum) < STORED && relativeError(got.dx, slope) < STORED);
});

f16Test("values of both types: the result and the cotangents have the types they should", async (gpu) => {
  const a = normal([2, 3, 4, 4], 1), b = normal([2, 3, 1, 1], 2), seed = normal([2, 3, 4, 4], 3);
  const f = (a: Tensor) => g.silu(g.add(g.mul(a, b), g.affine(a, 0.5, 1)));
  const mixed = f(half(a));
  assertEquals([mixed.dtype, half(a).dtype, g.sum(half(a), [2, 3]).dtype], ["f32", "f16", "f32"]);
  const ys = [mixed, g.sumSquares(half(a), [1]), g.sum(half(a)), g.concat([half(a), half(seed)], 1)];
  const plain = [f(a), g.sumSquares(a, [1]), g.sum(a), g.concat([a, seed], 1)];
  const seeds = plain.map((y, i) => normal(y.shape, 10 + i));
  const [da, db] = g.gradients(ys, [a, b], { seeds: seeds.map((s, i) => g.cast(s, ys[i]!.dtype)) });
  const [expectedA, expectedB] = g.gradients(plain, [a, b], { seeds });
  const got = await evaluate(gpu, { mixed, da: da!, db: db! });
  const expected = interpret({ mixed: plain[0]!, da: expectedA!, db: expectedB! });
  for (const name of ["mixed", "da", "db"] as const) {
    const error = relativeError(got[name], expected[name]);
    assert(error < STORED, `${name}: relative error ${error}`);
  }
});

f16Test("convolutions, norms, attention and resampling of f16: values and gradients", async (gpu) => {
  const [w, bias, shift] = [normal([8, 4, 3, 3], 1), normal([8], 2), normal([2, 8], 3)];
  const [gamma, beta, wide] = [normal([8], 4), normal([8], 5), normal([24, 8, 1, 1], 6)];
  const x = normal([2, 4, 8, 8], 7), seed = normal([2, 8, 2, 2], 8);
  // Two ways from x to the sum: their cotangents are added.
  const f = (x: Tensor) => {
    const y = g.conv2d(x, w, bias, { stride: 2, shift });
    const z = g.groupNorm(y, gamma, beta, { groups: 2, eps: 1e-5, silu: true });
    const o = g.reshape(g.attentionPacked(g.reshape(g.conv2d(z, wide), [2, 24, 16])), [2, 8, 4, 4]);
    const sum = g.conv2d(g.upsampleNearest2x(o), normal([8, 8, 3, 3], 9), undefined, {
      residual: g.conv2d(x, w, bias),
      scale: 0.7,
    });
    return g.averagePool2x(g.averagePool2x(sum));
  };
  const leaves = { x, w, bias, shift, gamma, beta, wide };
  const names = Object.keys(leaves), xs = Object.values(leaves);
  const y = f(half(x)), plain = f(x);
  const gradients = g.gradients([y], xs, { seeds: [half(seed)] }), exact = g.gradients([plain], xs, { seeds: [seed] });
  const named = (all: readonly Tensor[]) => Object.fromEntries(all.map((tensor, i) => [names[i]!, tensor]));
  const got = await evaluate(gpu, { y, ...named(gradients) }), expected = interpret({ y: plain, ...named(exact) });
  for (const [name, values] of Object.entries(expected)) {
    const error = relativeError(got[name as keyof typeof got]!, values);
    assert(error < 5 * STORED, `${name}: relative error ${error}`);
  }
});

const digits = (modelChannels: number): UNetConfig => (
  { imageChannels: 1, resolution: 8, modelChannels, channelMult: [1, 2], blocks: 1 }
);

/** A network's outputs, and the gradients of its parameters. */
interface Outcome {
  readonly outputs: Record<string, ArrayLike<number>>;
  readonly gradients: Map<string, Float32Array>;
}

const NETWORKS = { unet: denoised, classifier: classified } as const;

async function outcome(gpu: Gpu, name: keyof typeof NETWORKS, precision: Precision): Promise<Outcome> {
  const fixture = await readFixture(name);
  const leaf = (part: string) => g.constant(fixture.get(part), fixture.shape(part));
  const sigma = leaf("sigma");
  const workspace = new Workspace(gpu);
  const network = name === "unet" ? new UNet(digits(16), { precision }) : new Classifier(digits(8), { precision });
  const net = new Trainable(workspace, name, network, 1, precision === "f16" ? f16LossScale(sigma.size) : 1);
  net.start(fixture.pick("param."));
  const outputs = NETWORKS[name](net, leaf, sigma);
  const program = await workspace.compile({ label: name, outputs, updates: gradientUpdates(net, [outputs.loss]) });
  workspace.submit([program.at()]);
  const read = await program.read(), gradients = await net.grad.read();
  for (const [parameter, values] of gradients) gradients.set(parameter, values.map((value) => value / net.lossScale));
  workspace.destroy();
  return { outputs: read, gradients };
}

function denoised({ network, values: { lookup } }: Trainable, leaf: (name: string) => Tensor, sigma: Tensor) {
  const [x0, noise] = [leaf("x"), leaf("n")];
  return {
    images: denoise(network as UNet, lookup, addNoise(x0, noise, sigma), sigma),
    loss: denoisingLoss(network as UNet, lookup, { x0, noise, sigma }),
  };
}

function classified({ network, values: { lookup } }: Trainable, leaf: (name: string) => Tensor, sigma: Tensor) {
  const logits = classify(network as Classifier, lookup, leaf("x"), sigma);
  return { logits, loss: classifierLoss(g.slice(logits, 0, 0, 2), g.slice(logits, 0, 2, 4)) };
}

for (const name of ["unet", "classifier"] as const) {
  f16Test(`f16: the ${name}'s outputs, loss and gradients are those of f32 within a hundredth`, async (gpu) => {
    const [half, whole] = [await outcome(gpu, name, "f16"), await outcome(gpu, name, "f32")];
    for (const [output, values] of Object.entries(whole.outputs)) {
      const error = relativeError(half.outputs[output]!, values);
      assert(error > 0 && error < 3 * STORED, `${output}: relative error ${error}`);
    }
    const flat = ({ gradients }: Outcome) => [...gradients.values()].flatMap((values) => [...values]);
    const error = relativeError(flat(half), flat(whole));
    assert(error < 1e-2, `gradients: relative error ${error}`);
  });
}

f16Test("f16: steps of a teacher and of its distillation go as in f32", async (gpu) => {
  const [half, whole] = [await train(gpu, "f16"), await train(gpu)];
  for (const [name, values] of whole.metrics) {
    const error = relativeError(half.metrics.get(name)!, values);
    // The generator follows the difference of two networks that are one to three updates apart: f16 rounds some of it away.
    const tolerance = name === "generator.gradNorm" ? 0.1 : 1e-3;
    assert(error > 0 && error < tolerance, `${name}: relative error ${error}`);
  }
});

f16Test("what enters and leaves a program is not f16", async (gpu) => {
  const workspace = new Workspace(gpu);
  const x = workspace.variable("x", [3]), y = half(x.tensor);
  for (
    const [spec, message] of [
      [{ outputs: { y } }, "the output y is f16; cast it to f32"],
      [{ metrics: { y } }, "the metric y is not f32"],
      [{ updates: [[x, y]] }, "the new value of x does not have its shape or type"],
    ] as const
  ) await assertRejects(() => workspace.compile({ label: "test", ...spec }), GraphError, message);
  workspace.destroy();
});

f16Test("tuning: shapes of f16 are told from those of f32, and their variants are timed", async (gpu) => {
  const recorder = new ShapeRecorder(gpu.choices.adapter, (tensor) => tensor as Tensor);
  const { choices } = gpu;
  const workspace = new Workspace(gpu);
  const x = workspace.variable("x", [2, 4, 8, 8]), w = workspace.variable("w", [8, 4, 3, 3]);
  const halves = g.cast(x.tensor, "f16");
  gpu.choices = recorder;
  try {
    const outputs = { y: g.cast(g.conv2d(halves, w.tensor), "f32"), z: g.conv2d(x.tensor, w.tensor) };
    await workspace.compile({ label: "test", outputs });
  } finally {
    gpu.choices = choices;
    workspace.destroy();
  }
  const f16 = recorder.used.find(({ key }) => key.endsWith(" f16"))!;
  assertEquals(recorder.used.length, 2);
  assertEquals(f16.operands, {
    x: { bytes: 2 * 2 * 4 * 64, dtype: "f16" },
    w: { bytes: 4 * 8 * 4 * 9, dtype: "f32" },
    y: { bytes: 2 * 2 * 8 * 64, dtype: "f16" },
  });
  const times = await measureVariants(gpu, f16);
  assertEquals([...times.keys()], f16.variants);
  for (const [name, ms] of times) assert(ms > 0 && ms < 1000, `${name}: ${ms} ms`);
});

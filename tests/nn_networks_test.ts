/** Whole networks against PyTorch: forward, loss, gradients, one optimiser step, one distillation gradient; classes. */

import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { GraphError } from "../src/gpu/errors.ts";
import { addNoise, denoise, denoisingLoss, generate } from "../src/diffusion/edm.ts";
import { classifierLoss, classify } from "../src/distill/classifier.ts";
import { CLASSIFIER_LOSSES, type DistillSettings } from "../src/distill/settings.ts";
import { generatorGradient, type GradientInputs } from "../src/distill/generator.ts";
import type { DistillNetworks } from "../src/distill/samples.ts";
import { constant, gradients, slice, Workspace } from "../src/graph/mod.ts";
import type { Conditions } from "../src/nn/network.ts";
import { Classifier, UNet, type UNetConfig } from "../src/nn/unet.ts";
import { averageDecay, gradientUpdates, Optimizer } from "../src/optim/adam.ts";
import { Trainable, Weights } from "../src/optim/weights.ts";
import { SETTINGS } from "./distillation.ts";
import { type Fixture, readFixture } from "./fixtures.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { hashedWeights } from "./hashed.ts";

const digits = (modelChannels: number): UNetConfig => ({
  imageChannels: 1,
  resolution: 8,
  modelChannels,
  channelMult: [1, 2],
  blocks: 1,
});

gpuTest("UNet: a class is a shift of what it is told of the noise level", async (gpu) => {
  const ws = new Workspace(gpu), config = digits(8), classes = { ...config, labelDim: 3 };
  const weights = hashedWeights(new UNet(classes).parameters);
  const [label, labelBias] = [weights.get("map_label.weight")!, weights.get("map_label.bias")!];
  const [layer, layerBias] = [weights.get("map_layer0.weight")!, weights.get("map_layer0.bias")!];
  /** Weights of the network without classes whose first layer's bias holds the label [3]. */
  const shifted = (values: readonly number[]) => {
    const told = labelBias.map((bias, i) => {
      return bias + values.reduce((sum, value, k) => sum + Math.sqrt(3) * value * label[3 * i + k]!, 0);
    });
    const bias = layerBias.map((value, o) => value + told.reduce((sum, t, i) => sum + t * layer[8 * o + i]!, 0));
    return new Map([...weights].filter(([name]) => !name.startsWith("map_label")).concat([["map_layer0.bias", bias]]));
  };
  const x = constant(randomArray(2 * 64, 1), [2, 1, 8, 8]), sigma = constant([0.3, 2], [2]);
  const images = async (network: UNet, arrays: typeof weights, conditions: Conditions = {}) => {
    const values = new Weights(ws, "unet", network);
    values.write(arrays);
    const program = await ws.compile({
      label: "test",
      outputs: { d: denoise(network, values.lookup, x, sigma, conditions) },
    });
    ws.submit([program.at()]);
    return (await program.read()).d as Float32Array;
  };
  const labels = constant([0, 0, 1, 0, 0, 1], [2, 3]), word = constant([1], [], "u32");
  const random = () => ({ seed: constant([1, 2], [2], "u32"), step: word, first: word, stream: 1 });
  const told = await images(new UNet(classes), weights, { labels });
  assert(relativeError(told, await images(new UNet(config), shifted([0, 0, 1]))) < 1e-5);
  const none = await images(new UNet(classes), weights);
  assert(relativeError(none, await images(new UNet(config), shifted([0, 0, 0]))) < 1e-5);
  assert(relativeError(told, none) > 1e-3);
  const dropped = new UNet({ ...classes, labelDropout: 1 });
  assertEquals(await images(dropped, weights, { labels, random }), none);
  assertEquals(await images(dropped, weights, { labels }), told, "outside of training labels are kept");
  await assertRejects(
    () => images(new UNet(config), shifted([0, 0, 0]), { labels }),
    GraphError,
    "labels of the shape none",
  );
  ws.destroy();
});

/** Largest relative error over the parameters, and over all of them as one vector. */
function compare(
  got: Map<string, Float32Array>,
  expected: Map<string, Float32Array>,
): { worst: number; whole: number } {
  assertEquals([...got.keys()].sort(), [...expected.keys()].sort());
  const names = [...got.keys()];
  const worst = Math.max(...names.map((name) => relativeError(got.get(name)!, expected.get(name)!)));
  const flat = (m: Map<string, Float32Array>) => names.flatMap((name) => [...m.get(name)!]);
  return { worst, whole: relativeError(flat(got), flat(expected)) };
}

gpuTest("UNet: parameter count of digits and digits-small", async () => {
  const count = (channels: number) =>
    new UNet(digits(channels)).parameters.reduce((total, { shape }) => total + shape.reduce((a, b) => a * b, 1), 0);
  assertEquals(await Promise.resolve([count(32), count(16)]), [609953, 153681]);
});

gpuTest("UNet: denoised image, loss and gradients against PyTorch", async (gpu) => {
  const fixture = await readFixture("unet");
  const ws = new Workspace(gpu);
  const net = new Trainable(ws, "unet", new UNet(digits(16)));
  net.start(fixture.pick("param."));
  const unet = net.network as UNet;
  const x0 = constant(fixture.get("x"), [3, 1, 8, 8]), noise = constant(fixture.get("n"), [3, 1, 8, 8]);
  const sigma = constant(fixture.get("sigma"), [3]);
  const denoised = denoise(unet, net.values.lookup, addNoise(x0, noise, sigma), sigma);
  const loss = denoisingLoss(unet, net.values.lookup, { x0, noise, sigma });
  const program = await ws.compile({
    label: "test",
    outputs: { denoised, loss },
    updates: gradientUpdates(net, [loss]),
  });
  ws.submit([program.at()]);
  const out = await program.read();
  assert(relativeError(out.denoised!, fixture.get("denoised")) < 1e-5);
  assert(relativeError(out.loss!, fixture.get("loss")) < 1e-5);
  const { worst, whole } = compare(await net.grad.read(), fixture.pick("grad."));
  assert(whole < 1e-5 && worst < 1e-4, `gradients: whole ${whole}, worst ${worst}`);
  program.destroy();
  ws.destroy();
});

gpuTest("Optimizer: one Adam step against PyTorch", async (gpu) => {
  const fixture = await readFixture("unet");
  const ws = new Workspace(gpu);
  const net = new Trainable(ws, "unet", new UNet(digits(16)));
  net.start(fixture.pick("param."));
  net.grad.write(fixture.pick("grad."));
  const optimizer = await Optimizer.create(net, {
    ...{ batch: 1, beta1: 0.9, beta2: 0.999, clipNorm: 1e9 },
    ema: { halfLife: 1, rampRatio: 1 },
  });
  ws.submit([optimizer.at(0, 1e-3)]);
  const { whole } = compare(await net.values.read(), fixture.pick("adam."));
  assert(whole < 1e-6, `parameters after Adam: ${whole}`);
  // Before the first step no images were seen: the average forgets the initial weights.
  assertEquals(await net.ema.read(), await net.values.read());
  ws.submit([optimizer.at(1, 1e-3)]);
  const [first, second, ema] = [fixture.pick("adam."), await net.values.read(), await net.ema.read()];
  const averaged = new Map([...first].map(([name, p]) => [name, p.map((v, i) => (v + second.get(name)![i]!) / 2)]));
  assert(compare(ema, averaged).whole < 1e-6);
  ws.destroy();
});

Deno.test("averageDecay: half of a weight's share after the half-life, of a small one in the beginning", () => {
  const average = { halfLife: 500_000, rampRatio: 0.05 };
  assertAlmostEquals(averageDecay(average, 1e9, 1000) ** 500, 0.5, 1e-12);
  assertAlmostEquals(averageDecay(average, 1_000_000, 1000) ** 50, 0.5, 1e-12);
  assertEquals(averageDecay(average, 0, 1000), 0);
});

gpuTest("Classifier: logits, loss and gradients against PyTorch", async (gpu) => {
  const fixture = await readFixture("classifier");
  const ws = new Workspace(gpu);
  const net = new Trainable(ws, "classifier", new Classifier(digits(8)));
  net.start(fixture.pick("param."));
  const logit = classify(
    net.network as Classifier,
    net.values.lookup,
    constant(fixture.get("x"), [4, 1, 8, 8]),
    constant(fixture.get("sigma"), [4]),
  );
  const loss = classifierLoss(slice(logit, 0, 0, 2), slice(logit, 0, 2, 4));
  const program = await ws.compile({ label: "test", outputs: { logit, loss }, updates: gradientUpdates(net, [loss]) });
  ws.submit([program.at()]);
  const out = await program.read();
  assert(relativeError(out.logit!, fixture.get("logit")) < 1e-5);
  assert(relativeError(out.loss!, fixture.get("loss")) < 1e-5);
  const { worst, whole } = compare(await net.grad.read(), fixture.pick("grad."));
  assert(whole < 1e-5 && worst < 1e-4, `gradients: whole ${whole}, worst ${worst}`);
  program.destroy();
  ws.destroy();
});

/** The networks of the fixture of a distillation, and what its gradients depend on. */
function distillation(fixture: Fixture, ws: Workspace): { networks: DistillNetworks; inputs: GradientInputs } {
  const networks = {
    generator: new Trainable(ws, "generator", new UNet(digits(8))),
    fakeScore: new Trainable(ws, "fakeScore", new UNet(digits(8))),
    classifier: new Trainable(ws, "classifier", new Classifier(digits(8))),
    teacher: new Weights(ws, "teacher", new UNet(digits(8))),
  };
  networks.generator.start(fixture.pick("gen."));
  networks.fakeScore.start(fixture.pick("fake."));
  networks.classifier.start(fixture.pick("cls."));
  networks.teacher.write(fixture.pick("teacher."));
  const image = (name: string) => constant(fixture.get(name), [5, 1, 8, 8]);
  const { network, values } = networks.generator;
  const inputs = {
    x: generate(network as UNet, values.lookup, { z: image("z"), noises: [] }, [2.5]),
    noise: image("n"),
    sigma: constant(fixture.get("sigma"), [5]),
    blend: constant([1], []),
  };
  return { networks, inputs };
}

for (const kind of ["kl", "jeffreys"] as const) {
  gpuTest(`distillation: the generator's gradient under ${kind} against PyTorch`, async (gpu) => {
    const fixture = await readFixture("distill");
    const ws = new Workspace(gpu);
    const { networks, inputs } = distillation(fixture, ws);
    const { x } = inputs;
    const bregman = { ...SETTINGS.bregman, h: { kind, lambda: 0 } };
    const { terms: [term], weights } = generatorGradient(networks, inputs, { ...SETTINGS, bregman });
    assertEquals(term!.at, x);
    const g = term!.cotangent;
    const program = await ws.compile({
      label: "test",
      outputs: { x, g, weights: weights! },
      updates: gradientUpdates(networks.generator, [x], [g]),
    });
    ws.submit([program.at()]);
    const out = await program.read();
    assert(relativeError(out.x!, fixture.get("x")) < 1e-5);
    assert(relativeError(out.weights!, fixture.get(`c.${kind}`)) < 1e-5);
    assert(relativeError(out.g!, fixture.get(`g.${kind}`)) < 1e-5);
    const { worst, whole } = compare(await networks.generator.grad.read(), fixture.pick(`grad.${kind}.`));
    assert(whole < 1e-5 && worst < 1e-4, `gradients: whole ${whole}, worst ${worst}`);
    program.destroy();
    ws.destroy();
  });
}

const ADVERSARIAL = { objective: "gan", adversarialWeight: 1 } as const;
const OBJECTIVES: readonly [name: string, Partial<DistillSettings>][] = [
  ["sid.dmd", { objective: "sid" }],
  ["sid.sigma2", { objective: "sid", weighting: "sigma2" }],
  ...CLASSIFIER_LOSSES.map((loss): [string, Partial<DistillSettings>] => [
    `adversarial.${loss}`,
    { ...ADVERSARIAL, classifier: { ...SETTINGS.classifier, loss } },
  ]),
  ["classifier", { form: "classifier", weighting: "sigma2" }],
];

for (const [name, changes] of OBJECTIVES) {
  gpuTest(`distillation: what ${name} gives at the generator's images against PyTorch`, async (gpu) => {
    const fixture = await readFixture("distill");
    const ws = new Workspace(gpu);
    const { networks, inputs } = distillation(fixture, ws);
    const { terms } = generatorGradient(networks, inputs, { ...SETTINGS, ...changes });
    const [dx] = gradients(terms.map(({ at }) => at), [inputs.x], { seeds: terms.map(({ cotangent }) => cotangent) });
    const program = await ws.compile({ label: "test", outputs: { dx: dx! } });
    ws.submit([program.atOwn({ adversarial: 1 })]);
    const error = relativeError((await program.read()).dx!, fixture.get(`dx.${name}`));
    assert(error < 1e-5, `relative error ${error}`);
    ws.destroy();
  });
}

gpuTest("distillation: divergence and adversarial term add up", async (gpu) => {
  const fixture = await readFixture("distill");
  const ws = new Workspace(gpu);
  const { networks, inputs } = distillation(fixture, ws);
  const { terms } = generatorGradient(networks, inputs, { ...SETTINGS, adversarialWeight: 1 });
  const [dx] = gradients(terms.map(({ at }) => at), [inputs.x], { seeds: terms.map(({ cotangent }) => cotangent) });
  const program = await ws.compile({ label: "test", outputs: { dx: dx! } });
  ws.submit([program.at({ adversarial: 3 })]);
  const [g, adversarial] = [fixture.get("g.jeffreys"), fixture.get("dx.adversarial.logistic")];
  const error = relativeError((await program.read()).dx!, g.map((value, i) => value + 3 * adversarial[i]!));
  assert(error < 1e-5, `relative error ${error}`);
  ws.destroy();
});

const PER_SAMPLE = 64;

gpuTest("distillation: the weights of noise levels", async (gpu) => {
  const fixture = await readFixture("distill");
  const [fake, real, sigmas] = ["d_fake", "d_teacher", "sigma"].map((name) => fixture.get(name)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const factors = {
    sigma2: () => 1,
    edm: (sigma: number) => (sigma ** 2 + 0.25) / (0.5 * sigma) ** 2,
    none: (sigma: number) => 1 / sigma ** 2,
  };
  for (const [weighting, factor] of Object.entries(factors) as [keyof typeof factors, (sigma: number) => number][]) {
    const ws = new Workspace(gpu);
    const { networks, inputs } = distillation(fixture, ws);
    const bregman = { ...SETTINGS.bregman, h: { kind: "kl", lambda: 0 } as const };
    const { terms: [term] } = generatorGradient(networks, inputs, { ...SETTINGS, weighting, bregman });
    const program = await ws.compile({ label: "test", outputs: { g: term!.cotangent } });
    ws.submit([program.at()]);
    const expected = Float64Array.from(fake, (value, i) => {
      const sample = Math.floor(i / PER_SAMPLE);
      return factor(sigmas[sample]!) * (value - real[i]!) / sigmas.length;
    });
    const error = relativeError((await program.read()).g!, expected);
    assert(error < 1e-5, `${weighting}: relative error ${error}`);
    ws.destroy();
  }
});

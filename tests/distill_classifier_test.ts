/** Tests of the classifier's losses and the ratio they give, of its kinds, its calibration and the ratio's running means. */

import { assert, assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import { loadDigits } from "../src/data/digits.ts";
import type { ImageData8 } from "../src/data/image_data.ts";
import { uniformAt } from "../src/data/philox.ts";
import { imageValues } from "../src/diffusion/teacher.ts";
import { adversarialLoss, classifierLoss, createClassifier, perturbed, readOut } from "../src/distill/classifier.ts";
import { RatioBins } from "../src/distill/ratio_bins.ts";
import { CLASSIFIER_LOSSES, type ClassifierLoss, CLASSIFIERS, needs, sharesEncoder } from "../src/distill/settings.ts";
import { compileCriticStep } from "../src/distill/critics.ts";
import { calibration } from "../src/eval/diagnostics.ts";
import { constant, evaluate, gradients, type Tensor, Workspace } from "../src/graph/mod.ts";
import { createNetwork } from "../src/nn/networks.ts";
import type { UNetConfig } from "../src/nn/unet.ts";
import { Optimizer } from "../src/optim/adam.ts";
import { initialWeights, Trainable, Weights } from "../src/optim/weights.ts";
import { weightHistogram } from "../src/train/diagnostics.ts";
import { metricsInOrder } from "../src/train/run.ts";
import { heldOutOf } from "../src/train/stages.ts";
import { SETTINGS } from "./distillation.ts";
import { deviceTest, relativeError } from "./gpu.ts";
import { interpret } from "./reference/interpreter.ts";

const vector = (values: readonly number[]) => constant(values, [values.length]);
const valueOf = (tensor: Tensor) => interpret({ tensor }).tensor[0]!;

/** Where a loss that is `p` and `q` parts real and generated is least, by halving an interval of its derivative. */
function minimiser(loss: ClassifierLoss, p: number, q: number): number {
  const slope = (f: number) => {
    const [real, generated] = [vector([f]), vector([f])];
    const [dReal] = gradients([classifierLoss(real, vector([0]), loss)], [real]);
    const [dGenerated] = gradients([classifierLoss(vector([0]), generated, loss)], [generated]);
    return p * valueOf(dReal!) + q * valueOf(dGenerated!);
  };
  let low = -8, high = 8;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (slope(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

Deno.test("classifier: where its losses are least, the read-out is log p/q; of hinge it is the sign", () => {
  for (const [p, q] of [[1, 1], [3, 1], [0.2, 2], [1, 30]] as const) {
    for (const loss of ["logistic", "least-squares"] as const) {
      const logit = readOut(vector([minimiser(loss, p, q)]), loss, 10)!;
      assertAlmostEquals(valueOf(logit), Math.log(p / q), 1e-6, `${loss} of ${p} and ${q}`);
    }
    if (p !== q) assertAlmostEquals(minimiser("hinge", p, q), Math.sign(p - q), 1e-6);
  }
  assertEquals(readOut(vector([1]), "hinge", 10), undefined);
});

Deno.test("classifier: the read-out of least squares keeps to its limits, with its slope inside", () => {
  for (const limit of [2, 10, 60]) {
    const f = vector([-3, -1, -0.5, 0, 0.9, 1, 7]);
    const logit = readOut(f, "least-squares", limit)!;
    const values = [...interpret({ logit }).logit];
    assert(values.every((value) => Math.abs(value) <= Math.min(limit, 12) + 1e-6), `${values}`);
    const [slope] = gradients([logit], [f], { seeds: [vector([1, 1, 1, 1, 1, 1, 1])] });
    const slopes = [...interpret({ slope: slope! }).slope];
    assertEquals([slopes[0], slopes[6]], [0, 0]);
    for (const [i, at] of [[2, -0.5], [3, 0]] as const) assertAlmostEquals(slopes[i]!, 2 / (1 - at ** 2), 1e-6);
  }
});

Deno.test("classifier: its losses and the adversarial ones against their formulas", () => {
  const real = [0.3, -2, 4], generated = [1.5, 0, -0.4];
  const average = (values: readonly number[], f: (x: number) => number) =>
    values.reduce((sum, x) => sum + f(x), 0) / values.length;
  const softplus = (x: number) => Math.log1p(Math.exp(x));
  const expected: Record<ClassifierLoss, [number, number]> = {
    "logistic": [
      average(real, (f) => softplus(-f)) + average(generated, softplus),
      average(generated, (f) => softplus(-f)),
    ],
    "least-squares": [
      (average(real, (f) => (f - 1) ** 2) + average(generated, (f) => (f + 1) ** 2)) / 2,
      average(generated, (f) => (f - 1) ** 2) / 2,
    ],
    "hinge": [
      average(real, (f) => Math.max(0, 1 - f)) + average(generated, (f) => Math.max(0, 1 + f)),
      average(generated, (f) => -f),
    ],
  };
  for (const loss of CLASSIFIER_LOSSES) {
    const own = classifierLoss(vector(real), vector(generated), loss);
    assertAlmostEquals(valueOf(own), expected[loss][0], 1e-7);
    assertAlmostEquals(valueOf(adversarialLoss(vector(generated), loss)), expected[loss][1], 1e-7);
  }
});

Deno.test("classifier: the penalty's noise has the standard deviation asked for at the network's input", () => {
  const xt = constant([1, 2], [2, 1, 1, 1]), noise = constant([1, -1], [2, 1, 1, 1]);
  const { moved } = interpret({ moved: perturbed(xt, vector([0.5, 3]), noise, 0.1) });
  assertAlmostEquals(moved[0]!, 1 + 0.1 * Math.sqrt(0.5), 1e-7);
  assertAlmostEquals(moved[1]!, 2 - 0.1 * Math.sqrt(9.25), 1e-6);
});

const NETWORK: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };

for (const kind of CLASSIFIERS) {
  for (const loss of CLASSIFIER_LOSSES) {
    deviceTest(
      `classifier: ${kind} learns by ${loss} to tell two sets apart, and the fake score where they share an encoder`,
      async (gpu) => {
        const workspace = new Workspace(gpu);
        const made = () => createNetwork({ network: NETWORK });
        const own = createClassifier(kind, { network: NETWORK });
        const networks = {
          generator: new Trainable(workspace, "generator", made()),
          fakeScore: new Trainable(workspace, "fakeScore", made()),
          classifier: own && new Trainable(workspace, "classifier", own),
          teacher: new Weights(workspace, "teacher", made()),
        };
        const first = (network: Trainable | Weights, key: number) =>
          initialWeights(network.network.parameters, [key, 0]);
        networks.generator.start(first(networks.generator, 1));
        networks.fakeScore.start(first(networks.fakeScore, 2));
        networks.classifier?.start(first(networks.classifier, 3));
        networks.teacher.write(first(networks.teacher, 4));
        // Bright images: the generator's are about grey.
        const data = workspace.variable("images", [16, 1, 8, 8], "u8");
        data.write(new Uint32Array(16 * 16).fill(0xf0f0f0f0));
        const settings = {
          ...{ ...SETTINGS, batch: 16, adversarialWeight: 1 },
          classifier: { ...SETTINGS.classifier, kind, loss, trunkWeight: 20 },
        };
        const source = { data, scale: 1 / 128, shift: -1 };
        const step = await compileCriticStep(networks, source, settings);
        // The fake score learns from the classifier's loss where they share an encoder, and only there.
        const gradient = async () => {
          workspace.submit([alone.atOwn(imageValues([5, 6], 99, 16))]);
          const apart = await networks.fakeScore.grad.read();
          workspace.submit([step.atOwn(imageValues([5, 6], 99, 16))]);
          return [apart, await networks.fakeScore.grad.read()];
        };
        const alone = await compileCriticStep(networks, source, settings, { fakeScore: true, classifier: false });
        const [apart, both] = await gradient();
        const name = "enc.8x8_conv.weight";
        const difference = relativeError(both!.get(name)!, apart!.get(name)!);
        if (sharesEncoder(settings.classifier)) assert(difference > 1e-3, `${difference}`);
        else assert(difference < 1e-5, `${difference}`);
        const adam = { batch: 16, beta1: 0, beta2: 0.99, ema: { halfLife: 1000, rampRatio: 1 }, clipNorm: 10 };
        const trained = [networks.fakeScore, ...networks.classifier ? [networks.classifier] : []];
        const updates = await Promise.all(trained.map((network) => Optimizer.create(network, adam)));
        for (let i = 0; i < 60; i++) {
          workspace.submit([step.atOwn(imageValues([5, 6], i, 16)), ...updates.map((update) => update.at(i, 3e-3))]);
        }
        const losses = (await step.readMetrics()).map((metrics) => metrics.classifierLoss![0]!);
        const early = losses.slice(0, 5).reduce((a, b) => a + b) / 5,
          late = losses.slice(-5).reduce((a, b) => a + b) / 5;
        assert(late < 0.75 * early, `${kind}, ${loss}: the loss went from ${early} to ${late}`);
        workspace.destroy();
      },
    );
  }
}

Deno.test("distillation: what an objective needs", () => {
  const of = (changes: object) => {
    const { fakeScore, classifier, ratio } = needs({ ...SETTINGS, ...changes });
    return [fakeScore, classifier, ratio];
  };
  const classifier = (changes: object) => ({ classifier: { ...SETTINGS.classifier, ...changes } });
  assertEquals(of({}), [true, true, true]);
  assertEquals(of({ objective: "sid" }), [true, false, false]);
  assertEquals(of({ objective: "sid", adversarialWeight: 1 }), [true, true, false]);
  assertEquals(of({ objective: "gan", adversarialWeight: 1 }), [false, true, false]);
  assertEquals(of({ objective: "gan", adversarialWeight: 1, ...classifier({ kind: "fake-mean" }) }), [
    true,
    true,
    false,
  ]);
  assertEquals(of({ form: "classifier" }), [false, true, true]);
  assertEquals(of(classifier({ loss: "hinge" })), [true, false, false]);
  // A weight that is the same everywhere asks no classifier; the adversarial term does.
  const kl = { bregman: { ...SETTINGS.bregman, h: { kind: "kl" } } };
  assertEquals(of(kl), [true, false, false]);
  assertEquals(of({ ...kl, form: "classifier" }), [false, true, true]);
  assertEquals(of({ ...kl, adversarialWeight: 1 }), [true, true, true]);
  assertEquals(of({ ...kl, adversarialWeight: 1, ...classifier({ loss: "hinge" }) }), [true, true, false]);
});

deviceTest("ratio bins: running means by noise level, also of a step in parts", async (gpu) => {
  const workspace = new Workspace(gpu);
  const bins = new RatioBins(workspace, 4, [0.01, 10]);
  await bins.compile();
  const edges = [1, 2, 3].map((i) => Math.log(0.01) + i / 4 * (Math.log(10) - Math.log(0.01)));
  const binOf = (sigma: number) => edges.filter((edge) => Math.log(sigma) > edge).length;
  const expected = [1, 1, 1, 1];
  for (let step = 0; step < 3; step++) {
    const sums = [0, 0, 0, 0], counts = [0, 0, 0, 0];
    for (let part = 0; part < 2; part++) {
      // The last bin stays empty; noise levels beyond the limits fall into the outermost ones.
      const sigma = [0.001, 0.02, 0.1, 0.3, 0.9];
      const logit = sigma.map((_, i) => 4 * uniformAt([step, part], 0, 0, i, 0) - 2);
      if (step === 1 && part === 1) logit[2] = NaN;
      const program = await workspace.compile({
        label: "test",
        updates: [bins.collect(vector(sigma), vector(logit))],
        outputs: { offsets: bins.offsets(vector([...sigma, 50])) },
      });
      workspace.submit([program.at({ keep: part })]);
      const { offsets } = await program.read();
      [...sigma, 50].forEach((value, i) => {
        assertEquals(bins.binOf(value), binOf(value));
        assertAlmostEquals(offsets![i]!, -Math.log(expected[binOf(value)]!), 1e-5);
      });
      sigma.forEach((value, i) => {
        if (Number.isNaN(logit[i])) return;
        sums[binOf(value)]! += Math.exp(logit[i]!);
        counts[binOf(value)]! += 1;
      });
    }
    workspace.submit([bins.step(0.75)]);
    expected.forEach((mean, i) => {
      if (counts[i]! > 0) expected[i] = 0.75 * mean + 0.25 * sums[i]! / counts[i]!;
    });
    const means = (await bins.means.read()).get("mean")!;
    expected.forEach((mean, i) => assertAlmostEquals(means[i]!, mean, 1e-5));
  }
  assertEquals(expected[3], 1);
  workspace.destroy();
});

Deno.test("calibration: of a classifier that knows the odds, of one that exaggerates them, of one that knows nothing", () => {
  const logits: number[] = [], real: boolean[] = [];
  for (let i = 0; i < 20000; i++) {
    const logit = 6 * uniformAt([1, 2], i, 0, 0, 0) - 3;
    logits.push(logit);
    real.push(uniformAt([1, 2], i, 0, 0, 1) < 1 / (1 + Math.exp(-logit)));
  }
  const measured = (scale: number) => calibration(logits.map((logit) => scale * logit), (i) => real[i]!);
  const [honest, exaggerating, nothing] = [measured(1), measured(3), measured(0)];
  assert(honest.ece < 0.012, `${honest.ece}`); // about 1/√2000 a bin
  assert(exaggerating.ece > 0.08 && exaggerating.logLoss > honest.logLoss);
  assertAlmostEquals(nothing.logLoss, Math.LN2, 1e-12);
  assertEquals(nothing.bins.length, 1);
  assertAlmostEquals(nothing.bins[0]!.observed, real.filter(Boolean).length / 20000, 1e-12);
  assertEquals(honest.bins.reduce((sum, { count }) => sum + count, 0), 20000);
  const certain = calibration([800, -800, 800], (i) => i !== 1);
  assertEquals([certain.ece, certain.logLoss], [0, 0]);
  assertEquals(calibration([-800], () => true).logLoss, 800);
});

Deno.test("weight histogram: every image is counted once, by noise level and weight over the mean", () => {
  const { sigmaEdges, logWeightEdges, counts } = weightHistogram([0.01, 0.011, 9.9, 20], [1, 1, 1, 9e9], [0.01, 10]);
  assertEquals([sigmaEdges.length, logWeightEdges.length, counts.length, counts[0]!.length], [9, 25, 8, 24]);
  assertEquals([sigmaEdges[0], sigmaEdges[8], logWeightEdges[0], logWeightEdges[24]], [0.01, 10, -2.4, 2.4]);
  assertEquals(counts[0]![0], 2);
  // The last weight is 4 times the mean: log10 4 = 0.602 lies in the bin from 0.6 to 0.8.
  assertEquals([counts[7]![0], counts[7]![15], counts.flat().reduce((a, b) => a + b)], [1, 1, 4]);
});

deviceTest(
  "classifier: the read-out on the device is the reference's, and what is not finite stays so",
  async (gpu) => {
    const workspace = new Workspace(gpu);
    const f = Float32Array.from({ length: 41 }, (_, i) => (i - 20) / 18);
    const logit = readOut(constant(f, [41]), "least-squares", 10)!;
    const { got } = await evaluate(workspace, { got: logit });
    const { logit: expected } = interpret({ logit });
    expected.forEach((value, i) =>
      assertAlmostEquals((got as Float32Array)[i]!, value, 2e-3 * Math.max(1, Math.abs(value)))
    );
    const lost = workspace.variable("lost", [2]);
    lost.write(Float32Array.of(NaN, 1));
    const { read } = await evaluate(workspace, { read: readOut(lost.tensor, "least-squares", 10)! });
    assertEquals([...read as Float32Array].map(Number.isFinite), [false, true]);
    workspace.destroy();
  },
);

Deno.test("held-out images: drawn from all classes, the others are shown, none is lost", async () => {
  const digits = await loadDigits();
  const { shown, held } = heldOutOf(digits, 0.1, [0, 2]);
  assertEquals([shown.count, held!.count], [1618, 179]);
  const key = (data: ImageData8, i: number) => data.pixels.subarray(64 * i, 64 * i + 64).join();
  const keys = (data: ImageData8) => Array.from({ length: data.count }, (_, i) => key(data, i));
  assertEquals([...keys(shown), ...keys(held!)].sort(), keys(digits).sort());
  const shares = (data: ImageData8) =>
    Array.from({ length: 10 }, (_, label) => data.labels.filter((own) => own === label).length / data.count);
  shares(digits).forEach((share, label) => {
    const error = Math.sqrt(share * (1 - share) / held!.count);
    assert(Math.abs(shares(held!)[label]! - share) < 3 * error, `class ${label}: ${shares(held!)[label]} of ${share}`);
  });
  assertEquals(heldOutOf(digits, 0.1, [0, 2]).held!.pixels, held!.pixels);
  assertNotEquals(heldOutOf(digits, 0.1, [1, 2]).held!.pixels, held!.pixels);
  assertEquals(heldOutOf(digits, 0, [0, 2]), { shown: digits });
});

Deno.test("metrics of programs that take turns are in the order of the runs", () => {
  const measured = new Map([["both", [1, 2, 5, 6]], ["one", [3, 4, 7, 8]]]);
  assertEquals(metricsInOrder(["both", "one"], 2, measured), [1, 2, 3, 4, 5, 6, 7, 8]);
  assertEquals(metricsInOrder(["a", "b", "b"], 1, new Map([["a", [1, 4]], ["b", [2, 3, 5, 6]]])), [1, 2, 3, 4, 5, 6]);
  assertEquals(metricsInOrder([], 1, new Map()), []);
});

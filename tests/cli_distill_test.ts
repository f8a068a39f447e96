/** Distillations of every kind from the command line: what they leave, resuming, classes, several steps, refusals. */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { decodeModel } from "../src/io/model.ts";
import { decodeNpz } from "../src/io/npz.ts";
import { parseConfig } from "../src/train/config.ts";
import { dibregman, files, killAndResume, refused, sameFiles } from "./command.ts";
import { tinyImages } from "./tiny_data.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

const CLASSES = `${root}/classes.npz`;
await Deno.writeFile(CLASSES, tinyImages(90, 1, 3));

/** A teacher of classes of which some are dropped, hardly trained, and a short distillation. */
const FILE = `${root}/settings.json`;
await Deno.writeTextFile(
  FILE,
  JSON.stringify({
    preset: "mnist",
    network: { modelChannels: 8, channelMult: [1, 2], attnResolutions: [4], labelDropout: 0.2 },
    teacher: { batch: 16, images: 160, rampImages: 32, conditional: true },
    distill: { batch: 16, images: 128, warmupImages: 32, h: "jeffreys" },
    evaluation: { samples: 65, checkSamples: 65, pictures: 9, steps: 2 },
    checkpointEvery: { teacher: 96, distill: 32 },
  }),
);

/** The folder of a run of the options, finished. */
async function trained(name: string, ...options: string[]): Promise<{ readonly folder: string; readonly out: string }> {
  const folder = `${root}/${name}`;
  const { code, out, errors } = await dibregman([
    "train",
    "--config",
    FILE,
    "--data",
    CLASSES,
    ...options,
    "--out",
    folder,
  ]);
  assertEquals(code, 0, errors.join("\n"));
  return { folder, out };
}

let teacher: Promise<string> | undefined;

/** A teacher of classes that the tests share. */
function trainedTeacher(): Promise<string> {
  return teacher ??= trained("teacher", "--teacher-only").then(({ folder }) => `${folder}/teacher.safetensors`);
}

async function distilled(name: string, ...options: string[]) {
  return await trained(name, "--teacher", await trainedTeacher(), ...options);
}

const linesOf = async (path: string) =>
  (await Deno.readTextFile(path)).trim().split("\n").map((line) => JSON.parse(line));

async function sampled(model: string, ...options: string[]): Promise<{ images: unknown; out: string }> {
  const path = `${root}/images.npz`;
  const { code, out, errors } = await dibregman(["sample", "--model", model, "--n", "3", "--out", path, ...options]);
  assertEquals(code, 0, errors.join("\n"));
  return { images: (await decodeNpz(await Deno.readFile(path), path)).images!.data, out };
}

Deno.test("train: the small UNet learns classes, is guided by them, and its generator is asked for one", async () => {
  const folder = `${root}/unet-classes`;
  const sizes = [
    "teacher.batch=16",
    "teacher.images=640",
    "teacher.rampImages=32",
    "distill.batch=16",
    "distill.images=48",
    "distill.warmupImages=16",
  ];
  const { code, errors } = await dibregman([
    ...["train", "--preset", "digits-tiny", "--data", CLASSES, "--conditional", "--guidance", "2", "--out", folder],
    ...[...sizes, "network.labelDropout=0.3", "evaluation.checkSamples=65"].flatMap((change) => ["--set", change]),
    ...["--eval-samples", "65"],
  ]);
  assertEquals(code, 0, errors.join("\n"));
  const { info } = await decodeModel(await Deno.readFile(`${folder}/generator.safetensors`), "generator");
  assert(info.network.architecture === "unet");
  assertEquals([info.network.labelDim, info.network.labelDropout], [3, 0.3]);
  const model = `${folder}/generator.safetensors`;
  const [zero, two] = [await sampled(model, "--class", "0"), await sampled(model, "--class", "2")];
  assertNotEquals(zero.images, two.images);
  const path = `${root}/no-labels.json`;
  const { network: { labelDropout: _, ...network }, ...config } = JSON.parse(
    await Deno.readTextFile(`${folder}/config.json`),
  );
  await Deno.writeTextFile(path, JSON.stringify({ ...config, network }));
  assertEquals(
    parseConfig(await Deno.readTextFile(path), path).network,
    network,
    "as it was written before there were classes",
  );
});

Deno.test("train: a generator of classes, guided; its images are of the class asked for", async () => {
  const { folder, out } = await distilled("classes", "--guidance", "1.5", "--h", "kl");
  assertMatch(out, /one step \(kl\) .* 1 evaluation an image/);
  const model = `${folder}/generator.safetensors`;
  const [zero, again, two] = [
    await sampled(model, "--class", "0"),
    await sampled(model, "--class", "0"),
    await sampled(model, "--class", "2"),
  ];
  assertEquals(zero.images, again.images);
  assertNotEquals(zero.images, two.images);
  assertMatch(
    await refused(["sample", "--model", model, "--guidance", "2", "--out", `${root}/x.png`], 2),
    /--guidance/,
  );
  const plain = await sampled(await trainedTeacher(), "--steps", "2");
  const guided = await sampled(await trainedTeacher(), "--steps", "2", "--guidance", "2");
  assertNotEquals(plain.images, guided.images);
  assertMatch(plain.out, /3 network evaluations/);
  assertMatch(guided.out, /6 network evaluations/);
});

/** Everything at once that has state, or draws random numbers. */
const EVERYTHING = [
  ...["--generator-steps", "2", "--adversarial", "0.3", "--adversarial-after", "3", "--classifier", "fake-head"],
  ...["--h-weight", "1 + exp(0.5 * logit)", "--critic-warmup", "1", "--set", "distill.ratio.bins=4"],
  ...["--set", "distill.classifier.r1Weight=0.5", "--set", "distill.sigma.law=log-normal"],
  ...["--set", "distill.weighting=edm", "--set", "distill.fakeScore.weighting=noise"],
];

Deno.test("train: a generator of two steps with everything on; killed and resumed it is the same to the byte", async () => {
  const { folder, out } = await distilled("everything", ...EVERYTHING);
  assertMatch(out, /2 steps \(1 \+ exp\(0\.5 \* logit\), adversarial 0\.3\) .* 2 evaluations an image/);
  const names = [
    ".lock",
    "checkpoints",
    "config.json",
    "diagnostics.jsonl",
    "generator.safetensors",
    "metrics.jsonl",
    "samples",
  ];
  assertEquals(await files(folder), [...names, "summary.json", "teacher.safetensors", "tuning.json"]);
  const lines = await linesOf(`${folder}/metrics.jsonl`), metrics = lines.at(-1);
  // The first step trains the critics alone.
  assertEquals([lines[0].step, "fake" in lines[0], "gradNorm" in lines[0], "gradNorm" in lines[1]], [
    1,
    true,
    false,
    true,
  ]);
  for (const name of ["fake", "classifier", "ratio", "weightMax", "adversarialLoss", "frechetDistance", "ece"]) {
    assert(Number.isFinite(metrics[name]), name);
  }
  const diagnostics = await linesOf(`${folder}/diagnostics.jsonl`);
  assertEquals(diagnostics.map(({ step, images }) => [step, images]), [[2, 32], [4, 64], [6, 96], [8, 128]]);
  for (const { calibration, weights } of diagnostics) {
    assert(calibration.ece >= 0 && calibration.ece <= 1 && calibration.logLoss > 0);
    const count = calibration.bins.reduce((sum: number, bin: { count: number }) => sum + bin.count, 0);
    assertEquals(weights.counts.flat().reduce((a: number, b: number) => a + b), count / 2);
  }
  const { info } = await decodeModel(await Deno.readFile(`${folder}/generator.safetensors`), "generator");
  assertEquals([info.sigmaInit, info.laterSigmas?.length], [2.5, 1]);
  const { out: drawn } = await sampled(`${folder}/generator.safetensors`);
  assertMatch(drawn, /2 network evaluations/);

  const killed = `${root}/killed`;
  const args = ["train", "--config", FILE, "--data", CLASSES, "--teacher", await trainedTeacher(), ...EVERYTHING];
  const [, resumed] = await killAndResume(killed, [...args, "--out", killed], /distill 4\/8: /);
  assertMatch(resumed, /distill: going on from step [246]$/m);
  await sameFiles(killed, folder, [
    "generator.safetensors",
    "diagnostics.jsonl",
    "checkpoints/distill-000008.safetensors",
  ]);
});

for (
  const [name, options, shown, metric] of [
    ["sid", ["--objective", "sid"], /one step \(sid\)/, "sidLoss"],
    ["gan", ["--objective", "gan", "--adversarial", "1"], /one step \(adversarial alone\)/, "adversarialLoss"],
    [
      "hinge",
      ["--h", "kl", "--classifier-loss", "hinge", "--adversarial", "1"],
      /kl, adversarial 1/,
      "adversarialLoss",
    ],
    [
      "through-classifier",
      ["--set", "distill.form=classifier", "--set", "distill.weighting=sigma2"],
      /jeffreys/,
      "ratio",
    ],
    ["heads", ["--classifier", "teacher-heads", "--classifier-loss", "least-squares"], /jeffreys/, "ratio"],
    ["mean", ["--classifier", "fake-mean", "--set", "distill.start=random"], /jeffreys/, "ratio"],
    ["ttur", ["--set", "distill.classifier.updates=1", "--microbatch", "8"], /jeffreys/, "ratio"],
  ] as const
) {
  Deno.test(`train: ${name} runs to its end`, async () => {
    const { folder, out } = await distilled(name, ...options);
    assertMatch(out, shown);
    const last = (await linesOf(`${folder}/metrics.jsonl`)).at(-1);
    assert(Number.isFinite(last[metric]) && Number.isFinite(last.gradNorm), JSON.stringify(last));
  });
}

Deno.test("train: settings of the distillation that contradict each other", async () => {
  const cases: [string[], RegExp][] = [
    [["--h", "lsif", "--classifier-loss", "hinge"], /the hinge loss tells no density ratio: it goes with --h kl/],
    [
      ["--classifier-loss", "hinge", "--h", "kl", "--set", "distill.form=classifier", "--set", "distill.weighting=edm"],
      /the hinge loss tells no density ratio: it cannot go with distill\.form/,
    ],
    [["--set", "distill.form=classifier"], /distill\.weighting should be sigma2, edm or none/],
    [["--objective", "gan", "--adversarial", "0"], /the adversarial term alone, whose weight, --adversarial, is 0/],
    [["--classifier", "fake-head", "--set", "distill.classifier.updates=1"], /updates \(1\) should be .* \(3\)/],
    [["--objective", "sid", "--set", "distill.ratio.bins=3"], /distill\.ratio\.bins is for divergences/],
    [["--h", "kl", "--set", "distill.ratio.bins=3"], /distill\.ratio\.bins is for divergences whose weight depends/],
    [["--set", "distill.laterSigmas=[3]"], /should descend, not be 2\.5, 3/],
    [
      ["--classifier-loss", "hinge", "--h", "kl", "--adversarial", "0"],
      /serves the adversarial term alone, whose weight, --adversarial, is 0/,
    ],
    [
      ["--set", "distill.form=classifier", "--set", "distill.weighting=sigma2", "--classifier-loss", "least-squares"],
      /distill\.form classifier needs logistic/,
    ],
    [
      ["--set", "distill.form=classifier", "--set", "distill.weighting=sigma2", "--precision", "f16"],
      /distill\.form classifier goes with --precision f32 only/,
    ],
    [["--guidance", "2", "--objective", "gan", "--adversarial", "1"], /--guidance changes the teacher's score/],
    [["--classifier", "fake-mean", "--set", "distill.classifier.trunkWeight=0"], /nothing trains .* fake-mean/],
    [["--ratio-min", "2", "--ratio-max", "3"], /between the least ratio, --ratio-min \(2\), and the greatest \(3\)/],
    [["--generator-steps", "2", "--set", "distill.laterSigmas=[1]"], /--generator-steps chooses distill\.laterSigmas/],
    [["--h", "kl", "--h-weight", "1"], /--h and --h-weight both choose the divergence/],
    [["--h", "lsif", "--set", "distill.hWeight=r"], /--h and --h-weight both choose the divergence/],
    [["--h", "lsif", "--objective", "sid"], /--h chooses a divergence, which the objective sid has none of/],
    [
      ["--adversarial", "0", "--adversarial-after", "5"],
      /--adversarial-after delays .*, whose weight, --adversarial, is 0/,
    ],
    [
      ["--distill-steps", "20", "--h", "jeffreys", "--warmup", "20"],
      /warmupImages, --warmup \(640 images, 20 updates\) leaves none of the generator's 20 updates with the weights of h/,
    ],
    [["--distill-steps", "20", "--critic-warmup", "20"], /criticWarmupImages \(640\) leaves none of the 640 images/],
    [
      ["--distill-steps", "20", "--h", "kl", "--adversarial", "1", "--adversarial-after", "20"],
      /--adversarial-after \(640 images, 20 updates\) leaves none of the generator's 20 updates with the adversarial term/,
    ],
    [
      ["--h", "kl", "--adversarial", "0", "--classifier", "own"],
      /--classifier is for the classifier, which nothing asks here/,
    ],
    [
      ["--objective", "gan", "--fake-lr", "1e-4"],
      /--fake-lr is for the fake score, which the objective gan does without/,
    ],
    [
      ["--h", "jeffreys", "--classifier", "fake-mean", "--classifier-lr", "1e-4"],
      /--classifier-lr is for a classifier with parameters of its own; fake-mean has none/,
    ],
    [
      ["--objective", "gan", "--h-weight", "r"],
      /distill\.hWeight, --h-weight, weighs a divergence, which the objective gan has none of/,
    ],
    [
      ["--objective", "sid", "--set", "distill.form=classifier"],
      /distill\.form "classifier" is a divergence's, which the objective sid has none of/,
    ],
    [["--h", "kl", "--warmup", "2"], /--warmup is for weights of the density ratio; the weight of kl is 1/],
    [["--objective", "sid", "--logit-clamp", "5"], /--logit-clamp is for .* ratio; the objective sid has none/],
    [["--h", "kl", "--ratio-min", "0.1"], /--ratio-min is for weights of the density ratio/],
    [["--h", "kl", "--ratio-max", "5"], /--ratio-max is for weights of the density ratio/],
    [["--h-weight", "exp(logit"], /distill\.hWeight, --h-weight: In the expression, at character 10: .*[^.]\.$/],
    [["--h-weight", "logit"], /positive/],
    [["--generator-steps", "0"], /--generator-steps/],
    [
      ["--teacher-only", "--critic-updates", "2"],
      /--critic-updates is for the distillation, which --teacher-only leaves/,
    ],
    [
      ["--set", "teacherOnly=true", "--generator-steps", "2"],
      /--generator-steps is for the distillation, which --teach/,
    ],
    [["--classifier", "heads"], /--classifier.*own, teacher-heads, fake-head, fake-mean/],
    [
      ["--set", "distill.classifier.heldOut=0.9"],
      /"distill\.classifier\.heldOut" should be a number, at least 0 and at most 0\.5/,
    ],
  ];
  for (const [args, message] of cases) {
    assertMatch(await refused(["train", "--preset", "digits-tiny", ...args, "--out", `${root}/no`], 2), message);
  }
  // Less than one default preset's warm-up, more than the other's.
  const { code, errors } = await dibregman([
    "train",
    "--distill-steps",
    "80",
    "--dry-run",
    "--set",
    "teacher.images=64",
  ]);
  assertEquals(code, 0, errors.join("\n"));
  assert(!(await files(root)).includes("no"), "nothing half-written");
});

/** Teachers of classes, `--config`, `--set` and `--dry-run` from the command line. */

import { presetConfig } from "../src/train/config.ts";
import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { decodeModel } from "../src/io/model.ts";
import { decodeNpz } from "../src/io/npz.ts";
import { dibregman, files, killAndResume, refused, sameFiles } from "./command.ts";
import { tinyImages } from "./tiny_data.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

const CLASSES = `${root}/classes.npz`;
await Deno.writeFile(CLASSES, tinyImages(90, 1, 3));
await Deno.writeFile(`${root}/plain.npz`, tinyImages(90, 1));

/** A teacher of classes with everything on: mirrored and augmented images, sanitised gradients, microbatches, snapshots. */
const SETTINGS = {
  preset: "mnist",
  network: { modelChannels: 8, channelMult: [1, 2], attnResolutions: [4], dropout: 0.1 },
  teacher: { batch: 16, images: 320, rampImages: 32, clipNorm: 0, mirror: true, augment: 0.5, conditional: true },
  evaluation: { samples: 65, checkSamples: 65, pictures: 9, steps: 2 },
  checkpointEvery: { teacher: 96 },
  snapshotEvery: { teacher: 160 },
  microbatch: 8,
  teacherOnly: true,
};
const FILE = `${root}/settings.json`;
await Deno.writeTextFile(FILE, JSON.stringify(SETTINGS));

const TEACHER = ["train", "--config", FILE, "--data", CLASSES];

/** A finished teacher of classes that the tests share. */
let finished: Promise<string> | undefined;

function finishedTeacher(): Promise<string> {
  return finished ??= (async () => {
    const folder = `${root}/teacher`;
    const { code, out, errors } = await dibregman([...TEACHER, "--out", folder]);
    assertEquals(code, 0, errors.join("\n"));
    assertMatch(out, /teacher .* 3 evaluations an image/);
    assert(!out.includes("one step"), out);
    return folder;
  })();
}

Deno.test("train --teacher-only --conditional: a teacher of classes, no generator, snapshots by images", async () => {
  const folder = await finishedTeacher();
  const names = [".lock", "checkpoints", "config.json", "metrics.jsonl", "samples", "snapshots", "summary.json"];
  assertEquals(await files(folder), [...names, "teacher.safetensors", "tuning.json"]);
  assertEquals(await files(`${folder}/snapshots`), ["teacher-160.safetensors", "teacher-320.safetensors"]);
  const { info } = await decodeModel(await Deno.readFile(`${folder}/teacher.safetensors`), "teacher");
  assert(info.network.architecture === "song-unet");
  const { labelDim, augmentDim, inChannels, resolution } = info.network;
  assertEquals([labelDim, augmentDim, inChannels, resolution], [3, 9, 1, 8]);
  const lines = (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.map(({ step, notFinite }) => [step, notFinite]), [[6, 0], [10, 0], [12, 0], [18, 0], [20, 0]]);
});

Deno.test("train: a teacher of classes killed and resumed is the same to the byte", async () => {
  const folder = `${root}/killed`;
  const [, resumed] = await killAndResume(folder, [...TEACHER, "--out", folder], /teacher (1[2-9])\/20/);
  assertMatch(resumed, /teacher: going on from step (6|12|18)$/m);
  await sameFiles(folder, await finishedTeacher(), [
    "teacher.safetensors",
    "snapshots/teacher-160.safetensors",
    "snapshots/teacher-320.safetensors",
    "checkpoints/teacher-000020.safetensors",
  ]);
});

Deno.test("sample --class: images of the class, the same for the same seed", async () => {
  const model = `${await finishedTeacher()}/teacher.safetensors`;
  const sampled = async (...options: string[]) => {
    const path = `${root}/images.npz`;
    const args = ["sample", "--model", model, "--n", "3", "--steps", "2", "--out", path, ...options];
    const { code, errors } = await dibregman(args);
    assertEquals(code, 0, errors.join("\n"));
    return (await decodeNpz(await Deno.readFile(path), path)).images!.data;
  };
  const [zero, two, again, any] = [
    await sampled("--class", "0"),
    await sampled("--class", "2"),
    await sampled("--class", "2"),
    await sampled(),
  ];
  assertNotEquals(zero, two);
  assertEquals(two, again);
  assertNotEquals(any, two);
  assertMatch(
    await refused(["sample", "--model", model, "--class", "3", "--out", `${root}/x.png`], 2),
    /--class 3 is none of .*teacher\.safetensors: its classes are 0 to 2/,
  );
  const uncond = new URL("./fixtures/import/song_uncond.pkl", import.meta.url).pathname;
  assertMatch(
    await refused(["sample", "--model", uncond, "--class", "0", "--out", `${root}/x.png`], 2),
    /--class 0 needs a model with classes; .*song_uncond\.pkl has none/,
  );
  assertMatch(await refused(["sample", "--model", model, "--class", "-1", "--out", `${root}/x.png`], 2), /--class.*-1/);
});

/** What a dry run prints: the settings, and the rest as text. */
async function dryRun(...args: readonly string[]) {
  const { code, out, errors } = await dibregman(["train", "--dry-run", ...args]);
  assertEquals(code, 0, errors.join("\n"));
  const end = out.indexOf("\n}\n") + 3;
  return { config: JSON.parse(out.slice(0, end)), plan: out.slice(end) };
}

Deno.test("train --dry-run: settings, sizes and times of both stages, and nothing on the disk", async () => {
  const before = await files(root), here = await files(Deno.cwd());
  const { config, plan } = await dryRun("--preset", "digits-tiny", "--out", `${root}/dry`, "--microbatch", "16");
  assertEquals([config.preset, config.microbatch, config.seed], ["digits-tiny", 16, 0]);
  const number = String.raw`[\d.e+]+`;
  const stage = (name: string, steps: number) =>
    new RegExp(`^${name}: ${steps} steps of 32 images, ${number} GFLOP each, ${number} MB on the device$`, "m");
  assertMatch(plan, stage("teacher", 100));
  assertMatch(plan, stage("distill", 20));
  assertMatch(plan, /^ {2}parameters: teacher ([\d,]+)$/m);
  assertMatch(plan, /^ {2}parameters: generator ([\d,]+), fakeScore \1, classifier [\d,]+, teacher \1$/m);
  for (const program of ["teacher.gradient", "teacher.update", "critics.gradient", "generator.gradient"]) {
    assertMatch(plan, new RegExp(`^ {2}${program}: \\d+ dispatches`, "m"));
  }
  assertEquals(plan.match(/ s a step, [\d.e+]+ images\/s, .+ in all$/gm)?.length, 2);
  assertEquals([await files(root), await files(Deno.cwd())], [before, here]);
});

Deno.test("train --dry-run: a teacher alone, and a distillation alone", async () => {
  const teacher = await dryRun("--config", FILE, "--data", CLASSES);
  assertMatch(teacher.plan, /^teacher: 20 steps of 16 images/);
  assert(!teacher.plan.includes("distill"));
  const uncond = new URL("./fixtures/import/song_uncond.pkl", import.meta.url).pathname;
  const path = `${root}/colours.npz`;
  await Deno.writeFile(path, tinyImages(80, 3));
  const distil = await dryRun("--preset", "digits-tiny", "--data", path, "--teacher", uncond, "--batch", "2");
  assertMatch(distil.plan, /^distill: 320 steps of 2 images/);
  assert(!distil.plan.includes("teacher: "));
});

Deno.test("train: a preset's settings yield to the file's, those to options, those to --set", async () => {
  const path = `${root}/changes.json`;
  const changes = {
    preset: "digits-tiny",
    seed: 1,
    teacher: { batch: 4, images: 40, clipNorm: 1, ema: { halfLife: 7 } },
  };
  await Deno.writeTextFile(path, JSON.stringify(changes));
  const only = ["--teacher-only", "--config", path];
  const { config } = await dryRun(
    ...only,
    ...["--seed", "2", "--batch", "8", "--teacher-lr", "0.5", "--set", "seed=3", "--set", "teacher.learningRate=0.25"],
  );
  const { preset, seed, teacher, distill } = config;
  assertEquals([preset, seed, teacher.batch, distill.batch, teacher.images], ["digits-tiny", 3, 8, 8, 40]);
  assertEquals([teacher.clipNorm, teacher.learningRate, teacher.rampImages], [1, 0.25, 320]);
  assertEquals(teacher.ema, { halfLife: 7, rampRatio: 0.08 });
  const named = await dryRun(
    ...only,
    "--preset",
    "digits-small",
    "--set",
    "teacher.batch=2",
    "--set",
    "teacher.batch=3",
  );
  assertEquals([named.config.preset, named.config.network.modelChannels], ["digits-small", 16], "of two presets");
  assertEquals([named.config.seed, named.config.teacher.batch], [1, 3]);
});

Deno.test("train --config: another architecture takes the place of the whole network", async () => {
  const path = `${root}/network.json`;
  const network = { ...presetConfig("mnist").network, modelChannels: 8, channelMult: [1], attnResolutions: [] };
  await Deno.writeTextFile(path, JSON.stringify({ preset: "digits-tiny", network }));
  const { config, plan } = await dryRun("--teacher-only", "--config", path, "--set", "network.dropout=0.1");
  assertEquals(config.network, { ...network, dropout: 0.1 });
  assertMatch(plan, /parameters: teacher [\d,]+/);
});

Deno.test("train --config: files that hold no settings are refused by name", async () => {
  const path = `${root}/bad.json`;
  const cases: [string, RegExp][] = [
    ["{", /bad\.json should be JSON: /],
    ["[1]", /bad\.json: there should be an object of settings\.$/],
    ["null", /bad\.json: there should be an object of settings\.$/],
    ["3", /bad\.json: there should be an object of settings\.$/],
    ['{"sed": 1}', /bad\.json: there is no setting "sed"\. Did you mean "seed"\?$/],
    ['{"teacher": {"emma": {}}}', /bad\.json: there is no setting "teacher\.emma"\. Did you mean "teacher\.ema"\?$/],
    ['{"teacher": {"ema": {"halfLife": 0}}}', /"teacher\.ema\.halfLife" should be a number, above 0\.$/],
    ['{"teacher": 5}', /"teacher" should hold settings\.$/],
    ['{"teacher": [5]}', /"teacher" should hold settings\.$/],
    ['{"seed": "1"}', /"seed" should be a whole number, at least 0 and at most 4294967295\.$/],
    ['{"seed": null}', /"seed" should be a whole number/],
    ['{"teacherOnly": 1}', /"teacherOnly" should be a boolean\.$/],
    ['{"scaling": "none"}', /"scaling" should be one of standard, edm\.$/],
    ['{"preset": "faces"}', /"preset" should be one of digits, /],
    ['{"network": {"architecture": "song-unet"}}', /"network\.modelChannels" should be a whole number/],
    ['{"network": {"architecture": "vit"}}', /"network\.architecture" should be one of unet, song-unet\.$/],
    ['{"network": {"dropout": 0.5}}', /no setting "network\.dropout"/],
    ['{"data": {"path": "x"}}', /"data" is given by --data and cannot stand here/],
    ['{"teacherFile": "x"}', /"teacherFile" is given by --teacher and cannot stand here/],
    ['{"__proto__": {"seed": 1}}', /no setting "__proto__"/],
  ];
  for (const [text, message] of cases) {
    await Deno.writeTextFile(path, text);
    assertMatch(await refused(["train", "--config", path], 1), message);
  }
  assertMatch(await refused(["train", "--config", `${root}/none.json`], 1), /none\.json.*does not exist/);
  assertMatch(await refused(["train", "--preset", "mnist"], 2), /The preset mnist needs a data set/);
  await Deno.writeTextFile(path, '{"preset": "cifar10"}');
  assertMatch(await refused(["train", "--config", path], 2), /The preset cifar10 needs a data set/);
});

Deno.test("train: classes and augmentation where they cannot be are refused before any adapter is sought", async () => {
  const song = ["train", "--config", FILE];
  const cases: [string[], RegExp][] = [
    [[...song, "--data", `${root}/plain.npz`], /plain\.npz has no classes; teacher\.conditional .* needs some/],
    [[...song, "--data", CLASSES, "--set", "teacherOnly=false", "--guidance", "2"], /Guidance 2 needs .*labelDropout/],
    [["train", "--guidance", "2"], /Guidance 2 needs a teacher of classes/],
    [["train", "--conditional", "--guidance", "2"], /Guidance 2 needs .*labelDropout/],
    [["train", "--set", "teacher.augment=0.1"], /Augmentation needs a network .* song-unet/],
    [
      [...song, "--data", CLASSES, "--set", "network.channelMult=[1,1,1,1,1]"],
      /the resolution 8 does not halve 4 times/,
    ],
    [
      [...song, "--data", CLASSES, "--set", "network.modelChannels=6"],
      /"network\.modelChannels" should be a multiple of 4/,
    ],
    [["train", "--set", "__proto__.seed=1"], /no setting "__proto__"/],
    [["train", "--set", "teacher=1"], /"teacher" should hold settings/],
    [["train", "--set", "=1"], /--set =1 should be a setting's name/],
  ];
  for (const [args, message] of cases) assertMatch(await refused([...args, "--out", `${root}/no`], 2), message);
  assert(!(await files(root)).includes("no"), "nothing half-written");
});

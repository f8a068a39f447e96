/** Whole runs from the command line: results, the same bytes again, resuming after a kill, refusals. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { lockFolder } from "../src/io/disk.ts";
import { decodeSafetensors, encodeSafetensors, type StoredTensor } from "../src/io/safetensors.ts";
import { decodeTrace } from "../src/io/trace.ts";
import { decodeNpz } from "../src/io/npz.ts";
import {
  dibregman,
  dibregmanBounded,
  files,
  killAndResume,
  memoryCanBeBounded,
  refused,
  sameModels,
  startAndKill,
} from "./command.ts";
import { getGpu } from "./gpu.ts";

const RUN = ["train", "--preset", "digits-tiny", "--eval-samples", "80"];

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

/** A finished run that the tests share. */
let finished: Promise<string> | undefined;

function finishedRun(): Promise<string> {
  return finished ??= (async () => {
    const folder = `${root}/finished`;
    const { code, out, errors } = await dibregman([...RUN, "--out", folder]);
    assertEquals(code, 0, errors.join("\n"));
    assertMatch(errors[0]!, /^adapter: .+ \((software|hardware)\)$/);
    assertMatch(out, /teacher .* 35 evaluations an image/);
    assertMatch(out, /one step \(kl, adversarial 20\) .* 1 evaluation an image/);
    const [teacher, oneStep] = out.split("\n").filter((line) => line.includes("an image,"));
    const distanceEnd = /(?<=\.\d\d) {3}/;
    assert(teacher!.search(distanceEnd) > 0, out);
    assertEquals(teacher!.search(distanceEnd), oneStep!.search(distanceEnd), out);
    return folder;
  })();
}

/** The programs in `trace.json`, whose slices are held against the counts that stood on stderr. */
async function profiledPrograms(folder: string, stderr: string): Promise<string[]> {
  const path = `${folder}/trace.json`;
  const trace = decodeTrace(await Deno.readTextFile(path), path);
  const counts = [...stderr.matchAll(/^([a-zA-Z.]+): (\d+) dispatches/gm)].map(([, label, count]) => [label, count]);
  assertEquals([...trace].map(([label, slices]) => [label, String(slices.length)]), counts);
  for (const [label, slices] of trace) {
    let end = 0;
    for (const { name, ts, dur, args } of slices) {
      assert(
        ts > end - 1e-6 && dur >= 0,
        `${label}: ${name} takes ${dur} µs from ${ts}; the one before ends at ${end}`,
      );
      assert(args.kernel === name && Number.isInteger(args.flops) && (args.workgroups as number[]).length === 3);
      end = ts + dur;
    }
    assert(end > 0, `${label} took no time`);
  }
  return [...trace.keys()];
}

Deno.test("train: a run leaves its settings, metrics, checkpoints, pictures and models", async () => {
  const folder = await finishedRun();
  assertEquals(await files(folder), [
    ".lock",
    "checkpoints",
    "config.json",
    "diagnostics.jsonl",
    "generator.safetensors",
    "metrics.jsonl",
    "samples",
    "summary.json",
    "teacher.safetensors",
    "tuning.json",
  ]);
  assertEquals(await files(`${folder}/checkpoints`), [
    "distill-000010.safetensors",
    "distill-000020.safetensors",
    "teacher-000080.safetensors",
    "teacher-000100.safetensors",
  ]);
  assertEquals(await files(`${folder}/samples`), [
    "distill-000010.png",
    "distill-000020.png",
    "teacher-and-one-step.png",
  ]);
  const lines = (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.filter(({ stage }) => stage === "teacher").map(({ step }) => step), [20, 40, 60, 80, 100]);
  assert(lines.every((line) => Object.values(line).every((v) => typeof v === "string" || Number.isFinite(v))));
  const summary = JSON.parse(await Deno.readTextFile(`${folder}/summary.json`));
  assertEquals(summary.teacher.evaluations, 35);
  assertEquals(summary.generator.evaluations, 1);
  for (const { frechetDistance, floor, nearestDistance, coverage } of [summary.teacher, summary.generator]) {
    assert(frechetDistance > floor.mean && nearestDistance > 0 && coverage > 0 && coverage <= 1);
  }
});

Deno.test("train: killed while the teacher trains, then resumed, gives the same bytes", async () => {
  const folder = `${root}/killed-teacher`;
  await killAndResume(folder, [...RUN, "--out", folder], /teacher 60\/100/);
  await sameModels(folder, await finishedRun());
});

Deno.test("train: killed while distilling, then resumed, gives the same bytes; --profile changes none", async () => {
  const folder = `${root}/killed-distill`;
  const [started, resumed] = await killAndResume(folder, [...RUN, "--out", folder], /distill 10\/20: /, ["--profile"]);
  await sameModels(folder, await finishedRun());
  // The teacher was profiled by the first process alone, the rest by both.
  const stderr = started.slice(0, started.indexOf("critics.")) + resumed;
  assertEquals(await profiledPrograms(folder, stderr), [
    "teacher.gradient",
    "teacher.update",
    "critics.gradient",
    "fakeScore.update",
    "classifier.update",
    "generator.gradient",
    "generator.update",
  ]);
  const [gradient, update, critics, fake, classifier, generator, generatorUpdate] = [
    ...stderr.matchAll(/: (\d+) dispatches.*\n {2}kernels \d+ µs .*; unprofiled \d+ µs/g),
  ].map(([, count]) => Number(count)) as [number, number, number, number, number, number, number];
  const { updates } = JSON.parse(await Deno.readTextFile(`${folder}/config.json`)).distill.fakeScore;
  assertEquals([...stderr.matchAll(/^ +total +(\d+) +\d+ +100\.0 /gm)].map(([, calls]) => Number(calls)), [
    gradient + update,
    updates * (critics + fake + classifier) + generator + generatorUpdate,
  ]);
});

/** A run of few steps. */
const SHORT = [...RUN, "--teacher-steps", "10", "--distill-steps", "12"];

/** The planned memory that a run's training programs were printed with, and what it wrote into metrics.jsonl. */
async function shortRun(folder: string, ...options: readonly string[]) {
  const { code, errors } = await dibregman([...SHORT, ...options, "--out", folder]);
  assertEquals(code, 0, errors.join("\n"));
  const planned = errors.flatMap((line) => /gradient: .* planned memory ([\d.]+) MB/.exec(line)?.[1] ?? []).map(Number);
  const lines = (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trim().split("\n");
  return { planned, metrics: lines.map((line): Record<string, number> => JSON.parse(line)) };
}

Deno.test("train: --checkpoint-blocks gives the same bytes, --microbatch the same within rounding, resumed or not", async () => {
  const [plain, kept, parts] = ["plain", "kept", "parts"].map((name) => `${root}/${name}`) as [string, string, string];
  const whole = await shortRun(plain), less = await shortRun(kept, "--checkpoint-blocks");
  await sameModels(kept, plain);
  const options = ["--microbatch", "16", "--checkpoint-blocks"];
  const split = await shortRun(parts, ...options);
  for (const [planned, share] of [[less.planned, 0.7], [split.planned, 0.4]] as const) {
    assertEquals(planned.length, 3);
    assert(planned.every((mb, i) => mb < share * whole.planned[i]!), `${planned} MB instead of ${whole.planned} MB`);
  }
  whole.metrics.forEach((line, i) => {
    for (const [name, value] of Object.entries(line)) {
      if (typeof value === "string" || /^(seconds|rssMB|deviceMB)$/.test(name)) continue;
      const other = split.metrics[i]![name]!;
      assert(Math.abs(other - value) < 1e-3 * Math.abs(value), `${name} at ${line.step}: ${other} instead of ${value}`);
    }
  });
  const killed = `${root}/killed-parts`;
  await killAndResume(killed, [...SHORT, ...options, "--out", killed], /distill 10\/12: /);
  await sameModels(killed, parts);
});

Deno.test({
  name: "train: --precision f16 goes like f32 in half the memory, the same bytes resumed or with checkpoints",
  ignore: !(await getGpu()).hasF16,
  fn: async () => {
    const [whole, halves] = [`${root}/whole`, `${root}/halves`];
    const expected = await shortRun(whole), got = await shortRun(halves, "--precision", "f16");
    assertEquals(JSON.parse(await Deno.readTextFile(`${halves}/config.json`)).precision, "f16");
    assertEquals(got.planned.length, 3);
    assert(
      got.planned.every((mb, i) => mb < 0.6 * expected.planned[i]!),
      `${got.planned} MB instead of ${expected.planned} MB`,
    );
    for (const name of ["loss", "fake", "classifier"]) {
      const [value, other] = [expected, got].map(({ metrics }) => metrics.findLast((line) => name in line)![name]!);
      assert(other !== value && Math.abs(other! - value!) < 1e-2 * value!, `${name}: ${other} instead of ${value}`);
    }
    const killed = `${root}/killed-halves`;
    const options = ["--precision", "f16", "--checkpoint-blocks", "--out", killed];
    await killAndResume(killed, [...SHORT, ...options], /distill 10\/12: /);
    await sameModels(killed, halves);
  },
});

Deno.test({
  name: "train: what does not fit the memory is refused before anything is trained, with what helps",
  ignore: !await memoryCanBeBounded(),
  fn: async () => {
    const large = ["train", "--preset", "digits", "--batch", "1024", "--out", `${root}/large`];
    const { code, errors } = await dibregmanBounded(large, 800_000);
    assertEquals(code, 1, errors.join("\n"));
    assertMatch(
      errors.at(-1)!,
      /^error: Program (teacher|critics)\.gradient, whose planned memory is \d.* does not fit\. .* no memory left; .* Less memory is needed with --microbatch, --checkpoint-blocks or a smaller --batch\.$/,
    );
    assertEquals(errors.length, 2);
    assert(!(await files(root)).includes("large"), "nothing half-written");
  },
});

Deno.test("train: a run in other hands is left alone, a damaged checkpoint passed over, one of other settings kept", async () => {
  const folder = `${root}/damaged`;
  await startAndKill(folder, [...RUN, "--out", folder], /teacher 80\/100/);
  const settings = await Deno.readTextFile(`${folder}/config.json`), kept = await files(`${folder}/checkpoints`);
  for (const setting of ["pictures", "rampImages"]) {
    await Deno.writeTextFile(`${folder}/config.json`, settings.replace(`"${setting}": `, `"${setting}": 1`));
    const other = await dibregman(["train", "--resume", folder]);
    assertEquals(other.code, 2, other.errors.join("\n"));
    assertMatch(other.errors.at(-1)!, /belongs to other settings than the run's config\.json/);
    assertEquals(await files(`${folder}/checkpoints`), kept);
  }
  await Deno.writeTextFile(`${folder}/config.json`, settings);
  const newest = (await files(`${folder}/checkpoints`)).filter((name) => name.startsWith("teacher")).at(-1)!;
  const path = `${folder}/checkpoints/${newest}`;
  const bytes = await Deno.readFile(path);
  bytes[bytes.length - 100]! ^= 1;
  await Deno.writeFile(path, bytes);
  const leftover = `${folder}/checkpoints/half-written.tmp`;
  await Deno.writeFile(leftover, new Uint8Array(10));
  {
    using _ = await lockFolder(folder);
    const second = await dibregman(["train", "--resume", folder]);
    assertEquals(second.code, 1);
    assertMatch(second.errors.at(-1)!, /^error: Another process is working on the run in .*damaged\.$/);
    assertEquals(await Deno.readFile(leftover), new Uint8Array(10));
  }
  const { code, errors } = await dibregman(["train", "--resume", folder]);
  assertEquals(code, 0, errors.join("\n"));
  assert(errors.some((line) => line.includes(newest) && line.includes("Going back")), errors.join("\n"));
  await sameModels(folder, await finishedRun());
  assert(!(await files(`${folder}/checkpoints`)).includes("half-written.tmp"));
});

Deno.test("train: resuming a finished run says so and changes nothing", async () => {
  const folder = await finishedRun();
  const before = await Deno.readTextFile(`${folder}/summary.json`);
  const { code, errors } = await dibregman(["train", "--resume", folder]);
  assertEquals([code, errors], [0, [`${folder} is finished.`]]);
  assertEquals(await Deno.readTextFile(`${folder}/summary.json`), before);
});

Deno.test("train: a given teacher skips its training", async () => {
  const folder = `${root}/given`;
  const teacher = `${await finishedRun()}/teacher.safetensors`;
  const short = ["--distill-steps", "2", "--warmup", "1", "--h", "sba", "--lambda", "-0.5", "--out", folder];
  const { code, out, errors } = await dibregman([...RUN, "--teacher", teacher, ...short]);
  assertEquals(code, 0, errors.join("\n"));
  assert(!errors.some((line) => line.startsWith("teacher ")));
  assertMatch(out, /one step \(sba\(-0\.5\), adversarial 20\)/);
  assertEquals(await Deno.readFile(`${folder}/teacher.safetensors`), await Deno.readFile(teacher));
  assertMatch(
    await refused([...RUN, "--teacher", teacher, "--conditional", "--out", `${root}/no`], 2),
    /--conditional asks for a teacher that is told the classes; .*teacher\.safetensors is not/,
  );
});

Deno.test("sample: the same seed gives the same images, and the first k of n are the same for every n", async () => {
  const model = `${await finishedRun()}/generator.safetensors`;
  const images = async (n: number, seed: number) => {
    const path = `${root}/images-${n}-${seed}.npz`;
    const { code, out, errors } = await dibregman([
      "sample",
      "--model",
      model,
      "--n",
      `${n}`,
      "--seed",
      `${seed}`,
      "--out",
      path,
    ]);
    assertEquals(code, 0, errors.join("\n"));
    assertMatch(out, /1 network evaluation each, [\d.]+ images\/s/);
    const { images } = await decodeNpz(await Deno.readFile(path), path);
    assertEquals(images!.shape, [n, 8, 8, 1]);
    return images!.data as Uint8Array;
  };
  const [many, few, other] = [await images(100, 7), await images(3, 7), await images(3, 8)];
  assertEquals(many.slice(0, few.length), few);
  assert(other.some((byte, i) => byte !== few[i]));
});

Deno.test("sample and eval: a teacher with chosen steps, a picture, and figures as JSON", async () => {
  const folder = await finishedRun();
  const png = `${root}/grid.png`;
  const sampled = await dibregman([
    "sample",
    "--model",
    `${folder}/teacher.safetensors`,
    "--steps",
    "4",
    "--n",
    "5",
    "--out",
    png,
  ]);
  assertEquals(sampled.code, 0, sampled.errors.join("\n"));
  assertMatch(sampled.out, /7 network evaluations each/);
  assertEquals([...(await Deno.readFile(png)).slice(1, 4)], [80, 78, 71]);
  const json = `${root}/eval.json`;
  const measured = await dibregman(["eval", "--model", `${folder}/generator.safetensors`, "--n", "80", "--json", json]);
  assertEquals(measured.code, 0, measured.errors.join("\n"));
  const { frechetDistance } = JSON.parse(await Deno.readTextFile(json));
  const summary = JSON.parse(await Deno.readTextFile(`${folder}/summary.json`));
  assertEquals(frechetDistance, summary.generator.frechetDistance, "eval repeats the run's own figure");
});

Deno.test("train: wrong arguments", async () => {
  const cases: [string[], RegExp][] = [
    [["--preset", "faces"], /--preset.*faces.*digits/],
    [["--presett", "digits"], /--presett.*--preset/],
    [["--h", "nope"], /--h.*nope.*jeffreys/],
    [["--h", "sba", "--lambda", "-2"], /Lambda.*-2/],
    [["--lambda", "1"], /--lambda goes with/],
    [["--teacher-steps", "0"], /--teacher-steps.*0/],
    [["--distill-steps", "-5"], /--distill-steps.*-5/],
    [["--batch", "many"], /--batch.*many/],
    [["--generator-lr", "0"], /--generator-lr.*0/],
    [["--precision", "bf16"], /--precision.*bf16.*f32, f16/],
    [["--ratio-min", "5", "--ratio-max", "2"], /--ratio-min \(5\)/],
    [["--microbatch", "0"], /--microbatch.*0/],
    [["--microbatch", "7"], /--microbatch 7 does not divide the teacher's batch of 128 images/],
    [["--preset", "digits", "--microbatch", "128"], /--microbatch 128 does not divide the distillation's batch of 64/],
    [["--teacher-steps", "5", "--teacher-images", "9"], /--teacher-images and --teacher-steps say the same/],
    [["--set", "teacher.batch"], /--set teacher\.batch should be a setting's name/],
    [["--set", "teacher.bach=4"], /no setting "teacher\.bach"\. Did you mean "teacher\.batch"\?/],
    [
      ["--set", "teacher.batch=4", "--set", "teacher.betas=[1,0]"],
      /"teacher\.betas" should be a list of 2, each a number/,
    ],
    [["--set", "distill.h=kl", "--set", "distill.ratio.min=11"], /--ratio-min \(11\)/],
    [["--set", "preset=digits"], /The preset is chosen by --preset/],
    [["--resume", "somewhere", "--set", "seed=1"], /--set cannot go with --resume/],
    [["--resume", "somewhere", "--seed", "1"], /--seed cannot go with --resume/],
    [["--resume", "somewhere", "--checkpoint-blocks"], /--checkpoint-blocks cannot go with --resume/],
  ];
  for (const [args, message] of cases) assertMatch(await refused(["train", ...args], 2), message);
});

Deno.test("train: options that depend on a setting go by where that was set", async () => {
  const file = `${root}/sba.json`;
  await Deno.writeTextFile(file, '{ "distill": { "h": "sba" } }');
  assertMatch(await refused(["train", "--config", file, "--lambda", "-2"], 2), /Lambda.*-2/);
  assertMatch(await refused(["train", "--config", file, "--lambda", "-2", "--h", "kl"], 2), /--lambda goes with/);
  const steps = [
    "--h",
    "jeffreys",
    "--teacher-steps",
    "3",
    "--set",
    "teacher.batch=4",
    "--warmup",
    "2",
    "--set",
    "distill.batch=8",
  ];
  const { code, out } = await dibregman([...RUN, ...steps, "--dry-run"]);
  assertEquals(code, 0);
  assertMatch(out, /^teacher: 3 steps of 4 images/m);
  assertMatch(out, /"warmupImages": 16,/);
});

Deno.test("train: files that are not what they should be", async () => {
  await Deno.writeTextFile(`${root}/text.csv`, "hello\n");
  assertMatch(await refused([...RUN, "--data", `${root}/text.csv`, "--out", `${root}/no`], 1), /text\.csv/);
  assertMatch(await refused([...RUN, "--data", `${root}/none.csv`, "--out", `${root}/no`], 1), /does not exist/);
  const generator = `${await finishedRun()}/generator.safetensors`;
  assertMatch(
    await refused([...RUN, "--teacher", generator, "--out", `${root}/no`], 1),
    /is a generator; a teacher was expected/,
  );
  assertMatch(await refused(["train", "--resume", `${root}/none`], 1), /holds no run to resume/);
  assert(!(await files(root)).includes("no"), "nothing half-written");
  assertMatch(await refused([...RUN, "--out", await finishedRun()], 1), /already holds a run/);
  await Deno.writeTextFile(`${root}/file`, "");
  assertMatch(await refused([...RUN, "--out", `${root}/file/run`], 1), /its folder is a file/);
  await Deno.mkdir(`${root}/stale`);
  await Deno.copyFile(generator, `${root}/stale/generator.safetensors`);
  assertMatch(await refused([...RUN, "--out", `${root}/stale`], 1), /already holds a run \(generator/);
  await Deno.mkdir(`${root}/stale-trace`);
  await Deno.writeTextFile(`${root}/stale-trace/trace.json`, "");
  assertMatch(await refused([...RUN, "--out", `${root}/stale-trace`], 1), /already holds a run \(trace/);
  await Deno.writeTextFile(`${root}/blank.csv`, `${"0,".repeat(64)}1\n`.repeat(3));
  assertMatch(await refused([...RUN, "--data", `${root}/blank.csv`, "--out", `${root}/no`], 1), /not all alike/);
});

Deno.test("train --resume: settings that are damaged are named", async () => {
  const good = JSON.parse(await Deno.readTextFile(`${await finishedRun()}/config.json`));
  const folder = `${root}/damaged-config`;
  await Deno.mkdir(folder);
  const cases: [string, RegExp][] = [
    ["{", /config\.json should be JSON/],
    [JSON.stringify({ ...good, preset: "faces" }), /"preset" should be one of/],
    [
      JSON.stringify({ ...good, teacher: { ...good.teacher, batch: "64" } }),
      /"teacher\.batch" should be a whole number, at least 1/,
    ],
    [JSON.stringify({ ...good, distill: { ...good.distill, h: "x" } }), /"distill\.h" should be one of/],
    [JSON.stringify({ ...good, checkpointBlocks: undefined }), /"checkpointBlocks" should be a boolean/],
    [JSON.stringify({ ...good, microbatch: "8" }), /"microbatch" should be a whole number/],
    [JSON.stringify({ ...good, microbatch: 7 }), /7 does not divide the teacher's batch/],
    [
      JSON.stringify({ ...good, distill: { ...good.distill, hWeight: "logits" } }),
      /config\.json: distill\.hWeight, --h-weight: In the expression, at character 1/,
    ],
    [JSON.stringify({ ...good, seeds: 7 }), /no setting "seeds"\. Did you mean "seed"\?/],
    [JSON.stringify({ ...good, teacher: { ...good.teacher, betas: [0.9] } }), /"teacher\.betas" should be a list of 2/],
    [JSON.stringify({ ...good, teacherFile: { path: "x" } }), /"teacherFile\.sha256" should be a text/],
    [JSON.stringify({ ...good, checkpointEvery: undefined }), /"checkpointEvery" should hold settings/],
  ];
  for (const [text, message] of cases) {
    await Deno.writeTextFile(`${folder}/config.json`, text);
    assertMatch(await refused(["train", "--resume", folder], 1), message);
  }
});

Deno.test("sample and eval: what cannot be written is said before any work", async () => {
  const model = `${await finishedRun()}/generator.safetensors`;
  assertMatch(await refused(["sample", "--model", model, "--out", `${root}/none/x.png`], 1), /folder does not exist/);
  assertMatch(await refused(["eval", "--model", model, "--json", root], 1), /folder of that name/);
  assertMatch(await refused(["sample", "--model", model, "--out", `${root}/x.jpg`], 2), /\.png or \.npz/);
  assertMatch(await refused(["sample", "--model", model, "--steps", "5", "--out", `${root}/x.png`], 2), /--steps/);
  assertMatch(await refused(["sample", "--model", model, "--n", "0", "--out", `${root}/x.png`], 2), /--n.*0/);
  assertMatch(await refused(["sample", "--model", model, "--n", "20000", "--out", `${root}/x.png`], 2), /npz/);
  assertMatch(await refused(["eval", "--model", model, "--n", "-5"], 2), /--n.*-5/);
  assertMatch(await refused(["eval"], 2), /--model/);
});

Deno.test("train: a loss that is not finite ends the run and writes no model", async () => {
  const folder = `${root}/nan`;
  const { code, errors } = await dibregman([...RUN, "--teacher-lr", "1e30", "--out", folder]);
  assertEquals(code, 1);
  assertMatch(errors.at(-1)!, /^error: teacher: \w+ became (NaN|-?Infinity) by step \d+; .*learning rate/);
  assert(!(await files(folder)).includes("teacher.safetensors"));
});

Deno.test("train: a weight that is not finite is never saved", async () => {
  const folder = `${root}/infinite`;
  const { code, errors } = await dibregman([...RUN, "--teacher-steps", "1", "--teacher-lr", "1e39", "--out", folder]);
  assertEquals(code, 1);
  assertMatch(errors.at(-1)!, /^error: teacher: teacher\.values\.\S+ is not finite after step 1; .*learning rate/);
  assert(!(await files(folder)).includes("teacher.safetensors"));
  assertEquals(await files(`${folder}/checkpoints`), []);
});

Deno.test("model files: truncated, foreign, wrong shapes, missing tensors, oversized header", async () => {
  const good = await Deno.readFile(`${await finishedRun()}/generator.safetensors`);
  const { metadata, tensors } = await decodeSafetensors(good, "good");
  const path = `${root}/bad.safetensors`;
  const check = async (bytes: Uint8Array, message: RegExp) => {
    await Deno.writeFile(path, bytes);
    const line = await refused(["sample", "--model", path, "--n", "1", "--out", `${root}/bad.png`], 1);
    assertMatch(line, message);
    assertMatch(line, /bad\.safetensors/);
  };
  const variant = (change: (t: Map<string, StoredTensor>, m: Record<string, string>) => void) => {
    const [copy, texts] = [new Map(tensors), { ...metadata }];
    delete texts.checksum;
    change(copy, texts);
    return encodeSafetensors(copy, texts);
  };
  await check(good.subarray(0, good.length - 4), /./);
  await check(new Uint8Array(4), /./);
  const oversized = good.slice();
  new DataView(oversized.buffer).setBigUint64(0, 1n << 40n, true);
  await check(oversized, /header/);
  const flipped = good.slice();
  flipped[flipped.length - 9]! ^= 0x10;
  await check(flipped, /checksum/);
  await check(await variant((t) => t.delete("out.conv.bias")), /"out\.conv\.bias" is missing/);
  await check(await variant((t) => t.set("more", t.get("out.conv.bias")!)), /"more" is not one/);
  await check(
    await variant((t) => t.set("out.conv.bias", { dtype: "F32", shape: [2], data: new Float32Array(2) })),
    /"out\.conv\.bias" should be F32 \[1\]/,
  );
  await check(
    await variant((t) => t.set("out.conv.bias", { dtype: "F32", shape: [1], data: new Float32Array([NaN]) })),
    /not finite/,
  );
  await check(await variant((_, m) => delete m.format), /not a model/);
  await check(
    await variant((_, m) => m.model = m.model!.replace('"modelChannels":8', '"modelChannels":-8')),
    /modelChannels/,
  );
  assert(!(await files(root)).includes("bad.png"), "nothing half-written");
});

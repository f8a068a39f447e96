/** Whole studies from the command line: figures, report, resuming after a kill, refusals. */

import { assert, assertAlmostEquals, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import type { Comparison } from "../src/eval/comparison.ts";
import { estimate } from "../src/eval/statistics.ts";
import { presetConfig } from "../src/train/config.ts";
import { checkpointSeed } from "../src/train/run.ts";
import { makeStudy, parseStudyList, type StudyList } from "../src/train/study.ts";
import { dibregman, files, refused, sameFiles, sameModels, startAndKill } from "./command.ts";
import { elementsOf, parseXml } from "./xml.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

/** Two settings over two seeds, and one over one that cannot come to its end. */
const LIST = {
  preset: "digits-tiny",
  seeds: 2,
  lateCheckpoints: 2,
  common: {
    teacher: { batch: 8, images: 40 },
    distill: { batch: 8, images: 32, warmupImages: 8 },
    evaluation: { samples: 80, pictures: 4, steps: 2 },
    checkpointEvery: { distill: 8 },
  },
  settings: {
    "kl": { distill: { h: "kl" } },
    "sba(-0.5)": { distill: { h: "sba", lambda: -0.5 } },
    "wild": { seeds: 1, against: "sba(-0.5)", distill: { generator: { learningRate: 1e39 } } },
  },
} as const;

const FILE = `${root}/list.json`;
await Deno.writeTextFile(FILE, JSON.stringify(LIST));

const NO_ADVERSARIAL = ["--set", "distill.adversarial.weight=0"];

const NAMES = ["kl", "sba(-0.5)", "wild"];

async function figuresOf(folder: string): Promise<Comparison> {
  return JSON.parse(await Deno.readTextFile(`${folder}/compare.json`));
}

/** The Fréchet distance of 80 images of a model. */
async function distanceOf(model: string, seed: number): Promise<number> {
  const json = `${root}/figures.json`;
  const { code, errors } = await dibregman([
    "eval",
    "--model",
    model,
    "--n",
    "80",
    "--seed",
    `${seed}`,
    "--json",
    json,
  ]);
  assertEquals(code, 0, errors.join("\n"));
  return JSON.parse(await Deno.readTextFile(json)).frechetDistance;
}

/** Figures without those of the machine's day: times, and the step at which a lost run was looked at. */
function lasting(comparison: Comparison): unknown {
  return JSON.parse(
    JSON.stringify(comparison, (key, value) => key === "times" || key === "reason" ? undefined : value),
  );
}

/** A finished study that the tests share, with what it printed. */
let finished: Promise<{ folder: string; out: string; markdown: string }> | undefined;

function finishedStudy() {
  return finished ??= (async () => {
    const folder = `${root}/finished`, markdown = `${root}/tables.md`;
    const { code, out, errors } = await dibregman([
      "compare",
      "--config",
      FILE,
      "--out",
      folder,
      "--markdown",
      markdown,
    ]);
    assertEquals(code, 0, errors.join("\n"));
    return { folder, out, markdown: await Deno.readTextFile(markdown) };
  })();
}

Deno.test("compare: a study leaves runs that can be looked at alone, their figures, and a report", async () => {
  const { folder, out, markdown } = await finishedStudy();
  assertEquals(await files(folder), [
    ...[".lock", "compare.json", "report.html", "runs", "study.json", "teachers", "tuning.json"],
  ]);
  assertEquals(await files(`${folder}/runs`), NAMES);
  const { settings, teachers, runs, samples } = await figuresOf(folder);
  assertEquals([runs, samples], [{ planned: 5, ended: 4, failed: 1 }, 80]);
  for (const { name, late, final, curve, failures } of settings.slice(0, 2)) {
    assertEquals(failures, []);
    for (const seed of [0, 1]) {
      const run = `${folder}/runs/${name}/seed-${seed}`;
      const lines = (await Deno.readTextFile(`${run}/metrics.jsonl`)).trim().split("\n").map((line) =>
        JSON.parse(line)
      );
      const checked = lines.flatMap(({ step, frechetDistance }) =>
        frechetDistance ? [[8 * step, frechetDistance]] : []
      );
      assertEquals(curve.map(({ images, values }) => [images, values[seed]]), checked);
      assertEquals(late!.values[seed], estimate([checked[2]![1], checked[3]![1]]).mean);
      const summary = JSON.parse(await Deno.readTextFile(`${run}/summary.json`));
      assertEquals(final!.values[seed], summary.generator.frechetDistance);
      // The last checkpoint is the end; it is measured by images of its own.
      assertNotEquals(final!.values[seed], checked[3]![1]);
      if (name === "kl") {
        const repeated = await distanceOf(`${run}/generator.safetensors`, checkpointSeed({ seed }, 4));
        assertEquals(repeated, checked[3]![1]);
        // What all seeds drew alike would be in every mean over them, and in no standard error.
        assertEquals(await distanceOf(`${run}/generator.safetensors`, seed), final!.values[seed]);
        const { frechetDistance } = teachers.find(({ steps }) => steps === 18)!;
        assertEquals(await distanceOf(`${run}/teacher.safetensors`, seed), frechetDistance.values[seed]);
      }
      const { seed: used, distill, teacherOnly } = JSON.parse(await Deno.readTextFile(`${run}/config.json`));
      assertEquals([used, distill.h, teacherOnly], [seed, name.slice(0, 3).replace("(", ""), false]);
      await sameFiles(run, `${folder}/teachers/seed-${seed}`, ["teacher.safetensors"]);
    }
  }
  const deviceMB = async (seed: number) =>
    /"deviceMB":([\d.]+)}\n$/.exec(await Deno.readTextFile(`${folder}/runs/kl/seed-${seed}/metrics.jsonl`))![1];
  assertEquals(await deviceMB(1), await deviceMB(0), "a lost run leaves nothing on the device");
  const [kl, sba, wild] = settings;
  assertEquals(settings.map(({ against }) => against), ["kl", "kl", "sba(-0.5)"]);
  assertNotEquals(checkpointSeed({ seed: 1 }, 4), checkpointSeed({ seed: 0 }, 4));
  const { paired } = sba!.difference!;
  assertAlmostEquals(paired.difference, sba!.late!.mean - kl!.late!.mean, 1e-9);
  assertEquals([wild!.late, wild!.failures.map(({ seed }) => seed)], [null, [0]]);
  assertMatch(wild!.failures[0]!.reason, /not finite|became/);
  assertEquals(teachers.map(({ steps, evaluations }) => [steps, evaluations]), [[1, 1], [2, 3], [4, 7], [8, 15], [
    18,
    35,
  ]]);
  for (const name of NAMES) assert(out.includes(name) && markdown.includes(`| ${name} |`));
  assertMatch(out, new RegExp(`^kl +${kl!.late!.mean.toFixed(0)}(\\.\\d+)? ± `, "m"));
  const page = parseXml(await Deno.readTextFile(`${folder}/report.html`));
  assertEquals(elementsOf(page, "img").length, 2);
  const text = await Deno.readTextFile(`${folder}/compare.json`) + await Deno.readTextFile(`${folder}/report.html`);
  assert(!text.includes(root) && !text.includes("20" + new Date().getFullYear() % 100 + "-"), "no paths, no dates");
});

Deno.test("compare: killed in a run, resumed by two processes, of which one adds a seed: the same figures and models", async () => {
  const folder = `${root}/killed`, { folder: whole } = await finishedStudy();
  await startAndKill(
    folder,
    ["compare", "--config", FILE, "--seeds", "1", "--out", folder],
    /sba\(-0\.5\), seed 0[^]*distill 2\/4: /,
  );
  const { runs, settings } = await figuresOf(folder);
  assertEquals([runs.ended, settings[0]!.late!.seeds], [1, [0]], "figures of what has ended are there all the time");
  assertMatch(await Deno.readTextFile(`${folder}/report.html`), /1 of 3 runs have ended so far/);
  await Deno.writeTextFile(`${folder}/half-written.tmp`, "");
  const seeds = async () => JSON.parse(await Deno.readTextFile(`${folder}/study.json`)).seeds;
  const both = await Promise.all(
    [[], ["--seeds", "2"]].map((more) => dibregman(["compare", "--resume", folder, ...more])),
  );
  for (const { code, errors } of both) assertEquals(code, 0, errors.join("\n"));
  const begun = both.map(({ errors }) =>
    errors.flatMap((line) => /^\[\d\/[47]\] (.*?)(?:, about .*)?$/.exec(line)?.[1] ?? [])
  );
  assert(begun.every((parts) => parts.length > 0), "each has done something");
  // What had ended is not run again, and nothing is run twice.
  assertEquals(begun.flat().sort(), [
    ...["kl, seed 1", "sba(-0.5), seed 0", "sba(-0.5), seed 1", "teacher, seed 1", "wild, seed 0"],
  ]);
  const text = both.map(({ errors }) => errors.join("\n")).join("\n");
  assertMatch(text, /\] sba\(-0\.5\), seed 0\n[^]*distill: going on from step [12]\n/);
  for (const { out } of both) assertMatch(out, /^sba\(-0\.5\) /m);
  assertEquals(both[0]!.out, both[1]!.out);
  assertEquals(lasting(await figuresOf(folder)), lasting(await figuresOf(whole)));
  assertEquals([await seeds(), await files(folder)], [2, await files(whole)]);
  assertMatch(
    await refused(["compare", "--resume", folder, "--seeds", "1"], 2),
    /--seeds 1 would be fewer than the 2 of/,
  );
  assertEquals(await seeds(), 2);
  for (const seed of ["seed-0", "seed-1"]) {
    for (const name of NAMES.slice(0, 2)) {
      await sameModels(`${folder}/runs/${name}/${seed}`, `${whole}/runs/${name}/${seed}`);
    }
  }
});

Deno.test("compare --teachers: those of another study serve, where they are as this one's would be", async () => {
  const { folder } = await finishedStudy(), out = `${root}/taking`, list = `${root}/taking.json`;
  const { evaluation, distill } = LIST.common;
  const common = { ...LIST.common, evaluation: { ...evaluation, pictures: 9 }, distill: { ...distill, images: 16 } };
  await Deno.writeTextFile(
    list,
    JSON.stringify({ ...LIST, common, settings: { jeffreys: { distill: { h: "jeffreys" } } } }),
  );
  const take = ["compare", "--config", list, "--out", out, "--teachers"];
  const { code, errors } = await dibregman([...take, folder, "--seeds", "3", "--dry-run"]);
  assertEquals(code, 0, errors.join("\n"));
  const wrong: [string[], RegExp][] = [
    [[root], /holds no study/],
    [
      [folder, "--set", "teacher.learningRate=2"],
      /finished.teachers.seed-0 holds a teacher of other settings than this/,
    ],
    [
      [folder, "--set", "evaluation.samples=81", "--set", "evaluation.checkSamples=81"],
      /holds a teacher of other settings/,
    ],
  ];
  for (const [args, message] of wrong) {
    const refusal = await dibregman([...take, ...args]);
    assertEquals(refusal.code, 1);
    assertMatch(refusal.errors.at(-1)!, message);
  }
  assert(!(await files(root)).includes("taking"), "nothing half-written");
  const taken = await dibregman([...take, folder]);
  assertEquals(taken.code, 0, taken.errors.join("\n"));
  const begun = taken.errors.filter((line) => /^\[/.test(line)).map((line) => line.replace(/, about .*/, ""));
  assertEquals(begun, ["[3/4] jeffreys, seed 0", "[4/4] jeffreys, seed 1"]);
  const { teachers, runs } = await figuresOf(out);
  assertEquals([teachers, runs.ended], [(await figuresOf(folder)).teachers, 2]);
  const again = await dibregman(["compare", "--resume", out]);
  assertEquals([again.code, again.errors], [0, [`${out} is finished.`]]);
});

Deno.test("compare --resume: a finished study is reported anew, with the diagnostics that its runs hold", async () => {
  const { folder, out } = await finishedStudy();
  const before = await Deno.readTextFile(`${folder}/compare.json`);
  const again = await dibregman(["compare", "--resume", folder]);
  assertEquals([again.code, again.errors, again.out], [0, [`${folder} is finished.`], out]);
  assertEquals(await Deno.readTextFile(`${folder}/compare.json`), before);
  const paths = [0, 1].map((seed) => `${folder}/runs/kl/seed-${seed}/diagnostics.jsonl`);
  const kept = await Promise.all(paths.map((path) => Deno.readTextFile(path).catch(() => undefined)));
  const line = {
    step: 4,
    images: 32,
    calibration: { ece: 0.25, logLoss: 0.5, bins: [{ predicted: 0.5, observed: 0.75, count: 12 }] },
    weights: { sigmaEdges: [0.1, 1], logWeightEdges: [-1, 0, 1], counts: [[3, 9]] },
  };
  try {
    for (const path of paths) await Deno.writeTextFile(path, `{"step":2}\n${JSON.stringify(line)}\n`);
    assertEquals((await dibregman(["compare", "--resume", folder])).code, 0);
    const [kl] = (await figuresOf(folder)).settings;
    const bins = [{ predicted: 0.5, observed: 0.75, count: 24 }];
    assertEquals(kl!.calibration, { ...line.calibration, bins });
    assertEquals(kl!.weights, { ...line.weights, counts: [[6, 18]] });
    const page = parseXml(await Deno.readTextFile(`${folder}/report.html`));
    const own = elementsOf(page, "svg").filter(({ attributes }) => attributes["aria-label"] === "kl");
    assertEquals(own.flatMap((chart) => elementsOf(chart, "rect", "cell")).length, 2);
    await Deno.writeTextFile(paths[1]!, JSON.stringify({ ...line, calibration: { ...line.calibration, ece: 2 } }));
    assertMatch(
      (await dibregman(["compare", "--resume", folder])).errors.at(-1)!,
      /diagnostics\.jsonl.*"calibration\.ece"/,
    );
  } finally {
    for (const [i, text] of kept.entries()) {
      await (text === undefined ? Deno.remove(paths[i]!) : Deno.writeTextFile(paths[i]!, text));
    }
    await Deno.writeTextFile(`${folder}/compare.json`, before);
  }
});

Deno.test("compare: a list that is not what it should be is named with its field", async () => {
  const path = `${root}/bad.json`;
  const { common, settings } = LIST;
  const cases: [unknown, RegExp][] = [
    ["{", /bad\.json should be JSON/],
    [[], /there should be an object/],
    [{ ...LIST, seedz: 3 }, /no field "seedz"\. Did you mean "seeds"\?/],
    [{ ...LIST, seeds: 0 }, /"seeds" should be a whole number, at least 1/],
    [{ ...LIST, settings: undefined }, /"settings" is missing/],
    [{ ...LIST, settings: {} }, /"settings" should hold at least one/],
    [{ ...LIST, settings: [] }, /"settings" should hold settings/],
    [{ ...LIST, preset: "faces" }, /"preset" should be one of/],
    [{ ...LIST, baseline: "lsif" }, /baseline "lsif" is none of the settings kl, sba/],
    [{ ...LIST, lateCheckpoints: 5 }, /in the setting "kl", there are 4 checkpoints, fewer than the 5/],
    [{ ...LIST, common: { ...common, seed: 3 } }, /have "seed", in whose place a study has "seeds"/],
    [{ ...LIST, common: { ...common, distil: {} } }, /no setting "distil"\. Did you mean "distill"\?/],
    [{ ...LIST, common: { evaluation: { samples: 80, checkSamples: 70 } } }, /checkSamples \(70\) should be .*\(80\)/],
    [{ ...LIST, settings: { ...settings, "a/b": {} } }, /name of the setting "a\/b" should have/],
    [{ ...LIST, settings: { ...settings, KL: {} } }, /"kl" and "KL" should differ by more than case/],
    [{ ...LIST, settings: { kl: { distill: { hh: 1 } } } }, /in the setting "kl", there is no setting "distill\.hh"/],
    [
      { ...LIST, settings: { kl: { distill: { h: 1 } } } },
      /in the setting "kl", the field "distill\.h" should be one of/,
    ],
    [{ ...LIST, settings: { kl: { teacher: { batch: 4 } } } }, /in the setting "kl", "teacher" is changed; .*"common"/],
    [{ ...LIST, settings: { kl: { distill: { images: 64 } } } }, /"distill\.images" is 64, but 32 for all; .*"own"/],
    [{ ...LIST, settings: { kl: { budget: "any" } } }, /"budget" should be "own"/],
    [
      { ...LIST, settings: { kl: { seeds: 3 } } },
      /in the setting "kl", the field "seeds" should be a whole number, at least 1 and at most 2/,
    ],
    [
      { ...LIST, settings: { ...settings, kl: { against: "kl" } } },
      /in the setting "kl", .*"against" .* another .*, not "kl"/,
    ],
    [{ ...LIST, settings: { ...settings, kl: { against: "wild" } } }, /baseline "kl" is held against no other/],
    [
      { ...LIST, settings: { ...settings, "sba(-0.5)": { against: "wild" } } },
      /held against one another: sba\(-0\.5\), wild, sba\(-0\.5\)/,
    ],
    [
      { ...LIST, settings: { ...settings, kl: { against: 1 } } },
      /"against" should be the name of another setting, not 1/,
    ],
    [{ ...LIST, settings: { kl: {}, same: { distill: { lambda: 2 } } } }, /"kl" and "same" come to the same runs/],
    [
      { ...LIST, common: { ...common, distill: { ...common.distill, hWeight: "r" } } },
      /"kl" and "sba\(-0\.5\)" come to the same runs/,
    ],
    [{ ...LIST, settings: { kl: 3 } }, /"settings\.kl" should hold settings/],
    [
      { ...LIST, settings: { kl: {}, b: { distill: { h: "sba", lambda: -2 } } } },
      /in the setting "b", distill\.lambda, --lambda: Lambda of "sba" must be/,
    ],
    [
      { ...LIST, settings: { kl: {}, b: { distill: { hWeight: "logits" } } } },
      /in the setting "b", distill\.hWeight, --h-weight: In the expression, at character 1/,
    ],
    [{ ...LIST, settings: { kl: { distill: { ratio: { min: 20 } } } } }, /in the setting "kl", .*--ratio-min \(20\)/],
  ];
  for (const [list, message] of cases) {
    await Deno.writeTextFile(path, typeof list === "string" ? list : JSON.stringify(list));
    const line = await refused(["compare", "--config", path, "--out", `${root}/no`], 1);
    assertMatch(line, message);
    assertMatch(line, /bad\.json/);
  }
  assert(!(await files(root)).includes("no"), "nothing half-written");
});

Deno.test("compare: wrong arguments", async () => {
  const cases: [string[], number, RegExp][] = [
    [["--h", "kl,nope"], 2, /--h should list .* but has "nope"/],
    [["--h", "jefreys"], 2, /Did you mean "jeffreys"\?/],
    [["--h", "kl,kl"], 2, /names kl twice/],
    [["--h", "kl(2)"], 2, /kl has no parameter, but was given \(2\)/],
    [["--h", "sba(x)"], 2, /parameter of sba should be a number, but is "x"/],
    [["--h", "sba(-2)"], 2, /Lambda.*-2/],
    [["--h", "kl", "--config", FILE], 2, /--h and --config both/],
    [["--h", "kl", "--baseline", "lsif"], 2, /baseline "lsif" is none/],
    [["--preset", "mnist"], 2, /mnist needs a data set/],
    [["--seeds", "0"], 2, /--seeds.*0/],
    [
      ["--set", "distill.images=640", "--set", "distill.warmupImages=64", ...NO_ADVERSARIAL, "--late", "11"],
      2,
      /there are 10 checkpoints, fewer than the 11/,
    ],
    [["--resume", root, "--late", "3"], 2, /--late cannot go with --resume: a study keeps .* study\.json/],
    [["--resume", root], 1, /holds no study to resume/],
    [["--out", (await finishedStudy()).folder], 1, /already holds a study \(study\.json\); continue it with --resume/],
    [["--markdown", `${root}/none/x.md`], 1, /folder does not exist/],
    [["--markdown", `${root}/x.md`, "--dry-run"], 2, /--dry-run measures nothing that --markdown could write/],
  ];
  for (const [args, code, message] of cases) assertMatch(await refused(["compare", ...args], code), message);
});

Deno.test("compare --resume: what does not belong to the study is refused", async () => {
  const folder = `${root}/damaged`;
  await Deno.mkdir(folder);
  const good = JSON.parse(await Deno.readTextFile(`${(await finishedStudy()).folder}/study.json`));
  const cases: [unknown, RegExp][] = [
    [{ ...good, seeds: "2" }, /study\.json: the field "seeds" should be a whole number/],
    [{ ...good, lateCheckpoints: undefined }, /"lateCheckpoints" should be a whole number/],
    [{ ...good, common: { ...good.common, distill: undefined } }, /study\.json, "common": the field "distill"/],
    [{ ...good, settings: { kl: { distill: { h: "x" } } } }, /in the setting "kl", the field "distill\.h"/],
  ];
  for (const [study, message] of cases) {
    await Deno.writeTextFile(`${folder}/study.json`, JSON.stringify(study));
    assertMatch(await refused(["compare", "--resume", folder], 1), message);
  }
  // Another study's run in the place of one's own.
  await Deno.writeTextFile(`${folder}/study.json`, JSON.stringify(good));
  await Deno.mkdir(`${folder}/teachers/seed-0`, { recursive: true });
  const other = { ...presetConfig("digits-tiny"), teacherOnly: true };
  await Deno.writeTextFile(`${folder}/teachers/seed-0/config.json`, JSON.stringify(other));
  await Deno.writeTextFile(`${folder}/tuning.json`, await Deno.readTextFile(`${root}/finished/tuning.json`));
  const { code, errors } = await dibregman(["compare", "--resume", folder]);
  assertEquals(code, 1);
  assertMatch(
    errors.at(-1)!,
    /^error: .*teachers\/seed-0 holds a run of other settings than this study's; move it away\.$/,
  );
});

Deno.test("compare --resume: figures of what has ended are those of the study's settings, and whole", async () => {
  const { folder } = await finishedStudy(), run = "runs/kl/seed-1";
  const lines = (await Deno.readTextFile(`${folder}/${run}/metrics.jsonl`)).trim().split("\n");
  const without = (text: string, name: string) => text.replace(new RegExp(`"${name}": [^,]*,`, "g"), "");
  const cases: [string, (text: string) => string, RegExp][] = [
    [
      "study.json",
      (text) => text.replaceAll('"sigmaInit": 2.5', '"sigmaInit": 3'),
      /seed-0 holds a run of other settings/,
    ],
    ["study.json", (text) => text.replace('"h": "sba"', '"h": "logistic"'), /sba\(-0\.5\).seed-0 holds a run of other/],
    ["study.json", (text) => text.replace('"h": "sba"', '"hWeight": "exp("'), /at character 5/],
    [
      `${run}/config.json`,
      (text) => text.replace(/"sha256": "./, '"sha256": "x'),
      /seed-1 holds a run of other settings/,
    ],
    [`${run}/metrics.jsonl`, () => lines.slice(0, -1).join("\n"), /Fréchet distances after 1, 2, 3, 4 steps/],
    [
      `${run}/metrics.jsonl`,
      (text) => text.replaceAll(/"frechetDistance":[^,]*/g, '"frechetDistance":null'),
      /Fréchet/,
    ],
    [`${run}/summary.json`, (text) => without(text, "coverage"), /summary\.json is not a run's summary/],
    [`${run}/summary.json`, (text) => text.replace('"seconds"', '"times"'), /summary\.json is not a run's summary/],
    ["teachers/seed-1/heun.json", () => "[]", /heun\.json does not hold a teacher's measures/],
    ["teachers/seed-1/heun.json", (text) => without(text, "nearestDistance"), /heun\.json does not hold/],
  ];
  for (const [name, change, message] of cases) {
    const path = `${folder}/${name}`, before = await Deno.readTextFile(path);
    assertNotEquals(change(before), before, name);
    await Deno.writeTextFile(path, change(before));
    try {
      const { code, errors } = await dibregman(["compare", "--resume", folder]);
      assert(code !== 0, name);
      assertMatch(errors.at(-1)!, /^error: /);
      assertMatch(errors.at(-1)!, message);
    } finally {
      await Deno.writeTextFile(path, before);
    }
  }
});

Deno.test("compare --dry-run: every h by default, the settings, and the time; nothing on the disk", async () => {
  const before = await files(root);
  const small = ["--set", "teacher.images=64", "--set", "distill.images=160", "--h", "kl,sba", "--seeds", "4"];
  const weighed = ["--set", "distill.warmupImages=32"];
  const { code, out, errors } = await dibregman([
    "compare",
    "--preset",
    "digits-tiny",
    "--dry-run",
    ...small,
    ...weighed,
  ]);
  assertEquals(code, 0, errors.join("\n"));
  const end = out.indexOf("\n}\n") + 3, study = JSON.parse(out.slice(0, end));
  assertEquals(Object.keys(study.settings), ["kl", "sba(-0.5)"]);
  const { evaluation: { samples, checkSamples }, checkpointEvery, seed } = study.common;
  assertEquals([samples, checkSamples, checkpointEvery.distill, seed, study.baseline], [5000, 5000, 32, 0, "kl"]);
  assertMatch(
    out.slice(end),
    /^teachers: 4 times \d+s\nkl: 4 times \d+s\nsba\(-0\.5\): 4 times \d+s\nexpected on .*: \d+s of/,
  );
  assertEquals(await files(root), before);
});

Deno.test("study: the lists in bench/studies can be run", async () => {
  const folder = new URL("../bench/studies/", import.meta.url);
  const lists = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).filter((n) =>
    n.endsWith(".json")
  );
  assert(lists.length > 0);
  for (const name of lists) {
    const { preset = "digits-small", ...list } = parseStudyList(await Deno.readTextFile(new URL(name, folder)), name);
    makeStudy({ ...list, preset }, [], undefined, (message) => {
      throw new RangeError(`${name}: ${message}`);
    });
  }
});

Deno.test("study: the common settings get measurements that can be compared; own budgets are taken where it is said", () => {
  const fail = (message: string): never => {
    throw new RangeError(message);
  };
  const list: StudyList & { preset: "digits-small" } = {
    preset: "digits-small",
    settings: { long: { budget: "own", distill: { images: 153_600 } }, short: {} },
  };
  const { common, baseline, seeds, lateCheckpoints } = makeStudy(
    list,
    [{ evaluation: { samples: 200 } }],
    undefined,
    fail,
  );
  assertEquals([baseline, seeds, lateCheckpoints], ["long", 3, 5]);
  assertEquals([common.evaluation.samples, common.evaluation.checkSamples], [200, 200]);
  // 1,200 steps of 64 images, 16 checkpoints: one every 75 steps.
  assertEquals(common.checkpointEvery, { teacher: 16_000, distill: 4800 });
});

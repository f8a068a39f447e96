/** Tuning from the command line: what is measured and stored, where, who uses it, and what of it is refused. */

import { assert, assertEquals, assertMatch, assertNotEquals, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import { VARIANTS } from "../kernels/families.ts";
import { ShapeRecorder } from "../kernels/tuner.ts";
import { cachedTuningPath, identify, knownChoices } from "../src/cli/tuning.ts";
import { loadDigits } from "../src/data/digits.ts";
import { type AdapterIdentity, encodeTuning, parseTuning, type Tuning } from "../src/gpu/tuning.ts";
import type { Tensor } from "../src/graph/mod.ts";
import { presetConfig } from "../src/train/config.ts";
import { cacheFolder } from "../src/train/cache.ts";
import { compileAll } from "../src/train/run.ts";
import { command, dibregman } from "./command.ts";
import { deviceTest, getGpu } from "./gpu.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

let folders = 0;

/** An empty cache, and this adapter's file in it. */
async function newCache(): Promise<
  { env: Record<string, string>; folder: string; file: string; own: AdapterIdentity }
> {
  const folder = join(root, `cache-${folders++}`);
  await Deno.mkdir(folder);
  const own = await identify(await getGpu());
  return { env: { DIBREGMAN_CACHE: folder }, folder, file: (await cachedTuningPath(own, folder))!, own };
}

const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

const read = async (path: string) => parseTuning(await Deno.readTextFile(path), path);

const TUNE = ["tune", "--preset", "digits-tiny", "--batch", "4"];

const SHAPE = "3x3 999->1 8x8->8x8 batch 4";

/** A table of a shape that no preset has. */
const OLD = { conv2d: { [SHAPE]: "general" } };

/** A table with which every convolution of the runs is computed by the general kernels: other bits than untuned. */
async function generalTable(): Promise<Tuning> {
  const gpu = await getGpu();
  const { choices } = gpu;
  const recorder = new ShapeRecorder(choices.adapter, (tensor) => tensor as Tensor);
  const preset = presetConfig("digits-tiny"), batch = 4;
  gpu.choices = recorder;
  await compileAll(gpu, {
    ...preset,
    ...{ teacher: { ...preset.teacher, batch }, distill: { ...preset.distill, batch } },
  }, await loadDigits());
  gpu.choices = choices;
  const table: Record<string, Record<string, string>> = {};
  for (const { family, key, variants, preferred } of recorder.used) {
    if (variants.includes("general") && preferred !== "general") (table[family] ??= {})[key] = "general";
  }
  return { version: 1, ...await identify(gpu), choices: table };
}

Deno.test("the cache folder is the system's for the user, or the one that is named", () => {
  const folder = (os: string, env: Record<string, string>) => cacheFolder(os, (name) => env[name]);
  const HOME = "/home/a", LOCALAPPDATA = "/local", XDG_CACHE_HOME = "/xdg";
  assertEquals(folder("linux", { HOME }), join(HOME, ".cache", "dibregman"));
  assertEquals(folder("freebsd", { HOME, XDG_CACHE_HOME }), join("/xdg", "dibregman"));
  assertEquals(folder("linux", { HOME, XDG_CACHE_HOME: "relative" }), join(HOME, ".cache", "dibregman"));
  assertEquals(folder("darwin", { HOME, XDG_CACHE_HOME }), join(HOME, "Library", "Caches", "dibregman"));
  assertEquals(folder("windows", { HOME, LOCALAPPDATA, XDG_CACHE_HOME }), join(LOCALAPPDATA, "dibregman"));
  for (const os of ["linux", "darwin", "windows"]) {
    assertEquals(folder(os, {}), undefined);
    assertEquals(folder(os, { HOME, LOCALAPPDATA, DIBREGMAN_CACHE: "/here" }), "/here");
  }
});

Deno.test("every adapter and driver has a file of its own, whose name can be read", async () => {
  const own = { adapter: "llvmpipe (LLVM 15.0.6, 256 bits)", vendor: "65541", driver: "Mesa 22.3.6-1" };
  const path = async (change: Partial<AdapterIdentity>) => await cachedTuningPath({ ...own, ...change }, "/folder");
  const first = await path({});
  assertMatch(basename(first!), /^tuning-llvmpipe-llvm-15-0-6-256-bits-mesa-22-3-6-1-[0-9a-f]{8}\.json$/);
  assertEquals(await path({}), first);
  const others = [await path({ adapter: "llvmpipe" }), await path({ vendor: "1" }), await path({ driver: "Mesa 25" })];
  assertEquals(new Set([first, ...others]).size, 4);
});

Deno.test("entries of families or variants that there are not are left out by name", () => {
  const choices = { matmul: { a: "quads", b: "octets" }, "conv3d": { c: "general" } };
  assertEquals(knownChoices(choices), {
    table: { matmul: { a: "quads" } },
    unknown: [
      'matmul has no variant "octets"; its entry b is ignored.',
      'there is no kernel family "conv3d"; its entries are ignored.',
    ],
  });
});

deviceTest("tune: every shape's variants are timed, the fastest is stored beside what was there", async () => {
  const { env, folder, file, own } = await newCache();
  await Deno.writeTextFile(file, encodeTuning({ version: 1, ...own, choices: OLD }));
  const { code, out, errors } = await dibregman(TUNE, env);
  assertEquals(code, 0, errors.join("\n"));
  assertEquals(names(folder), [basename(file)]);
  assertStringIncludes(out, `${file}: `);
  const { deno, date, choices, ...identity } = await read(file);
  assertEquals(identity, { version: 1, ...own });
  assertEquals(deno, Deno.version.deno);
  assert(Math.abs(Date.now() - Date.parse(date!)) < 3_600_000, date);
  assertEquals(choices.conv2d![SHAPE], "general");
  for (const family of ["matmul", "conv2d", "conv2d.weightGrad"]) {
    const shapes = Object.entries(choices[family]!);
    assert(shapes.length > 3, `${family} has ${shapes.length} shapes`);
    for (const [shape, variant] of shapes) {
      assert(VARIANTS.get(family)!.includes(variant), `${family} ${shape}: ${variant}`);
      if (shape === SHAPE) continue;
      const line = out.split("\n").find((line) => line.trimStart().startsWith(`${shape} `));
      assertMatch(line ?? "", new RegExp(` ${variant}\\*? \\d+\\.\\d+ .*-> ${variant}( |$)`));
    }
  }
  assertMatch(out, /^all uses together: [\d.]+ ms untuned, [\d.]+ ms tuned$/m);
});

deviceTest("tune: interrupted, it leaves the old table and nothing else", async () => {
  const { env, folder, file, own } = await newCache();
  const old = encodeTuning({ version: 1, ...own, choices: OLD });
  await Deno.writeTextFile(file, old);
  const child = command(TUNE, env).spawn();
  let seen = "";
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    seen += chunk;
    if (/^tune \d+\/\d+/m.test(seen)) break;
  }
  child.kill("SIGINT");
  await child.stdout.cancel();
  assert(!(await child.status).success, seen);
  assertEquals(await Deno.readTextFile(file), old);
  assertEquals(names(folder), [basename(file)]);
});

deviceTest("tune: a file with another adapter's table, or none, is not overwritten", async () => {
  const path = join(root, "other.json");
  const other = encodeTuning({ version: 1, adapter: "another card", vendor: "1", choices: {} });
  for (const [text, message] of [[other, "another card"], ["[]", "should hold a table of tuned kernels"]] as const) {
    await Deno.writeTextFile(path, text);
    const { code, errors } = await dibregman([...TUNE, "--out", path]);
    assertEquals(code, 1, errors.join("\n"));
    assert(errors.at(-1)!.startsWith("error: ") && errors.at(-1)!.includes(message), errors.at(-1));
    assertEquals(await Deno.readTextFile(path), text);
  }
});

const RUN = [
  ...["train", "--preset", "digits-tiny", "--batch", "4", "--teacher-steps", "60", "--distill-steps", "5"],
  "--set",
  "checkpointEvery.teacher=160",
];

/** Hashes of a run's models. */
const modelsOf = (folder: string) =>
  Promise.all(["teacher", "generator"].map(async (name) => {
    const bytes = await Deno.readFile(join(folder, `${name}.safetensors`));
    return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
  }));

deviceTest(
  "train: a run keeps the table it was begun with, whatever the machine is tuned to when it is resumed",
  async () => {
    const tuning = await generalTable();
    const run = [...RUN, "--eval-samples", "65", "--out"];
    const [untuned, tuned, resumed] = ["untuned", "tuned", "resumed"].map((name) => join(root, name)) as [
      string,
      string,
      string,
    ];
    const first = await dibregman([...run, untuned], (await newCache()).env);
    assertEquals(first.code, 0, first.errors.join("\n"));
    assertEquals((await read(join(untuned, "tuning.json"))).choices, {});

    const { env, file } = await newCache();
    await Deno.writeTextFile(file, encodeTuning(tuning));
    const second = await dibregman([...run, tuned], env);
    assertEquals(second.code, 0, second.errors.join("\n"));
    assertMatch(second.errors[1]!, /^kernels: \d+ shapes as tuned in /);
    assertEquals((await read(join(tuned, "tuning.json"))).choices, tuning.choices);
    assertNotEquals(await modelsOf(tuned), await modelsOf(untuned));

    // What is left of such a run that was killed while its teacher was trained.
    await Deno.mkdir(join(resumed, "checkpoints"), { recursive: true });
    const kept = ["config.json", "tuning.json", join("checkpoints", "teacher-000040.safetensors")];
    for (const name of kept) await Deno.copyFile(join(tuned, name), join(resumed, name));
    await Deno.writeTextFile(file, encodeTuning({ ...tuning, choices: {} }));
    const third = await dibregman(["train", "--resume", resumed], env);
    assertEquals(third.code, 0, third.errors.join("\n"));
    assertStringIncludes(third.errors.join("\n"), "teacher: going on from step 40");
    assertEquals(await modelsOf(resumed), await modelsOf(tuned));

    const refused = await dibregman(["train", "--resume", resumed, "--tuning", file], env);
    assertEquals(refused.code, 2);
    assertMatch(refused.errors[0]!, /^error: --tuning cannot go with --resume/);

    const model = join(tuned, "generator.safetensors");
    await samples(model, tuning);
  },
);

/** `sample` with a table that is named: used, of another adapter, with unknown entries, damaged; and one that is cached. */
async function samples(model: string, tuning: Tuning): Promise<void> {
  const path = join(root, "named.json");
  const { env, file } = await newCache();
  const sample = async (options: readonly string[], text: string) => {
    await Deno.writeTextFile(path, text);
    const { code, errors } = await dibregman(
      ["sample", "--model", model, "--n", "4", "--out", join(root, "x.npz"), ...options],
      env,
    );
    return { code, errors: errors.slice(1) };
  };
  const named = ["--tuning", path];
  const used = await sample(named, encodeTuning(tuning));
  assertEquals(used.code, 0);
  assertMatch(used.errors.join("\n"), /^kernels: \d+ shapes as tuned in .*named\.json$/);

  const { adapter } = tuning;
  const other = await sample(named, encodeTuning({ ...tuning, adapter: "another card" }));
  assertEquals(other.code, 0);
  assertMatch(
    other.errors.join("\n"),
    /^tuned kernels are ignored: \S+named\.json is of another adapter; .*another card/,
  );
  assertStringIncludes(other.errors[0]!, adapter);

  const unknown = await sample(named, encodeTuning({ ...tuning, choices: { conv3d: {}, matmul: { x: "octets" } } }));
  assertEquals(unknown.code, 0);
  assertEquals(unknown.errors, [
    `${path}: there is no kernel family "conv3d"; its entries are ignored.`,
    `${path}: matmul has no variant "octets"; its entry x is ignored.`,
  ]);

  const damaged = await sample(named, encodeTuning({ ...tuning, choices: { matmul: { x: 1 as unknown as string } } }));
  const message = `error: ${path}: the field "choices.matmul.x" should be the name of a variant.`;
  assertEquals(damaged, { code: 1, errors: [message] });

  await Deno.writeTextFile(file, "nonsense");
  const cached = await sample([], "");
  assertEquals(cached.code, 0);
  assertMatch(cached.errors.join("\n"), /^tuned kernels are ignored: .* should be JSON: .*deno task tune replaces/);
}

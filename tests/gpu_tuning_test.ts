/** Tuned kernels: their file, whose they are, that they run, that they change no result beyond rounding; how they are timed. */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { conv2d as conv2dFamily, convolution } from "../kernels/conv2d.ts";
import { VARIANTS } from "../kernels/families.ts";
import { chooseVariant, elapsed, measureVariants, ShapeRecorder, type UsedShape } from "../kernels/tuner.ts";
import { compileTeacherStep, imageValues } from "../src/diffusion/teacher.ts";
import { FileError, ShaderError } from "../src/gpu/errors.ts";
import { KernelChoices, type TuningTable } from "../src/gpu/family.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import { adapterMismatch, encodeTuning, mergeTables, parseTuning, type Tuning } from "../src/gpu/tuning.ts";
import { conv2d, type Program, type Tensor, Workspace } from "../src/graph/mod.ts";
import { UNet, type UNetConfig } from "../src/nn/unet.ts";
import { initialWeights, Trainable } from "../src/optim/weights.ts";
import { gpuTest, relativeError } from "./gpu.ts";

const TUNING: Tuning = {
  version: 1,
  adapter: "a card",
  vendor: "1",
  driver: "2.0",
  deno: "2.9.6",
  choices: { matmul: { "1 x 2x2x2": "quads" } },
};

/** What the console warned of while `action` ran. */
async function warningsOf(action: () => unknown): Promise<string[]> {
  const warnings: string[] = [];
  const { warn } = console;
  console.warn = (text: string) => warnings.push(text);
  try {
    await action();
  } finally {
    console.warn = warn;
  }
  return warnings;
}

/** Runs `action` with other choices on the shared device. */
async function withChoices<T>(gpu: Gpu, choices: KernelChoices, action: () => Promise<T>): Promise<T> {
  const { choices: before } = gpu;
  gpu.choices = choices;
  try {
    return await action();
  } finally {
    gpu.choices = before;
  }
}

Deno.test("a file of tuned kernels is read as it was written; one that is none is refused by file and field", () => {
  assertEquals(parseTuning(encodeTuning(TUNING), "t.json"), TUNING);
  const cases: [unknown, string][] = [
    [[], "t.json should hold a table of tuned kernels."],
    [null, "t.json should hold a table of tuned kernels."],
    [{ ...TUNING, version: 2 }, `t.json: the field "version" should be 1.`],
    [{ ...TUNING, adapter: 7 }, `t.json: the field "adapter" should be a text.`],
    [{ ...TUNING, vendor: undefined }, `t.json: the field "vendor" should be a text.`],
    [{ ...TUNING, driver: 2 }, `t.json: the field "driver" should be a text, where it is there.`],
    [{ ...TUNING, choices: ["x"] }, `t.json: the field "choices" should be a table by kernel family.`],
    [{ ...TUNING, choices: { matmul: "quads" } }, `t.json: the field "choices.matmul" should be a table by shape.`],
    [
      { ...TUNING, choices: { matmul: { "2x2": 1 } } },
      `t.json: the field "choices.matmul.2x2" should be the name of a variant.`,
    ],
  ];
  for (const [value, message] of cases) {
    assertThrows(() => parseTuning(JSON.stringify(value), "t.json"), FileError, message);
  }
  assertThrows(() => parseTuning(encodeTuning(TUNING).slice(0, -9), "t.json"), FileError, "t.json should be JSON: ");
});

Deno.test("a table is for its adapter, vendor and driver; a driver that is not known is no other driver", () => {
  const own = { adapter: "a card", vendor: "1", driver: "2.0" };
  assertEquals(adapterMismatch(TUNING, own), undefined);
  assertEquals(adapterMismatch(TUNING, { adapter: "a card", vendor: "1" }), undefined);
  assertEquals(
    adapterMismatch(TUNING, { ...own, driver: "2.1" }),
    "it was measured on a card (vendor 1, driver 2.0), and this adapter is a card (vendor 1, driver 2.1)",
  );
  assert(adapterMismatch(TUNING, { ...own, adapter: "a car" }));
  assert(adapterMismatch(TUNING, { ...own, vendor: "2" }));
});

Deno.test("merged tables: what was measured replaces, what was not stays", () => {
  const old = { matmul: { a: "quads", b: "quads" }, conv2d: { c: "rows8" } };
  const measured = { matmul: { b: "scalars4", d: "scalars8" }, "conv2d.weightGrad": { e: "general" } };
  assertEquals(mergeTables(old, measured), {
    matmul: { a: "quads", b: "scalars4", d: "scalars8" },
    conv2d: { c: "rows8" },
    "conv2d.weightGrad": { e: "general" },
  });
});

Deno.test("an entry that is unknown or does not fit is named once, and what is preferred runs", async () => {
  const square = { batch: 1, inChannels: 4, outChannels: 8, height: 8, width: 8, kernel: 3, scale: 1 } as const;
  const s = convolution({ ...square, stride: 1 }), strided = convolution({ ...square, stride: 2 });
  const table = { [conv2dFamily.key(s)]: "constructor", [conv2dFamily.key(strided)]: "rows8" };
  const choices = new KernelChoices("software", { conv2d: table, nothing: { x: "y" } });
  const warnings = await warningsOf(() => {
    for (let i = 0; i < 2; i++) {
      assertEquals(choices.name(conv2dFamily, s), "rows8");
      assertEquals(choices.name(conv2dFamily, strided), "general");
    }
  });
  assertEquals(warnings, [
    `The tuned variant constructor of conv2d ${conv2dFamily.key(s)} cannot compute it; rows8 does.`,
    `The tuned variant rows8 of conv2d ${conv2dFamily.key(strided)} cannot compute it; general does.`,
  ]);
});

Deno.test("the fastest variant is chosen, and the preferred one unless another is 3 % faster", () => {
  const times = new Map([["a", 1], ["b", 0.98], ["c", 2]]);
  assertEquals(chooseVariant(times, "a"), "a");
  assertEquals(chooseVariant(times, "c"), "b");
  assertEquals(chooseVariant(new Map([...times, ["d", 0.9]]), "a"), "d");
});

/** A convolution whose weights only the register kernels rearrange: its kernels' names tell which variant runs. */
async function convolutionKernels(gpu: Gpu): Promise<{ key: string; kernels: string[] }> {
  const workspace = new Workspace(gpu);
  const x = workspace.variable("x", [2, 4, 8, 8]), w = workspace.variable("w", [8, 4, 3, 3]);
  const y = conv2d(x.tensor, w.tensor);
  const program = await workspace.compile({ label: "test", outputs: { y } });
  const kernels = program.kernels().map(({ kernel }) => kernel).sort();
  workspace.destroy();
  const shape = {
    batch: 2,
    inChannels: 4,
    outChannels: 8,
    height: 8,
    width: 8,
    kernel: 3,
    stride: 1,
    scale: 1,
  } as const;
  return { key: conv2dFamily.key(convolution(shape)), kernels };
}

gpuTest("Gpu.create: the table's variants run, another adapter's table is named and ignored", async (shared) => {
  const { key, kernels } = await convolutionKernels(shared);
  assertEquals(kernels, ["conv2d", "conv2d.pack"]);
  const tuning: Tuning = { ...shared.tuning, choices: { conv2d: { [key]: "general" } } };
  const tuned = await Gpu.create({ tuning });
  assertEquals((await convolutionKernels(tuned)).kernels, ["conv2d"]);
  assertEquals(tuned.tuning, tuning);
  tuned.destroy();

  const warnings = await warningsOf(async () => {
    const other = await Gpu.create({ tuning: { ...tuning, adapter: "another card" } });
    assertEquals((await convolutionKernels(other)).kernels, ["conv2d", "conv2d.pack"]);
    assertEquals(other.tuning.choices, {});
    other.destroy();
  });
  assertEquals(warnings.length, 1);
  assert(warnings[0]!.includes("another card") && warnings[0]!.includes(shared.adapter.name), warnings[0]);
});

const NETWORK: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };

/** The gradient of a small teacher, and the program that computes it. */
async function teacherGradient(gpu: Gpu): Promise<{ program: string[]; gradient: Float32Array[] }> {
  const batch = 6;
  const workspace = new Workspace(gpu);
  const data = workspace.variable("images", [31, 1, 8, 8], "u8");
  data.write(new Uint32Array(data.tensor.bytes / 4).map((_, i) => Math.imul(i + 1, 2654435761)));
  const teacher = new Trainable(workspace, "teacher", new UNet(NETWORK));
  const weights = [...initialWeights(teacher.network.parameters, [1, 2])].map(([name, values]) =>
    [name, values.map((value, i) => value + 0.1 * Math.sin(1 + i))] as const
  );
  teacher.start(new Map(weights));
  const program: Program = await compileTeacherStep(teacher, { data, scale: 1 / 128, shift: -1 }, {
    batch,
    sigma: { mean: -1.2, std: 1.2 },
  });
  workspace.submit([program.at(imageValues([3, 4], 0, batch))]);
  const gradient = await workspace.read(teacher.grad.flat.chunks) as Float32Array[];
  const lines = program.kernels().map(({ kernel, calls }) => `${kernel} ${calls}`).sort();
  workspace.destroy();
  return { program: lines, gradient };
}

gpuTest(
  "a teacher's gradient with no variant as preferred is the same within rounding, and not to the bit",
  async (gpu) => {
    const recorder = new ShapeRecorder(gpu.choices.adapter, (tensor) => tensor as Tensor);
    const untuned = await withChoices(gpu, recorder, () => teacherGradient(gpu));
    const { used } = recorder;
    for (const { family, variants } of used) {
      const known = VARIANTS.get(family) ?? [];
      assert(variants.every((name) => known.includes(name)), `kernels/families.ts does not list ${family}`);
    }
    const table: Record<string, Record<string, string>> = {};
    for (const { family, key, variants, preferred } of used) {
      const other = variants.find((name) => name !== preferred);
      if (other) (table[family] ??= {})[key] = other;
    }
    const forced = new KernelChoices(gpu.choices.adapter, table satisfies TuningTable);
    const tuned = await withChoices(gpu, forced, () => teacherGradient(gpu));
    assert(tuned.program.join() !== untuned.program.join(), "the same kernels ran");
    untuned.gradient.forEach((chunk, i) => {
      const error = relativeError(tuned.gradient[i]!, chunk);
      assert(error > 0 && error < 1e-5, `relative error ${error}`);
    });
  },
);

/** A shape of two variants, of which `often` runs the kernel of `once` forty times. */
function uneven(used: UsedShape): UsedShape {
  const lowered = used.lower(used.preferred);
  const { packings } = lowered;
  const computing = lowered.dispatches.slice(packings.length);
  const often = [...lowered.dispatches, ...Array.from({ length: 39 }, () => computing).flat()];
  return {
    ...used,
    preferred: "once",
    variants: ["often", "once"],
    lower: (variant) => variant === "once" ? lowered : { ...lowered, dispatches: often },
  };
}

Deno.test("times of passes: milliseconds, and none where the device's clock began anew", () => {
  const late = 2n ** 63n; // far beyond what a number holds exactly
  assertEquals(elapsed(new BigUint64Array([late, late + 2_500_000n, 7n, 7n, late, 3n])), [2.5, 0, Infinity]);
});

gpuTest("variants are timed: forty times the work takes longer, and no buffer stays", async (gpu) => {
  const recorder = new ShapeRecorder(gpu.choices.adapter, (tensor) => tensor as Tensor);
  await withChoices(gpu, recorder, () => convolutionKernels(gpu));
  const [shape, ...others] = recorder.used;
  assertEquals(others, []);
  const f32 = (elements: number) => ({ bytes: 4 * elements, dtype: "f32" });
  assertEquals(shape!.operands, { x: f32(2 * 4 * 64), w: f32(8 * 4 * 9), y: f32(2 * 8 * 64) });
  const before = gpu.allocatedBytes;
  const real = await measureVariants(gpu, shape!);
  assertEquals([...real.keys()], shape!.variants);
  for (const [name, ms] of real) assert(ms > 0 && ms < 1000, `${name}: ${ms} ms`);
  const { hasTimestamps } = gpu;
  for (const stamped of new Set([hasTimestamps, false])) {
    Object.assign(gpu, { hasTimestamps: stamped });
    try {
      const times = await measureVariants(gpu, uneven(shape!));
      assert(times.get("often")! > 4 * times.get("once")!, `by timestamps: ${stamped}, ${JSON.stringify([...times])}`);
    } finally {
      Object.assign(gpu, { hasTimestamps });
    }
  }
  assertEquals(gpu.allocatedBytes, before);
});

gpuTest(
  "a variant that the driver cannot compile is left out and named; the preferred one is an error",
  async (gpu) => {
    const recorder = new ShapeRecorder(gpu.choices.adapter, (tensor) => tensor as Tensor);
    await withChoices(gpu, recorder, () => convolutionKernels(gpu));
    const { allocatedBytes } = gpu;
    const used = recorder.used[0]!;
    const broken: UsedShape = {
      ...used,
      variants: [used.preferred, "broken"],
      lower: (variant) => {
        const lowered = used.lower(used.preferred);
        if (variant !== "broken") return lowered;
        const dispatches = lowered.dispatches.map((one, i, { length }) =>
          i < length - 1 ? one : { ...one, source: `${one.source}\nfn broken() { nothing }` }
        );
        return { ...lowered, dispatches };
      },
    };
    const warnings = await warningsOf(async () => {
      assertEquals([...(await measureVariants(gpu, broken)).keys()], [used.preferred]);
    });
    assertEquals(warnings.length, 1);
    assertMatch(warnings[0]!, /^Variant broken of conv2d .* is left out: Kernel conv2d\S* did not compile/);
    await assertRejects(() => measureVariants(gpu, { ...broken, preferred: "broken" }), ShaderError, "did not compile");
    assertEquals(gpu.allocatedBytes, allocatedBytes);
  },
);

/** The second compiler: GPU suites and both trainings run in headless Chromium as well, whose WebGPU is Dawn with Tint. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { UsageError } from "../src/gpu/errors.ts";
import { decodeSafetensors } from "../src/io/safetensors.ts";
import { inChromium, type Page } from "./browser/chromium.ts";
import type { Registered, Result } from "./browser/page.ts";
import { train } from "./browser/training.ts";
import { getGpu, relativeError } from "./gpu.ts";

/** The URL of a file of this folder, as a literal. */
function literal(path: string): string {
  return JSON.stringify(new URL(path, import.meta.url).href);
}

/** Every suite of this folder that uses the GPU: none has to be listed, so none can be forgotten. */
function gpuSuites(): string[] {
  const folder = new URL("./", import.meta.url);
  const usesGpu = (name: string) =>
    /import \{[^}]*\bgpuTest\b[^}]*\} from "\.\/gpu\.ts"/.test(Deno.readTextFileSync(new URL(name, folder)));
  return [...Deno.readDirSync(folder)]
    .map(({ name }) => name)
    .filter((name) => name.endsWith("_test.ts") && (name.startsWith("kernels_") || usesGpu(name)))
    .sort();
}

async function readJson<T>(page: Page): Promise<T> {
  return JSON.parse(new TextDecoder().decode(await page.next()));
}

/** The next message, a safetensors file of f32 vectors. */
async function readVectors(page: Page): Promise<Map<string, Float32Array>> {
  const { tensors } = await decodeSafetensors(await page.next(), "the page's message");
  return new Map([...tensors].map(([name, { data }]) => [name, data as Float32Array]));
}

Deno.test("Chromium: every suite that uses the GPU passes", async (t) => {
  const suites = gpuSuites();
  const loaders = suites.map((name) => `${JSON.stringify(name)}: () => import(${literal(name)}),`);
  const source = `import { runSuites } from ${literal("browser/page.ts")};\nawait runSuites({${loaders.join("\n")}});`;
  await inChromium(source, async (page) => {
    const registered = await readJson<Registered>(page);
    assertEquals([...new Set(registered.map(({ suite }) => suite))], suites);
    for (const suite of suites) {
      await t.step(suite, async (t) => {
        for (const { name } of registered.filter((test) => test.suite === suite)) {
          await t.step(name, async () => {
            const thrown = await readJson<Result>(page);
            assert(thrown === null, thrown!);
          });
          if (page.failure) throw page.failure;
        }
      });
      if (page.failure) throw page.failure;
    }
  });
});

Deno.test({
  name: "Chromium: a teacher's training and its distillation go the same way as here",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const ours = await train(await getGpu());
    await inChromium(`import ${literal("browser/training_page.ts")};`, async (page) => {
      const metrics = await readVectors(page), moved = await readVectors(page);
      assertEquals([...metrics.keys()].sort(), [...ours.metrics.keys()].sort());
      assertEquals([...moved.keys()].sort(), [...ours.moved.keys()].sort());
      for (const [name, values] of ours.metrics) {
        const error = relativeError(metrics.get(name)!, values);
        assert(error < 1e-5, `${name}: relative error ${error}`);
      }
      for (const [name, move] of ours.moved) {
        assert(move.every(Number.isFinite) && move.some((value) => value !== 0), `${name} has not moved`);
        // A constant added to every score of a query changes nothing: the keys' bias follows rounding errors alone.
        if (name.endsWith("qkv.bias")) continue;
        // Moves are thousandths of the weights, whose rounding is all that differs; one element of 10,000 that goes
        // the other way is 2e-2.
        const error = relativeError(moved.get(name)!, move);
        assert(error < 1e-3, `${name}: its move has a relative error of ${error}`);
      }
    });
  },
});

Deno.test("Chromium: what keeps a page from answering is the error", async () => {
  const failure = async (source: string) => {
    const { message } = await assertRejects(() => inChromium(source, async (page) => void await page.next()), Error);
    return message;
  };
  assertStringIncludes(await failure(`throw new Error("on purpose");`), "In Chromium: Error: on purpose");
  assertStringIncludes(
    await failure(
      `import { runSuites } from ${literal("browser/page.ts")};\n` +
        `navigator.gpu.requestAdapter = () => Promise.resolve(null);\nawait runSuites({});`,
    ),
    "No WebGPU adapter was found.",
  );
  assertStringIncludes(await failure(`import "./missing.ts";`), "cannot be bundled");
});

Deno.test({
  name: "Chromium: a browser that ends, or is none, is the error",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const before = Deno.env.get("DIBREGMAN_CHROMIUM");
    const browser = await Deno.makeTempFile();
    const opened = () => inChromium("", async (page) => void await page.next());
    try {
      Deno.env.set("DIBREGMAN_CHROMIUM", browser);
      await assertRejects(opened, UsageError, `should be the path of a Chromium; ${browser} cannot be run`);
      await Deno.writeTextFile(browser, `#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no memory" >&2\nexit 3\n`);
      await Deno.chmod(browser, 0o755);
      await assertRejects(opened, Error, "Chromium ended with code 3: no memory");
    } finally {
      if (before === undefined) Deno.env.delete("DIBREGMAN_CHROMIUM");
      else Deno.env.set("DIBREGMAN_CHROMIUM", before);
      await Deno.remove(browser);
    }
  },
});

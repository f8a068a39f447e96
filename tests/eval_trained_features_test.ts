/** Feature networks that are trained on a data set, and their cache. */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { join } from "@std/path";
import { describeImages, type ImageData8 } from "../src/data/image_data.ts";
import { loadDigits } from "../src/data/digits.ts";
import { parseUciDigits } from "../src/data/uci_digits.ts";
import { Evaluator } from "../src/eval/evaluate.ts";
import { areDigits } from "../src/eval/feature_network.ts";
import { type TrainedFeatures, trainFeatures } from "../src/eval/feature_training.ts";
import { Workspace } from "../src/graph/mod.ts";
import { cachedFeatures } from "../src/train/features.ts";
import { deviceTest, uniformSource } from "./gpu.ts";

const SIDE = 16;

/** Grey images of three classes: a blob, upright and level stripes, all somewhere, with noise. */
function shapes(count: number, seed: number): ImageData8 {
  const uniform = uniformSource(seed);
  const pixels = new Uint8Array(count * SIDE * SIDE);
  const labels = new Uint16Array(count);
  for (let i = 0; i < count; i++) {
    const kind = labels[i] = i % 3;
    const [cx, cy, phase, width] = [4 + 8 * uniform(), 4 + 8 * uniform(), 6 * uniform(), 1.2 + uniform()];
    for (let at = 0; at < SIDE * SIDE; at++) {
      const x = at % SIDE, y = Math.floor(at / SIDE);
      const value = kind === 0
        ? Math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 12)
        : 0.5 + 0.5 * Math.sin(phase + (kind === 1 ? x : y) / width);
      pixels[i * SIDE * SIDE + at] = Math.round(200 * value + 55 * uniform());
    }
  }
  return describeImages({
    ...{ name: "shapes", count, channels: 1, height: SIDE, width: SIDE, classes: 3 },
    ...{ pixels, labels },
  });
}

/** Noise of the images' brightness. */
function noise({ pixels }: ImageData8): Uint8Array<ArrayBuffer> {
  const uniform = uniformSource(9);
  return Uint8Array.from(pixels, () => pixels[Math.floor(uniform() * pixels.length)]!);
}

/** What a stage says. */
function listener() {
  const said: string[] = [];
  return { said, sink: { write: (text: string) => void said.push(text), columns: () => undefined, now: () => 0 } };
}

const bytesOf = ({ weights }: TrainedFeatures) =>
  Array.from(weights, ([name, values]) => [name, new Uint8Array(values.buffer).toHex()]);

async function inFolder(action: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await action(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

deviceTest(
  "trained features: classes are told apart, real images are near themselves, noise and dim ones far",
  async (gpu) => {
    const data = shapes(200, 1);
    const trained = await trainFeatures(gpu, data);
    assertEquals([trained.task, trained.heldOut], ["classes", 20]);
    assert(trained.accuracy > 0.8, `held-out accuracy ${trained.accuracy}`);
    const workspace = new Workspace(gpu);
    const evaluator = await Evaluator.create(workspace, data, trained);
    const own = await evaluator.measure(data.pixels);
    assert(own.frechetDistance < 1e-3 && own.coverage === 1 && own.nearestDistance === 0, JSON.stringify(own));
    const fresh = await evaluator.measure(shapes(200, 2).pixels), { mean } = fresh.floor;
    const far = await evaluator.measure(noise(data));
    const dim = await evaluator.measure(data.pixels.map((byte) => byte / 2));
    const seen = JSON.stringify({ fresh, far, dim });
    assert(mean > 0 && fresh.frechetDistance < 6 * mean, seen);
    assert(far.frechetDistance > 50 * mean && dim.frechetDistance > 20 * mean, seen);
    assert(far.nearestDistance > 2 * fresh.nearestDistance && far.coverage < fresh.coverage / 3, seen);
    assert(evaluator.floor(1000).mean < mean, "more draws than images");
    const { network, task, accuracy, heldOut, fingerprint, description } = evaluator.features;
    assertEquals([network, task, accuracy, heldOut], ["trained", "classes", trained.accuracy, 20]);
    assertMatch(fingerprint!, /^[0-9a-f]{16}$/);
    assertMatch(description, /trained on this data set to tell its 3 classes apart \(\d.* % right of 20 held-out/);
    assertMatch(description, /not FID and can be compared within this data set only/);
    workspace.destroy();
  },
);

deviceTest("trained features: without classes it is quarter turns that are told", async (gpu) => {
  const { labels, ...rest } = shapes(160, 3);
  // A bright frame at the top: which way is up can be seen.
  const pixels = rest.pixels.map((byte, i) => i % (SIDE * SIDE) < 3 * SIDE ? 255 : byte);
  const data = describeImages({ ...rest, pixels, classes: 1, labels: labels.map(() => 0) });
  const trained = await trainFeatures(gpu, data);
  assertEquals(trained.task, "rotations");
  assert(trained.accuracy > 0.8, `held-out accuracy ${trained.accuracy}`);
});

deviceTest("trained features: any side and number of channels, and the same bytes again", async (gpu) => {
  for (const [channels, side] of [[3, 10], [2, 7]] as const) {
    const uniform = uniformSource(side), count = 20;
    const data = describeImages({
      ...{ name: "noise", count, channels, height: side, width: side, classes: 2 },
      pixels: Uint8Array.from({ length: count * channels * side * side }, () => 255 * uniform()),
      labels: Uint16Array.from({ length: count }, (_, i) => i % 2),
    });
    const first = await trainFeatures(gpu, data);
    assertEquals(bytesOf(await trainFeatures(gpu, data)), bytesOf(first));
    const other = { ...data, pixels: data.pixels.map((byte) => 255 - byte) };
    assertNotEquals(bytesOf(await trainFeatures(gpu, other)), bytesOf(first));
  }
});

deviceTest("trained features: the accuracy is that of images which are not trained on", async (gpu) => {
  const data = { ...shapes(10, 6), labels: Uint16Array.from({ length: 10 }, (_, i) => i % 2), classes: 2 };
  const plain = await trainFeatures(gpu, data);
  let heldOut = 0;
  for (let i = 0; i < data.count; i++) {
    const relabelled = await trainFeatures(gpu, { ...data, labels: data.labels.with(i, 1 - data.labels[i]!) });
    if (bytesOf(relabelled).join() !== bytesOf(plain).join()) continue;
    heldOut++;
    assertEquals(relabelled.accuracy, 1 - plain.accuracy);
  }
  assertEquals([heldOut, plain.heldOut], [1, 1]);
});

deviceTest(
  "feature cache: trained once; a damaged or foreign file is named and replaced",
  (gpu) =>
    inFolder(async (root) => {
      const folder = join(root, "new");
      const data = { ...shapes(20, 4), name: "few shapes" };
      const ask = async (of: ImageData8) => {
        const { said, sink } = listener();
        return { trained: await cachedFeatures(gpu, of, { folder, sink }), said: said.join("") };
      };
      const first = await ask(data);
      const [{ name }] = Array.from(Deno.readDirSync(folder)) as [Deno.DirEntry];
      assertMatch(name, /^features-[0-9a-f]{16}\.safetensors$/);
      assertMatch(first.said, /features: \d+ steps.*\nfeatures: classes, .* % of 2 held-out images right\n.*kept in/s);
      const path = join(folder, name);
      const written = Deno.readFileSync(path);
      const again = await ask({ ...data, name: "the same under another name" });
      assertEquals(again.said, "", "nothing is trained");
      assertEquals(bytesOf(again.trained), bytesOf(first.trained));
      assertEquals({ ...again.trained, weights: 0 }, { ...first.trained, weights: 0 });

      const damaged = written.slice();
      damaged[damaged.length - 3]! ^= 1;
      await ask(shapes(20, 5));
      const other = Array.from(Deno.readDirSync(folder), (entry) => entry.name).find((each) => each !== name)!;
      for (
        const [bytes, notice] of [
          [damaged, /is damaged: .* They are trained anew\./],
          [written.subarray(0, 100), /is not a safetensors file.* They are trained anew\./],
          [
            Deno.readFileSync(join(folder, other)),
            /does not hold the feature network of few shapes\. They are trained anew/,
          ],
        ] as const
      ) {
        Deno.writeFileSync(path, bytes);
        const { trained, said } = await ask(data);
        assertMatch(said, notice);
        assert(said.includes(path));
        assertEquals(bytesOf(trained), bytesOf(first.trained));
        assertEquals(Deno.readFileSync(path), written);
      }
    }),
);

deviceTest(
  "feature cache: where nothing can be kept, features are trained all the same",
  (gpu) =>
    inFolder(async (root) => {
      const file = join(root, "file");
      Deno.writeTextFileSync(file, "");
      for (const folder of [file, undefined]) {
        const { said, sink } = listener();
        const { weights } = await cachedFeatures(gpu, shapes(20, 4), { folder, sink });
        assert(weights.size > 0);
        assertEquals(/features: not kept\. .*file/.test(said.join("")), folder !== undefined, said.join(""));
      }
      assertEquals(Deno.readTextFileSync(file), "");
    }),
);

Deno.test("the digits' own network is for the digits, embedded or UCI's, alone", async () => {
  const digits = await loadDigits();
  const row = (label: number) => [...Array.from({ length: 64 }, (_, i) => (i + label) % 17), label].join();
  assert(areDigits(digits));
  assert(areDigits(parseUciDigits(`${row(0)}\n${row(9)}\n`, "optdigits.tra")));
  assert(!areDigits({ ...digits, classes: 9 }));
  assert(!areDigits({ ...digits, pixels: digits.pixels.with(1000, 17) }));
  assert(!areDigits(shapes(3, 1)));
});

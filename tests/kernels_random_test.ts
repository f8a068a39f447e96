/** Tests of the random numbers: published vectors, equality of CPU and GPU, distributions, permutations. */

import { assert, assertEquals } from "@std/assert";
import { randomNormal, type RandomShape, randomUniform, shuffledIndices } from "../kernels/random.ts";
import {
  normalArray,
  philox4x32,
  type Seed,
  shuffledIndex,
  uniformArray,
  uniformAt,
  type Words,
} from "../src/data/philox.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest } from "./gpu.ts";

/** Random123's kat_vectors for philox4x32-10. */
const KNOWN: { counter: Words; key: Seed; words: Words }[] = [
  { counter: [0, 0, 0, 0], key: [0, 0], words: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8] },
  {
    counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    key: [0xffffffff, 0xffffffff],
    words: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  },
  {
    counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    key: [0xa4093822, 0x299f31d0],
    words: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  },
];

const BUFFERS = { seed: "seed", step: "step", first: "first", y: "y" } as const;
const SEED: Seed = [0x12345678, 0x9abcdef0];

async function draw(
  gpu: Gpu,
  kernel: typeof randomUniform,
  s: RandomShape,
  step: number,
  first: number,
  seed = SEED,
): Promise<Float32Array> {
  const { y } = await runDispatches(gpu, [kernel(BUFFERS, s)], {
    ...{ seed: Uint32Array.from(seed), step: Uint32Array.of(step), first: Uint32Array.of(first) },
    y: new Float32Array(s.batch * s.perSample),
  });
  return y as Float32Array;
}

Deno.test("philox: the published vectors on the CPU", () => {
  for (const { counter, key, words } of KNOWN) assertEquals(philox4x32(counter, key), words);
});

gpuTest("philox: the published vectors on the GPU", async (gpu) => {
  const { source } = randomUniform(BUFFERS, { batch: 1, perSample: 1, stream: 0 });
  const entry = `
    @compute @workgroup_size(1) fn known() {
      let words = philox(vec4<u32>(step[0], step[1], step[2], step[3]), vec2<u32>(seed[0], seed[1]));
      for (var i = 0u; i < 4u; i++) { y[i] = words[i]; }
    }`;
  const dispatch: Dispatch<keyof typeof BUFFERS> = {
    ...{ label: "philox", source: source + entry, entry: "known", uniforms: [0, 0, 0, 0] },
    ...{ reads: ["seed", "step", "first"], writes: ["y"], workgroups: [1, 1, 1], flops: 0, bytes: 0 },
  };
  for (const { counter, key, words } of KNOWN) {
    const data = { seed: Uint32Array.from(key), step: Uint32Array.from(counter), first: Uint32Array.of(0) };
    const { y } = await runDispatches(gpu, [dispatch], { ...data, y: new Uint32Array(4) });
    assertEquals([...y], words);
  }
});

const DRAWS: [s: RandomShape, step: number, first: number][] = [
  [{ batch: 1, perSample: 1, stream: 0 }, 0, 0],
  [{ batch: 5, perSample: 67, stream: 3 }, 7, 1000],
  [{ batch: 67, perSample: 64, stream: 0xfffffff0 }, 0xffffffff, 0xffffffe0],
];

for (const [s, step, first] of DRAWS) {
  gpuTest(`random: CPU and GPU agree on ${s.batch}x${s.perSample}`, async (gpu) => {
    const uniforms = await draw(gpu, randomUniform, s, step, first);
    assertEquals(uniforms, uniformArray(SEED, step, first, s.batch, s.perSample, s.stream));
    const last = uniformAt(SEED, step, (first + s.batch - 1) >>> 0, s.perSample - 1, s.stream);
    assertEquals(uniforms.at(-1), last);
    const normals = await draw(gpu, randomNormal, s, step, first);
    const expected = normalArray(SEED, step, first, s.batch, s.perSample, s.stream);
    const off = Math.max(...expected.map((value, i) => Math.abs(value - normals[i]!)));
    assert(off < 1e-6, `normals are off by ${off}`);
  });
}

gpuTest("random: the extreme words stay inside (0, 1)", async (gpu) => {
  // Samples of key 0 found by search: their element has its upper 24 bits all set, or none.
  for (const [first, element, expected] of [[921_823, 2, 1 - 2 ** -24], [372_860, 3, 2 ** -25]] as const) {
    const s: RandomShape = { batch: 1, perSample: 4, stream: 0 };
    const uniforms = await draw(gpu, randomUniform, s, 0, first, [0, 0]);
    assertEquals(uniforms[element], expected);
    assertEquals(uniformAt([0, 0], 0, first, element, 0), expected);
    const normals = await draw(gpu, randomNormal, s, 0, first, [0, 0]);
    const off = normalArray([0, 0], 0, first, 1, 4, 0).map((value, i) => Math.abs(value - normals[i]!));
    assert(Math.max(...off) < 1e-6, `normals are off by ${off}`);
  }
});

gpuTest("random: a sample depends neither on the batch nor on where it starts", async (gpu) => {
  for (const kernel of [randomUniform, randomNormal]) {
    const all = await draw(gpu, kernel, { batch: 9, perSample: 13, stream: 1 }, 4, 100);
    const tail = await draw(gpu, kernel, { batch: 3, perSample: 13, stream: 1 }, 4, 106);
    assertEquals(tail, all.slice(6 * 13));
    const longer = await draw(gpu, kernel, { batch: 1, perSample: 20, stream: 1 }, 4, 100);
    assertEquals(longer.slice(0, 13), all.slice(0, 13));
  }
});

gpuTest("random: steps, streams and samples differ", async (gpu) => {
  const s: RandomShape = { batch: 2, perSample: 64, stream: 1 };
  const base = await draw(gpu, randomUniform, s, 4, 100);
  const others = [
    await draw(gpu, randomUniform, s, 5, 100),
    await draw(gpu, randomUniform, { ...s, stream: 2 }, 4, 100),
    await draw(gpu, randomUniform, s, 4, 102),
  ];
  for (const other of others) assert(other.every((value, i) => value !== base[i]));
});

/** Largest distance between the empirical distribution of `values` and `cdf`, times sqrt(n): 1.95 at p = 0.001. */
function kolmogorov(values: Float32Array, cdf: (x: number) => number): number {
  const sorted = values.slice().sort();
  const n = sorted.length;
  let distance = 0;
  sorted.forEach((value, i) => {
    const p = cdf(value);
    distance = Math.max(distance, p - i / n, (i + 1) / n - p);
  });
  return distance * Math.sqrt(n);
}

/** The normal distribution function: erf by its series, good to 1e-12 for |x| < 6. */
function normalCdf(x: number): number {
  let term = x, sum = x;
  for (let k = 1; Math.abs(term) > 1e-16 * Math.abs(sum); k++) {
    term *= x * x / (2 * k + 1);
    sum += term;
  }
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

function moment(values: Float32Array, power: number): number {
  return values.reduce((sum, value) => sum + value ** power, 0) / values.length;
}

gpuTest("random: 400,000 uniforms lie in (0, 1) and are uniform", async (gpu) => {
  const values = await draw(gpu, randomUniform, { batch: 400, perSample: 1000, stream: 5 }, 1, 0);
  assert(values.every((value) => value > 0 && value < 1));
  const distance = kolmogorov(values, (x) => x);
  assert(distance < 1.95, `Kolmogorov's statistic is ${distance}`);
});

gpuTest("random: 400,000 normals have a normal's moments and distribution", async (gpu) => {
  const values = await draw(gpu, randomNormal, { batch: 400, perSample: 1000, stream: 5 }, 1, 0);
  const bound = (variance: number) => 4 * Math.sqrt(variance / values.length);
  const moments = [1, 2, 3, 4].map((power) => moment(values, power));
  [0, 1, 0, 3].forEach((expected, i) => {
    const off = Math.abs(moments[i]! - expected);
    assert(off < bound([1, 2, 15, 96][i]!), `moment ${i + 1} is ${moments[i]}`);
  });
  let neighbours = 0;
  for (let i = 0; i + 1 < values.length; i++) neighbours += values[i]! * values[i + 1]! / values.length;
  assert(Math.abs(neighbours) < bound(1), `neighbours correlate: ${neighbours}`);
  const distance = kolmogorov(values, normalCdf);
  assert(distance < 1.95, `Kolmogorov's statistic is ${distance}`);
});

async function shuffle(gpu: Gpu, first: number, count: number, size: number): Promise<number[]> {
  const dispatch = shuffledIndices({ seed: "seed", first: "first", y: "y" } as const, { count, size, stream: 2 });
  const data = { seed: Uint32Array.from(SEED), first: Uint32Array.of(first), y: new Uint32Array(count) };
  return [...(await runDispatches(gpu, [dispatch], data)).y];
}

for (const size of [1, 2, 3, 5, 64, 65, 1797, 50_000]) {
  gpuTest(`shuffle: every epoch goes through all ${size} records once, CPU as GPU`, async (gpu) => {
    const epochs = [0, 1, 2].map((epoch) => shuffle(gpu, epoch * size, size, size));
    for (const [epoch, pending] of epochs.entries()) {
      const order = await pending;
      assertEquals([...order].sort((a, b) => a - b), Array.from({ length: size }, (_, i) => i));
      for (let i = 0; i < Math.min(size, 2000); i++) {
        assertEquals(order[i], shuffledIndex(SEED, epoch * size + i, size, 2));
      }
    }
    if (size < 64) return;
    const [one, two] = [await epochs[0]!, await epochs[1]!];
    const same = one.filter((index, i) => index === two[i]).length;
    const fixed = one.filter((index, i) => index === i).length;
    // Both counts are about Poisson with mean 1 for random permutations.
    assert(same < 8 && fixed < 8, `${same} records stay in place from epoch to epoch, ${fixed} are not moved`);
  });
}

gpuTest("shuffle: a run may start anywhere and cross epochs", async (gpu) => {
  const indices = await shuffle(gpu, 3_000_000_000, 300, 67);
  assertEquals(indices, indices.map((_, i) => shuffledIndex(SEED, 3_000_000_000 + i, 67, 2)));
});

Deno.test("shuffle: over many epochs every record is equally likely at every place", () => {
  const size = 10, epochs = 5000;
  const counts = new Array<number>(size * size).fill(0);
  for (let position = 0; position < size * epochs; position++) {
    counts[(position % size) * size + shuffledIndex(SEED, position, size, 0)]!++;
  }
  const expected = epochs / size;
  const chiSquared = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
  // 81 degrees of freedom: 126 at p = 0.001.
  assert(chiSquared < 126, `chi-squared is ${chiSquared}`);
});

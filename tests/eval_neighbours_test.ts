/** Tests of src/eval/neighbours.ts. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { nearestReal } from "../src/eval/neighbours.ts";
import { GraphError, NonFiniteError } from "../src/gpu/errors.ts";
import { uniformSource } from "./gpu.ts";

function randomImages(count: number, dim: number, seed: number): Float64Array {
  const uniform = uniformSource(seed);
  return Float64Array.from({ length: count * dim }, uniform);
}

Deno.test("nearestReal on a hand-made example", () => {
  const real = Float64Array.of(0, 0, 1, 0, 0, 1, 1, 1);
  const generated = Float64Array.of(0.1, 0, 0, 0.2, 1, 0.7);
  const { meanDistance, coverage } = nearestReal(real, generated, 2);
  assertAlmostEquals(meanDistance, (0.1 + 0.2 + 0.3) / 3, 1e-15);
  assertEquals(coverage, 2 / 4);
});

Deno.test("nearestReal of the real images themselves: distance 0, coverage 1, except for duplicates", () => {
  const real = randomImages(50, 64, 1);
  assertEquals(nearestReal(real, real, 64), { meanDistance: 0, coverage: 1 });
  real.copyWithin(64, 0, 64);
  assertEquals(nearestReal(real, real, 64), { meanDistance: 0, coverage: 49 / 50 });
});

for (const dim of [1, 15, 16, 17, 64]) {
  Deno.test(`nearestReal agrees with a plain search over images of ${dim} values`, () => {
    const real = randomImages(70, dim, 2), generated = Float32Array.from(randomImages(40, dim, 3));
    const hit = new Set<number>();
    let total = 0;
    for (let g = 0; g < 40; g++) {
      const distances = Array.from({ length: 70 }, (_, r) => {
        let sum = 0;
        for (let i = 0; i < dim; i++) sum += (real[r * dim + i]! - generated[g * dim + i]!) ** 2;
        return Math.sqrt(sum);
      });
      const least = Math.min(...distances);
      hit.add(distances.indexOf(least));
      total += least;
    }
    const { meanDistance, coverage } = nearestReal(real, generated, dim);
    assertAlmostEquals(meanDistance, total / 40, 1e-12);
    assertEquals(coverage, hit.size / 70);
  });
}

Deno.test("nearestReal takes seconds for 5,000 digits against 1,797", () => {
  const start = performance.now();
  nearestReal(randomImages(1797, 64, 4), randomImages(5000, 64, 5), 64);
  const seconds = (performance.now() - start) / 1000;
  assert(seconds < 10, `${seconds} s`);
});

Deno.test("nearestReal refuses empty arrays, broken images and a NaN", () => {
  const image = new Float64Array(4);
  assertThrows(() => nearestReal(new Float64Array(0), image, 4), GraphError, "Real images");
  assertThrows(() => nearestReal(image, new Float64Array(6), 4), GraphError, "multiple of 4 values, but hold 6");
  assertThrows(() => nearestReal(image, Float64Array.of(0, 0, NaN, 0), 4), NonFiniteError, "Generated");
});

/** Shares of classes: features of known classes, and the floor against repeated draws. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { uniformArray } from "../src/data/philox.ts";
import { ClassShares } from "../src/eval/class_shares.ts";
import { GraphError } from "../src/gpu/errors.ts";

/** Points of three classes around (0, 0), (10, 0) and (0, 10), a few of each. */
const REAL = Float32Array.of(0, 0, 1, 0, 10, 0, 11, 0, 9, 0, 0, 10, 0, 11, 0, 9, 0, 10, 1, 10);
const LABELS = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2];

Deno.test("class shares: by the nearest class, and how many are of the wrong one", () => {
  const shares = new ClassShares(REAL, LABELS, 3, 2);
  shares.of(REAL).forEach((share, k) => assertAlmostEquals(share, [0.2, 0.3, 0.5][k]!, 1e-12));
  assertAlmostEquals(shares.error(REAL), 0, 1e-12);
  // All of class 0: eight of ten are of the wrong one.
  assertAlmostEquals(shares.error(Float32Array.of(0.1, 0.2, 3, 1)), 0.8, 1e-12);
  // 0.25, 0.25, 0.5 for 0.2, 0.3, 0.5.
  assertAlmostEquals(shares.error(Float32Array.of(0, 0, 8, 1, 1, 8, 1, 9)), 0.05, 1e-12);
});

Deno.test("class shares: a class without images is nobody's", () => {
  const shares = new ClassShares(REAL, LABELS, 5, 2);
  assertEquals(shares.of(Float32Array.of(5, 5)).slice(3), new Float64Array(2));
  assertAlmostEquals(shares.error(REAL), 0, 1e-12);
  assert(Number.isFinite(shares.floor(10)));
  assertThrows(() => new ClassShares(REAL, [0, 1], 2, 2), GraphError, "2 labels need 4 features; got 20");
});

Deno.test("class shares: the floor is the mean error of real images drawn with replacement", () => {
  const shares = new ClassShares(REAL, LABELS, 3, 2), count = 400, repeats = 500;
  let sum = 0;
  for (let repeat = 0; repeat < repeats; repeat++) {
    const drawn = Array.from(uniformArray([3, 4], repeat, 0, count, 1, 0), (u) => Math.floor(10 * u));
    sum += shares.error(Float32Array.from(drawn.flatMap((i) => [REAL[2 * i]!, REAL[2 * i + 1]!])));
  }
  // The error's standard deviation is about half of it: the mean of 500 is known to 2.5 %, three times which is allowed.
  assertAlmostEquals(sum / repeats / shares.floor(count), 1, 0.075);
});

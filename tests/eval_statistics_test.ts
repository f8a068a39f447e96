/** Statistics against closed forms, published tables and numerical integration. */

import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { estimate, holm, incompleteBeta, logGamma, pairedTest, studentP, welchTest } from "../src/eval/statistics.ts";

Deno.test("mean and standard error; one value has no error; values that are not finite are refused", () => {
  // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, sum of squares 32.
  const { count, mean, standardError } = estimate([2, 4, 4, 4, 5, 5, 7, 9]);
  assertEquals([count, mean], [8, 5]);
  assertAlmostEquals(standardError!, Math.sqrt(32 / 7 / 8), 1e-15);
  assertEquals(estimate([3]), { count: 1, mean: 3, standardError: null });
  assertThrows(() => estimate([]), Error, "at least one value");
  assertThrows(() => estimate([1, NaN]), Error, "one is NaN");
});

Deno.test("log gamma: factorials, Γ(1/2) = √π, the reflection formula", () => {
  let factorial = 1;
  for (let n = 1; n <= 20; n++) {
    assertAlmostEquals(logGamma(n), Math.log(factorial), 1e-13 * Math.max(1, Math.log(factorial)));
    factorial *= n;
  }
  assertAlmostEquals(logGamma(0.5), Math.log(Math.sqrt(Math.PI)), 1e-14);
  for (const x of [0.01, 0.3, 0.77]) {
    assertAlmostEquals(logGamma(x) + logGamma(1 - x), Math.log(Math.PI / Math.sin(Math.PI * x)), 1e-13);
  }
});

Deno.test("incomplete beta: closed forms, symmetry, and quadrature", () => {
  for (const x of [0, 0.01, 0.3, 0.5, 0.9, 1]) {
    assertAlmostEquals(incompleteBeta(1, 1, x), x, 1e-15);
    assertAlmostEquals(incompleteBeta(3, 1, x), x ** 3, 1e-14);
    assertAlmostEquals(incompleteBeta(1, 4, x), 1 - (1 - x) ** 4, 1e-14);
    assertAlmostEquals(incompleteBeta(0.5, 0.5, x), 2 / Math.PI * Math.asin(Math.sqrt(x)), 1e-13);
    assertAlmostEquals(incompleteBeta(2.5, 7, x) + incompleteBeta(7, 2.5, 1 - x), 1, 1e-13);
  }
  // ∫₀^x t^{a−1} (1−t)^{b−1} dt over the whole of it, by Simpson's rule.
  const integral = (a: number, b: number, x: number, n = 20_000) => {
    const f = (t: number) => t ** (a - 1) * (1 - t) ** (b - 1);
    let sum = f(0) + f(x);
    for (let i = 1; i < n; i++) sum += f(x * i / n) * (i % 2 === 1 ? 4 : 2);
    return sum * x / n / 3;
  };
  for (const [a, b, x] of [[2, 3, 0.4], [5, 20, 0.1], [60, 40, 0.55]] as const) {
    assertAlmostEquals(incompleteBeta(a, b, x), integral(a, b, x) / integral(a, b, 1), 1e-10);
  }
  assertThrows(() => incompleteBeta(1, 1, 1.5), Error, "not defined");
});

Deno.test("Student's distribution: closed forms of 1, 2 and 4 degrees, and the tables' critical values", () => {
  for (const t of [0.1, 1, 3, 12, 400]) {
    assertAlmostEquals(studentP(t, 1), 1 - 2 / Math.PI * Math.atan(t), 1e-13);
    assertAlmostEquals(studentP(t, 2), 1 - t / Math.sqrt(2 + t * t), 1e-13);
    // 1 − sin θ (1 + cos²θ / 2), θ = atan(t/2) (Abramowitz and Stegun 26.7.4).
    const theta = Math.atan(t / 2);
    assertAlmostEquals(studentP(-t, 4), 1 - Math.sin(theta) * (1 + Math.cos(theta) ** 2 / 2), 1e-13);
  }
  // Two-sided 5 % and 1 % points (Abramowitz and Stegun, table 26.10).
  const table = [[3, 3.182, 5.841], [4, 2.776, 4.604], [9, 2.262, 3.250], [30, 2.042, 2.750], [120, 1.980, 2.617]];
  for (const [n, five, one] of table as [number, number, number][]) {
    assertAlmostEquals(studentP(five, n), 0.05, 5e-5);
    assertAlmostEquals(studentP(one, n), 0.01, 2e-5);
  }
  // A normal distribution in the limit: 1.959964 is its two-sided 5 % point.
  assertAlmostEquals(studentP(1.959963985, 1e7), 0.05, 1e-7);
});

/** Hours of additional sleep under two drugs, of the same ten patients ("Student" 1908, The Probable Error of a Mean). */
const SLEEP = [
  [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
  [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
] as const;

Deno.test("Student's sleep data: the published results of the paired test and of Welch's", () => {
  const paired = pairedTest(SLEEP[0], SLEEP[1])!;
  assertAlmostEquals(paired.difference, -1.58, 1e-12);
  assertAlmostEquals(paired.t!, -4.0621, 5e-5);
  assertEquals(paired.degreesOfFreedom, 9);
  assertAlmostEquals(paired.p!, 0.002833, 5e-7);
  const welch = welchTest(SLEEP[0], SLEEP[1])!;
  assertAlmostEquals(welch.t!, -1.8608, 5e-5);
  assertAlmostEquals(welch.degreesOfFreedom, 17.776, 5e-4);
  assertAlmostEquals(welch.p!, 0.07939, 5e-6);
});

Deno.test("tests of too little: none of one value, no p without variance", () => {
  assertEquals(pairedTest([1], [2]), undefined);
  assertEquals(welchTest([1], [2, 3]), undefined);
  assertEquals(welchTest([1, 1], [2, 2]), undefined);
  const same = pairedTest([1, 2, 3], [1, 2, 3])!;
  assertEquals([same.difference, same.standardError, same.t, same.p], [0, 0, null, null]);
  assertThrows(() => pairedTest([1, 2], [1]), Error, "cannot be paired");
});

Deno.test("Holm: a worked example, in the order given, never falling, at most 1", () => {
  const corrected = holm([0.01, 0.04, 0.03, 0.005]);
  [0.03, 0.06, 0.06, 0.02].forEach((expected, i) => assertAlmostEquals(corrected[i]!, expected, 1e-15));
  assertEquals(holm([0.9, 0.8]), [1, 1]);
  assertEquals(holm([0.02]), [0.02]);
  assertEquals(holm([]), []);
});

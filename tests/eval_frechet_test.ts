/** Tests of src/eval/linalg.ts and src/eval/frechet.ts. */

import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { featureMoments, frechetDistance, resampleFloor } from "../src/eval/frechet.ts";
import { multiplySquare, symmetricEigen, symmetricSqrt } from "../src/eval/linalg.ts";
import { GraphError, NonFiniteError } from "../src/gpu/errors.ts";
import { randomArray, relativeError } from "./gpu.ts";

function randomSymmetric(n: number, seed: number): Float64Array {
  const random = randomArray(n * n, seed), a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) a[i * n + j] = random[i * n + j]! + random[j * n + i]!;
  return a;
}

function transpose(a: Float64Array, n: number): Float64Array {
  return a.map((_, at) => a[(at % n) * n + Math.floor(at / n)]!);
}

function diagonal(values: ArrayLike<number>): Float64Array {
  const n = values.length, a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) a[i * n + i] = values[i]!;
  return a;
}

/** A random positive semi-definite matrix of the given rank. */
function randomCovariance(n: number, rank: number, seed: number): Float64Array {
  const factor = Float64Array.from(randomArray(n * n, seed));
  factor.fill(0, rank * n);
  return multiplySquare(transpose(factor, n), factor, n);
}

Deno.test("symmetricEigen finds known eigenvalues", () => {
  assertEquals([...symmetricEigen([7], 1).values], [7]);
  const { values } = symmetricEigen([2, 1, 1, 2], 2);
  assertAlmostEquals(values[0]!, 1, 1e-14);
  assertAlmostEquals(values[1]!, 3, 1e-14);
  // numpy.linalg.eigvalsh of the 6x6 Hilbert matrix
  const hilbert = Array.from({ length: 36 }, (_, at) => 1 / (at % 6 + Math.floor(at / 6) + 1));
  const expected = [
    1.0827994845354796e-07,
    1.2570757122618823e-05,
    0.0006157483541825885,
    0.016321521319875656,
    0.24236087057520933,
    1.6188998589243386,
  ];
  symmetricEigen(hilbert, 6).values.forEach((value, i) => assertAlmostEquals(value, expected[i]!, 1e-14));
});

for (const n of [1, 2, 3, 5, 64, 200]) {
  Deno.test(`symmetricEigen of a random ${n}x${n} matrix: orthonormal vectors that rebuild it`, () => {
    const a = randomSymmetric(n, n);
    const { values, vectors } = symmetricEigen(a, n);
    const rows = transpose(vectors, n);
    const identity = multiplySquare(vectors, rows, n);
    assert(relativeError(identity, diagonal(new Float64Array(n).fill(1))) < 1e-13);
    const rebuilt = multiplySquare(multiplySquare(rows, diagonal(values), n), vectors, n);
    assert(relativeError(rebuilt, a) < 1e-13);
    assert(values.every((value, i) => i === 0 || value >= values[i - 1]!));
  });
}

Deno.test("symmetricEigen copes with zero, repeated, huge and tiny eigenvalues", () => {
  assertEquals([...symmetricEigen(new Float64Array(25), 5).values], [0, 0, 0, 0, 0]);
  assertEquals([...symmetricEigen(diagonal([3, 1, 3, 2]), 4).values], [1, 2, 3, 3]);
  const ones = symmetricEigen(new Float64Array(64).fill(1), 8).values;
  assertAlmostEquals(ones[7]!, 8, 1e-13);
  for (const value of ones.subarray(0, 7)) assertAlmostEquals(value, 0, 1e-14);
  for (const scale of [1e200, 1e-200]) {
    const values = symmetricEigen([2 * scale, scale, scale, 2 * scale], 2).values;
    assertAlmostEquals(values[0]! / scale, 1, 1e-14);
    assertAlmostEquals(values[1]! / scale, 3, 1e-14);
  }
});

Deno.test("symmetricEigen refuses a wrong size and a NaN", () => {
  assertThrows(() => symmetricEigen([1, 2, 3], 2), GraphError, "4 values, but 3");
  assertThrows(() => symmetricEigen([1, NaN, NaN, 1], 2), NonFiniteError);
  assertThrows(() => symmetricEigen([1, 0, 0, Infinity], 2), NonFiniteError);
});

Deno.test("symmetricSqrt squared is the matrix, of full and of lower rank", () => {
  for (const rank of [64, 43, 1]) {
    const covariance = randomCovariance(64, rank, rank);
    const root = symmetricSqrt(covariance, 64);
    assert(relativeError(multiplySquare(root, root, 64), covariance) < 1e-13);
    assert(relativeError(transpose(root, 64), root) < 1e-14);
  }
});

Deno.test("featureMoments gives numpy's mean and cov", () => {
  const features = [1, 2, 0.5, 0, -1, 3, 2, 2, 2, -1.5, 0.25, 1];
  const covariance = [
    [2.2291666666666665, 1.46875, 0.1875],
    [1.46875, 2.140625, -1.0104166666666665],
    [0.1875, -1.0104166666666665, 1.2291666666666665],
  ].flat();
  for (const array of [Float64Array.from(features), Float32Array.from(features)]) {
    const moments = featureMoments(array, 4, 3);
    assertEquals([...moments.mean], [0.375, 0.8125, 1.625]);
    assert(relativeError(moments.covariance, covariance) < 1e-15);
  }
});

Deno.test("featureMoments keeps its digits far from the origin", () => {
  const features = randomArray(300, 1), far = Float64Array.from(features, (x) => x + 1e6);
  const near = featureMoments(features, 100, 3), shifted = featureMoments(far, 100, 3);
  assert(relativeError(shifted.covariance, near.covariance) < 1e-8);
});

Deno.test("featureMoments refuses one vector, a wrong size and a NaN", () => {
  assertThrows(() => featureMoments(new Float64Array(3), 1, 3), GraphError, "at least 2");
  assertThrows(() => featureMoments(new Float64Array(7), 2, 3), GraphError, "6 values, but 7");
  assertThrows(() => featureMoments(Float64Array.of(1, 2, NaN, 4), 2, 2), NonFiniteError);
});

Deno.test("frechetDistance of diagonal covariances is the closed form", () => {
  const a = { mean: Float64Array.of(1, 2, 3), covariance: diagonal([4, 9, 0]) };
  const b = { mean: Float64Array.of(0, 2, 5), covariance: diagonal([1, 16, 2]) };
  assertAlmostEquals(frechetDistance(a, b), 1 + 4 + 1 + 1 + 2, 1e-12);
});

Deno.test("frechetDistance of covariances that do not commute is scipy's, either way round", () => {
  const a = { mean: Float64Array.of(0, 1, 2), covariance: Float64Array.of(4, 1, 0.5, 1, 3, -1, 0.5, -1, 2) };
  const b = {
    mean: Float64Array.of(0.5, -1, 2.5),
    covariance: Float64Array.of(1, -0.5, 0.25, -0.5, 2, 0.75, 0.25, 0.75, 5),
  };
  assertAlmostEquals(frechetDistance(a, b), 7.479697513687132, 1e-12);
  assertAlmostEquals(frechetDistance(b, a), 7.479697513687132, 1e-12);
});

Deno.test("frechetDistance of singular covariances", () => {
  const outer = (v: number[]) => Float64Array.from(v.flatMap((x) => v.map((y) => x * y)));
  const mean = new Float64Array(3);
  const a = { mean, covariance: outer([1, 2, 2]) }, b = { mean, covariance: outer([2, -1, 0.5]) };
  // Tr (u uᵀ v vᵀ)^{1/2} = |u·v|; what should be zero comes out as the root of a rounding error.
  assertAlmostEquals(frechetDistance(a, b), 9 + 5.25 - 2 * 1, 1e-6);
  const c = { mean: new Float64Array(64), covariance: randomCovariance(64, 20, 3) };
  const trace = c.covariance.reduce((sum, x, at) => at % 65 === 0 ? sum + x : sum, 0);
  assertAlmostEquals(frechetDistance(c, c) / trace, 0, 1e-6);
});

Deno.test("frechetDistance refuses features of different dimension", () => {
  const two = { mean: new Float64Array(2), covariance: new Float64Array(4) };
  const one = { mean: new Float64Array(1), covariance: new Float64Array(1) };
  assertThrows(() => frechetDistance(two, one), GraphError, "2 and of 1");
});

Deno.test("resampleFloor in one dimension has the expectation σ²/N (1 + (κ − 1)/4)", () => {
  const features = randomArray(1000, 4), n = 1000, draws = 200;
  const { mean, covariance } = featureMoments(features, n, 1);
  const variance = covariance[0]!;
  const kurtosis = features.reduce((sum, x) => sum + (x - mean[0]!) ** 4, 0) / n / variance ** 2;
  const floor = resampleFloor(features, n, 1, draws, 0, 1000);
  const expected = variance / draws * (1 + (kurtosis - 1) / 4);
  assert(Math.abs(floor.mean / expected - 1) < 0.15, `${floor.mean} should be about ${expected}`);
  // A sum of two scaled χ² variables of one degree of freedom each.
  const spread = variance / draws * Math.sqrt(2 + 2 * ((kurtosis - 1) / 4) ** 2);
  assert(Math.abs(floor.std / spread - 1) < 0.25, `${floor.std} should be about ${spread}`);
});

Deno.test("resampleFloor is a function of its seed, and falls as 1/N", () => {
  const features = randomArray(500 * 4, 5);
  const floor = resampleFloor(features, 500, 4, 300, 7);
  assertEquals(resampleFloor(features, 500, 4, 300, 7), floor);
  assert(resampleFloor(features, 500, 4, 300, 8).mean !== floor.mean);
  const ratio = floor.mean / resampleFloor(features, 500, 4, 3000, 7).mean;
  assert(ratio > 6 && ratio < 16, `${ratio}`);
  assertEquals(resampleFloor(features, 500, 4, 300, 7, 1).std, 0);
});

/** Tests of the attention kernels against float64 references. */

import { assert } from "@std/assert";
import { attentionForward, attentionGrad, type AttentionShape } from "../kernels/attention.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import { attentionGradReference, attentionReference } from "./reference/attention.ts";

const SHAPES: AttentionShape[] = [
  { batch: 3, dim: 32, queries: 16, keys: 16, scale: 32 ** -0.5 },
  { batch: 2, dim: 64, queries: 16, keys: 16, scale: 0.125 },
  { batch: 1, dim: 1, queries: 1, keys: 1, scale: 1 },
  { batch: 2, dim: 37, queries: 13, keys: 7, scale: 0.3 },
  { batch: 2, dim: 70, queries: 5, keys: 16, scale: 0.2 },
  { batch: 2, dim: 30, queries: 64, keys: 64, scale: 0.2 },
  { batch: 1, dim: 50, queries: 33, keys: 77, scale: 0.15 },
  { batch: 2, dim: 130, queries: 40, keys: 3, scale: 0.1 },
  { batch: 1, dim: 256, queries: 67, keys: 97, scale: 1 / 16 },
];

const BUFFERS = {
  ...{ q: "q", k: "k", v: "v", o: "o", lse: "lse" } as const,
  ...{ dO: "dO", dq: "dq", dk: "dk", dv: "dv", delta: "delta" } as const,
};

/** Inputs, and zeroed outputs, by the names of BUFFERS; `spread` is the standard deviation of q. */
function problem(s: AttentionShape, spread = 1) {
  const [ofQueries, ofKeys] = [s.batch * s.dim * s.queries, s.batch * s.dim * s.keys];
  return {
    q: randomArray(ofQueries, 1).map((value) => spread * value),
    k: randomArray(ofKeys, 2),
    v: randomArray(ofKeys, 3),
    o: new Float32Array(ofQueries),
    lse: new Float32Array(s.batch * s.queries),
    dO: randomArray(ofQueries, 4),
    dq: new Float32Array(ofQueries),
    dk: new Float32Array(ofKeys),
    dv: new Float32Array(ofKeys),
    delta: new Float32Array(s.batch * s.queries),
  };
}

for (const s of SHAPES) {
  gpuTest(`attention: ${s.batch} x ${s.dim} x ${s.queries} queries, ${s.keys} keys`, async (gpu) => {
    const p = problem(s);
    const result = await runDispatches(gpu, [attentionForward(BUFFERS, s), ...attentionGrad(BUFFERS, s)], p);
    const expected = attentionReference(p.q, p.k, p.v, s);
    const gradients = attentionGradReference(p.q, p.k, p.v, p.dO, s);
    for (const key of ["o", "lse"] as const) {
      const error = relativeError(result[key], expected[key]);
      assert(error < 2e-6, `${key} is off by ${error}`);
    }
    for (const key of ["dq", "dk", "dv"] as const) {
      // With one key dq and dk are zero up to rounding, so errors are taken on the scale of all three gradients.
      const error = s.keys === 1
        ? largestDifference(result[key], gradients[key])
        : relativeError(result[key], gradients[key]);
      assert(error < 1e-5, `${key} is off by ${error}`);
    }
  });
}

for (const tokens of [16, 70]) {
  gpuTest(`attention: scores in the hundreds, ${tokens} tokens`, async (gpu) => {
    const s = { batch: 1, dim: 16, queries: tokens, keys: tokens, scale: 1 };
    const p = problem(s, 60);
    const result = await runDispatches(gpu, [attentionForward(BUFFERS, s)], p);
    const expected = attentionReference(p.q, p.k, p.v, s);
    const error = relativeError(result.o, expected.o);
    const lseError = relativeError(result.lse, expected.lse);
    assert(error < 1e-4 && lseError < 1e-6, `o is off by ${error}, lse by ${lseError}`);
  });
}

Deno.test("attention: the reference gradients agree with central differences", () => {
  const s = { batch: 2, dim: 3, queries: 2, keys: 4, scale: 0.7 };
  const p = problem(s);
  const [q, k, v] = [Array.from(p.q), Array.from(p.k), Array.from(p.v)];
  const loss = () => attentionReference(q, k, v, s).o.reduce((sum, value, i) => sum + value * p.dO[i]!, 0);
  const slopes = (values: number[]) =>
    values.map((value, i) => {
      values[i] = value + 1e-5;
      const above = loss();
      values[i] = value - 1e-5;
      const below = loss();
      values[i] = value;
      return (above - below) / 2e-5;
    });
  const { dq, dk, dv } = attentionGradReference(q, k, v, p.dO, s);
  for (const [got, want] of [[dq, slopes(q)], [dk, slopes(k)], [dv, slopes(v)]]) {
    const error = relativeError(got!, want!);
    assert(error < 1e-7, `a gradient is off by ${error}`);
  }
});

function largestDifference(a: ArrayLike<number>, b: number[]): number {
  return b.reduce((largest, value, i) => Math.max(largest, Math.abs(value - a[i]!)), 0);
}

/** Tests of the attention kernels against float64 references. */

import { assert } from "@std/assert";
import { attention, attentionGrad, type AttentionShape } from "../kernels/attention.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import { forEachVariant, gpuTest, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import { attentionGradReference, attentionReference, packThirds, unpackThirds } from "./reference/attention.ts";

/** Chosen to cross the edges of every tile, with and without whole vec4s. */
const SHAPES: AttentionShape[] = [
  { batch: 3, dim: 32, queries: 16, keys: 16, scale: 32 ** -0.5, packed: false },
  { batch: 2, dim: 64, queries: 16, keys: 16, scale: 0.125, packed: true },
  { batch: 1, dim: 1, queries: 1, keys: 1, scale: 1, packed: false },
  { batch: 2, dim: 5, queries: 1, keys: 1, scale: 0.5, packed: true },
  { batch: 3, dim: 10, queries: 1, keys: 6, scale: 0.3, packed: false },
  { batch: 2, dim: 37, queries: 13, keys: 7, scale: 0.3, packed: false },
  { batch: 3, dim: 37, queries: 13, keys: 13, scale: 0.3, packed: true },
  { batch: 2, dim: 70, queries: 5, keys: 16, scale: 0.2, packed: false },
  { batch: 2, dim: 6, queries: 12, keys: 20, scale: 0.2, packed: false },
  { batch: 2, dim: 30, queries: 64, keys: 64, scale: 0.2, packed: false },
  { batch: 2, dim: 31, queries: 40, keys: 40, scale: 0.2, packed: true },
  { batch: 1, dim: 50, queries: 33, keys: 77, scale: 0.15, packed: false },
  { batch: 2, dim: 130, queries: 40, keys: 3, scale: 0.1, packed: false },
  { batch: 1, dim: 256, queries: 67, keys: 97, scale: 1 / 16, packed: false },
  { batch: 1, dim: 256, queries: 36, keys: 36, scale: 1 / 16, packed: true },
];

const SEPARATE = { q: "q", k: "k", v: "v", o: "o", lse: "lse", dO: "dO", dq: "dq", dk: "dk", dv: "dv" };
const PACKED = { ...SEPARATE, q: "qkv", k: "qkv", v: "qkv", dq: "dqkv", dk: "dqkv", dv: "dqkv" };

/** Inputs of an attention; `spread` is the standard deviation of q. */
function problem(s: AttentionShape, spread = 1) {
  const [ofQueries, ofKeys] = [s.batch * s.dim * s.queries, s.batch * s.dim * s.keys];
  return {
    q: randomArray(ofQueries, 1).map((value) => spread * value),
    k: randomArray(ofKeys, 2),
    v: randomArray(ofKeys, 3),
    dO: randomArray(ofQueries, 4),
  };
}

for (const s of SHAPES) {
  const name = `${s.batch} x ${s.dim} x ${s.queries} queries, ${s.keys} keys${s.packed ? ", packed" : ""}`;
  const p = problem(s);
  const buffers = s.packed ? PACKED : SEPARATE;
  const inputs: Record<string, Float32Array> = s.packed
    ? { qkv: Float32Array.from(packThirds([p.q, p.k, p.v], s)) }
    : { q: p.q, k: p.k, v: p.v };
  const expected = attentionReference(p.q, p.k, p.v, s);

  gpuTest(`attention: ${name}`, async (gpu) => {
    await forEachVariant(attention, s, async (variant, label) => {
      const result = await runStandalone(gpu, standaloneVariant(variant, buffers, s), {
        ...inputs,
        ...{ o: unwritten(expected.o.length), lse: unwritten(expected.lse.length) },
      });
      for (const key of ["o", "lse"] as const) {
        const error = relativeError(result[key]!, expected[key]);
        assert(error < 2e-6, `${label}: ${key} is off by ${error}`);
      }
    });
  });

  gpuTest(`attention.grad: ${name}`, async (gpu) => {
    const gradients = attentionGradReference(p.q, p.k, p.v, p.dO, s);
    await forEachVariant(attentionGrad, s, async (variant, label) => {
      const [ofQueries, ofKeys] = [p.q.length, p.k.length];
      const data: Record<string, Float32Array> = {
        ...{ ...inputs, dO: p.dO, o: Float32Array.from(expected.o), lse: Float32Array.from(expected.lse) },
        ...s.packed
          ? { dqkv: unwritten(3 * ofKeys) }
          : { dq: unwritten(ofQueries), dk: unwritten(ofKeys), dv: unwritten(ofKeys) },
      };
      const result = await runStandalone(gpu, standaloneVariant(variant, buffers, s), data);
      const [dq, dk, dv] = s.packed ? unpackThirds(result.dqkv!, s) : [result.dq!, result.dk!, result.dv!];
      for (
        const [key, got] of Object.entries({ dq: dq!, dk: dk!, dv: dv! }) as ["dq" | "dk" | "dv", ArrayLike<number>][]
      ) {
        // With one key dq and dk are zero up to rounding, so errors are taken on the scale of all three gradients.
        const error = s.keys === 1 ? largestDifference(got, gradients[key]) : relativeError(got, gradients[key]);
        assert(error < 1e-5, `${label}: ${key} is off by ${error}`);
      }
    });
  });
}

for (const tokens of [16, 70]) {
  gpuTest(`attention: scores in the hundreds, ${tokens} tokens`, async (gpu) => {
    const s = { batch: 1, dim: 16, queries: tokens, keys: tokens, scale: 1, packed: false };
    const p = problem(s, 60);
    const expected = attentionReference(p.q, p.k, p.v, s);
    await forEachVariant(attention, s, async (variant, label) => {
      const result = await runStandalone(gpu, standaloneVariant(variant, SEPARATE, s), {
        ...p,
        ...{ o: unwritten(expected.o.length), lse: unwritten(expected.lse.length) },
      });
      const error = relativeError(result.o!, expected.o);
      const lseError = relativeError(result.lse!, expected.lse);
      assert(error < 1e-4 && lseError < 1e-6, `${label}: o is off by ${error}, lse by ${lseError}`);
    });
  });
}

Deno.test("attention.grad: dS that no adapter surely binds is not stored", () => {
  const s = { batch: 2, dim: 8, queries: 4096, keys: 4096, scale: 1, packed: false };
  assert(attentionGrad.preferred(s, "software") === "registers2x16", "128 MiB are stored");
  assert(attentionGrad.preferred({ ...s, batch: 3 }, "software") === "shared", "192 MiB are not");
});

Deno.test("attention: the reference gradients agree with central differences", () => {
  const s = { batch: 2, dim: 3, queries: 2, keys: 4, scale: 0.7, packed: false };
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

function largestDifference(a: ArrayLike<number>, b: readonly number[]): number {
  return b.reduce((largest, value, i) => Math.max(largest, Math.abs(value - a[i]!)), 0);
}

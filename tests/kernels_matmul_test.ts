/** The matrix product kernel against its float64 reference. */

import { assert } from "@std/assert";
import { matmul, type MatmulShape } from "../kernels/matmul.ts";
import { standaloneVariant } from "../kernels/standalone.ts";
import { forEachVariant, gpuTest, randomArray, relativeError, runStandalone, unwritten } from "./gpu.ts";
import { matmulReference } from "./reference/matmul.ts";

/** [batch, m, n, k], chosen to cross the edges of every tile, with and without whole vec4s. */
const SIZES = [
  [1, 1, 1, 1],
  [1, 3, 5, 7],
  [1, 4, 4, 4],
  [2, 33, 31, 9],
  [2, 12, 20, 8],
  [2, 3, 5, 4],
  [3, 145, 147, 5],
  [3, 68, 36, 12],
  [1, 130, 132, 36],
  [1, 6, 9, 300],
  [2, 36, 68, 264],
] as const;

gpuTest("every variant of matmul matches the reference for every layout", async (gpu) => {
  for (const [batch, m, n, k] of SIZES) {
    for (let layout = 0; layout < 16; layout++) {
      const [transposeA, transposeB, broadcastA, broadcastB] = [1, 2, 4, 8].map((bit) => (layout & bit) > 0) as [
        boolean,
        boolean,
        boolean,
        boolean,
      ];
      const s: MatmulShape = { batch, m, n, k, transposeA, transposeB, broadcastA, broadcastB };
      const a = randomArray((broadcastA ? 1 : batch) * m * k, 1), b = randomArray((broadcastB ? 1 : batch) * k * n, 2);
      const expected = matmulReference(a, b, s);
      await forEachVariant(matmul, s, async (variant, label) => {
        const list = standaloneVariant(variant, { a: "a", b: "b", out: "out" }, s);
        const { out } = await runStandalone(gpu, list, { a, b, out: unwritten(batch * m * n) });
        const error = relativeError(out, expected);
        assert(error < 1e-5, `${label}: relative error ${error}.`);
      });
    }
  }
});

gpuTest("every variant of matmul reads and writes matrices that lie apart", async (gpu) => {
  for (const [m, n, k, start, gap] of [[12, 8, 16, 8, 4], [5, 9, 4, 4, 3], [3, 5, 7, 1, 2]] as const) {
    const batch = 3;
    const place = (elements: number) => ({ start, stride: elements + gap });
    const size = (elements: number) => start + batch * (elements + gap);
    const a = randomArray(size(m * k), 1), b = randomArray(size(k * n), 2), before = randomArray(size(m * n), 3);
    for (const [transposeA, transposeB] of [[false, false], [true, false], [false, true]] as const) {
      const s: MatmulShape = {
        ...{ batch, m, n, k, transposeA, transposeB, broadcastA: false, broadcastB: false },
        ...{ placeA: place(m * k), placeB: place(k * n), placeOut: place(m * n) },
      };
      const expected = before.slice(), product = matmulReference(a, b, s);
      for (let i = 0; i < batch; i++) {
        expected.set(product.slice(i * m * n, (i + 1) * m * n), start + i * (m * n + gap));
      }
      await forEachVariant(matmul, s, async (variant, label) => {
        const list = standaloneVariant(variant, { a: "a", b: "b", out: "out" }, s);
        const { out } = await runStandalone(gpu, list, { a, b, out: before });
        const error = relativeError(out, expected);
        assert(error < 1e-6, `${label}, placed: relative error ${error}.`);
      });
    }
  }
});

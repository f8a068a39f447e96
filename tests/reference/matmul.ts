/** Float64 reference of the batched matrix product. */

import type { MatmulShape } from "../../kernels/matmul.ts";

/** out[i] = op(a[i]) · op(b[i]), dense, for every batch element; layouts as in the kernel's descriptor. */
export function matmulReference(a: ArrayLike<number>, b: ArrayLike<number>, s: MatmulShape): number[] {
  const out = new Array<number>(s.batch * s.m * s.n).fill(0);
  for (let i = 0; i < s.batch; i++) {
    const aStart = s.placeA ? s.placeA.start + i * s.placeA.stride : s.broadcastA ? 0 : i * s.m * s.k;
    const bStart = s.placeB ? s.placeB.start + i * s.placeB.stride : s.broadcastB ? 0 : i * s.k * s.n;
    for (let row = 0; row < s.m; row++) {
      for (let column = 0; column < s.n; column++) {
        let sum = 0;
        for (let j = 0; j < s.k; j++) {
          const left = a[aStart + (s.transposeA ? j * s.m + row : row * s.k + j)]!;
          const right = b[bStart + (s.transposeB ? column * s.k + j : j * s.n + column)]!;
          sum += left * right;
        }
        out[(i * s.m + row) * s.n + column] = sum;
      }
    }
  }
  return out;
}

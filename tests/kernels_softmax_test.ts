/** Tests of the softmax and cross-entropy kernels against float64 references. */

import { assert } from "@std/assert";
import { crossEntropy, crossEntropyGrad, softmax, softmaxGrad, type SoftmaxShape } from "../kernels/softmax.ts";
import { runDispatches } from "../src/gpu/run.ts";
import { gpuTest, randomArray, relativeError } from "./gpu.ts";
import {
  crossEntropyGradReference,
  crossEntropyReference,
  softmaxGradReference,
  softmaxReference,
} from "./reference/softmax.ts";

const SHAPES: SoftmaxShape[] = [
  { rows: 1, columns: 1 },
  { rows: 64, columns: 10 },
  { rows: 37, columns: 64 },
  { rows: 5, columns: 65 },
  { rows: 3, columns: 1000 },
  { rows: 2, columns: 5000 },
];

for (const s of SHAPES) {
  const { rows, columns } = s;
  const labels = Uint32Array.from({ length: rows }, (_, r) => (r * 7 + 3) % columns);
  const zeros = () => new Float32Array(rows * columns);

  gpuTest(`softmax: ${rows}x${columns}`, async (gpu) => {
    const [x, dy] = [randomArray(rows * columns, 1).map((v) => 3 * v), randomArray(rows * columns, 2)];
    const buffers = { x: "x", y: "y", dy: "dy", dx: "dx" } as const;
    const result = await runDispatches(gpu, [softmax(buffers, s), softmaxGrad(buffers, s)], {
      ...{ x, dy },
      ...{ y: zeros(), dx: zeros() },
    });
    const y = softmaxReference(x, s);
    const error = relativeError(result.y, y);
    const gradError = relativeError(result.dx, softmaxGradReference(y, dy, s));
    assert(error < 2e-6 && gradError < 5e-6, `y is off by ${error}, dx by ${gradError}`);
  });

  gpuTest(`cross-entropy: ${rows}x${columns}`, async (gpu) => {
    const [logits, dloss] = [randomArray(rows * columns, 3).map((v) => 3 * v), randomArray(rows, 4)];
    const buffers = { logits: "logits", labels: "labels", loss: "loss", dloss: "dloss", dlogits: "dlogits" } as const;
    const result = await runDispatches(gpu, [crossEntropy(buffers, s), crossEntropyGrad(buffers, s)], {
      ...{ logits, labels, dloss },
      ...{ loss: new Float32Array(rows), dlogits: zeros() },
    });
    const error = relativeError(result.loss, crossEntropyReference(logits, labels, s));
    const gradError = relativeError(result.dlogits, crossEntropyGradReference(logits, labels, dloss, s));
    assert(error < 2e-6 && gradError < 2e-6, `loss is off by ${error}, dlogits by ${gradError}`);
  });
}

for (const columns of [4, 70]) {
  gpuTest(`softmax and cross-entropy: logits of ±1000, ${columns} columns`, async (gpu) => {
    const s = { rows: 3, columns };
    const x = randomArray(3 * columns, 5).map((v, i) => v + [1000, -1000, 0][i % 3]!);
    const labels = Uint32Array.of(0, 1, 2);
    const buffers = { x: "x", y: "y", logits: "x", labels: "labels", loss: "loss" } as const;
    const result = await runDispatches(gpu, [softmax(buffers, s), crossEntropy(buffers, s)], {
      ...{ x, labels },
      ...{ y: new Float32Array(3 * columns), loss: new Float32Array(3) },
    });
    const error = relativeError(result.y, softmaxReference(x, s));
    const lossError = relativeError(result.loss, crossEntropyReference(x, labels, s));
    assert(error < 2e-6 && lossError < 1e-6, `y is off by ${error}, loss by ${lossError}`);
  });
}

Deno.test("softmax: the reference gradients agree with central differences", () => {
  const s = { rows: 2, columns: 5 };
  const x = Array.from(randomArray(10, 6));
  const [dy, labels, dloss] = [randomArray(10, 7), [4, 0], randomArray(2, 8)];
  const slopes = (loss: () => number) =>
    x.map((value, i) => {
      x[i] = value + 1e-5;
      const above = loss();
      x[i] = value - 1e-5;
      const below = loss();
      x[i] = value;
      return (above - below) / 2e-5;
    });
  const dot = (a: ArrayLike<number>, b: number[]) => b.reduce((sum, v, i) => sum + v * a[i]!, 0);
  const softmaxError = relativeError(
    softmaxGradReference(softmaxReference(x, s), dy, s),
    slopes(() => dot(dy, softmaxReference(x, s))),
  );
  const entropyError = relativeError(
    crossEntropyGradReference(x, labels, dloss, s),
    slopes(() => dot(dloss, crossEntropyReference(x, labels, s))),
  );
  assert(softmaxError < 1e-7 && entropyError < 1e-7, `off by ${softmaxError} and ${entropyError}`);
});

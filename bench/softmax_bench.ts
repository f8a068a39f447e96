/** Rates of the softmax and cross-entropy kernels. */

import { crossEntropy, crossEntropyGrad, softmax, softmaxGrad } from "../kernels/softmax.ts";
import { benchDispatch } from "./harness.ts";

for (const [rows, columns] of [[4096, 10], [4096, 64], [1024, 1000], [64, 32768]] as const) {
  const s = { rows, columns };
  const n = rows * columns;
  const name = `${rows}x${columns}`;
  benchDispatch("softmax", name, [softmax({ x: "x", y: "y" }, s)], { x: n, y: n });
  benchDispatch("softmax.grad", name, [softmaxGrad({ y: "y", dy: "dy", dx: "dx" }, s)], { y: n, dy: n, dx: n });
  const entropy = crossEntropy({ logits: "logits", labels: "labels", loss: "loss" }, s);
  benchDispatch("crossEntropy", name, [entropy], { logits: n, labels: rows, loss: rows });
  const grad = crossEntropyGrad({ logits: "logits", labels: "labels", dloss: "dloss", dlogits: "dlogits" }, s);
  benchDispatch("crossEntropy.grad", name, [grad], { logits: n, labels: rows, dloss: rows, dlogits: n });
}

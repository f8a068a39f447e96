/** Reverse-mode differentiation: builds the graph of vector-Jacobian products. */

import { GraphError } from "../gpu/errors.ts";
import { type CheckpointAttrs, checkpointOp, repeat } from "./checkpoint.ts";
import { add } from "./ops/pointwise.ts";
import { constant } from "./ops/leaf.ts";
import { expectDType, expectShapes, type Node, sameShape, type Tensor } from "./tensor.ts";

/** Nodes reachable from `tensors`, in creation (hence topological) order. */
export function reachable(tensors: readonly Tensor[]): Node[] {
  const seen = new Set<Node>();
  const stack = tensors.map((t) => t.node);
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    for (const input of node.inputs) stack.push(input.node);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/**
 * Gradients of Σᵢ ⟨seedᵢ, yᵢ⟩ with respect to each of `xs`, as new tensors of their shapes.
 *
 * @param seeds Cotangents of `ys`, of their shapes; absent, each y must be a scalar and its cotangent is 1.
 * @throws {GraphError} where an x does not influence any y, or an op on the way cannot be differentiated.
 */
export function gradients(
  ys: readonly Tensor[],
  xs: readonly Tensor[],
  options: { readonly seeds?: readonly Tensor[] } = {},
): Tensor[] {
  const { seeds } = options;
  if (seeds && seeds.length !== ys.length) throw new GraphError("gradients expects one seed for every y.");
  const nodes = reachable(ys);
  const wanted = new Set(xs.map((x) => x.node));
  const active = new Set<Node>();
  for (const node of nodes) {
    if (wanted.has(node) || node.inputs.some((input) => active.has(input.node))) active.add(node);
  }
  const cotangents = new Map<Tensor, Tensor>();
  const accumulate = (tensor: Tensor, cotangent: Tensor) => {
    expectShapes(
      sameShape(tensor.shape, cotangent.shape),
      "gradients",
      "a cotangent of its tensor's shape",
      tensor,
      cotangent,
    );
    expectDType(tensor.dtype, `gradients at ${tensor.node.op.name}`, cotangent);
    const old = cotangents.get(tensor);
    cotangents.set(tensor, old ? add(old, cotangent) : cotangent);
  };
  ys.forEach((y, i) => {
    if (!seeds && y.size !== 1) throw new GraphError("gradients expects scalars where no seeds are given.");
    accumulate(y, seeds?.[i] ?? constant([1], y.shape));
  });
  const pullBack = (nodes: readonly Node[]) => {
    for (const node of nodes.toReversed()) {
      if (!active.has(node) || node.inputs.length === 0) continue;
      const incoming = node.outputs.map((output) => cotangents.get(output));
      if (incoming.every((c) => c === undefined)) continue;
      if (node.op === checkpointOp) {
        const { doubles, result } = repeat(node as Node<CheckpointAttrs>, wanted);
        for (const { node, original } of doubles) if (active.has(original)) active.add(node);
        accumulate(result, incoming[0]!);
        pullBack(doubles.map(({ node }) => node));
        continue;
      }
      if (!node.op.vjp) throw new GraphError(`${node.op.name} cannot be differentiated.`);
      const needs = node.inputs.map((input) => active.has(input.node));
      node.op.vjp(node, incoming, needs).forEach((cotangent, i) => {
        if (cotangent && needs[i]) accumulate(node.inputs[i]!, cotangent);
      });
    }
  };
  pullBack(nodes);
  return xs.map((x) => {
    const gradient = cotangents.get(x);
    if (!gradient) throw new GraphError(`gradients: ${x.node.op.name} does not influence the result.`);
    return gradient;
  });
}

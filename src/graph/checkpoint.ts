/** Activation checkpointing: results whose backward pass computes again what led to them instead of keeping it. */

import { GraphError } from "../gpu/errors.ts";
import { apply, Node, nodesMade, type Op, type Tensor } from "./tensor.ts";

/** Attributes of a checkpoint. */
export interface CheckpointAttrs {
  /** The nodes to repeat, in creation order; a function, so that they are no part of the graph's structure as text. */
  readonly region: () => readonly Node[];
}

/** Op of {@linkcode checkpoint}'s result: a view, which `gradients` passes by way of {@linkcode repeat}. */
export const checkpointOp: Op<CheckpointAttrs> = { name: "checkpoint", view: true };

/**
 * The result of `f`; of the tensors that `f` makes on the way, `gradients` reads none. It repeats the ops it needs right
 * before the backward pass goes through them, so that their memory is free in between: less memory, more work, the same
 * bits (random numbers are counted and come out the same). What `f` uses but does not make, such as inputs and weights,
 * is kept, and so is what it makes and others use: of that, cotangents are added up in another order. A checkpoint inside
 * another counts for nothing, and so does one around an x of `gradients`.
 *
 * @throws {GraphError} where `f` has an op that rewrites its inputs.
 */
export function checkpoint(f: () => Tensor): Tensor {
  const before = nodesMade();
  const result = f();
  const region = madeSince(before, result);
  const rewriting = region.find((node) => node.op.inPlace);
  if (rewriting) throw new GraphError(`checkpoint cannot repeat ${rewriting.op.name}, which rewrites its inputs.`);
  return apply(checkpointOp, { region: () => region }, [result], result.shape, result.dtype);
}

/** The nodes that `result` depends on and that were made after `before`, in creation order; leaves are not repeated. */
function madeSince(before: number, result: Tensor): Node[] {
  const seen = new Set<Node>();
  const stack = [result.node];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node) || node.id < before || node.inputs.length === 0) continue;
    seen.add(node);
    for (const input of node.inputs) stack.push(input.node);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/**
 * The region of a checkpoint once more, in creation order, each node with the one it repeats; and its result. Where a
 * node of `wanted` is among them, nothing is repeated: its own tensors are differentiated.
 */
export function repeat({ attrs, inputs }: Node<CheckpointAttrs>, wanted: ReadonlySet<Node>): {
  readonly doubles: readonly { readonly node: Node; readonly original: Node }[];
  readonly result: Tensor;
} {
  const twins = new Map<Tensor, Tensor>();
  const twin = (tensor: Tensor) => twins.get(tensor) ?? tensor;
  const doubles: { node: Node; original: Node }[] = [];
  if (attrs.region().some((node) => wanted.has(node))) return { doubles, result: inputs[0]! };
  for (const original of attrs.region()) {
    if (original.op === checkpointOp) {
      twins.set(original.outputs[0]!, twin(original.inputs[0]!));
      continue;
    }
    const node = new Node(original.op, original.attrs, original.inputs.map(twin), original.outputs);
    original.outputs.forEach((output, i) => twins.set(output, node.outputs[i]!));
    doubles.push({ node, original });
  }
  return { doubles, result: twin(inputs[0]!) };
}

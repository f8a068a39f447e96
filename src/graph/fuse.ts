/** Turns nodes into steps, one or more dispatches each; neighbouring pointwise nodes become one step. */

import { GraphError } from "../gpu/errors.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { pointwise, type PointwiseStep } from "../../kernels/pointwise.ts";
import { type PointwiseAttrs, pointwiseOp } from "./ops/pointwise.ts";
import { apply, type Node, type Op, sameShape, type Tensor } from "./tensor.ts";

/** What runs without interruption: the dispatches of one node, or of a fused group of pointwise nodes. */
export interface Step {
  /** The node whose outputs the step computes. */
  readonly node: Node;
  /** Its dispatches in order. */
  readonly dispatches: readonly Dispatch<Tensor>[];
  /** Buffers only this step uses. */
  readonly scratch: readonly Tensor[];
}

/** Most inputs of a fused kernel: WebGPU guarantees eight storage buffers, one is the output. */
const MAX_INPUTS = 7;

/** Most functions in one fused kernel: longer ones cost more to compile than they save. */
const MAX_FUNCTIONS = 24;

const scratchOp: Op<null> = { name: "scratch" };

/** Lowers `nodes` (topologically ordered). Nodes in `kept` have their outputs stored even where fusing would skip them. */
export function lowerNodes(nodes: readonly Node[], kept: ReadonlySet<Node>): Step[] {
  const consumers = new Map<Node, Set<Node>>();
  for (const node of nodes) {
    for (const { node: input } of node.inputs) {
      const known = consumers.get(input);
      if (known) known.add(node);
      else consumers.set(input, new Set([node]));
    }
  }
  const absorbed = new Set<Node>();
  const steps: Step[] = [];
  for (const node of [...nodes].reverse()) {
    if (absorbed.has(node) || node.op.view || (!node.op.lower && node.op !== pointwiseOp)) continue;
    steps.push(node.op === pointwiseOp ? fuse(node as Node<PointwiseAttrs>, consumers, kept, absorbed) : lower(node));
  }
  return steps.reverse();
}

function lower(node: Node): Step {
  const scratch: Tensor[] = [];
  const dispatches = node.op.lower!(node, (elements) => {
    const tensor = apply(scratchOp, null, [], [elements]);
    scratch.push(tensor);
    return tensor;
  });
  if (dispatches.length === 0) throw new GraphError(`${node.op.name} lowers to nothing.`);
  return { node, dispatches, scratch };
}

/** Grows a group from its last node towards its inputs while every consumer of what is absorbed lies inside it. */
function fuse(
  root: Node<PointwiseAttrs>,
  consumers: ReadonlyMap<Node, ReadonlySet<Node>>,
  kept: ReadonlySet<Node>,
  absorbed: Set<Node>,
): Step {
  const group = new Set<Node<PointwiseAttrs>>([root]);
  const shape = root.outputs[0]!.shape;
  const mayJoin = (node: Node): node is Node<PointwiseAttrs> =>
    node.op === pointwiseOp && !group.has(node as Node<PointwiseAttrs>) && !kept.has(node) &&
    sameShape(node.outputs[0]!.shape, shape) &&
    [...consumers.get(node)!].every((consumer) => group.has(consumer as Node<PointwiseAttrs>));
  const refused = new Set<Node>();
  for (;;) {
    const candidates = [...group].flatMap((node) => node.inputs.map((input) => input.node));
    const next = candidates.find((node) => !refused.has(node) && mayJoin(node)) as Node<PointwiseAttrs> | undefined;
    if (!next || group.size >= MAX_FUNCTIONS) break;
    group.add(next);
    if (outsideInputs(group).length > MAX_INPUTS) {
      group.delete(next);
      refused.add(next);
    }
  }
  group.delete(root);
  for (const node of group) absorbed.add(node);
  const members = [...group, root].sort((a, b) => a.id - b.id);
  const inputs = outsideInputs(new Set(members));
  const index = new Map<Tensor, number>(inputs.map((tensor, i) => [tensor, i]));
  const steps: PointwiseStep[] = members.map((node, i) => {
    index.set(node.outputs[0]!, inputs.length + i);
    return { ...node.attrs, args: node.inputs.map((tensor) => index.get(tensor)!) };
  });
  const dispatch = pointwise({ inputs, output: root.outputs[0]! }, {
    steps,
    shape,
    inputShapes: inputs.map((tensor) => tensor.shape),
  });
  return { node: root as Node, dispatches: [dispatch], scratch: [] };
}

function outsideInputs(group: ReadonlySet<Node<PointwiseAttrs>>): Tensor[] {
  const inputs = new Set<Tensor>();
  for (const node of group) {
    for (const input of node.inputs) if (!group.has(input.node as Node<PointwiseAttrs>)) inputs.add(input);
  }
  return [...inputs];
}

/** Turns nodes into steps, one or more dispatches each: pointwise chains and sums are fused, weights packed together. */

import { GraphError } from "../gpu/errors.ts";
import type { KernelChoices } from "../gpu/family.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { pointwise, type PointwiseStep } from "../../kernels/pointwise.ts";
import { PackedWeights } from "./packing.ts";
import { type PointwiseAttrs, pointwiseOp } from "./ops/pointwise.ts";
import { apply, type DType, type Node, type NodeLowering, type Op, sameShape, type Tensor } from "./tensor.ts";

/** What runs without interruption: the dispatches of one node, or of a fused group of nodes. */
export interface Step {
  /** The node that the step computes; of a group, the one that decides. */
  readonly node: Node;
  /** What it writes, scratch apart. */
  readonly outputs: readonly Tensor[];
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

/** Nodes by what reads them. */
type Consumers = ReadonlyMap<Node, ReadonlySet<Node>>;

/**
 * Lowers `nodes` (topologically ordered). Nodes in `kept` have their outputs stored even where fusing would skip them.
 * `leaves` are further leaves that the steps read.
 */
export function lowerNodes(
  nodes: readonly Node[],
  kept: ReadonlySet<Node>,
  choices: KernelChoices,
): { steps: Step[]; leaves: readonly Node[] } {
  const consumers = consumersOf(nodes);
  const absorbed = new Set<Node>();
  const packed = new PackedWeights();
  const steps: Step[] = [];
  for (const node of [...nodes].reverse()) {
    if (absorbed.has(node) || node.op.view || (!node.op.lower && node.op !== pointwiseOp)) continue;
    const sum = addition(node, consumers, kept, absorbed);
    if (sum) {
      absorbed.add(sum.node);
      steps.push(lower(sum.node, choices, packed, { other: sum.other, output: node.outputs[0]! }));
    } else if (node.op === pointwiseOp) {
      steps.push(fuse(node as Node<PointwiseAttrs>, consumers, kept, absorbed));
    } else steps.push(lower(node, choices, packed));
  }
  const { steps: packing, leaves } = packed.finish();
  return { steps: [...packing, ...steps.reverse()], leaves };
}

function consumersOf(nodes: readonly Node[]): Consumers {
  const consumers = new Map<Node, Set<Node>>();
  for (const node of nodes) {
    for (const { node: input } of node.inputs) {
      const known = consumers.get(input);
      if (known) known.add(node);
      else consumers.set(input, new Set([node]));
    }
  }
  return consumers;
}

/** Where `node` adds to the result of a kernel that can add it itself: that kernel's node, and the other summand. */
function addition(
  node: Node,
  consumers: Consumers,
  kept: ReadonlySet<Node>,
  absorbed: ReadonlySet<Node>,
): { node: Node; other: Tensor } | undefined {
  if (node.op !== pointwiseOp || (node as Node<PointwiseAttrs>).attrs.fn !== "add") return undefined;
  const [a, b] = node.inputs as [Tensor, Tensor];
  if (a === b || !sameShape(a.shape, b.shape) || a.dtype !== b.dtype) return undefined;
  for (const [own, other] of [[b, a], [a, b]] as const) {
    const { node: source } = own;
    if (!source.op.addable || own.index !== 0 || kept.has(source) || absorbed.has(source)) continue;
    if (consumers.get(source)!.size > 1) continue;
    // A summand that would join this sum in one pointwise kernel does so.
    const joins = other.node.op === pointwiseOp && !kept.has(other.node) && consumers.get(other.node)!.size === 1 &&
      sameShape(other.node.outputs[0]!.shape, other.shape) && !addition(other.node, consumers, kept, absorbed);
    if (!joins) return { node: source, other };
  }
  return undefined;
}

function lower(node: Node, choices: KernelChoices, packed: PackedWeights, sum?: NodeLowering["sum"]): Step {
  const scratch: Tensor[] = [];
  const newScratch = (elements: number, dtype?: DType) => {
    const tensor = apply(scratchOp, null, [], [elements], dtype);
    scratch.push(tensor);
    return tensor;
  };
  const before: Dispatch<Tensor>[] = [];
  const dispatches = node.op.lower!(node, {
    choices,
    sum,
    scratch: newScratch,
    packed: (w, packing) => packed.request(w, packing, newScratch, before),
  });
  if (dispatches.length === 0) throw new GraphError(`${node.op.name} lowers to nothing.`);
  const outputs = sum ? [sum.output, ...node.outputs.slice(1)] : node.outputs;
  return { node, outputs, dispatches: [...before, ...dispatches], scratch };
}

/** Grows a group from its last node towards its inputs while every consumer of what is absorbed lies inside it. */
function fuse(
  root: Node<PointwiseAttrs>,
  consumers: Consumers,
  kept: ReadonlySet<Node>,
  absorbed: Set<Node>,
): Step {
  const group = new Set<Node<PointwiseAttrs>>([root]);
  const shape = root.outputs[0]!.shape;
  const mayJoin = (node: Node): node is Node<PointwiseAttrs> =>
    node.op === pointwiseOp && !group.has(node as Node<PointwiseAttrs>) && !kept.has(node) &&
    sameShape(node.outputs[0]!.shape, shape) && !addition(node, consumers, kept, absorbed) &&
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
    const f16 = node.outputs[0]!.dtype === "f16";
    return { ...node.attrs, args: node.inputs.map((tensor) => index.get(tensor)!), f16 };
  });
  const dispatch = pointwise({ inputs, output: root.outputs[0]! }, {
    steps,
    shape,
    inputShapes: inputs.map((tensor) => tensor.shape),
    inputF16: inputs.map((tensor) => tensor.dtype === "f16"),
  });
  return { node: root as Node, outputs: root.outputs, dispatches: [dispatch], scratch: [] };
}

function outsideInputs(group: ReadonlySet<Node<PointwiseAttrs>>): Tensor[] {
  const inputs = new Set<Tensor>();
  for (const node of group) {
    for (const input of node.inputs) if (!group.has(input.node as Node<PointwiseAttrs>)) inputs.add(input);
  }
  return [...inputs];
}

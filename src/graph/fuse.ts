/** Turns nodes into steps, one or more dispatches each: pointwise chains and sums are fused, weights packed together. */

import { GraphError } from "../gpu/errors.ts";
import type { KernelChoices } from "../gpu/family.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { pointwise, type PointwiseStep } from "../../kernels/pointwise.ts";
import { PackedWeights } from "./packing.ts";
import { type PointwiseAttrs, pointwiseOp } from "./ops/pointwise.ts";
import {
  apply,
  type DType,
  type Node,
  type NodeLowering,
  type Op,
  sameShape,
  type Shape,
  type Tensor,
} from "./tensor.ts";

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

/** A pointwise node in a group, and the shape its output is seen in: a view may lie between it and its consumers. */
type Group = Map<Node<PointwiseAttrs>, Shape>;

/** An input of a group from outside, in the shape it is seen in. */
interface GroupInput {
  readonly tensor: Tensor;
  readonly shape: Shape;
}

/**
 * Grows a group from its last node towards its inputs while every consumer of what is absorbed lies inside it. What is
 * smaller than the group's output, and repeated, is computed anew for every element: that costs less than a dispatch.
 */
function fuse(
  root: Node<PointwiseAttrs>,
  consumers: Consumers,
  kept: ReadonlySet<Node>,
  absorbed: Set<Node>,
): Step {
  const { shape } = root.outputs[0]!;
  const group: Group = new Map([[root, shape]]);
  const readInside = (node: Node): boolean =>
    [...consumers.get(node)!].every((consumer) =>
      consumer.op.view ? !kept.has(consumer) && readInside(consumer) : group.has(consumer as Node<PointwiseAttrs>)
    );
  const mayJoin = ({ tensor: { node }, shape }: GroupInput) =>
    node.op === pointwiseOp && !kept.has(node) && !addition(node, consumers, kept, absorbed) && readInside(node) &&
    inputsSeen(node as Node<PointwiseAttrs>, shape) !== undefined;
  const refused = new Set<Node>();
  while (group.size < MAX_FUNCTIONS) {
    const next = outsideInputs(group).find((input) => !refused.has(input.tensor.node) && mayJoin(input));
    if (!next) break;
    const node = next.tensor.node as Node<PointwiseAttrs>;
    group.set(node, next.shape);
    const inputs = outsideInputs(group);
    // Seen in two shapes, a node would have to be there twice.
    if (inputs.length > MAX_INPUTS || inputs.some(({ tensor }) => tensor.node === node)) {
      group.delete(node);
      refused.add(node);
    }
  }
  for (const node of group.keys()) if (node !== root) absorbed.add(node);
  const members = [...group.keys()].sort((a, b) => a.id - b.id);
  const inputs = outsideInputs(group);
  const steps: PointwiseStep[] = members.map((node) => {
    const args = inputsSeen(node, group.get(node)!)!.map((input) => {
      const member = members.indexOf(input.tensor.node as Node<PointwiseAttrs>);
      return member >= 0 ? inputs.length + member : inputs.findIndex((other) => sameInput(other, input));
    });
    return { ...node.attrs, args, f16: node.outputs[0]!.dtype === "f16" };
  });
  const dispatch = pointwise({ inputs: inputs.map(({ tensor }) => tensor), output: root.outputs[0]! }, {
    steps,
    shape,
    inputShapes: inputs.map(({ shape }) => shape),
    inputF16: inputs.map(({ tensor }) => tensor.dtype === "f16"),
  });
  return { node: root as Node, outputs: root.outputs, dispatches: [dispatch], scratch: [] };
}

function sameInput(a: GroupInput, b: GroupInput): boolean {
  return a.tensor === b.tensor && sameShape(a.shape, b.shape);
}

/**
 * The inputs of a node whose output is seen in `shape`, behind their views; undefined where an input is repeated along
 * axes that the shape does not have.
 */
function inputsSeen(node: Node<PointwiseAttrs>, shape: Shape): GroupInput[] | undefined {
  const own = node.outputs[0]!.shape;
  const inputs: GroupInput[] = [];
  for (const input of node.inputs) {
    let seen: Shape = input.shape;
    if (!sameShape(own, shape)) {
      if (sameShape(seen, own)) seen = shape;
      else if (input.size !== 1) return undefined;
      else seen = [];
    }
    let tensor = input;
    while (tensor.node.op.view) tensor = tensor.node.inputs[0]!;
    inputs.push({ tensor, shape: seen });
  }
  return inputs;
}

function outsideInputs(group: Group): GroupInput[] {
  const inputs: GroupInput[] = [];
  for (const [node, shape] of group) {
    for (const input of inputsSeen(node, shape)!) {
      const { node: source } = input.tensor;
      const member = group.get(source as Node<PointwiseAttrs>);
      if (member && sameShape(member, input.shape)) continue;
      if (!inputs.some((other) => sameInput(other, input))) inputs.push(input);
    }
  }
  return inputs;
}

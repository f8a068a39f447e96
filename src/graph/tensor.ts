/** Symbolic tensors: nodes of a static graph, their shapes and data types. */

import { GraphError } from "../gpu/errors.ts";
import type { KernelChoices, Lowering } from "../gpu/family.ts";
import type { Dispatch } from "../gpu/kernel.ts";

/**
 * Element type; `u8` is stored packed, four to a 32-bit word, little-endian. `f16` is a way to store what a program
 * computes on the way: kernels compute in f32, and what enters and leaves a program is none.
 */
export type DType = "f32" | "u32" | "u8" | "f16";

/** Element type of leaves, state and results. */
export type LeafDType = Exclude<DType, "f16">;

/** Bytes of an element. */
const ELEMENT_BYTES: Readonly<Record<DType, number>> = { f32: 4, u32: 4, f16: 2, u8: 1 };

/** Static extents, outermost first; `[]` is a scalar. */
export type Shape = readonly number[];

/** Shape and element type of a tensor. */
export interface TensorSpec {
  /** Static extents. */
  readonly shape: Shape;
  /** Element type. */
  readonly dtype: DType;
}

/** A value in a graph: one output of a node. It holds no data. */
export class Tensor implements TensorSpec {
  /** Wraps output `index` of `node`. */
  constructor(readonly node: Node, readonly index: number, readonly shape: Shape, readonly dtype: DType) {}

  /** Number of elements. */
  get size(): number {
    return elementCount(this.shape);
  }

  /** Bytes in memory, rounded up to whole words. */
  get bytes(): number {
    return Math.ceil(this.size * ELEMENT_BYTES[this.dtype] / 4) * 4;
  }
}

/** What an op is: its name, its vector-Jacobian product and its kernels. `A` is the type of its attributes. */
export interface Op<A = unknown> {
  /** Name in listings and messages. */
  readonly name: string;
  /** True where the output is the first input's memory under another shape. */
  readonly view?: boolean;
  /** Outputs that are written into the memory of an input: output index → input index. */
  readonly inPlace?: Readonly<Record<number, number>>;
  /**
   * Cotangents of the inputs from those of the outputs (absent: zero). `needs[i]` says whether input i's is wanted.
   * An op without it cannot be differentiated.
   */
  vjp?(
    node: Node<A>,
    cotangents: readonly (Tensor | undefined)[],
    needs: readonly boolean[],
  ): readonly (Tensor | undefined)[];
  /** True where `lower` can add another tensor to the first output; see {@linkcode NodeLowering.sum}. */
  readonly addable?: boolean;
  /** The dispatches that compute the outputs. */
  lower?(node: Node<A>, lowering: NodeLowering): Dispatch<Tensor>[];
}

/** What a node may use while it is lowered. */
export interface NodeLowering extends Lowering<Tensor> {
  /** Which variants of the kernels are run. */
  readonly choices: KernelChoices;
  /** Where present, first output + other is written to `output`, and the first output itself is not. */
  readonly sum?: { readonly other: Tensor; readonly output: Tensor } | undefined;
}

let nextId = 0;

/** Number of nodes made so far: every node made from now on has at least this id. */
export function nodesMade(): number {
  return nextId;
}

/** One application of an op. */
export class Node<A = unknown> {
  /** Creation order, which is a topological order. */
  readonly id = nextId++;
  /** The results. */
  readonly outputs: readonly Tensor[];

  /** Applies `op` to `inputs`; `specs` are the outputs' shapes and types. */
  constructor(readonly op: Op<A>, readonly attrs: A, readonly inputs: readonly Tensor[], specs: readonly TensorSpec[]) {
    this.outputs = specs.map(({ shape, dtype }, i) => new Tensor(this as Node, i, checkShape(op.name, shape), dtype));
  }
}

/** Applies an op with one output. */
export function apply<A>(op: Op<A>, attrs: A, inputs: readonly Tensor[], shape: Shape, dtype: DType = "f32"): Tensor {
  return new Node(op, attrs, inputs, [{ shape, dtype }]).outputs[0]!;
}

/** Product of the extents. */
export function elementCount(shape: Shape): number {
  return shape.reduce((total, extent) => total * extent, 1);
}

/** True where both shapes are the same. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, i) => extent === b[i]);
}

/** `[2, 3]` as text. */
export function shapeText(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Throws a {@linkcode GraphError} that names the op and the shapes unless `condition` holds. */
export function expectShapes(condition: boolean, op: string, expected: string, ...tensors: readonly Tensor[]): void {
  if (condition) return;
  const got = tensors.map((t) => shapeText(t.shape)).join(" and ");
  throw new GraphError(`${op} expects ${expected}; got ${got}.`);
}

/** Throws unless all tensors are f32, or all f16. */
export function expectFloats(op: string, ...tensors: readonly Tensor[]): void {
  const types = tensors.map(({ dtype }) => dtype);
  if ((["f32", "f16"] as const).some((float) => types.every((type) => type === float))) return;
  throw new GraphError(`${op} expects f32 or f16 data, of one type; got ${types.join(" and ")}.`);
}

/** Throws unless every tensor has the element type. */
export function expectDType(dtype: DType, op: string, ...tensors: readonly Tensor[]): void {
  for (const tensor of tensors) {
    if (tensor.dtype !== dtype) throw new GraphError(`${op} expects ${dtype} data; got ${tensor.dtype}.`);
  }
}

function checkShape(op: string, shape: Shape): Shape {
  if (!shape.every((extent) => Number.isInteger(extent) && extent > 0)) {
    throw new GraphError(`${op} gives the shape ${shapeText(shape)}; every extent must be a positive integer.`);
  }
  return shape;
}

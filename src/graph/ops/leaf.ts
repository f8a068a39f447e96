/** Leaves of a graph: constants, values given at run time, and named state. */

import { GraphError } from "../../gpu/errors.ts";
import { apply, elementCount, type LeafDType, type Op, type Shape, type Tensor } from "../tensor.ts";

/** Host data of a tensor: `Float32Array` for f32, `Uint32Array` for u32 and packed u8. */
export type HostData = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Attributes of a constant. */
export interface ConstantAttrs {
  /** Its elements in row-major order. */
  readonly data: HostData;
}

/** Attributes of a run-time leaf. */
export interface HostAttrs {
  /** The name its value is given under. */
  readonly name: string;
}

/** Attributes of a variable leaf; the holder knows the buffer. */
export interface VariableAttrs {
  /** Name for messages. */
  readonly name: string;
  /** The storage it stands for: a range of a buffer. */
  readonly storage: Storage;
}

/** A range of a GPU buffer. */
export interface Storage {
  /** The buffer. */
  readonly buffer: GPUBuffer;
  /** Start in bytes. */
  readonly offset: number;
  /** Length in bytes. */
  readonly size: number;
}

/** Op of {@linkcode constant}. */
export const constantOp: Op<ConstantAttrs> = { name: "constant" };
/** Op of {@linkcode host}. */
export const hostOp: Op<HostAttrs> = { name: "host" };
/** Op of a variable's tensor. */
export const variableOp: Op<VariableAttrs> = { name: "variable" };

/** A tensor with fixed elements, row-major. Packed u8 data is given as a `Uint32Array` of words. */
export function constant(data: ArrayLike<number>, shape: Shape, dtype: LeafDType = "f32"): Tensor {
  const words = dtype === "u8" ? Math.ceil(elementCount(shape) / 4) : elementCount(shape);
  if (data.length !== words) {
    throw new GraphError(`constant expects ${words} ${dtype === "u8" ? "words" : "elements"}; got ${data.length}.`);
  }
  return apply(
    constantOp,
    { data: dtype === "f32" ? new Float32Array(data) : new Uint32Array(data) },
    [],
    shape,
    dtype,
  );
}

/** A small tensor whose value is given anew at every run of a program (`program.at({ name: value })`). */
export function host(name: string, shape: Shape = [], dtype: "f32" | "u32" = "f32"): Tensor {
  return apply(hostOp, { name }, [], shape, dtype);
}

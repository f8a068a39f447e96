/** Convolution weights rearranged for the kernels, all those of a program that lie in one buffer in one dispatch. */

import type { Packing } from "../gpu/family.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import { pack, packedLayout, packedSize, type PackJob, packTable } from "../../kernels/conv2d_pack.ts";
import type { Step } from "./fuse.ts";
import { constant, type VariableAttrs, variableOp } from "./ops/leaf.ts";
import { apply, type DType, type Node, type Op, type Tensor } from "./tensor.ts";

/** Where a part lies in the tensor it is a part of. */
export interface PartAttrs {
  /** The tensor, once it is known. */
  whole: Tensor | undefined;
  /** In bytes. */
  offset: number;
}

/** Op of a tensor that is a range of another one's memory. */
export const partOp: Op<PartAttrs> = { name: "part" };

const packOp: Op<null> = { name: "conv2d.pack" };

interface Request {
  readonly job: PackJob;
  readonly part: Node<PartAttrs>;
}

/** Collects what the nodes of a program want packed. */
export class PackedWeights {
  readonly #buffers = new Map<GPUBuffer, Map<string, Request>>();
  readonly #leaves: Node[] = [];

  /** The packed form of `w`: filled at the program's start where `w` is state, else by a dispatch added to `before`. */
  request(
    w: Tensor,
    packing: Packing,
    scratch: (elements: number, dtype: DType) => Tensor,
    before: Dispatch<Tensor>[],
  ): Tensor {
    const dtype = packing.f16 ? "f16" : "f32";
    if (w.node.op !== variableOp) {
      const jobs = [{ ...packing, start: 0 }];
      const packed = scratch(packedSize(packing), dtype);
      before.push(pack({ w, table: this.#table(jobs), packed }, jobs));
      return packed;
    }
    const { buffer, offset } = (w.node.attrs as VariableAttrs).storage;
    const job = { ...packing, start: offset / 4 };
    const requests = this.#buffers.get(buffer) ?? new Map<string, Request>();
    this.#buffers.set(buffer, requests);
    const key = Object.values(job).join();
    let request = requests.get(key);
    if (!request) {
      const tensor = apply(partOp, { whole: undefined, offset: 0 }, [], [packedSize(packing)], dtype);
      request = { job, part: tensor.node as Node<PartAttrs> };
      requests.set(key, request);
    }
    return request.part.outputs[0]!;
  }

  /** The steps that pack what was requested from state, and all leaves that packing reads. */
  finish(): { steps: Step[]; leaves: readonly Node[] } {
    const steps = [...this.#buffers].flatMap(([buffer, requests]) => {
      const byType = Map.groupBy(requests.values(), ({ part }) => part.outputs[0]!.dtype);
      return [...byType].map(([dtype, parts]) => this.#step(buffer, parts, dtype));
    });
    return { steps, leaves: this.#leaves };
  }

  #step(buffer: GPUBuffer, parts: readonly Request[], dtype: DType): Step {
    const jobs = parts.map(({ job }) => job);
    const { offsets, total } = packedLayout(jobs);
    const table = this.#table(jobs);
    const storage = { buffer, offset: 0, size: buffer.size };
    const w = apply(variableOp, { name: buffer.label, storage }, [], [buffer.size / 4]);
    const packed = apply(packOp, null, [w, table], [total], dtype);
    const bytes = dtype === "f16" ? 2 : 4;
    parts.forEach(({ part }, i) => Object.assign(part.attrs, { whole: packed, offset: offsets[i]! * bytes }));
    this.#leaves.push(w.node);
    return { node: packed.node, outputs: [packed], dispatches: [pack({ w, table, packed }, jobs)], scratch: [] };
  }

  #table(jobs: readonly PackJob[]): Tensor {
    const words = packTable(jobs);
    const table = constant(words, [words.length], "u32");
    this.#leaves.push(table.node);
    return table;
  }
}

/** Compiled graphs and their replay: nothing is planned, built or awaited any more. */

import { GraphError } from "../gpu/errors.ts";
import { BINDING_ALIGNMENT } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import type { ConstantAttrs, Storage } from "./ops/leaf.ts";
import type { Tensor } from "./tensor.ts";
import type { Variable, Workspace } from "./workspace.ts";

/** What a program computes. */
export interface ProgramSpec {
  /** Name in listings. */
  readonly label: string;
  /** Tensors kept in buffers of their own until the next run, to be read back. */
  readonly outputs?: Readonly<Record<string, Tensor>>;
  /** New values of state. Inside the program every variable is read as it was before the run. */
  readonly updates?: readonly (readonly [Variable, Tensor])[];
  /** Small tensors recorded at every run; see {@linkcode Program.readMetrics}. */
  readonly metrics?: Readonly<Record<string, Tensor>>;
  /** Runs whose metrics are held before they must be read; 64 when absent. */
  readonly metricsCapacity?: number;
}

/** Values of a program's run-time leaves. */
export type HostValues = Readonly<Record<string, number | ArrayLike<number>>>;

/** One run of a program, to be submitted. */
export interface Run {
  /** What runs. */
  readonly program: Program;
  /** Values of its run-time leaves. */
  readonly values: HostValues;
}

/** Counts of a compiled program. */
export interface ProgramCost {
  /** Compute dispatches a run. */
  readonly dispatches: number;
  /** Floating-point operations a run. */
  readonly flops: number;
  /** Bytes a run must move at least. */
  readonly bytes: number;
  /** Bytes of pooled buffers that the program touches: of each, up to the end of its last tensor. */
  readonly plannedBytes: number;
  /** Largest sum of live transient bytes: a lower bound of `plannedBytes`. */
  readonly peakLiveBytes: number;
}

/** One line of a profile or listing: all dispatches of one kernel. */
export interface KernelLine {
  /** The kernel's label. */
  readonly kernel: string;
  /** Dispatches. */
  readonly calls: number;
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes moved at least. */
  readonly bytes: number;
  /** Microseconds on the device; 0 in a listing. */
  readonly microseconds: number;
}

/** A dispatch ready to be recorded. */
export interface Recorded {
  /** What it was made from. */
  readonly dispatch: Dispatch<Tensor>;
  /** Its pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Its buffers. */
  readonly group: GPUBindGroup;
}

/** A copy between ranges of buffers, outside the pass. */
export interface Copy {
  /** Source. */
  readonly from: Storage;
  /** Destination, of the same length. */
  readonly to: Storage;
}

/** Where a run-time value lies in the program's block. */
export interface HostSlot {
  /** The name it is given under. */
  readonly name: string;
  /** Its shape and type. */
  readonly tensor: Tensor;
  /** In words from the start of the program's block. */
  readonly offset: number;
}

/** Where a metric lies in a run's record. */
export interface MetricSlot {
  /** Its name. */
  readonly name: string;
  /** Where it is computed. */
  readonly from: Storage;
  /** Elements before it in the record. */
  readonly offset: number;
  /** Its elements. */
  readonly length: number;
}

/** What a compiled program consists of; assembled by `compileProgram`. */
export interface ProgramParts {
  /** Dispatches in order. */
  readonly recorded: readonly Recorded[];
  /** Copies made before the pass: state that the run changes and the results show. */
  readonly snapshots: readonly Copy[];
  /** Copies made after the pass: updates that could not be computed in place. */
  readonly copies: readonly Copy[];
  /** Run-time values. */
  readonly hosts: readonly HostSlot[];
  /** Where they lie; absent where there are none. */
  readonly hostBuffer: GPUBuffer | undefined;
  /** Constants with their buffers. */
  readonly constants: readonly { readonly tensor: Tensor; readonly buffer: GPUBuffer }[];
  /** Outputs by name. */
  readonly outputs: ReadonlyMap<string, { readonly tensor: Tensor; readonly storage: Storage }>;
  /** Metrics of a run. */
  readonly metrics: readonly MetricSlot[];
  /** Records of the runs not yet read; absent where there are no metrics. */
  readonly metricsBuffer: GPUBuffer | undefined;
  /** Records it holds. */
  readonly metricsCapacity: number;
  /** Elements of a record. */
  readonly metricsLength: number;
  /** Buffers that only this program uses. */
  readonly owned: readonly GPUBuffer[];
}

/** A compiled graph. Make one with `workspace.compile`. */
export class Program {
  #metricsHeld = 0;
  #destroyed = false;

  /** Takes what was compiled. */
  constructor(
    readonly workspace: Workspace,
    readonly label: string,
    /** Counts of one run. */
    readonly cost: ProgramCost,
    private readonly parts: ProgramParts,
  ) {}

  /** Bytes uploaded at every run. */
  get hostBytes(): number {
    return this.parts.hosts.length * BINDING_ALIGNMENT;
  }

  /** A run with the given values of the run-time leaves. */
  at(values: HostValues = {}): Run {
    return { program: this, values };
  }

  /** Writes the run-time values as words; used by `Workspace.submit`. */
  pack(values: HostValues, words: Uint32Array, start: number): void {
    const unknown = Object.keys(values).find((name) => !this.parts.hosts.some((slot) => slot.name === name));
    if (unknown !== undefined) throw new GraphError(`Program ${this.label} has no run-time value "${unknown}".`);
    const floats = new Float32Array(words.buffer);
    for (const { name, tensor, offset } of this.parts.hosts) {
      const value = values[name];
      if (value === undefined) throw new GraphError(`Program ${this.label} was not given the value "${name}".`);
      const elements = typeof value === "number" ? [value] : value;
      if (elements.length !== tensor.size) {
        throw new GraphError(`Program ${this.label}: "${name}" has ${tensor.size} elements; got ${elements.length}.`);
      }
      (tensor.dtype === "f32" ? floats : words).set(elements, start + offset);
    }
  }

  /** Throws unless the metrics of `runs` more runs can be held; used by `Workspace.submit`. */
  expectRoom(runs: number): void {
    const { metricsBuffer, metricsCapacity } = this.parts;
    if (!metricsBuffer || this.#metricsHeld + runs <= metricsCapacity) return;
    throw new GraphError(
      `Program ${this.label} can hold the metrics of ${metricsCapacity} runs and holds ${this.#metricsHeld}: ` +
        `${runs} more do not fit; read them first.`,
    );
  }

  /** Records one run; used by `Workspace.submit`. */
  encode(encoder: GPUCommandEncoder, upload: { buffer: GPUBuffer; offset: number } | undefined): void {
    this.#prepare(encoder, upload);
    const pass = encoder.beginComputePass();
    let current: GPUComputePipeline | undefined;
    for (const { pipeline, group, dispatch: { workgroups: [x, y, z] } } of this.parts.recorded) {
      if (pipeline !== current) pass.setPipeline(current = pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(x, y, z);
    }
    pass.end();
    this.#copyResults(encoder);
  }

  #prepare(encoder: GPUCommandEncoder, upload: { buffer: GPUBuffer; offset: number } | undefined): void {
    const { hostBuffer, snapshots } = this.parts;
    if (hostBuffer && upload) encoder.copyBufferToBuffer(upload.buffer, upload.offset, hostBuffer, 0, this.hostBytes);
    copyAll(encoder, snapshots);
  }

  #copyResults(encoder: GPUCommandEncoder): void {
    const { copies, metrics, metricsBuffer, metricsLength } = this.parts;
    if (metricsBuffer) {
      const base = this.#metricsHeld++ * metricsLength;
      for (const { from, offset, length } of metrics) {
        encoder.copyBufferToBuffer(from.buffer, from.offset, metricsBuffer, (base + offset) * 4, length * 4);
      }
    }
    copyAll(encoder, copies);
  }

  /** The metrics of every run since the last call, oldest first: one wait. */
  async readMetrics(): Promise<Record<string, Float32Array>[]> {
    const { metrics, metricsBuffer, metricsLength } = this.parts;
    const held = this.#metricsHeld;
    if (!metricsBuffer || held === 0) return [];
    // The copy is submitted before the wait: runs submitted meanwhile record from the start again.
    const pending = this.workspace.gpu.read([{ buffer: metricsBuffer, size: held * metricsLength * 4 }]);
    this.#metricsHeld = 0;
    const [data] = await pending;
    return Array.from({ length: held }, (_, run) =>
      Object.fromEntries(metrics.map(({ name, offset, length }) => [
        name,
        new Float32Array(data!, (run * metricsLength + offset) * 4, length),
      ])));
  }

  /** The outputs of the last run: one wait. */
  async read(): Promise<Record<string, Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>> {
    const outputs = [...this.parts.outputs];
    const data = await this.workspace.gpu.read(
      outputs.map(([, { storage, tensor }]) => ({ ...storage, size: tensor.bytes })),
    );
    return Object.fromEntries(outputs.map(([name, { tensor }], i) => [
      name,
      tensor.dtype === "f32" ? new Float32Array(data[i]!) : new Uint32Array(data[i]!),
    ]));
  }

  /** Replaces the data of the program's constants, in their order; used by `evaluate`. */
  writeConstants(data: readonly ConstantAttrs["data"][]): void {
    this.parts.constants.forEach(({ buffer }, i) => {
      this.workspace.gpu.device.queue.writeBuffer(buffer, 0, data[i]!);
    });
  }

  /**
   * The program as text: a line of totals, then a line a kernel: dispatches, GFLOP, MB; with `lines` from
   * {@linkcode Program.profile} also microseconds, GFLOP/s and GB/s.
   */
  describe(lines: readonly KernelLine[] = this.kernels()): string {
    const { dispatches, flops, bytes, plannedBytes, peakLiveBytes } = this.cost;
    const mb = (n: number) => `${(n / 1e6).toFixed(2)} MB`;
    const total = `${this.label}: ${dispatches} dispatches, ${(flops / 1e9).toFixed(3)} GFLOP, ${mb(bytes)} moved, ` +
      `planned memory ${mb(plannedBytes)} (largest live set ${mb(peakLiveBytes)})`;
    const rows = lines.map(({ kernel, calls, flops, bytes, microseconds: us }) => {
      const counts = `  ${kernel.padEnd(36)} ${String(calls).padStart(4)}  ${
        (flops / 1e9).toFixed(4).padStart(9)
      } GFLOP  ${(bytes / 1e6).toFixed(2).padStart(9)} MB`;
      if (us === 0) return counts;
      const rates = [flops / us / 1e3, bytes / us / 1e3].map((rate) => rate.toFixed(2).padStart(8));
      return `${counts}  ${us.toFixed(0).padStart(8)} µs  ${rates[0]} GFLOP/s  ${rates[1]} GB/s`;
    });
    return [total, ...rows].join("\n");
  }

  /** The kernels with their counts, the most work first. */
  kernels(): KernelLine[] {
    return summarise(this.parts.recorded.map(({ dispatch }) => ({ dispatch, microseconds: 0 })));
  }

  /**
   * Runs once with every dispatch in a pass of its own and gives the time of each kernel.
   *
   * @throws {GraphError} where the adapter has no timestamps.
   */
  async profile(values: HostValues = {}): Promise<KernelLine[]> {
    const { gpu } = this.workspace;
    const { device } = gpu;
    if (!gpu.hasTimestamps) throw new GraphError("This adapter has no timestamp queries; nothing can be profiled.");
    const { recorded } = this.parts;
    this.expectRoom(1);
    const words = new Uint32Array(this.hostBytes / 4);
    this.pack(values, words, 0);
    const upload = this.hostBytes > 0 ? gpu.buffer(this.hostBytes, "profile upload", 0x04 | 0x08) : undefined;
    if (upload) device.queue.writeBuffer(upload, 0, words);
    const perSet = 1024;
    const sets: { set: GPUQuerySet; resolved: GPUBuffer; count: number }[] = [];
    const encoder = device.createCommandEncoder();
    this.#prepare(encoder, upload && { buffer: upload, offset: 0 });
    for (let start = 0; start < recorded.length; start += perSet) {
      const part = recorded.slice(start, start + perSet);
      const count = part.length * 2;
      const set = device.createQuerySet({ type: "timestamp", count });
      const resolved = gpu.buffer(count * 8, "timestamps", 0x200 | 0x04);
      part.forEach(({ pipeline, group, dispatch: { workgroups: [x, y, z] } }, i) => {
        const pass = encoder.beginComputePass({
          timestampWrites: { querySet: set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
        });
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(x, y, z);
        pass.end();
      });
      encoder.resolveQuerySet(set, 0, count, resolved, 0);
      sets.push({ set, resolved, count });
    }
    this.#copyResults(encoder);
    device.queue.submit([encoder.finish()]);
    const data = await gpu.read(sets.map(({ resolved, count }) => ({ buffer: resolved, size: count * 8 })));
    const stamps = data.flatMap((buffer) => [...new BigUint64Array(buffer)]);
    for (const { set, resolved } of sets) {
      set.destroy();
      gpu.free(resolved);
    }
    if (upload) gpu.free(upload);
    return summarise(recorded.map(({ dispatch }, i) => ({
      dispatch,
      microseconds: Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1000,
    })));
  }

  /** Frees the buffers that only this program uses. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.workspace.forget(this);
    for (const buffer of this.parts.owned) this.workspace.gpu.free(buffer);
  }
}

function summarise(timed: readonly { dispatch: Dispatch<Tensor>; microseconds: number }[]): KernelLine[] {
  const lines = new Map<string, KernelLine>();
  for (const { dispatch: { label, flops, bytes }, microseconds } of timed) {
    const old = lines.get(label) ?? { kernel: label, calls: 0, flops: 0, bytes: 0, microseconds: 0 };
    lines.set(label, {
      kernel: label,
      calls: old.calls + 1,
      flops: old.flops + flops,
      bytes: old.bytes + bytes,
      microseconds: old.microseconds + microseconds,
    });
  }
  return [...lines.values()].sort((a, b) => b.microseconds - a.microseconds || b.flops - a.flops);
}

function copyAll(encoder: GPUCommandEncoder, copies: readonly Copy[]): void {
  for (const { from, to } of copies) {
    encoder.copyBufferToBuffer(from.buffer, from.offset, to.buffer, to.offset, to.size);
  }
}

/** Compiled graphs and their replay: nothing is planned, built or awaited any more. */

import { Commands, type Recorded } from "../gpu/commands.ts";
import { GraphError } from "../gpu/errors.ts";
import { BINDING_ALIGNMENT } from "../gpu/gpu.ts";
import type { Dispatch } from "../gpu/kernel.ts";
import type { ConstantAttrs, Storage } from "./ops/leaf.ts";
import { expectTimestamps, type KernelLine, type Profile, summarise, timeDispatches } from "./profile.ts";
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

/** A dispatch of a program, ready to be recorded. */
export interface RecordedDispatch extends Recorded {
  /** What it was made from. */
  readonly dispatch: Dispatch<Tensor>;
}

/** Where a run's values lie that the host gave. */
export interface Upload {
  /** Values of all runs of a submit. */
  readonly buffer: GPUBuffer;
  /** Where this run's begin, in bytes. */
  readonly offset: number;
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
  readonly recorded: readonly RecordedDispatch[];
  /** Copies made before the pass: state that the run changes and the results show. */
  readonly snapshots: readonly Copy[];
  /** Copies made after the pass: updates that could not be computed in place. */
  readonly copies: readonly Copy[];
  /** State that a run changes. */
  readonly state: readonly Storage[];
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

/** Runs that are profiled: the timestamps of some adapters are coarse, so that one run says little. */
const PROFILED_RUNS = 5;

/** Microseconds that runs for comparison take together, at least: Deno's wait of 11 ms must not be what is measured. */
const REPLAY_MICROSECONDS = 300_000;

/** Runs for comparison, at most. */
const MAX_REPLAYS = 200;

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

  /** A run with those of the values that it takes. */
  atOwn(values: HostValues): Run {
    const taken = this.parts.hosts.flatMap(({ name }) => name in values ? [[name, values[name]!] as const] : []);
    return this.at(Object.fromEntries(taken));
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
  encode(commands: Commands, upload: Upload | undefined): void {
    this.#prepare(commands, upload);
    for (const recorded of this.parts.recorded) commands.dispatch(recorded);
    this.#copyResults(commands);
  }

  #prepare(commands: Commands, upload: Upload | undefined): void {
    const { hostBuffer, snapshots } = this.parts;
    if (hostBuffer && upload) commands.copy(upload.buffer, upload.offset, hostBuffer, 0, this.hostBytes);
    copyAll(commands, snapshots);
  }

  #copyResults(commands: Commands): void {
    const { copies, metrics, metricsBuffer, metricsLength } = this.parts;
    if (metricsBuffer) {
      const base = this.#metricsHeld++ * metricsLength;
      for (const { from, offset, length } of metrics) {
        commands.copy(from.buffer, from.offset, metricsBuffer, (base + offset) * 4, length * 4);
      }
    }
    copyAll(commands, copies);
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

  /** The program as text: a line of totals, then a line a kernel: dispatches, GFLOP, MB. */
  describe(lines: readonly KernelLine[] = this.kernels()): string {
    const { dispatches, flops, bytes, plannedBytes, peakLiveBytes } = this.cost;
    const mb = (n: number) => `${(n / 1e6).toFixed(2)} MB`;
    const total = `${this.label}: ${dispatches} dispatches, ${(flops / 1e9).toFixed(3)} GFLOP, ${mb(bytes)} moved, ` +
      `planned memory ${mb(plannedBytes)} (largest live set ${mb(peakLiveBytes)})`;
    const rows = lines.map(({ kernel, calls, flops, bytes }) =>
      `  ${kernel.padEnd(36)} ${String(calls).padStart(4)}  ${(flops / 1e9).toFixed(4).padStart(9)} GFLOP  ${
        (bytes / 1e6).toFixed(2).padStart(9)
      } MB`
    );
    return [total, ...rows].join("\n");
  }

  /** The kernels with their counts, the most work first. */
  kernels(): KernelLine[] {
    return summarise(this.parts.recorded.map(({ dispatch: { label, flops, bytes } }) => ({
      kernel: label,
      flops,
      bytes,
      microseconds: 0,
    })));
  }

  /**
   * Times every dispatch, in a pass of its own, as means over {@linkcode Profile.runs} runs; then runs as in training,
   * for comparison: a pass costs time. State that the program updates is as it was afterwards and no metrics are
   * recorded; outputs are those of the last run.
   *
   * @throws {GraphError} where the adapter has no timestamps.
   */
  async profile(values: HostValues = {}): Promise<Profile> {
    const { gpu } = this.workspace;
    expectTimestamps(gpu);
    this.expectRoom(1);
    const restore = this.#saveState();
    try {
      // Drivers compile a pipeline when it first runs: that is not what is to be timed.
      this.#replay(values);
      await gpu.idle();
      const stamps: bigint[][] = [];
      for (let i = 0; i < PROFILED_RUNS; i++) stamps.push(await this.#timestamps(values));
      const dispatches = timeDispatches(this.parts.recorded.map(({ dispatch }) => dispatch), stamps);
      const kernels = summarise(dispatches);
      const expected = kernels.reduce((total, { microseconds }) => total + microseconds, 0);
      const replays = Math.ceil(Math.min(MAX_REPLAYS, Math.max(PROFILED_RUNS, REPLAY_MICROSECONDS / expected)));
      return {
        label: this.label,
        runs: PROFILED_RUNS,
        dispatches,
        kernels,
        replays,
        ...await this.#timeReplays(values, replays),
      };
    } finally {
      restore();
    }
  }

  /** Runs once as in training, but lets no metrics be read. */
  #replay(values: HostValues): void {
    const held = this.#metricsHeld;
    this.workspace.submit([this.at(values)]);
    this.#metricsHeld = held;
  }

  async #timeReplays(
    values: HostValues,
    replays: number,
  ): Promise<Pick<Profile, "replayMicroseconds" | "submitMicroseconds">> {
    const { gpu } = this.workspace;
    const microsecondsSince = (started: number) => (performance.now() - started) * 1000;
    await gpu.idle();
    const started = performance.now();
    for (let i = 0; i < replays; i++) this.#replay(values);
    await gpu.idle();
    const replayMicroseconds = microsecondsSince(started) / replays;
    // Last, when the JavaScript has been optimised, and each on an idle device: software drivers slow a full queue down.
    const submits: number[] = [];
    for (let i = 0; i < PROFILED_RUNS; i++) {
      const started = performance.now();
      this.#replay(values);
      submits.push(microsecondsSince(started));
      await gpu.idle();
    }
    return { replayMicroseconds, submitMicroseconds: submits.sort((a, b) => a - b)[PROFILED_RUNS >> 1]! };
  }

  /** Copies the state that a run changes; the function it returns puts it back. */
  #saveState(): () => void {
    const { gpu } = this.workspace;
    const saved = this.parts.state.map((from): Copy => ({
      from,
      to: { buffer: gpu.buffer(from.size, "saved state"), offset: 0, size: from.size },
    }));
    const submit = (copies: readonly Copy[]) => {
      const commands = new Commands(gpu.device);
      copyAll(commands, copies);
      commands.submit();
    };
    submit(saved);
    return () => {
      submit(saved.map(({ from, to }) => ({ from: to, to: from })));
      for (const { to } of saved) gpu.free(to.buffer);
    };
  }

  /** Runs once with every dispatch in a pass of its own: nanoseconds at the start and the end of each. */
  async #timestamps(values: HostValues): Promise<bigint[]> {
    const { gpu } = this.workspace;
    const { device } = gpu;
    const { recorded } = this.parts;
    const words = new Uint32Array(this.hostBytes / 4);
    this.pack(values, words, 0);
    const upload = this.hostBytes > 0 ? gpu.buffer(this.hostBytes, "profile upload", 0x04 | 0x08) : undefined;
    if (upload) device.queue.writeBuffer(upload, 0, words);
    const perSet = 1024;
    const sets: { set: GPUQuerySet; resolved: GPUBuffer; count: number }[] = [];
    const commands = new Commands(device);
    this.#prepare(commands, upload && { buffer: upload, offset: 0 });
    for (let start = 0; start < recorded.length; start += perSet) {
      const part = recorded.slice(start, start + perSet);
      const count = part.length * 2;
      const set = device.createQuerySet({ type: "timestamp", count });
      const resolved = gpu.buffer(count * 8, "timestamps", 0x200 | 0x04);
      part.forEach((one, i) =>
        commands.timed(one, { querySet: set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 })
      );
      commands.resolve(set, count, resolved);
      sets.push({ set, resolved, count });
    }
    copyAll(commands, this.parts.copies);
    commands.submit();
    const data = await gpu.read(sets.map(({ resolved, count }) => ({ buffer: resolved, size: count * 8 })));
    for (const { set, resolved } of sets) {
      set.destroy();
      gpu.free(resolved);
    }
    if (upload) gpu.free(upload);
    return data.flatMap((buffer) => [...new BigUint64Array(buffer)]);
  }

  /** Frees the buffers that only this program uses. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.workspace.forget(this);
    for (const buffer of this.parts.owned) this.workspace.gpu.free(buffer);
  }
}

function copyAll(commands: Commands, copies: readonly Copy[]): void {
  for (const { from, to } of copies) commands.copy(from.buffer, from.offset, to.buffer, to.offset, to.size);
}

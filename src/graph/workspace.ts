/** What programs share: the device, the pool of transient buffers, and named state. */

import { Commands } from "../gpu/commands.ts";
import { GraphError } from "../gpu/errors.ts";
import { BINDING_ALIGNMENT, type Gpu } from "../gpu/gpu.ts";
import { compileProgram } from "./compile.ts";
import type { Program, ProgramSpec, Run } from "./program.ts";
import { type HostData, type Storage, variableOp } from "./ops/leaf.ts";
import { apply, elementCount, type LeafDType, type Shape, type Tensor } from "./tensor.ts";

/** Named state on the device that outlives programs. */
export class Variable {
  /** The leaf that stands for this state in graphs. */
  readonly tensor: Tensor;

  /** Names a range of a buffer. */
  constructor(
    readonly workspace: Workspace,
    readonly name: string,
    shape: Shape,
    dtype: LeafDType,
    readonly storage: Storage,
  ) {
    this.tensor = apply(variableOp, { name, storage }, [], shape, dtype);
  }

  /** Replaces the contents; packed u8 data is given as words. */
  write(data: HostData): void {
    if (data.byteLength !== this.tensor.bytes) {
      throw new GraphError(`Variable ${this.name} holds ${this.tensor.bytes} bytes; got ${data.byteLength}.`);
    }
    this.workspace.gpu.device.queue.writeBuffer(this.storage.buffer, this.storage.offset, data);
  }

  /** The contents, as f32 or words. */
  async read(): Promise<HostData> {
    return (await this.workspace.read([this]))[0]!;
  }
}

/** Named slices of flat vectors: the layout that parameters, gradients and moments of a network share. */
export interface FlatLayout {
  /** Slices in order; `offset` counts elements from the start of its chunk. */
  readonly slices: readonly {
    readonly name: string;
    readonly shape: Shape;
    readonly chunk: number;
    readonly offset: number;
  }[];
  /** Elements in each chunk, padding included. */
  readonly chunks: readonly number[];
}

/** Elements after which a new chunk begins: 64 MiB of f32. */
const CHUNK_ELEMENTS = 1 << 24;

/** Places tensors one after another in chunks of about 64 MiB, each at an offset that can be bound on its own. */
export function flatLayout(shapes: readonly { readonly name: string; readonly shape: Shape }[]): FlatLayout {
  const step = BINDING_ALIGNMENT / 4;
  const chunks = [0];
  const slices = shapes.map(({ name, shape }) => {
    const elements = Math.ceil(elementCount(shape) / step) * step;
    if (chunks[chunks.length - 1]! > 0 && chunks[chunks.length - 1]! + elements > CHUNK_ELEMENTS) chunks.push(0);
    const chunk = chunks.length - 1;
    const slice = { name, shape, chunk, offset: chunks[chunk]! };
    chunks[chunk]! += elements;
    return slice;
  });
  return { slices, chunks };
}

/** Flat vectors with named slices. */
export interface FlatVariable {
  /** The whole vectors, padding (always zero) included. */
  readonly chunks: readonly Variable[];
  /** Their slices by name. */
  readonly slices: ReadonlyMap<string, Variable>;
}

/** Owner of the buffers that programs run in. */
export class Workspace {
  /** Transient buffers, shared by all programs: only one program runs at a time. */
  readonly pool: GPUBuffer[] = [];
  /** Programs kept by `evaluate`, by structure. */
  readonly evaluated: Map<string, Promise<Program>> = new Map();
  readonly #programs = new Set<Program>();
  #upload: GPUBuffer | undefined;
  #buffers: GPUBuffer[] = [];

  /** Works on `gpu`; see {@linkcode Commands} for `jobFlops`. */
  constructor(readonly gpu: Gpu, private readonly jobFlops?: number) {}

  /** Makes zeroed state of the given shape. */
  variable(name: string, shape: Shape, dtype: LeafDType = "f32"): Variable {
    const words = dtype === "u8" ? Math.ceil(elementCount(shape) / 4) : elementCount(shape);
    const buffer = this.#own(this.gpu.buffer(words * 4, name));
    return new Variable(this, name, shape, dtype, { buffer, offset: 0, size: words * 4 });
  }

  /** Makes zeroed flat vectors with named slices. */
  flat(name: string, layout: FlatLayout): FlatVariable {
    const chunks = layout.chunks.map((elements, i) => this.variable(`${name}/${i}`, [elements]));
    const slices = layout.slices.map(({ name: slice, shape, chunk, offset }) => {
      const { buffer } = chunks[chunk]!.storage;
      const storage = { buffer, offset: offset * 4, size: elementCount(shape) * 4 };
      return [slice, new Variable(this, `${name}/${slice}`, shape, "f32", storage)] as const;
    });
    return { chunks, slices: new Map(slices) };
  }

  /** Compiles a program; see {@linkcode ProgramSpec}. */
  async compile(spec: ProgramSpec): Promise<Program> {
    const program = await compileProgram(this, spec);
    this.#programs.add(program);
    return program;
  }

  /** Forgets a program that frees its buffers; used by {@linkcode Program.destroy}. */
  forget(program: Program): void {
    this.#programs.delete(program);
  }

  /** Runs programs in order: one upload, one job (of more than `jobFlops`: several), no wait. */
  submit(runs: readonly Run[]): void {
    this.gpu.check();
    const { device } = this.gpu;
    const total = runs.reduce((bytes, { program }) => bytes + program.hostBytes, 0);
    const words = new Uint32Array(total / 4);
    const offsets: number[] = [];
    let end = 0;
    for (const { program, values } of runs) {
      program.expectRoom(runs.filter((run) => run.program === program).length);
      program.pack(values, words, end / 4);
      offsets.push(end);
      end += program.hostBytes;
    }
    const upload = total > 0 ? this.#uploadBuffer(total) : undefined;
    if (upload) device.queue.writeBuffer(upload, 0, words);
    const commands = new Commands(device, this.jobFlops);
    runs.forEach(({ program }, i) => program.encode(commands, upload && { buffer: upload, offset: offsets[i]! }));
    commands.submit();
  }

  /** Contents of several variables: one submit, one wait. */
  async read(variables: readonly Variable[]): Promise<HostData[]> {
    const data = await this.gpu.read(variables.map(({ storage, tensor }) => ({ ...storage, size: tensor.bytes })));
    return data.map((buffer, i) =>
      variables[i]!.tensor.dtype === "f32" ? new Float32Array(buffer) : new Uint32Array(buffer)
    );
  }

  /** Bytes of all pooled transient buffers. */
  get poolBytes(): number {
    return this.pool.reduce((total, { size }) => total + size, 0);
  }

  /** Frees the pool, the variables and every program compiled here. */
  destroy(): void {
    for (const program of [...this.#programs]) program.destroy();
    this.evaluated.clear();
    for (const buffer of [...this.pool, ...this.#buffers]) this.gpu.free(buffer);
    this.pool.length = 0;
    this.#buffers = [];
    if (this.#upload) this.gpu.free(this.#upload);
    this.#upload = undefined;
  }

  #own(buffer: GPUBuffer): GPUBuffer {
    this.#buffers.push(buffer);
    return buffer;
  }

  #uploadBuffer(bytes: number): GPUBuffer {
    if (!this.#upload || this.#upload.size < bytes) {
      if (this.#upload) this.gpu.free(this.#upload);
      this.#upload = this.gpu.buffer(Math.max(4096, bytes), "upload", 0x04 | 0x08);
    }
    return this.#upload;
  }
}

/** Autotuning: which shapes programs are made of, and how long every variant of their kernels takes. */

import { ShaderError } from "../src/gpu/errors.ts";
import { type AdapterKind, type Buffers, type Family, KernelChoices, type Lowering } from "../src/gpu/family.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { prepare } from "../src/gpu/run.ts";
import { pack, packedLayout, packTable } from "./conv2d_pack.ts";
import { type Standalone, standaloneVariant } from "./standalone.ts";

/** What is known of a buffer that a kernel reads or writes. */
export interface Operand {
  /** Size in bytes. */
  readonly bytes: number;
  /** Type of its elements, "f16" or one of 32 bits. */
  readonly dtype: string;
}

/** One shape of a family, as programs use it. */
export interface UsedShape {
  /** Name of the family. */
  readonly family: string;
  /** The shape's key in a tuning table. */
  readonly key: string;
  /** How many computations of it the programs hold. */
  readonly uses: number;
  /** The variant that runs where nothing was measured. */
  readonly preferred: string;
  /** All that can compute it. */
  readonly variants: readonly string[];
  /** Its operands by name. */
  readonly operands: Readonly<Record<string, Operand>>;
  /** The dispatches of a variant, on the operands' names. */
  lower(variant: string): Standalone;
}

/** Milliseconds of a computation by the variant's name. */
export type VariantTimes = ReadonlyMap<string, number>;

/** Chooses as preferred and notes every shape that is asked for. */
export class ShapeRecorder extends KernelChoices {
  readonly #used = new Map<string, Map<string, { shape: UsedShape; uses: number }>>();

  /** `describe` tells of a buffer as the programs name it. */
  constructor(adapter: AdapterKind, private readonly describe: (buffer: unknown) => Operand) {
    super(adapter);
  }

  override dispatches<S, K extends string, O extends string, B>(
    family: Family<S, K, O>,
    b: Buffers<NoInfer<B>, K, O>,
    s: S,
    lowering: Lowering<B>,
  ): Dispatch<B>[] {
    const given = Object.entries(b).filter(([, buffer]) => buffer !== undefined);
    const key = family.key(s), operands = given.map(([name]) => name).sort().join();
    const sameKey = this.#used.get(`${family.name} ${key}`) ?? new Map();
    this.#used.set(`${family.name} ${key}`, sameKey);
    const known = sameKey.get(operands) ?? { uses: 0, shape: this.#shape(family, s, key, Object.fromEntries(given)) };
    sameKey.set(operands, { ...known, uses: known.uses + 1 });
    return super.dispatches(family, b, s, lowering);
  }

  #shape<S, K extends string, O extends string>(
    family: Family<S, K, O>,
    s: S,
    key: string,
    b: Readonly<Record<string, unknown>>,
  ): UsedShape {
    const names = Object.fromEntries(Object.keys(b).map((name) => [name, name])) as Buffers<string, K, O>;
    const operands = Object.entries(b).map(([name, buffer]) => {
      const { bytes, dtype } = this.describe(buffer);
      return [name, { bytes, dtype }];
    });
    return {
      family: family.name,
      key,
      uses: 0,
      preferred: family.preferred(s, this.adapter),
      variants: Object.keys(family.variants).filter((name) => family.variants[name]!.fits(s)),
      operands: Object.fromEntries(operands),
      lower: (variant) => standaloneVariant(family.variants[variant]!, names, s),
    };
  }

  /** The shapes so far, each with the operands it is mostly used with. */
  get used(): UsedShape[] {
    return [...this.#used.values()].map((sameKey) => {
      const all = [...sameKey.values()].sort((a, b) => b.uses - a.uses);
      return { ...all[0]!.shape, uses: all.reduce((total, { uses }) => total + uses, 0) };
    });
  }
}

/** A variant is chosen over the preferred one where it takes less than this share of its time. */
const GAIN = 0.97;

/** The fastest variant, or the preferred one where that is as good as it. */
export function chooseVariant(times: VariantTimes, preferred: string): string {
  const [fastest, least] = [...times].reduce((best, next) => next[1] < best[1] ? next : best);
  return least < GAIN * times.get(preferred)! ? fastest : preferred;
}

/** Samples of each variant. */
const ROUNDS = 5;

/** Milliseconds of a sample: where the device takes the times, and where a wait of about 11 ms is part of it. */
const SAMPLE_MS = { stamped: 2, awaited: 200 };

/** Runs of a sample, at most; one that the device's clock does not see at all gets as many. */
const MOST_RUNS = 10_000;

/** A variant that twice took this many times as long as the fastest is not sampled again. */
const HOPELESS = 2.5;

/** Filters rearranged in the dispatch whose share is counted for one: a network's are rearranged together. */
const FILTERS = 16;

/** A dispatch or several, timed together. */
interface Task {
  readonly record: (pass: GPUComputePassEncoder) => void;
  /** The part of its time that counts. */
  readonly share: number;
  /** Runs in a sample. */
  times: number;
  /** Milliseconds of a run, the least so far. */
  best: number;
}

/**
 * Milliseconds that each variant takes on synthetic data, its share of rearranging weights included. One that the driver
 * cannot compile is left out, and the console says so.
 *
 * @throws {ShaderError} where the preferred one is that.
 */
export async function measureVariants(gpu: Gpu, shape: UsedShape): Promise<VariantTimes> {
  const preparation = new Preparation(gpu, shape);
  try {
    const tasks = await preparation.tasks();
    await gpu.allocated();
    const variants = [...tasks.keys()];
    const tasksOf = (some: readonly string[]) => [...new Set(some.flatMap((variant) => tasks.get(variant)!))];
    const cost = (variant: string) => tasks.get(variant)!.reduce((sum, { best, share }) => sum + best * share, 0);
    await calibrate(gpu, tasksOf(variants));
    for (let round = 0; round < ROUNDS; round++) {
      const least = Math.min(...variants.map(cost));
      await sample(gpu, tasksOf(variants.filter((variant) => round < 2 || cost(variant) <= HOPELESS * least)));
    }
    return new Map(variants.map((variant) => [variant, cost(variant)]));
  } finally {
    preparation.free();
  }
}

/** Finds how many runs of each task fill a sample. */
async function calibrate(gpu: Gpu, tasks: readonly Task[]): Promise<void> {
  const wanted = gpu.hasTimestamps ? SAMPLE_MS.stamped : SAMPLE_MS.awaited;
  await sample(gpu, tasks); // drivers compile a kernel when it first runs
  for (let short = tasks; short.length > 0;) {
    for (const task of short) task.best = Infinity;
    await sample(gpu, short);
    short = short.filter((task) => task.times < MOST_RUNS && task.best * task.times < 0.8 * wanted);
    for (const task of short) {
      const factor = Math.min(30, wanted / (task.best * task.times));
      task.times = Math.min(MOST_RUNS, Math.ceil(task.times * factor));
    }
  }
  for (const task of tasks) task.best = Infinity;
}

/** Buffers and bind groups of the variants of one shape. */
class Preparation {
  readonly #gpu: Gpu;
  readonly #shape: UsedShape;
  readonly #made: GPUBuffer[] = [];
  readonly #operands: ReadonlyMap<string, GPUBuffer>;
  readonly #packs = new Map<string, Task>();

  constructor(gpu: Gpu, shape: UsedShape) {
    this.#gpu = gpu;
    this.#shape = shape;
    const operands = Object.entries(shape.operands);
    this.#operands = new Map(operands.map(([name, operand]) => [name, this.#filled(name, pseudoRandom(operand))]));
  }

  /** What is to be timed of every variant: its own dispatches, and the packings it needs, which variants may share. */
  async tasks(): Promise<Map<string, readonly Task[]>> {
    const tasks = new Map<string, readonly Task[]>();
    for (const variant of this.#shape.variants) {
      try {
        tasks.set(variant, await this.#tasksOf(this.#shape.lower(variant)));
      } catch (error) {
        if (!(error instanceof ShaderError) || variant === this.#shape.preferred) throw error;
        console.warn(`Variant ${variant} of ${this.#shape.family} ${this.#shape.key} is left out: ${error.message}`);
      }
    }
    return tasks;
  }

  async #tasksOf(lowered: Standalone): Promise<readonly Task[]> {
    const tasks = [await this.#computing(lowered)];
    for (const packing of lowered.packings) tasks.push(await this.#packing(packing));
    return tasks;
  }

  free(): void {
    for (const buffer of this.#made) this.#gpu.free(buffer);
  }

  #computing({ dispatches, scratch, constants, packings }: Standalone): Promise<Task> {
    const named = new Map(this.#operands);
    for (const [name, elements] of Object.entries(scratch)) named.set(name, this.#buffer(name, elements * 4));
    for (const [name, data] of Object.entries(constants)) named.set(name, this.#filled(name, data));
    return this.#task(dispatches.slice(packings.length), named, 1);
  }

  async #packing({ w, packing }: Standalone["packings"][number]): Promise<Task> {
    const key = JSON.stringify([w, packing]);
    let task = this.#packs.get(key);
    if (!task) {
      const jobs = Array.from({ length: FILTERS }, () => ({ ...packing, start: 0 }));
      const named = new Map([
        ["w", this.#operands.get(w)!],
        ["table", this.#filled("table", packTable(jobs))],
        ["packed", this.#buffer("packed", packedLayout(jobs).total * 4)],
      ]);
      task = await this.#task([pack({ w: "w", table: "table", packed: "packed" }, jobs)], named, 1 / FILTERS);
      this.#packs.set(key, task);
    }
    return task;
  }

  async #task(dispatches: readonly Dispatch<string>[], named: ReadonlyMap<string, GPUBuffer>, share: number) {
    const records: ((pass: GPUComputePassEncoder) => void)[] = [];
    for (const dispatch of dispatches) {
      const { record, uniform } = await prepare(this.#gpu, dispatch, (name) => ({ buffer: named.get(name)! }));
      if (uniform) this.#made.push(uniform);
      records.push(record);
    }
    const record = (pass: GPUComputePassEncoder) => records.forEach((one) => one(pass));
    return { record, share, times: 1, best: Infinity };
  }

  #buffer(name: string, bytes: number): GPUBuffer {
    const buffer = this.#gpu.buffer(bytes, `${this.#shape.family} ${name}`);
    this.#made.push(buffer);
    return buffer;
  }

  #filled(name: string, data: ArrayBufferView<ArrayBuffer>): GPUBuffer {
    const buffer = this.#buffer(name, data.byteLength);
    this.#gpu.device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }
}

/** Values in ±0.5. */
function pseudoRandom({ bytes, dtype }: Operand): Float16Array<ArrayBuffer> | Float32Array<ArrayBuffer> {
  const data = dtype === "f16" ? new Float16Array(bytes / 2) : new Float32Array(bytes / 4);
  for (let i = 0; i < data.length; i++) data[i] = ((i * 7919) % 1009) / 1009 - 0.5;
  return data;
}

/** Takes one sample of each task, one after another. */
async function sample(gpu: Gpu, tasks: readonly Task[]): Promise<void> {
  const milliseconds = gpu.hasTimestamps ? await stamped(gpu, tasks) : await awaited(gpu, tasks);
  tasks.forEach((task, i) => task.best = Math.min(task.best, milliseconds[i]! / task.times));
}

/** The device's own times: a submit for each, one wait. Infinity where its clock began anew meanwhile. */
async function stamped(gpu: Gpu, tasks: readonly Task[]): Promise<number[]> {
  const { device } = gpu;
  const count = 2 * tasks.length;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const resolved = gpu.buffer(8 * count, "timestamps", 0x200 | 0x04);
  try {
    tasks.forEach((task, i) =>
      submitRuns(gpu, task, {
        timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
      })
    );
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
    device.queue.submit([encoder.finish()]);
    const [bytes] = await gpu.read([{ buffer: resolved, size: 8 * count }]);
    return elapsed(new BigUint64Array(bytes!));
  } finally {
    querySet.destroy();
    gpu.free(resolved);
  }
}

/** Times by the wall clock: a submit and a wait for each. */
async function awaited(gpu: Gpu, tasks: readonly Task[]): Promise<number[]> {
  const milliseconds: number[] = [];
  for (const task of tasks) {
    const started = performance.now();
    submitRuns(gpu, task);
    await gpu.idle();
    milliseconds.push(performance.now() - started);
  }
  return milliseconds;
}

function submitRuns({ device }: Gpu, task: Task, descriptor?: GPUComputePassDescriptor): void {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass(descriptor);
  for (let run = 0; run < task.times; run++) task.record(pass);
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/** Milliseconds between the start and the end of each pass, from nanoseconds; Infinity where the clock ran backwards. */
export function elapsed(stamps: BigUint64Array): number[] {
  return Array.from({ length: stamps.length / 2 }, (_, i) => {
    const nanoseconds = Number(stamps[2 * i + 1]! - stamps[2 * i]!);
    return nanoseconds < 0 ? Infinity : nanoseconds / 1e6;
  });
}

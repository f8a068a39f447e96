/** The device: adapter, limits, checked pipelines, buffers with accounting, submission and read-back. */

import { AdapterError, DeviceLostError, LimitError, OutOfMemoryError, ShaderError, ValidationError } from "./errors.ts";
import { KernelChoices } from "./family.ts";
import type { Dispatch } from "./kernel.ts";
import { specialise } from "./preprocess.ts";
import { adapterMismatch, type Tuning, TUNING_VERSION } from "./tuning.ts";

/** What is known of the adapter behind a {@linkcode Gpu}. */
export interface AdapterSummary {
  /** The driver's own name for the adapter. */
  readonly name: string;
  /** True where the adapter computes on the CPU. */
  readonly software: boolean;
  /** Vendor as WebGPU reports it (in Deno the decimal PCI id). */
  readonly vendor: string;
}

/** A pipeline with the layout its bind groups are made from. */
export interface Pipeline {
  /** The compiled pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Layout of bind group 0. */
  readonly layout: GPUBindGroupLayout;
}

/** Alignment in bytes of slices of a buffer that are bound on their own (WebGPU's default limit). */
export const BINDING_ALIGNMENT = 256;

const STORAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST
const WANTED_LIMITS = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;

/** A WebGPU device with everything the engine needs around it. Create one with {@linkcode Gpu.create}. */
export class Gpu {
  /** Bytes in live buffers made by {@linkcode Gpu.buffer}. */
  allocatedBytes = 0;
  /** Bytes that those buffers may hold together: WebGPU does not say how much memory there is. */
  memoryLimit: number = Infinity;
  /** By source, then by all that specialises it: the text that results takes milliseconds to make. */
  #pipelines = new Map<string, Map<string, Pipeline>>();
  #layouts = new Map<string, GPUBindGroupLayout>();
  #failure: Error | undefined;
  #pendingAllocations = new Set<Promise<void>>();
  #outOfMemory: OutOfMemoryError | undefined;

  private constructor(
    /** The WebGPU device. */
    readonly device: GPUDevice,
    /** Name and kind of the adapter. */
    readonly adapter: AdapterSummary,
    /** True where timestamps can be taken. */
    readonly hasTimestamps: boolean,
    /** True where shaders can store f16. */
    readonly hasF16: boolean,
    /** Which variants of the kernels the programs compiled from now on get. */
    public choices: KernelChoices,
  ) {
    device.addEventListener("uncapturederror", (event) => {
      const { error } = event as GPUUncapturedErrorEvent;
      this.#failure ??= typedError(error);
    });
    device.lost.then((info) => {
      if (info.reason !== "destroyed") this.#failure ??= new DeviceLostError(`The GPU was lost: ${info.message}.`);
    });
  }

  /**
   * Requests an adapter and a device with the adapter's own limits. Kernels are chosen by `tuning`; one of another adapter is
   * ignored, and the console says so.
   *
   * @throws {AdapterError} where there is no WebGPU, no adapter or no device.
   */
  static async create({ tuning }: { readonly tuning?: Tuning } = {}): Promise<Gpu> {
    if (!navigator.gpu) throw new AdapterError("This runtime has no WebGPU (navigator.gpu is missing).");
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) throw new AdapterError("No WebGPU adapter was found.");
    const requiredLimits: Record<string, number> = {};
    for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
    const hasTimestamps = adapter.features.has("timestamp-query"), hasF16 = adapter.features.has("shader-f16");
    let device: GPUDevice;
    try {
      device = await adapter.requestDevice({
        requiredLimits,
        requiredFeatures: [
          ...hasTimestamps ? ["timestamp-query"] as const : [],
          ...hasF16 ? ["shader-f16"] as const : [],
        ],
      });
    } catch (error) {
      throw new AdapterError(`The WebGPU adapter gave no device: ${(error as Error).message}`);
    }
    const { info } = adapter;
    const name = info.description || `${info.vendor} ${info.architecture}`.trim() || "unnamed adapter";
    const software = info.isFallbackAdapter || /llvmpipe|swiftshader|software/i.test(name);
    const mismatch = tuning && adapterMismatch(tuning, { adapter: name, vendor: info.vendor });
    if (mismatch) console.warn(`The table of tuned kernels is ignored: ${mismatch}.`);
    return new Gpu(
      device,
      { name, software, vendor: info.vendor },
      hasTimestamps,
      hasF16,
      new KernelChoices(software ? "software" : "hardware", mismatch ? {} : tuning?.choices),
    );
  }

  /** The choices of kernels that are tuned, as they can be stored and given to {@linkcode Gpu.create}. */
  get tuning(): Tuning {
    const { name: adapter, vendor } = this.adapter;
    return { version: TUNING_VERSION, adapter, vendor, choices: this.choices.table };
  }

  /** Throws what went wrong on the device since it was last asked, if anything did. */
  check(): void {
    const failure = this.#failure ?? this.#outOfMemory;
    if (failure) throw failure;
  }

  /**
   * Makes a zeroed storage buffer (readable, writable, copyable), counted in {@linkcode Gpu.allocatedBytes}. Where the
   * device has no memory left for it, {@linkcode Gpu.allocated} or the next use of the device throws.
   *
   * @throws {LimitError} where `bytes` exceeds what one buffer or binding may hold.
   * @throws {OutOfMemoryError} where all buffers together would exceed {@linkcode Gpu.memoryLimit}.
   */
  buffer(bytes: number, label: string, usage: number = STORAGE): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    this.expectBindable(label, size, usage);
    this.expectRoom(label, size);
    this.device.pushErrorScope("out-of-memory");
    const buffer = this.device.createBuffer({ size, usage, label });
    const taken = this.allocatedBytes;
    const outcome = this.device.popErrorScope().then((error) => {
      if (error) {
        this.#outOfMemory ??= new OutOfMemoryError(
          `${label} needs ${megabytes(size)} more, and the device has no memory left; ${megabytes(taken)} are taken.`,
        );
      }
    }, () => {}); // a lost device is reported by what uses it
    this.#pendingAllocations.add(outcome);
    outcome.then(() => this.#pendingAllocations.delete(outcome));
    this.allocatedBytes += size;
    return buffer;
  }

  /**
   * Waits until it is known whether there was memory for every buffer made so far.
   *
   * @throws {OutOfMemoryError} for the first one that there was none for; after it the device can be used on.
   */
  async allocated(): Promise<void> {
    await Promise.all(this.#pendingAllocations);
    const error = this.#outOfMemory;
    this.#outOfMemory = undefined;
    if (error) throw error;
  }

  /** Throws a {@linkcode LimitError} unless one buffer (of storage: one binding) may hold `bytes`. */
  expectBindable(what: string, bytes: number, usage: number = STORAGE): void {
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits;
    if (bytes > maxBufferSize) throw new LimitError(what, "maxBufferSize", bytes, maxBufferSize);
    if (usage === STORAGE && bytes > maxStorageBufferBindingSize) {
      throw new LimitError(what, "maxStorageBufferBindingSize", bytes, maxStorageBufferBindingSize);
    }
  }

  /** Throws an {@linkcode AdapterError} where shaders cannot store f16. */
  expectF16(what: string): void {
    if (this.hasF16) return;
    throw new AdapterError(`${what} stores f16, but the adapter ${this.adapter.name} does not offer shader-f16.`);
  }

  /** Throws an {@linkcode OutOfMemoryError} unless {@linkcode Gpu.memoryLimit} leaves room for `bytes` more. */
  expectRoom(what: string, bytes: number): void {
    if (this.allocatedBytes + bytes <= this.memoryLimit) return;
    throw new OutOfMemoryError(
      `${what} needs ${megabytes(bytes)} more, but ${megabytes(this.allocatedBytes)} of the ${
        megabytes(this.memoryLimit)
      } ` +
        "that may be used are taken.",
    );
  }

  /** Frees a buffer made by {@linkcode Gpu.buffer} at once. */
  free(buffer: GPUBuffer): void {
    this.allocatedBytes -= buffer.size;
    buffer.destroy();
  }

  /**
   * The pipeline of a dispatch, compiled at its first use and kept.
   *
   * @throws {ShaderError} with the offending lines where the shader does not compile.
   * @throws {AdapterError} where it stores f16 and the adapter does not offer that.
   */
  async pipeline(dispatch: Dispatch<unknown>): Promise<Pipeline> {
    const { label, source, constants, f16, entry = "main", uniforms, reads, writes } = dispatch;
    if (f16) this.expectF16(`Kernel ${label}`);
    const key = `${uniforms.length > 0} ${reads.length} ${writes.length} ${entry} ${f16} ${JSON.stringify(constants)}`;
    const sameSource = this.#pipelines.get(source) ?? new Map<string, Pipeline>();
    this.#pipelines.set(source, sameSource);
    const known = sameSource.get(key);
    if (known) return known;
    const code = specialise(source, constants, f16);
    const layout = this.#layout(uniforms.length > 0, reads.length, writes.length, label);
    this.device.pushErrorScope("internal"); // the driver's own compiler
    this.device.pushErrorScope("validation");
    const module = this.device.createShaderModule({ code, label });
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: entry },
    });
    const errors = await Promise.all([this.device.popErrorScope(), this.device.popErrorScope()]);
    const error = errors[0] ?? errors[1];
    if (error) throw new ShaderError(`Kernel ${label} did not compile: ${await describe(module, code, error.message)}`);
    const made = { pipeline, layout };
    sameSource.set(key, made);
    return made;
  }

  #layout(uniform: boolean, reads: number, writes: number, label: string): GPUBindGroupLayout {
    const { maxStorageBuffersPerShaderStage: offered } = this.device.limits;
    if (reads + writes > offered) {
      throw new LimitError(`Kernel ${label}`, "maxStorageBuffersPerShaderStage", reads + writes, offered);
    }
    const key = `${uniform} ${reads} ${writes}`;
    let layout = this.#layouts.get(key);
    if (!layout) {
      const entries: GPUBindGroupLayoutEntry[] = [];
      const add = (binding: number, type: GPUBufferBindingType) =>
        entries.push({ binding, visibility: 4, buffer: { type } });
      if (uniform) add(0, "uniform");
      for (let i = 0; i < reads; i++) add(1 + i, "read-only-storage");
      for (let i = 0; i < writes; i++) add(1 + reads + i, "storage");
      layout = this.device.createBindGroupLayout({ entries });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /** Copies ranges of buffers back to the host: one submit, one wait. */
  async read(ranges: readonly { buffer: GPUBuffer; offset?: number; size: number }[]): Promise<ArrayBuffer[]> {
    this.check();
    const starts: number[] = [];
    let total = 0;
    for (const { size } of ranges) {
      starts.push(total);
      total += Math.ceil(size / 8) * 8;
    }
    const staging = this.device.createBuffer({ size: Math.max(8, total), usage: 0x01 | 0x08, label: "read-back" });
    const encoder = this.device.createCommandEncoder();
    ranges.forEach(({ buffer, offset = 0, size }, i) => {
      encoder.copyBufferToBuffer(buffer, offset, staging, starts[i]!, Math.ceil(size / 4) * 4);
    });
    this.device.queue.submit([encoder.finish()]);
    try {
      await staging.mapAsync(1);
      const mapped = staging.getMappedRange();
      return ranges.map(({ size }, i) => mapped.slice(starts[i]!, starts[i]! + size));
    } catch (error) {
      await Promise.resolve();
      this.check();
      throw new DeviceLostError(`Reading from the GPU failed: ${(error as Error).message}`);
    } finally {
      staging.destroy();
      this.check();
    }
  }

  /** Waits until everything submitted has run; throws what went wrong. */
  async idle(): Promise<void> {
    await this.device.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Releases the device and every buffer on it. */
  destroy(): void {
    this.#failure ??= new DeviceLostError("The GPU was given back by destroy().");
    this.device.destroy();
    this.#pipelines.clear();
  }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** The library's error for an error WebGPU reported. */
function typedError(error: GPUError): Error {
  if (error instanceof GPUOutOfMemoryError) return new OutOfMemoryError(`The GPU is out of memory: ${error.message}`);
  return new ValidationError(`WebGPU reported: ${error.message}`);
}

/** The compiler's messages with the source lines they point at. */
async function describe(module: GPUShaderModule, code: string, fallback: string): Promise<string> {
  const lines = code.split("\n");
  const { messages } = await module.getCompilationInfo();
  const shown = messages.filter((m) => m.type === "error").map((m) => {
    const line = lines[m.lineNum - 1];
    return `${m.message}${line === undefined ? "" : `\n  line ${m.lineNum}: ${line.trim()}`}`;
  });
  return shown.length ? shown.join("\n") : fallback;
}

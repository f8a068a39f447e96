/** Commands for the device, submitted in jobs that no driver takes for a hang. */

/**
 * Floating-point operations of a job, about: one of a tenth of a TFLOP/s has them done in a second. Windows and Linux's
 * amdgpu reset a device whose job takes two, and all that is on it is lost; Intel's drivers and macOS have such limits too.
 */
const JOB_FLOPS = 1e11;

/** A dispatch ready to be recorded. */
export interface Recorded {
  /** Its pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Its buffers. */
  readonly group: GPUBindGroup;
  /** Floating-point operations. */
  readonly flops: number;
  /** Its workgroups, beside the rest: taking them apart at every run is a quarter of the time to encode. */
  readonly x: number;
  /** See `x`. */
  readonly y: number;
  /** See `x`. */
  readonly z: number;
}

/** Records dispatches and copies in order. Between two jobs the device may be lent to others; results are the same. */
export class Commands {
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #pipeline: GPUComputePipeline | undefined;
  #flops = 0;

  /** Records for `device`; a job has at least one dispatch and, with several, `jobFlops` at most. */
  constructor(private readonly device: GPUDevice, private readonly jobFlops: number = JOB_FLOPS) {}

  /** A dispatch, in one pass with those before it. */
  dispatch(recorded: Recorded): void {
    this.#makeRoom(recorded.flops);
    this.#record(this.#pass ??= this.#recording().beginComputePass(), recorded);
  }

  /** A dispatch in a pass of its own, with the times of its start and its end. */
  timed(recorded: Recorded, timestampWrites: GPUComputePassTimestampWrites): void {
    this.#makeRoom(recorded.flops);
    this.#endPass();
    this.#record(this.#pass = this.#recording().beginComputePass({ timestampWrites }), recorded);
    this.#endPass();
  }

  /** A copy of `size` bytes between buffers. */
  copy(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, size: number): void {
    this.#endPass();
    this.#recording().copyBufferToBuffer(from, fromOffset, to, toOffset, size);
  }

  /** The first `count` timestamps of a set, as u64 from the start of `to`. */
  resolve(set: GPUQuerySet, count: number, to: GPUBuffer): void {
    this.#endPass();
    this.#recording().resolveQuerySet(set, 0, count, to, 0);
  }

  /** Submits what is left, as the last job. */
  submit(): void {
    this.#endPass();
    if (this.#encoder) this.device.queue.submit([this.#encoder.finish()]);
    this.#encoder = undefined;
    this.#flops = 0;
  }

  #record(pass: GPUComputePassEncoder, { pipeline, group, x, y, z }: Recorded): void {
    if (pipeline !== this.#pipeline) pass.setPipeline(this.#pipeline = pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(x, y, z);
  }

  #makeRoom(flops: number): void {
    if (this.#flops > 0 && this.#flops + flops > this.jobFlops) this.submit();
    this.#flops += flops;
  }

  #recording(): GPUCommandEncoder {
    return this.#encoder ??= this.device.createCommandEncoder();
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
    this.#pipeline = undefined;
  }
}

/** Dispatches with their buffers, recorded many times into one submit. */

import type { Gpu } from "../src/gpu/gpu.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { prepare } from "../src/gpu/run.ts";

/** Most dispatches of one command buffer. */
const MOST_DISPATCHES = 2000;

/** Dispatches ready to be run again and again. */
export interface Prepared {
  /** Runs all dispatches in order, `times` times, and waits once. */
  run(times: number): Promise<void>;
  /** Contents of the named buffers. */
  read(names: readonly string[]): Promise<Float32Array<ArrayBuffer>[]>;
  /** Gives the buffers back. */
  free(): void;
}

/** Makes the buffers and bind groups of `dispatches`; `data` holds the first contents of every buffer they name. */
export async function prepareAll<K extends string>(
  gpu: Gpu,
  dispatches: readonly Dispatch<K>[],
  data: Readonly<Record<string, Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>>,
): Promise<Prepared> {
  const buffers = new Map<string, GPUBuffer>();
  for (const [name, values] of Object.entries(data)) {
    const buffer = gpu.buffer(values.byteLength, name);
    if (values.length > 0) gpu.device.queue.writeBuffer(buffer, 0, values);
    buffers.set(name, buffer);
  }
  const prepared = await Promise.all(dispatches.map((d) => prepare(gpu, d, (k) => ({ buffer: buffers.get(k)! }))));
  const submit = (times: number) => {
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < times; i++) for (const { record } of prepared) record(pass);
    pass.end();
    gpu.device.queue.submit([encoder.finish()]);
  };
  const perSubmit = Math.max(1, Math.floor(MOST_DISPATCHES / dispatches.length));
  return {
    async run(times) {
      for (let left = times; left > 0; left -= perSubmit) submit(Math.min(left, perSubmit));
      await gpu.idle();
    },
    async read(names) {
      const read = await gpu.read(names.map((name) => ({
        buffer: buffers.get(name)!,
        size: data[name]!.byteLength,
      })));
      return read.map((bytes) => new Float32Array(bytes));
    },
    free() {
      for (const buffer of buffers.values()) gpu.free(buffer);
      for (const { uniform } of prepared) if (uniform) gpu.free(uniform);
    },
  };
}

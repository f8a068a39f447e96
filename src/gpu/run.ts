/** Runs single dispatches on typed arrays, without a graph: for kernel tests and benches. */

import type { Gpu } from "./gpu.ts";
import { type Dispatch, packWords } from "./kernel.ts";

/** Host data of a buffer a kernel reads or writes. */
export type HostArray = Float32Array | Uint32Array;

/**
 * Runs `dispatches` in order in one pass over named buffers and returns the buffers' contents after it.
 * Every buffer named in a dispatch must be given in `data` (its length is the buffer's size).
 */
export async function runDispatches<K extends string>(
  gpu: Gpu,
  dispatches: readonly Dispatch<K>[],
  data: Readonly<Record<K, HostArray>>,
): Promise<Record<K, HostArray>> {
  const names = Object.keys(data) as K[];
  const buffers = new Map<string, GPUBuffer>();
  for (const name of names) {
    const buffer = gpu.buffer(data[name].byteLength, name);
    gpu.device.queue.writeBuffer(buffer, 0, data[name] as Float32Array<ArrayBuffer>);
    buffers.set(name, buffer);
  }
  const recorded = await Promise.all(dispatches.map((d) => prepare(gpu, d, (k) => ({ buffer: buffers.get(k)! }))));
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const { record } of recorded) record(pass);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  const read = await gpu.read(names.map((name) => ({ buffer: buffers.get(name)!, size: data[name].byteLength })));
  for (const buffer of buffers.values()) gpu.free(buffer);
  for (const { uniform } of recorded) if (uniform) gpu.free(uniform);
  const result = {} as Record<K, HostArray>;
  names.forEach((name, i) => {
    result[name] = data[name] instanceof Float32Array ? new Float32Array(read[i]!) : new Uint32Array(read[i]!);
  });
  return result;
}

/** Builds the pipeline and bind group of one dispatch with a uniform buffer of its own. */
export async function prepare<B>(
  gpu: Gpu,
  dispatch: Dispatch<B>,
  resolve: (name: B) => GPUBufferBinding,
): Promise<{ record: (pass: GPUComputePassEncoder) => void; uniform: GPUBuffer | undefined }> {
  const { pipeline, layout } = await gpu.pipeline(dispatch);
  const entries: GPUBindGroupEntry[] = [];
  let uniform: GPUBuffer | undefined;
  if (dispatch.uniforms.length > 0) {
    const bytes = packWords(dispatch.uniforms);
    uniform = gpu.buffer(bytes.byteLength, `${dispatch.label} uniforms`, 0x40 | 0x08);
    gpu.device.queue.writeBuffer(uniform, 0, bytes);
    entries.push({ binding: 0, resource: { buffer: uniform } });
  }
  [...dispatch.reads, ...dispatch.writes].forEach((name, i) => {
    entries.push({ binding: 1 + i, resource: resolve(name) });
  });
  const group = gpu.device.createBindGroup({ layout, entries });
  const [x, y, z] = dispatch.workgroups;
  const record = (pass: GPUComputePassEncoder) => {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(x, y, z);
  };
  return { record, uniform };
}

/** From a graph to a program: schedule, storage of every tensor, pipelines and bind groups. */

import { GraphError, OutOfMemoryError } from "../gpu/errors.ts";
import { BINDING_ALIGNMENT, type Gpu, type Pipeline } from "../gpu/gpu.ts";
import { type Dispatch, packWords } from "../gpu/kernel.ts";
import { lowerNodes, type Step } from "./fuse.ts";
import { reachable } from "./gradients.ts";
import {
  type ConstantAttrs,
  constantOp,
  type HostAttrs,
  hostOp,
  type Storage,
  type VariableAttrs,
  variableOp,
} from "./ops/leaf.ts";
import { type PartAttrs, partOp } from "./packing.ts";
import { type Lifetime, planBuffers } from "./plan.ts";
import {
  type HostSlot,
  type MetricSlot,
  Program,
  type ProgramCost,
  type ProgramSpec,
  type RecordedDispatch,
} from "./program.ts";
import { type Node, shapeText, type Tensor } from "./tensor.ts";
import type { Variable, Workspace } from "./workspace.ts";

/** What leaves a program: tensors, and what becomes of them. */
interface Results {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly metrics: Readonly<Record<string, Tensor>>;
  readonly updates: readonly (readonly [Variable, Tensor])[];
}

/** The tensor in whose memory `tensor` lies: views are followed to their source. */
function storageRoot(tensor: Tensor): Tensor {
  let root = tensor;
  while (root.node.op.view) root = root.node.inputs[0]!;
  return root.node.op === partOp ? (root.node.attrs as PartAttrs).whole! : root;
}

const overlaps = (a: Storage, b: Storage) =>
  a.buffer === b.buffer && a.offset < b.offset + b.size && b.offset < a.offset + a.size;

/** Compiles `spec`: dead code out, pointwise chains fused, buffers planned, pipelines and bind groups built. */
export async function compileProgram(workspace: Workspace, spec: ProgramSpec): Promise<Program> {
  const { gpu } = workspace;
  const { label, outputs = {}, updates = [], metrics = {}, metricsCapacity = 64 } = spec;
  const results: Results = { outputs, metrics, updates };
  const roots = [...Object.values(outputs), ...Object.values(metrics), ...updates.map(([, tensor]) => tensor)];
  for (const [name, { dtype }] of Object.entries(outputs)) {
    if (dtype === "f16") throw new GraphError(`Program ${label}: the output ${name} is f16; cast it to f32.`);
  }
  const nodes = schedule(reachable(roots));
  const { steps, leaves: lowered } = lowerNodes(
    nodes,
    new Set(roots.map((tensor) => storageRoot(tensor).node)),
    gpu.choices,
  );
  if (nodes.some(({ outputs }) => outputs.some(({ dtype }) => dtype === "f16"))) gpu.expectF16(`Program ${label}`);
  expectBindable(gpu, label, nodes, steps);

  const owned: GPUBuffer[] = [];
  const own = (bytes: number, name: string, usage?: number) => {
    const buffer = gpu.buffer(bytes, `${label}/${name}`, usage);
    owned.push(buffer);
    return buffer;
  };
  try {
    const placed = new Map<Tensor, Storage>();
    const leaves = placeLeaves(gpu, nodes, placed, own);
    placeLeaves(gpu, lowered, placed, own);
    const snapshots = placeSnapshots(results, placed, own);
    for (const [name, tensor] of Object.entries(outputs)) {
      const root = storageRoot(tensor);
      if (!placed.has(root) && !root.node.op.inPlace) {
        placed.set(root, { buffer: own(root.bytes, name), offset: 0, size: root.bytes });
      }
    }
    const copyUpdates = placeUpdates(label, steps, updates, placed);
    const { plannedBytes, peakLiveBytes } = await placeTransients(workspace, label, steps, roots, placed);
    const locate = (tensor: Tensor) => {
      const storage = placed.get(storageRoot(tensor))!;
      if (tensor.node.op !== partOp) return storage;
      return { ...storage, offset: storage.offset + (tensor.node.attrs as PartAttrs).offset, size: tensor.bytes };
    };
    const locateResult = (tensor: Tensor) => snapshots.get(storageRoot(tensor)) ?? locate(tensor);
    const recorded = await record(workspace, steps, locate, own);

    const metricSlots: MetricSlot[] = [];
    let metricsLength = 0;
    for (const [name, tensor] of Object.entries(metrics)) {
      if (tensor.dtype !== "f32") throw new GraphError(`Program ${label}: the metric ${name} is not f32.`);
      metricSlots.push({ name, from: locateResult(tensor), offset: metricsLength, length: tensor.size });
      metricsLength += tensor.size;
    }
    const dispatches = recorded.map(({ dispatch }) => dispatch);
    const cost: ProgramCost = {
      dispatches: dispatches.length,
      flops: dispatches.reduce((total, { flops }) => total + flops, 0),
      bytes: dispatches.reduce((total, { bytes }) => total + bytes, 0),
      plannedBytes,
      peakLiveBytes,
    };
    await gpu.allocated();
    gpu.check();
    return new Program(workspace, label, cost, {
      recorded,
      snapshots: [...snapshots].map(([root, to]) => ({ from: locate(root), to })),
      copies: copyUpdates.map(([{ storage }, tensor]) => ({ from: locateResult(tensor), to: storage })),
      state: updates.map(([{ storage }]) => storage),
      ...leaves,
      outputs: new Map(Object.entries(outputs).map(([name, t]) => [name, { tensor: t, storage: locateResult(t) }])),
      metrics: metricSlots,
      metricsBuffer: metricsLength > 0 ? own(metricsLength * 4 * metricsCapacity, "metrics", 0x04 | 0x08) : undefined,
      metricsCapacity,
      metricsLength,
      owned,
    });
  } catch (error) {
    for (const buffer of owned) gpu.free(buffer);
    throw error;
  }
}

/** Creation order, but what rewrites state in place, with all that follows from it, runs when everything else has. */
function schedule(nodes: readonly Node[]): Node[] {
  const late = new Set<Node>();
  for (const node of nodes) {
    if (node.op.inPlace || node.inputs.some((input) => late.has(input.node))) late.add(node);
  }
  return [...nodes.filter((node) => !late.has(node)), ...late];
}

/** Throws, before there is any buffer, where a tensor is larger than what this device can hold or bind. */
function expectBindable(gpu: Gpu, label: string, nodes: readonly Node[], steps: readonly Step[]): void {
  const constants = nodes.filter((node) => node.op === constantOp).flatMap((node) => node.outputs);
  for (const tensor of [...constants, ...steps.flatMap(({ outputs, scratch }) => [...outputs, ...scratch])]) {
    const { node: { op }, shape, bytes } = tensor;
    gpu.expectBindable(`Program ${label}: ${op.name} ${shapeText(shape)}`, bytes);
  }
}

type Own = (bytes: number, name: string, usage?: number) => GPUBuffer;

/** Gives constants, run-time values and variables their storage. */
function placeLeaves(gpu: Gpu, nodes: readonly Node[], placed: Map<Tensor, Storage>, own: Own): {
  hosts: HostSlot[];
  hostBuffer: GPUBuffer | undefined;
  constants: { tensor: Tensor; buffer: GPUBuffer }[];
} {
  const hosts: HostSlot[] = [];
  const hostTensors = new Map<string, Tensor[]>();
  const constants: { tensor: Tensor; buffer: GPUBuffer }[] = [];
  for (const node of nodes) {
    const tensor = node.outputs[0]!;
    if (node.op === variableOp) placed.set(tensor, (node.attrs as VariableAttrs).storage);
    else if (node.op === constantOp) {
      const buffer = own(tensor.bytes, "constant");
      gpu.device.queue.writeBuffer(buffer, 0, (node.attrs as ConstantAttrs).data);
      constants.push({ tensor, buffer });
      placed.set(tensor, { buffer, offset: 0, size: tensor.bytes });
    } else if (node.op === hostOp) {
      const { name } = node.attrs as HostAttrs;
      hostTensors.set(name, [...hostTensors.get(name) ?? [], tensor]);
      if (tensor.bytes > BINDING_ALIGNMENT) {
        throw new GraphError(`The run-time value "${name}" has more than ${BINDING_ALIGNMENT / 4} elements.`);
      }
    }
  }
  const bytes = hostTensors.size * BINDING_ALIGNMENT;
  const hostBuffer = bytes > 0 ? own(bytes, "run-time values") : undefined;
  for (const [name, tensors] of hostTensors) {
    const [tensor] = tensors as [Tensor];
    const offset = hosts.length * BINDING_ALIGNMENT;
    for (const same of tensors) {
      if (same.bytes !== tensor.bytes || same.dtype !== tensor.dtype) {
        throw new GraphError(`The run-time value "${name}" is used with two different shapes or types.`);
      }
      placed.set(same, { buffer: hostBuffer!, offset, size: same.bytes });
    }
    hosts.push({ name, tensor, offset: offset / 4 });
  }
  return { hosts, hostBuffer, constants };
}

/** Room for what results show of variables that the program changes: their contents as they were before the run. */
function placeSnapshots(
  { outputs, metrics, updates }: Results,
  placed: ReadonlyMap<Tensor, Storage>,
  own: Own,
): Map<Tensor, Storage> {
  const changed = new Set(updates.map(([{ storage }]) => storage.buffer));
  const snapshots = new Map<Tensor, Storage>();
  for (const tensor of [...Object.values(outputs), ...Object.values(metrics), ...updates.map(([, t]) => t)]) {
    const root = storageRoot(tensor);
    if (root.node.op !== variableOp || snapshots.has(root) || !changed.has(placed.get(root)!.buffer)) continue;
    snapshots.set(root, { buffer: own(root.bytes, "snapshot"), offset: 0, size: root.bytes });
  }
  return snapshots;
}

/**
 * Lets updates be computed straight into their variables where no later step reads the old value.
 * Returns the updates that must be copied at the end instead.
 */
function placeUpdates(
  label: string,
  steps: readonly Step[],
  updates: readonly (readonly [Variable, Tensor])[],
  placed: Map<Tensor, Storage>,
): (readonly [Variable, Tensor])[] {
  const writtenAt = new Map<Tensor, number>();
  const uses = new Map<Tensor, Dispatch<Tensor>[]>();
  const reads: { storage: Storage; step: number }[] = [];
  steps.forEach(({ node, outputs, dispatches }, step) => {
    for (const output of outputs) writtenAt.set(output, step);
    for (const dispatch of dispatches) {
      for (const root of new Set([...dispatch.reads, ...dispatch.writes].map(storageRoot))) {
        uses.set(root, [...uses.get(root) ?? [], dispatch]);
      }
    }
    const own = new Set(Object.values(node.op.inPlace ?? {}).map((i) => storageRoot(node.inputs[i]!)));
    for (const tensor of new Set(dispatches.flatMap((d) => d.reads.map(storageRoot)))) {
      const storage = placed.get(tensor);
      if (storage && !own.has(tensor)) reads.push({ storage, step });
    }
  });
  const lastRead = (range: Storage) =>
    reads.reduce((last, { storage, step }) => overlaps(storage, range) ? Math.max(last, step) : last, -1);
  // A dispatch cannot read a buffer and write it, be it another slice.
  const clashes = (root: Tensor, { buffer }: Storage) =>
    uses.get(root)!.some((dispatch) => {
      const bufferOf = (t: Tensor) => storageRoot(t) === root ? buffer : placed.get(storageRoot(t))?.buffer;
      const written = dispatch.writes.map(bufferOf);
      return dispatch.reads.some((t) => bufferOf(t) !== undefined && written.includes(bufferOf(t)));
    });

  // Within a step of several dispatches, one may write the output before another reads the old value.
  const readWithin = (step: number, range: Storage) =>
    steps[step]!.dispatches.length > 1 && reads.some((read) => read.step === step && overlaps(read.storage, range));

  for (const { node } of steps) {
    for (const [output, input] of Object.entries(node.op.inPlace ?? {})) {
      const target = storageRoot(node.inputs[input]!), result = node.outputs[Number(output)]!;
      const storage = placed.get(target);
      const update = updates.find(([, tensor]) => storageRoot(tensor) === result);
      if (!storage || target.node.op !== variableOp || !update || update[0].tensor !== target) {
        throw new GraphError(`Program ${label}: ${node.op.name} must write each of its results back to its variable.`);
      }
      if (lastRead(storage) > writtenAt.get(result)!) {
        throw new GraphError(`Program ${label}: variable ${update[0].name} is read after ${node.op.name} rewrote it.`);
      }
      placed.set(result, storage);
    }
  }
  const written: Storage[] = [];
  return updates.filter(([variable, tensor]) => {
    if (written.some((other) => overlaps(other, variable.storage))) {
      throw new GraphError(`Program ${label} updates variable ${variable.name} twice.`);
    }
    written.push(variable.storage);
    if (tensor.size !== variable.tensor.size || tensor.dtype !== variable.tensor.dtype) {
      throw new GraphError(`Program ${label}: the new value of ${variable.name} does not have its shape or type.`);
    }
    const root = storageRoot(tensor);
    const step = writtenAt.get(root);
    if (step === undefined) return true;
    if (placed.get(root) === variable.storage) return false;
    const shared = updates.some(([other, t]) => other !== variable && storageRoot(t) === root);
    if (placed.has(root) || shared || lastRead(variable.storage) > step) return true;
    if (readWithin(step, variable.storage) || clashes(root, variable.storage)) return true;
    placed.set(root, variable.storage);
    return false;
  });
}

/** Plans the transient tensors over the workspace's pool and makes the buffers that are missing. */
async function placeTransients(
  workspace: Workspace,
  label: string,
  steps: readonly Step[],
  roots: readonly Tensor[],
  placed: Map<Tensor, Storage>,
): Promise<{ plannedBytes: number; peakLiveBytes: number }> {
  const { pool, gpu } = workspace;
  const { tensors, lifetimes } = transients(steps, roots, placed);
  const { places, sizes, ...cost } = planBuffers(lifetimes, pool.map(({ size }) => size));
  const missing = sizes.slice(pool.length);
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const what = `Program ${label}, whose planned memory is ${mb(cost.plannedBytes)} (largest live set ${
    mb(cost.peakLiveBytes)
  }),`;
  gpu.expectRoom(what, missing.reduce((total, bytes) => total + bytes, 0));
  const made = missing.map((bytes) => gpu.buffer(bytes, `${label}/transient`));
  const buffers = [...pool, ...made];
  try {
    await gpu.allocated();
  } catch (error) {
    for (const buffer of made) gpu.free(buffer);
    if (!(error instanceof OutOfMemoryError)) throw error;
    throw new OutOfMemoryError(`${what} does not fit. ${error.message}`, { cause: error });
  }
  pool.push(...made);
  tensors.forEach((tensor, i) => {
    const { buffer, offset } = places[i]!;
    placed.set(tensor, { buffer: buffers[buffer]!, offset, size: tensor.bytes });
  });
  return cost;
}

/** The tensors that need memory only while the program runs, and when they do. */
function transients(
  steps: readonly Step[],
  roots: readonly Tensor[],
  placed: ReadonlyMap<Tensor, Storage>,
): { tensors: Tensor[]; lifetimes: Lifetime[] } {
  const index = new Map<Tensor, number>();
  const lifetimes: { bytes: number; first: number; last: number; apart: Set<number> }[] = [];
  const ofTensor = (tensor: Tensor) => {
    const i = index.get(storageRoot(tensor));
    return i === undefined ? [] : [i];
  };
  steps.forEach(({ outputs, dispatches, scratch }, step) => {
    for (const tensor of [...outputs, ...scratch]) {
      if (placed.has(tensor)) continue;
      index.set(tensor, lifetimes.length);
      lifetimes.push({ bytes: tensor.bytes, first: step, last: step, apart: new Set() });
    }
    for (const { reads, writes } of dispatches) {
      const bound = [...reads, ...writes].flatMap(ofTensor);
      for (const i of bound) lifetimes[i]!.last = step;
      for (const written of writes.flatMap(ofTensor)) {
        for (const i of bound) {
          lifetimes[i]!.apart.add(written);
          lifetimes[written]!.apart.add(i);
        }
      }
    }
  });
  for (const i of roots.flatMap(ofTensor)) lifetimes[i]!.last = steps.length;
  return { tensors: [...index.keys()], lifetimes };
}

/** Builds pipelines, one uniform arena and all bind groups. */
async function record(
  workspace: Workspace,
  steps: readonly Step[],
  locate: (tensor: Tensor) => Storage,
  own: Own,
): Promise<RecordedDispatch[]> {
  const { gpu } = workspace;
  const dispatches = steps.flatMap((step) => step.dispatches);
  const pipelines: Pipeline[] = [];
  for (const dispatch of dispatches) pipelines.push(await gpu.pipeline(dispatch));
  const blocks = dispatches.map(({ uniforms }) => packWords(uniforms));
  const slots: number[] = [];
  let bytes = 0;
  for (const { byteLength } of blocks) {
    slots.push(bytes);
    bytes += Math.ceil(byteLength / BINDING_ALIGNMENT) * BINDING_ALIGNMENT;
  }
  const arena = own(bytes, "uniforms", 0x40 | 0x08);
  const image = new Uint8Array(bytes);
  blocks.forEach((block, i) => image.set(block, slots[i]));
  // Deno's writeBuffer panics on empty data: a program may consist of copies alone.
  if (bytes > 0) gpu.device.queue.writeBuffer(arena, 0, image);
  return dispatches.map((dispatch, i) => {
    const entries: GPUBindGroupEntry[] = [];
    const size = Math.ceil(blocks[i]!.byteLength / 16) * 16;
    if (size > 0) entries.push({ binding: 0, resource: { buffer: arena, offset: slots[i]!, size } });
    [...dispatch.reads, ...dispatch.writes].forEach((tensor, b) => {
      const { buffer, offset } = locate(tensor);
      entries.push({ binding: b + 1, resource: { buffer, offset, size: tensor.bytes } });
    });
    const { pipeline, layout } = pipelines[i]!;
    const [x, y, z] = dispatch.workgroups;
    return {
      dispatch,
      pipeline,
      group: gpu.device.createBindGroup({ layout, entries, label: dispatch.label }),
      flops: dispatch.flops,
      x,
      y,
      z,
    };
  });
}

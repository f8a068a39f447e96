/** Eager use: compute tensors now and read them back. */

import { reachable } from "./gradients.ts";
import { type ConstantAttrs, constantOp, type HostData, variableOp } from "./ops/leaf.ts";
import type { HostValues } from "./program.ts";
import type { Node, Tensor } from "./tensor.ts";
import type { Workspace } from "./workspace.ts";

/**
 * Computes `tensors` and reads them back. The compiled program is kept by the graph's structure: evaluating the same
 * expression on other constants compiles nothing.
 */
export async function evaluate<K extends string>(
  workspace: Workspace,
  tensors: Readonly<Record<K, Tensor>>,
  values: HostValues = {},
): Promise<Record<K, HostData>> {
  const nodes = reachable(Object.values(tensors));
  const key = structure(nodes, tensors);
  let compiled = workspace.evaluated.get(key);
  if (!compiled) {
    compiled = workspace.compile({ label: "evaluate", outputs: tensors });
    workspace.evaluated.set(key, compiled);
  }
  const program = await compiled;
  program.writeConstants(
    nodes.filter((node) => node.op === constantOp).map((node) => (node.attrs as ConstantAttrs).data),
  );
  workspace.submit([program.at(values)]);
  return await program.read() as Record<K, HostData>;
}

/** JSON has no infinities and no NaN. */
const plainNumbers = (_: string, value: unknown) => typeof value === "number" ? String(value) : value;

/** Text that is equal for graphs that compile to the same program. */
function structure(nodes: readonly Node[], tensors: Readonly<Record<string, Tensor>>): string {
  const index = new Map(nodes.map((node, i) => [node, i]));
  const name = ({ node, index: output }: Tensor) => `${index.get(node)}.${output}`;
  const lines = nodes.map(({ op, attrs, inputs, outputs, id }) => {
    const detail = op === constantOp ? "" : op === variableOp ? id : JSON.stringify(attrs, plainNumbers);
    return `${op.name} ${detail} ${inputs.map(name)} ${outputs.map((o) => `${o.dtype}[${o.shape}]`)}`;
  });
  return `${lines.join("\n")}\n${Object.entries(tensors).map(([k, t]) => `${k}=${name(t)}`)}`;
}

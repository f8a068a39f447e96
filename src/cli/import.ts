/** `import`: a network of another program as a model file of this one. */

import { UsageError } from "../gpu/errors.ts";
import { encodeModel, type ModelInfo } from "../io/model.ts";
import { parameterCount } from "../nn/layers.ts";
import { createNetwork } from "../nn/networks.ts";
import { type PresetName, PRESETS, stateSettings } from "../train/config.ts";
import { expectWritable, writeFileAtomic } from "../io/disk.ts";
import { readModel } from "./files.ts";
import { type Command, parseOptions } from "./options.ts";

const presets = (Object.keys(PRESETS) as PresetName[]).filter((name) =>
  PRESETS[name].network.architecture === "song-unet"
);

const COMMAND = {
  name: "import",
  summary: "Convert a network of another program to a model file; nothing in the file is ever executed.",
  operand: {
    placeholder: "FILE",
    help: "a network of EDM (.pkl), or weights of one from PyTorch (.pt, .pth) or a .safetensors file",
  },
  options: [
    { name: "out", kind: "string", required: true, placeholder: "FILE", help: "the model file (.safetensors)" },
    {
      name: "preset",
      kind: "choice",
      choices: presets,
      help: "whose network weights belong to that come without settings",
    },
  ],
} as const satisfies Command;

/** Runs the command. */
export async function run(args: string[]): Promise<void> {
  const { values, operand } = parseOptions(COMMAND, args);
  if (!values.out.endsWith(".safetensors")) throw new UsageError(`--out ${values.out} should end in .safetensors.`);
  await expectWritable(values.out);
  const { model } = await readModel(operand!, values.preset && stateSettings(values.preset));
  await writeFileAtomic(values.out, await encodeModel(model));
  console.log(`${values.out}: ${describe(model.info)}`);
}

function describe(info: ModelInfo): string {
  const { architecture = "unet", ...settings } = info.network;
  const count = parameterCount(createNetwork(info).parameters).toLocaleString("en");
  const around = info.preconditioning?.kind ?? "edm";
  return `a ${info.kind}, ${architecture} of ${count} parameters, preconditioning ${around}\n${
    Object.entries(settings).map(([name, value]) => `  ${name.padEnd(18)}${JSON.stringify(value)}`).join("\n")
  }`;
}

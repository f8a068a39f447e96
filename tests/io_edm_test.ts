/** EDM's pickled networks: settings and weights of a snapshot and a dump, and an error for what is not supported. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import { readEdmPickle } from "../src/io/edm.ts";
import { decodeSafetensors } from "../src/io/safetensors.ts";
import { readTorchFile } from "../src/io/torch_file.ts";
import { bytes, bytesOf, HOSTILE, little, readImport, text } from "./pickles.ts";

async function assertTensors(tensors: ReadonlyMap<string, unknown>, fixture: string): Promise<void> {
  const expected = await decodeSafetensors(await readImport(fixture), fixture);
  // PyTorch's own order: a module's tensors stand before its children's.
  assertEquals([...tensors.keys()], [...expected.tensors.keys()]);
  for (const [name, { shape, data }] of expected.tensors) assertEquals(tensors.get(name), { shape, data }, name);
}

const EDM_ARGS = {
  img_resolution: 8,
  img_channels: 3,
  sigma_data: 0.5,
  model_type: "SongUNet",
  model_channels: 4,
  channel_mult: [1, 2],
  embedding_type: "fourier",
  dropout: 0.13,
};

for (const name of ["edm.pkl", "edm_training.pt"]) {
  Deno.test(`edm: ${name} gives its network's settings and tensors`, async () => {
    const network = await readEdmPickle(await readImport(name), name);
    assertEquals(network.precondClass, "EDMPrecond");
    assertEquals(network.precondArgs, EDM_ARGS);
    assertEquals(network.networkClass, "SongUNet");
    const { img_channels, sigma_data: _, model_type: __, ...rest } = EDM_ARGS;
    assertEquals(network.networkArgs, { ...rest, in_channels: img_channels, out_channels: img_channels, label_dim: 0 });
    await assertTensors(network.tensors, "edm.safetensors");
    const file = await readTorchFile(await readImport(name), name);
    assertEquals(file, { kind: "edm", network });
  });
}

Deno.test("edm: arguments given by place get their names", async () => {
  const network = await readEdmPickle(await readImport("vp.pkl"), "vp.pkl");
  assertEquals(network.precondClass, "VPPrecond");
  assertEquals(network.precondArgs, {
    img_resolution: 8,
    img_channels: 1,
    label_dim: 10,
    use_fp16: false,
    beta_d: 19.9,
    beta_min: 0.1,
  });
  assertEquals(network.networkArgs, { img_resolution: 8, in_channels: 1, out_channels: 1, label_dim: 10 });
  await assertTensors(network.tensors, "vp.safetensors");
});

/** Pushes a dictionary of already pushed values. */
function dictionary(entries: Record<string, string>): string {
  return `}(${Object.entries(entries).map(([key, value]) => text(key) + value).join("")}u`;
}

interface Persistent {
  readonly version?: number;
  readonly modules?: Record<string, string>;
  readonly state?: Record<string, string>;
}

/** Pushes an object as EDM's persistence records it. */
function persistent(className: string, { version = 6, modules = {}, state = {} }: Persistent = {}): string {
  const module = { _parameters: "}", _buffers: "}", _modules: dictionary(modules), _init_args: ")", _init_kwargs: "}" };
  const record = dictionary({
    type: text("class"),
    version: `K${String.fromCharCode(version)}`,
    module_src: text("raise SystemExit(99)"),
    class_name: text(className),
    state: dictionary({ ...module, ...state }),
  });
  return `ctorch_utils.persistence\n_reconstruct_persistent_obj\n${record}\x85R`;
}

function snapshot(ema: string): Uint8Array<ArrayBuffer> {
  return bytesOf(`\x80\x04${dictionary({ loss_fn: persistent("EDMLoss"), ema })}.`);
}

const MODEL = persistent("SongUNet");
const network = (rest: Persistent) => snapshot(persistent("EDMPrecond", { modules: { model: MODEL }, ...rest }));
const within = (layer: string) => network({ modules: { model: persistent("SongUNet", { modules: { layer } }) } });

Deno.test("edm: a handmade snapshot is read, so that what the next test changes is what matters", async () => {
  const { tensors, ...rest } = await readEdmPickle(network({}), "a.pkl");
  assertEquals(tensors.size, 0);
  assertEquals(rest, { precondClass: "EDMPrecond", precondArgs: {}, networkClass: "SongUNet", networkArgs: {} });
});

Deno.test("edm: each network that is not supported, or not one, has its error", async () => {
  const cases: [string, Uint8Array<ArrayBuffer>][] = [
    ['"iDDPMPrecond", which is not supported', snapshot(persistent("iDDPMPrecond"))],
    ['"DhariwalUNet", which is not supported', network({ modules: { model: persistent("DhariwalUNet") } })],
    ['the network is of class "Generator"; expected EDMPrecond, VPPrecond', snapshot(persistent("Generator"))],
    ['"model" is of class "UNet2"; expected SongUNet', network({ modules: { model: persistent("UNet2") } })],
    ["is recorded in version 7; expected 6", network({ version: 7 })],
    ['EDMPrecond has no "model"', network({ modules: {} })],
    ['EDMPrecond has no "model"', network({ modules: { model: "]" } })],
    ['holds no network of EDM: it has no object "ema"', bytesOf("\x80\x04", dictionary({ G: MODEL }), ".")],
    ['module "model.layer" is of unknown class "Dropout"', within(persistent("Dropout"))],
    ['module "model.layer" is no module', within("]")],
    ['module "model.layer" has no dictionary _buffers', within(persistent("Linear", { state: { _buffers: "]" } }))],
    [
      '"model.layer.weight" is no tensor',
      within(persistent("Linear", { state: { _parameters: dictionary({ weight: "]" }) } })),
    ],
    ["does not record the arguments", network({ state: { _init_args: "N", _init_kwargs: "N" } })],
    ["records 9 arguments; it has 8", network({ state: { _init_args: `(${"K\x01".repeat(9)}t` } })],
    [
      'argument "a.b" of EDMPrecond is neither',
      network({ state: { _init_kwargs: dictionary({ a: dictionary({ b: "\x8f" }) }) } }),
    ],
    ['argument "a" of EDMPrecond has a key', network({ state: { _init_kwargs: dictionary({ a: "}K\x01K\x01s" }) } })],
    ["more values than any", network({ state: { _init_kwargs: dictionary({ a: `]\x94h\0a` }) } })],
    ["no class, name and state", snapshot("ctorch_utils.persistence\n_reconstruct_persistent_obj\n)R")],
    ['asks for "torch.nn.modules.linear.Linear"', within("ctorch.nn.modules.linear\nLinear\n)\x81}b")],
  ];
  for (const [expected, file] of cases) {
    const error = await assertRejects(() => readEdmPickle(file, "a.pkl"), FileError, expected);
    assert(error.message.startsWith("a.pkl"), error.message);
  }
});

Deno.test("edm: modules that multiply by sharing are refused in time", async () => {
  // Module 0 has no tensors; each of the next 20 holds the one before it twice: 2^20 modules.
  const next = (child: string) => persistent("UNetBlock", { modules: { a: child, b: "h\0" } });
  let layer = `${persistent("Linear")}q\0`;
  for (let i = 0; i < 20; i++) layer = `${next(layer)}q\0`;
  const start = performance.now();
  await assertRejects(() => readEdmPickle(within(layer), "a.pkl"), FileError, "more modules and tensors than any");
  assert(performance.now() - start < 5000);
});

Deno.test("edm: whatever could run code is refused by name, wherever in a network it stands", async () => {
  for (const [named, operations] of HOSTILE) {
    const files = {
      state: network({ state: { training: operations } }),
      layer: within(operations),
      "bytes of a tensor": within(`ctorch.storage\n_load_from_bytes\n${bytes(`${operations}.`)}\x85R`),
    };
    for (const [place, file] of Object.entries(files)) {
      const expected = place.includes("bytes") ? named.replace("changes ", "") : named;
      await assertRejects(() => readEdmPickle(file, "a.pkl"), FileError, expected, `${named} in ${place}`);
    }
  }
});

Deno.test("edm: the source text that a pickle carries is never looked at", async () => {
  const source = `import os; os.system("true")${" ".repeat(200_000)}`;
  const record = persistent("EDMPrecond", { modules: { model: MODEL } });
  const carried = record.replaceAll(text("raise SystemExit(99)"), `X${little(source.length, 4)}${source}`);
  assertEquals((await readEdmPickle(snapshot(carried), "a.pkl")).networkClass, "SongUNet");
});

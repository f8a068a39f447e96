/** EDM's networks from the command line: converted, held against PyTorch, distilled, refused. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import { importModel } from "../src/io/import.ts";
import { decodeNpz, encodeNpz, type NpyArray } from "../src/io/npz.ts";
import { decodeSafetensors } from "../src/io/safetensors.ts";
import { readTorchFile } from "../src/io/torch_file.ts";
import { EDM_PRECONDITIONING } from "../src/nn/preconditioning.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import { dibregman, files, killAndResume, refused, sameFiles, sameModels } from "./command.ts";
import { relativeError } from "./gpu.ts";
import { bytesOf, HOSTILE, readImport, text } from "./pickles.ts";
import { tinyImages } from "./tiny_data.ts";

const root = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(root, { recursive: true }));

const fixture = (name: string) => new URL(`./fixtures/import/${name}`, import.meta.url).pathname;
const [SONG, UNCOND, STATE, IO] = ["song.pkl", "song_uncond.pkl", "song_state.pt", "song_io.npz"].map(fixture) as [
  string,
  string,
  string,
  string,
];

/** song.pkl as a model file, which the tests share. */
let imported: Promise<string> | undefined;

function importedSong(): Promise<string> {
  return imported ??= (async () => {
    const path = `${root}/song.safetensors`;
    const { code, out, errors } = await dibregman(["import", SONG, "--out", path]);
    assertEquals([code, errors], [0, [""]], "no adapter is opened");
    assertMatch(out, /song\.safetensors: a teacher, song-unet of 12,591 parameters, preconditioning edm\n/);
    assertMatch(out, /^ {2}labelDim +3$/m);
    assertMatch(out, /^ {2}channelMult +\[1,2\]$/m);
    return path;
  })();
}

Deno.test("import: a model file has the pickle's tensors, EDM's buffers too, under the same names", async () => {
  const { tensors } = await decodeSafetensors(await Deno.readFile(await importedSong()), "song");
  const file = await readTorchFile(await readImport("song.pkl"), "song.pkl");
  assert(file.kind === "edm");
  const { tensors: expected } = file.network;
  assertEquals([...tensors.keys()].sort(), [...expected.keys()].sort());
  assertEquals([...tensors.keys()].filter((name) => name.endsWith(".resample_filter")).sort(), [
    "model.dec.8x8_up.conv0.resample_filter",
    "model.dec.8x8_up.skip.resample_filter",
    "model.enc.4x4_down.conv0.resample_filter",
    "model.enc.4x4_down.skip.resample_filter",
  ]);
  for (const [name, { shape, data }] of expected) assertEquals(tensors.get(name), { dtype: "F32", shape, data }, name);
});

Deno.test("import: weights alone are those of the pickle, once the settings are given", async () => {
  const { info: { network, ...rest }, weights } = await importModel(await readImport("song_uncond.pkl"), "song");
  assert(network.architecture === "song-unet");
  const { resolution: _, inChannels: __, outChannels: ___, labelDim: ____, augmentDim: _____, ...chosen } = network;
  const settings = { ...chosen, preconditioning: EDM_PRECONDITIONING };
  const state = await importModel(await readImport("song_state.pt"), "state", settings);
  assertEquals(state.info.network, network);
  assertEquals(state.info.preconditioning, rest.preconditioning);
  assertEquals(state.weights, weights);
});

/** What `denoise` makes of the fixture's arrays. */
async function denoised(model: string, ...options: readonly string[]): Promise<Uint8Array<ArrayBuffer>> {
  const path = `${root}/denoised.npz`;
  const { code, out, errors } = await dibregman(["denoise", "--model", model, "--in", IO, "--out", path, ...options]);
  assertEquals(code, 0, errors.join("\n"));
  assertMatch(out, /denoised\.npz: denoised \[5, 3, 8, 8\]$/);
  return await Deno.readFile(path);
}

Deno.test("denoise: PyTorch's images at every sigma, the same bytes from pickle and model file and in other batches", async () => {
  const bytes = await denoised(SONG);
  const { denoised: got } = await decodeNpz(bytes, "got");
  const { denoised: expected, sigma } = await decodeNpz(await Deno.readFile(IO), IO);
  const size = 3 * 8 * 8;
  const image = ({ data }: NpyArray, i: number) => Array.from(data.slice(i * size, (i + 1) * size), Number);
  sigma!.data.forEach((value, i) => {
    const error = relativeError(image(got!, i), image(expected!, i));
    // Measured: at most 4.1e-7 (lavapipe), at sigma 80.
    assert(error < 5e-6, `sigma ${value}: relative error ${error}`);
  });
  assertEquals(await denoised(await importedSong()), bytes, "of the model file");
  assertEquals(await denoised(SONG, "--batch", "2"), bytes, "two at a time");
});

Deno.test("denoise: classes as one-hot rows are the classes; without any, the network is told none", async () => {
  const { x, sigma, labels, denoised: expected } = await decodeNpz(await Deno.readFile(IO), IO);
  const path = `${root}/rows.npz`;
  const rows = async (arrays: Record<string, NpyArray>) => {
    await Deno.writeFile(path, encodeNpz({ x: x!, sigma: sigma!, ...arrays }));
    const out = `${root}/of-rows.npz`;
    const { code, errors } = await dibregman(["denoise", "--model", SONG, "--in", path, "--out", out]);
    assertEquals(code, 0, errors.join("\n"));
    return (await decodeNpz(await Deno.readFile(out), out)).denoised!.data as Float32Array;
  };
  const data = Float32Array.from(
    { length: 5 * 3 },
    (_, i) => Number(labels!.data[Math.floor(i / 3)]) === i % 3 ? 1 : 0,
  );
  const given = await rows({ labels: { dtype: "f4", shape: [5, 3], data } });
  assert(relativeError(given, expected!.data as Float32Array) < 5e-6);
  const none = await rows({}), zeros = await rows({ labels: { dtype: "f4", shape: [5, 3], data: data.fill(0) } });
  assertEquals(none, zeros);
  assert(relativeError(none, given) > 1e-3, "classes matter");
});

/** A distillation of few small steps. */
const DISTIL = [
  ...["train", "--preset", "digits-tiny", "--data", `${root}/images.npz`],
  ...["--set", "distill.images=96", "--set", "distill.batch=8", "--set", "distill.warmupImages=16"],
  ...["--set", "checkpointEvery.distill=32", "--set", 'evaluation={"samples":65,"checkSamples":65,"steps":2}'],
];

Deno.test("train --teacher: a pickle of EDM is distilled, resumed after a kill to the same bytes", async () => {
  await Deno.writeFile(`${root}/images.npz`, tinyImages(80, 3));
  const [whole, killed] = [`${root}/whole`, `${root}/killed`];
  // The network of the settings, which the teacher's takes the place of, could not even be made for these images.
  const run = [...DISTIL, "--set", "network.channelMult=[1,1,1,1,1]", "--teacher", UNCOND, "--out"];
  const { code, out, errors } = await dibregman([...run, whole]);
  assertEquals(code, 0, errors.join("\n"));
  assertMatch(out, /teacher .* 3 evaluations an image/);
  assertMatch(out, /one step \(kl, adversarial 20\) .* 1 evaluation an image/);
  const { tensors } = await decodeSafetensors(await Deno.readFile(`${whole}/teacher.safetensors`), "teacher");
  const { weights } = await importModel(await readImport("song_uncond.pkl"), "song");
  for (const [name, data] of weights) assertEquals(tensors.get(name)?.data, data, name);
  const { distill, teacherFile } = JSON.parse(await Deno.readTextFile(`${whole}/config.json`));
  assertEquals([distill.images, distill.batch, teacherFile.path], [96, 8, UNCOND]);
  const steps = (await Deno.readTextFile(`${whole}/metrics.jsonl`)).trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(steps.map(({ step }) => step), [4, 8, 10, 12]);

  // The line of step 8 comes after step 4 was saved, and before step 8 is.
  const [, resumed] = await killAndResume(killed, [...run, killed], /distill 8\/12: /);
  assertMatch(resumed, /distill: going on from step [48]$/m);
  await sameModels(killed, whole);
  await sameFiles(killed, whole, ["samples/teacher-and-one-step.png"]);
});

Deno.test("train --teacher: what cannot be distilled on the data is refused", async () => {
  const out = ["--out", `${root}/no`];
  await Deno.writeFile(`${root}/images.npz`, tinyImages(80, 3));
  assertMatch(
    await refused([...DISTIL, "--teacher", SONG, ...out], 2),
    /song\.pkl is a teacher of \d+ classes; .*images\.npz has 1/,
  );
  await Deno.writeFile(`${root}/grey.npz`, tinyImages(80, 1));
  const grey = ["train", "--preset", "digits-tiny", "--data", `${root}/grey.npz`, "--teacher", UNCOND];
  assertMatch(await refused([...grey, ...out], 1), /makes 3x8x8 images; the data are 1x8x8/);
  assertMatch(
    await refused([...DISTIL, "--teacher", UNCOND, "--teacher-only", ...out], 2),
    /with a given teacher and --teacher-only there is nothing to do/,
  );
  assert(!(await files(root)).includes("no"), "nothing half-written");
});

Deno.test("import and whatever else reads a model: a pickle that would run code is refused by name", async () => {
  const path = `${root}/hostile.pkl`;
  const [named, operations] = HOSTILE[0]!;
  await Deno.writeFile(path, bytesOf(`${operations}.`));
  const commands = [
    ["import", path, "--out", `${root}/no.safetensors`],
    ["denoise", "--model", path, "--in", IO, "--out", `${root}/no.npz`],
    ["sample", "--model", path, "--out", `${root}/no.png`],
    ["train", "--teacher", path, "--out", `${root}/no`],
  ];
  for (const args of commands) {
    const line = await refused(args, 1);
    assert(line.includes(named) && line.includes("hostile.pkl"), line);
  }
  for (const [named, operations] of HOSTILE) {
    await assertRejects(() => importModel(bytesOf(`${operations}.`), "a.pkl"), FileError, named);
  }
  assert(!(await files(root)).some((name) => name.startsWith("no")), "nothing half-written");
});

Deno.test("import: wrong files and arguments", async () => {
  const out = ["--out", `${root}/not.safetensors`];
  await Deno.writeFile(`${root}/plain.pkl`, bytesOf(`\x80\x04}${text("a")}K\x01s.`));
  const cases: [string[], number, RegExp][] = [
    [
      [STATE, ...out],
      1,
      /song_state\.pt is not a model of this program: it holds weights, but no settings of the network/,
    ],
    [
      [STATE, ...out, "--preset", "mnist"],
      1,
      /song_state\.pt: tensor "model\.\S+" (is missing|should be \[[\d, ]+\] but is \[[\d, ]+\])\.$/,
    ],
    [[fixture("zip.pt"), ...out, "--preset", "mnist"], 1, /zip\.pt holds no SongUNet/],
    [[`${root}/plain.pkl`, ...out], 1, /plain\.pkl holds no tensors; its entries are "a"/],
    [[IO, ...out], 1, /song_io\.npz/],
    [[`${root}/none.pkl`, ...out], 1, /none\.pkl.*does not exist/],
    [[STATE, ...out, "--preset", "digits"], 2, /--preset is "digits"/],
    [[SONG, "--out", `${root}/not.pt`], 2, /--out .*not\.pt should end in \.safetensors/],
    [[SONG, "--out", `${root}/none/not.safetensors`], 1, /folder does not exist/],
    [[SONG], 2, /--out is missing/],
    [out, 2, /FILE is missing: a network of EDM/],
    [[SONG, STATE, ...out], 2, /takes options only, but was given/],
  ];
  for (const [args, code, message] of cases) assertMatch(await refused(["import", ...args], code), message);
  assert(!(await files(root)).some((name) => name.startsWith("not")), "nothing half-written");
});

Deno.test("import: settings and tensors that do not go together are named", async () => {
  const bytes = await readImport("song_state.pt");
  const settings = {
    ...songUNetConfig({
      resolution: 8,
      inChannels: 3,
      modelChannels: 4,
      channelMult: [1],
      numBlocks: 1,
      attnResolutions: [],
    }),
    preconditioning: EDM_PRECONDITIONING,
  };
  const cases: [Partial<typeof settings>, string][] = [
    [{ modelChannels: 8 }, 'tensor "model.map_layer0.weight" should be [32, 8] but is [16, 4]'],
    [{ numBlocks: 2 }, 'tensor "model.enc.8x8_block1.norm0.weight" is missing'],
    [{ attnResolutions: [8] }, 'tensor "model.enc.8x8_block0.norm2.weight" is missing'],
    [{ channelMult: [1, 1, 1, 1, 1] }, "with the sizes of its tensors, the resolution 8 does not halve 4 times"],
  ];
  for (const [change, message] of cases) {
    await assertRejects(() => importModel(bytes, "a.pt", { ...settings, ...change }), FileError, `a.pt: ${message}`);
  }
  await importModel(bytes, "a.pt", settings);
});

Deno.test("denoise: arrays that the network does not take are named", async () => {
  const { x, sigma, labels } = await decodeNpz(await Deno.readFile(IO), IO);
  const path = `${root}/bad.npz`;
  const floats = (data: number[], shape = [data.length]): NpyArray => ({
    dtype: "f4",
    shape,
    data: Float32Array.from(data),
  });
  const cases: [string, Record<string, NpyArray>, RegExp][] = [
    [SONG, { sigma: sigma! }, /the array "x" should be \[N, 3, 8, 8\] and is missing/],
    [SONG, { x: x! }, /the array "sigma" should be \[5\] and is missing/],
    [
      SONG,
      { x: { ...x!, shape: [5, 3, 4, 16] } as NpyArray, sigma: sigma! },
      /"x" should be \[N, 3, 8, 8\] but is \[5, 3, 4, 16\]/,
    ],
    [SONG, { x: x!, sigma: floats([1, 2]) }, /"sigma" should be \[5\] but is \[2\]/],
    [SONG, { x: x!, sigma: floats([1, 2, 0, 4, 5]) }, /"sigma" holds 0; sigmas are above 0/],
    [SONG, { x: x!, sigma: floats([1, 2, NaN, 4, 5]) }, /"sigma" is not finite/],
    [SONG, { x: x!, sigma: sigma!, labels: floats([0, 1, 2, 3, 0]) }, /"labels" holds 3; classes are 0 to 2/],
    [SONG, { x: x!, sigma: sigma!, labels: floats([0, 1, 0.5, 2, 0]) }, /"labels" holds 0\.5; classes are 0 to 2/],
    [SONG, { x: x!, sigma: sigma!, labels: floats([0, 1]) }, /"labels" should be \[5\] or \[5, 3\] but is \[2\]/],
    [UNCOND, { x: x!, sigma: sigma!, labels: labels! }, /there are labels, but the network knows no classes/],
  ];
  for (const [model, arrays, message] of cases) {
    await Deno.writeFile(path, encodeNpz(arrays));
    const line = await refused(["denoise", "--model", model, "--in", path, "--out", `${root}/worse.npz`], 1);
    assertMatch(line, message);
    assertMatch(line, /bad\.npz/);
  }
  const good = ["denoise", "--model", SONG, "--in", IO];
  assertMatch(await refused([...good, "--out", `${root}/worse.npy`], 2), /worse\.npy should end in \.npz/);
  assertMatch(await refused([...good, "--out", `${root}/none/worse.npz`], 1), /folder does not exist/);
  assertMatch(await refused(["denoise", "--model", SONG, "--in", SONG, "--out", `${root}/worse.npz`], 1), /song\.pkl/);
  assertMatch(await refused([...good], 2), /--out is missing/);
  assert(!(await files(root)).some((name) => name.startsWith("worse")), "nothing half-written");
});

Deno.test("denoise: images that come out as NaN are an error, and no file", async () => {
  const { x, sigma } = await decodeNpz(await Deno.readFile(IO), IO);
  const [path, out] = [`${root}/huge.npz`, `${root}/nan.npz`];
  const huge: NpyArray = { ...x!, dtype: "f4", data: new Float32Array(x!.data.length).fill(3e38) };
  await Deno.writeFile(path, encodeNpz({ x: huge, sigma: sigma! }));
  const { code, errors } = await dibregman(["denoise", "--model", SONG, "--in", path, "--out", out]);
  assertEquals(code, 1, errors.join("\n"));
  assertEquals(errors.at(-1), `error: ${path}: ${SONG} makes NaN or infinite pixels of it; nothing is written.`);
  assert(!(await files(root)).includes("nan.npz"));
});

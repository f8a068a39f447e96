/** Model files: both kinds of network with their preconditioning, and what is refused. */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import { decodeModel, encodeModel, type ModelInfo } from "../src/io/model.ts";
import { decodeSafetensors, encodeSafetensors } from "../src/io/safetensors.ts";
import { createNetwork } from "../src/nn/networks.ts";
import { VE_PRECONDITIONING, VP_PRECONDITIONING } from "../src/nn/preconditioning.ts";
import { songUNetConfig } from "../src/nn/song_unet.ts";
import type { UNetConfig } from "../src/nn/unet.ts";
import { hashedWeights } from "./hashed.ts";

const UNET: UNetConfig = { imageChannels: 1, resolution: 8, modelChannels: 8, channelMult: [1, 2], blocks: 1 };
const SONG = songUNetConfig({
  ...{ resolution: 8, inChannels: 3, modelChannels: 8, channelMult: [1, 2], numBlocks: 1, labelDim: 10, augmentDim: 9 },
  ...{ embeddingType: "fourier", encoderType: "residual", resampleFilter: [1, 3, 3, 1] },
});
const REST = { mean: -0.25, std: 0.5, provenance: { data: "none" } };

// The fields in the order in which they are written.
const MODELS: ModelInfo[] = [
  { kind: "teacher", network: UNET, ...REST },
  { kind: "teacher", network: UNET, preconditioning: { kind: "edm", sigmaData: 0.4 }, ...REST },
  { kind: "teacher", network: SONG, preconditioning: VP_PRECONDITIONING, ...REST },
  { kind: "generator", network: SONG, preconditioning: VE_PRECONDITIONING, ...REST, sigmaInit: 2.5 },
  { kind: "teacher", network: { ...UNET, labelDim: 3, labelDropout: 0.25 }, ...REST },
  { kind: "teacher", network: { ...UNET, labelDim: 3 }, ...REST, classShares: [0.5, 0, 0.5] },
];

function file(info: ModelInfo): Promise<Uint8Array<ArrayBuffer>> {
  return encodeModel({ info, weights: hashedWeights(createNetwork(info).parameters) });
}

/** Without a listing of what differs, which for so many bytes takes more memory than there is. */
function compareBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

for (const info of MODELS) {
  const { architecture = "unet" } = info.network;
  Deno.test(`model: a ${info.kind} of ${architecture}, ${info.preconditioning?.kind}, is read as it was written`, async () => {
    const bytes = await file(info);
    const model = await decodeModel(bytes, "a");
    assertEquals(model.info, info);
    assertEquals(model.weights, hashedWeights(createNetwork(info).parameters));
    assert(compareBytes(await encodeModel(model), bytes), "the model is written otherwise than it was read");
  });
}

Deno.test("model: a UNet's file has neither field that SongUNet brought", async () => {
  const { metadata } = await decodeSafetensors(await file(MODELS[0]!), "a");
  assertEquals(JSON.parse(metadata.model!), { kind: "teacher", network: UNET, mean: -0.25, std: 0.5 });
});

Deno.test("model: the stored frequencies of the Fourier embedding are the file's", async () => {
  const { tensors } = await decodeSafetensors(await file(MODELS[2]!), "a");
  assertEquals(tensors.get("model.map_noise.freqs")?.shape, [4]);
});

Deno.test("model: settings that no network has are refused by name", async () => {
  const refused: [Record<string, unknown>, string][] = [
    [{ network: { ...SONG, architecture: "vit" } }, '"network.architecture" should be one of unet, song-unet'],
    [{ network: null }, '"network.modelChannels" should be a whole number, at least 4'],
    [{ network: { ...SONG, outChannels: 6 } }, '"network.outChannels" should be 3, as many as go in'],
    [
      { network: { ...SONG, modelChannels: 1e9 } },
      '"network.modelChannels" should be a whole number, at least 4 and at most 4096',
    ],
    [{ network: { ...SONG, modelChannels: 6 } }, '"network.modelChannels" should be a multiple of 4'],
    [{ network: { ...SONG, modelChannels: 132 } }, "cannot split 132 channels into 32 groups"],
    [{ network: { ...SONG, resolution: 9 } }, "the resolution 9 does not halve 1 times"],
    [{ network: { ...SONG, channelMult: [] } }, '"network.channelMult"'],
    [
      { network: { ...SONG, channelMult: [1, 2.5] } },
      '"network.channelMult" should be a list, each item a whole number',
    ],
    [{ network: { ...SONG, attnResolutions: "16" } }, '"network.attnResolutions"'],
    [{ network: { ...SONG, labelDim: -1 } }, '"network.labelDim" should be a whole number, at least 0'],
    [{ network: { ...SONG, dropout: 1 } }, '"network.dropout" should be a number, at least 0 and below 1'],
    [{ network: { ...SONG, embeddingType: "sinus" } }, '"network.embeddingType" should be one of positional, fourier'],
    [{ network: { ...SONG, encoderType: 3 } }, '"network.encoderType" should be one of standard, skip, residual'],
    [{ network: { ...SONG, decoderType: "residual" } }, '"network.decoderType" should be one of standard, skip'],
    [{ network: { ...SONG, resampleFilter: [1, 2, 1] } }, '"network.resampleFilter" should be 2 or 4 numbers'],
    [{ network: { ...SONG, resampleFilter: [1, -1] } }, '"network.resampleFilter" should be 2 or 4 numbers'],
    [{ preconditioning: { kind: "iddpm" } }, '"preconditioning.kind" should be one of edm, vp, ve'],
    [{ preconditioning: { kind: "edm", sigmaData: 0 } }, '"preconditioning.sigmaData" should be a number, above 0'],
    [{ preconditioning: { ...VP_PRECONDITIONING, epsilonT: 1 } }, '"preconditioning.epsilonT"'],
    [{ preconditioning: { ...VP_PRECONDITIONING, M: "1000" } }, '"preconditioning.M"'],
    [{ preconditioning: 7 }, '"preconditioning.kind"'],
    [{ preconditioning: null }, '"preconditioning.kind"'],
    [{ network: { ...SONG, qqqqqq: 1 } }, 'there is no setting "network.qqqqqq".'],
    [{ classShares: [0.5, 0.5] }, '"classShares" should hold the shares, of 1 in all, of 10 classes'],
    [{ classShares: [0.5, ...new Array<number>(9).fill(0.1)] }, '"classShares" should hold the shares, of 1 in all'],
    [{ classShares: "even" }, '"classShares" should be a list'],
    [{ std: 0 }, '"std" should be a number, above 0'],
  ];
  const { tensors, metadata } = await decodeSafetensors(await file(MODELS[2]!), "a");
  for (const [change, expected] of refused) {
    const model = JSON.stringify({ ...JSON.parse(metadata.model!), ...change });
    const bytes = await encodeSafetensors(tensors, { ...metadata, model });
    const error = await assertRejects(() => decodeModel(bytes, "m.safetensors"), FileError);
    assertStringIncludes(error.message, "m.safetensors");
    assertStringIncludes(error.message, expected);
    assertEquals(error.message.match(/[.?]*$/)![0].length, 1, error.message);
  }
});

Deno.test("model: weights of another network are refused", async () => {
  const { tensors, metadata } = await decodeSafetensors(await file(MODELS[2]!), "a");
  const { model: other } = (await decodeSafetensors(await file(MODELS[0]!), "a")).metadata;
  const bytes = await encodeSafetensors(tensors, { ...metadata, model: other! });
  await assertRejects(() => decodeModel(bytes, "a"), FileError, 'tensor "map_layer0.weight" is missing');
});

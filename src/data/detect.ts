/** Which kind of data set a file or folder holds: found from its content, never from the ending of its name. */

import { FileError } from "../gpu/errors.ts";
import { type ByteFile, reading, streamOf } from "../io/bytes.ts";
import { isPng } from "../io/png.ts";
import { isTarHeader, tarEntries, type TarEntry } from "../io/tar.ts";
import { isZip, listZip, readZipEntry } from "../io/zip.ts";
import { isCifarSize, isCifarTraining, readCifar } from "./cifar.ts";
import { isCifarPickle } from "./cifar_pickle.ts";
import { type Content, idxLabelsName, isIdx, isIdxImages, readIdx } from "./idx.ts";
import { baseName, type ImageData8 } from "./image_data.ts";
import { isNpz, readNpzImages } from "./npz_images.ts";
import { readPictures } from "./pictures.ts";
import { parseUciDigits } from "./uci_digits.ts";

/** Files by their paths within a folder, the folder's own path left out. */
export type Folder = ReadonlyMap<string, ByteFile>;

/** Finds a file of another name in the same folder. */
export type Neighbour = (name: string) => Promise<ByteFile | undefined>;

/** Bytes that decide what a file is. */
const HEAD = 512;
/** Text files are read whole; the largest of the optical digits has 564,213 bytes. */
const MAX_TEXT_BYTES = 1 << 26;
/** What a file compressed by gzip begins with. */
const GZIP = [0x1f, 0x8b];
const KINDS =
  "expected CIFAR-10 or CIFAR-100 (binary or python), IDX images with their labels beside them, a folder or " +
  "zip of PNG files, an npz file with the array `images`, or the text of the UCI digits";

/**
 * Reads the data set in a file.
 *
 * @param neighbour finds the labels that lie beside images of IDX.
 * @throws {FileError} where it is damaged, or of no kind that can be read.
 */
export async function readDatasetFile(file: ByteFile, neighbour: Neighbour): Promise<ImageData8> {
  if (file.size === 0) throw new FileError(`${file.path} is empty; ${KINDS}.`);
  const content = await contentOf(file);
  const head = await headOf(content);
  if (isZip(head)) return await readZip(file);
  if (isTarHeader(head)) return await readCifar(file.path, () => tarEntries(content.open(), file.path));
  if (isIdxImages(head)) return await readIdx(content, await labelsOf(file, neighbour));
  if (isIdx(head)) {
    throw new FileError(`${file.path} is a file of IDX, but holds no images of bytes; name that of the images.`);
  }
  if (isPng(head)) throw new FileError(`${file.path} is a single picture; name the folder or zip of a set of them.`);
  if (isText(head) && content.isPlain) return await readText(file);
  if (content.isPlain && (isCifarPickle(head) || isCifarSize(file.size))) {
    return await readCifar(file.path, () => fileMembers([[file.path, file]]), () => true);
  }
  const remark = content.isPlain ? `${file.size} bytes are no whole batch of CIFAR, and ` : "";
  throw new FileError(`${file.path} is no data set that can be read: ${remark}it begins as none of them; ${KINDS}.`);
}

/**
 * Reads the data set in a folder.
 *
 * @param path stands for the folder in errors.
 * @throws {FileError} where it is damaged, or of no kind that can be read.
 */
export async function readDatasetFolder(path: string, files: Folder): Promise<ImageData8> {
  const names = [...files.keys()];
  if (names.length === 0) throw new FileError(`${path} is an empty folder; ${KINDS}.`);
  if (names.some(isCifarTraining)) return await readCifar(path, () => fileMembers(files));
  const images = await findIdxImages(path, files);
  if (images !== undefined) {
    const folder = images.slice(0, images.length - baseName(images).length);
    return await readDatasetFile(files.get(images)!, (name) => Promise.resolve(files.get(folder + name)));
  }
  const read = (name: string) => files.get(name)!.read(0, files.get(name)!.size);
  return await readPictures(path, { names, read });
}

async function readZip(file: ByteFile): Promise<ImageData8> {
  const entries = await listZip(file);
  if (isNpz(entries)) return await readNpzImages(file, entries);
  const read = (name: string) => readZipEntry(file, entries.get(name)!);
  return await readPictures(file.path, { names: entries.keys(), read });
}

async function readText(file: ByteFile): Promise<ImageData8> {
  if (file.size > MAX_TEXT_BYTES) {
    throw new FileError(`${file.path} is a text of ${file.size} bytes; digits are read from up to ${MAX_TEXT_BYTES}.`);
  }
  return parseUciDigits(new TextDecoder().decode(await file.read(0, file.size)), file.path);
}

/** The file with the classes of a file of IDX images, compressed or not. */
async function labelsOf({ path }: ByteFile, neighbour: Neighbour): Promise<Content> {
  const name = idxLabelsName(baseName(path));
  if (name === undefined) {
    throw new FileError(
      `${path} holds images of IDX; expected "images" in its name, for the labels to be found by it.`,
    );
  }
  const plain = name.replace(/\.gz$/, "");
  for (const candidate of [name, plain, `${plain}.gz`]) {
    const file = await neighbour(candidate);
    if (file) return await contentOf(file);
  }
  throw new FileError(`${path} holds images of IDX, but the file of their labels, ${name}, is not beside it.`);
}

/** The images of IDX in a folder, those to train on where there are others too. */
async function findIdxImages(path: string, files: Folder): Promise<string | undefined> {
  const found = new Map<string, string>();
  for (const [name, file] of files) {
    if (!/images/.test(baseName(name)) || file.size === 0 || !isIdxImages(await headOf(await contentOf(file)))) {
      continue;
    }
    found.set(name.replace(/\.gz$/, ""), name);
  }
  const names = [...found.keys()];
  const training = names.filter((name) => baseName(name).startsWith("train"));
  const chosen = training.length > 0 ? training : names;
  if (chosen.length > 1) {
    throw new FileError(`${path} holds several files of IDX images: ${chosen.join(", ")}; name one of them.`);
  }
  return found.get(chosen[0] ?? "");
}

/** A file's content, decompressed where it is compressed by gzip. */
async function contentOf(file: ByteFile): Promise<Content & { isPlain: boolean }> {
  const { path } = file;
  const isPlain = !begins(await file.read(0, Math.min(file.size, GZIP.length)), GZIP);
  const open = () => isPlain ? streamOf(file) : streamOf(file).pipeThrough(new DecompressionStream("gzip"));
  return { path, isPlain, open };
}

/** The first bytes of a content, as many of them as there are. */
function headOf({ path, open }: Content): Promise<Uint8Array> {
  return reading(open(), path, async (reader) => {
    const head = new Uint8Array(HEAD);
    return head.subarray(0, await reader.fill(head));
  });
}

/** Files as if they were in an archive. */
async function* fileMembers(files: Iterable<readonly [string, ByteFile]>): AsyncGenerator<TarEntry> {
  for (const [path, file] of files) {
    let at = 0;
    const read = async (target: Uint8Array) => {
      target.set(await file.read(at, target.length));
      at += target.length;
    };
    yield { path, size: file.size, read };
  }
}

function begins(head: Uint8Array, signature: readonly number[]): boolean {
  return signature.every((byte, i) => head[i] === byte);
}

/** True for printable ASCII, tabs and line ends. */
function isText(head: Uint8Array): boolean {
  return head.every((byte) => (byte >= 32 && byte < 127) || [9, 10, 13].includes(byte));
}

/**
 * Data sets of PNG files, in the form that EDM and StyleGAN keep them.
 *
 * Karras, T. et al. (2022). Elucidating the Design Space of Diffusion-Based Generative Models; its dataset_tool.py.
 */

import { unzlibSync } from "fflate";
import { FileError } from "../gpu/errors.ts";
import { decodePng, type Inflate, type Picture } from "../io/png.ts";
import {
  allocateImages,
  baseName,
  countClasses,
  describeImages,
  expectClass,
  type ImageData8,
  putImage,
} from "./image_data.ts";

/** The files in a folder or an archive. */
export interface PictureFiles {
  /** Their paths in it. */
  readonly names: Iterable<string>;
  /** All bytes of one. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
}

/** The file that gives the classes: `{"labels": [["00000/img00000000.png", 3], …]}`, or null instead of the list. */
const LABELS_FILE = "dataset.json";

/** What systems leave beside pictures: files and folders that begin with a dot, and what macOS puts into archives. */
const HIDDEN = /(^|\/)(\.|__MACOSX\/)/;

/** Into one buffer at once: the streams of many thousands of pictures leave more garbage than the pictures are. */
const inflate: Inflate = (data, length, name) => {
  let rows: Uint8Array<ArrayBuffer>;
  try {
    // One byte more than there should be tells data that go on.
    rows = unzlibSync(data, { out: new Uint8Array(length + 1) });
  } catch (error) {
    throw new FileError(`${name} is damaged or cut off: ${(error as Error).message}.`, { cause: error });
  }
  if (rows.length < length) {
    throw new FileError(`${name} is cut off: ${length - rows.length} bytes of pixels are missing.`);
  }
  if (rows.length > length) throw new FileError(`${name} goes on after what should be its end.`);
  return rows;
};

/**
 * Reads pictures of one size, one at a time, in the order of their paths. Each gets the class that `dataset.json` gives
 * it; without that file, or where it says null, there are no classes.
 *
 * @param path stands for the folder or archive in errors.
 * @throws {FileError} where there is nothing but `dataset.json`, a file is no PNG or not of the first one's size, or the
 * classes are not those of the pictures.
 */
export async function readPictures(path: string, files: PictureFiles): Promise<ImageData8> {
  const present = new Set([...files.names].filter((name) => !HIDDEN.test(name)));
  const labels = present.delete(LABELS_FILE) ? await files.read(LABELS_FILE) : undefined;
  const classes = labels && parseLabels(labels, `${path}: "${LABELS_FILE}"`, present);
  const names = [...present].sort();
  const [first] = names;
  if (first === undefined) {
    throw new FileError(`${path} holds no pictures; expected PNG files, in it or in its folders.`);
  }
  const read = async (name: string) => decodePng(await files.read(name), `${path}: "${name}"`, inflate);
  const { channels, height, width } = await read(first);
  const shape = { count: names.length, channels, height, width };
  const images = allocateImages(path, shape);
  for (const [i, name] of names.entries()) {
    const picture = await read(name);
    if (picture.channels !== channels || picture.height !== height || picture.width !== width) {
      throw new FileError(
        `${path}: "${name}" is ${sizeOf(picture)}; expected ${
          sizeOf(shape)
        }, as "${first}" is (channels x height x width).`,
      );
    }
    putImage(images, i, picture.pixels, channels);
    images.labels[i] = classes?.get(name) ?? 0;
  }
  return describeImages({ name: baseName(path), ...shape, ...images, classes: countClasses(images.labels) });
}

function sizeOf({ channels, height, width }: Pick<Picture, "channels" | "height" | "width">): string {
  return `${channels}x${height}x${width}`;
}

/** The class of every picture; undefined where there are no classes. */
function parseLabels(bytes: Uint8Array, where: string, names: ReadonlySet<string>): Map<string, number> | undefined {
  const labels = labelsIn(bytes, where);
  if (labels === null) return undefined;
  const classes = new Map<string, number>();
  for (const [i, item] of labels.entries()) {
    if (!Array.isArray(item) || item.length !== 2 || typeof item[0] !== "string") {
      throw new FileError(`${where}: entry ${i} of "labels" should be a path and a class.`);
    }
    const name = item[0].replaceAll("\\", "/");
    if (!names.has(name)) throw new FileError(`${where} gives a class to "${name}", which is not there.`);
    classes.set(name, expectClass(item[1], `${where}: "${name}"`));
  }
  for (const name of names) {
    if (!classes.has(name)) throw new FileError(`${where} gives no class to "${name}".`);
  }
  return classes;
}

/** The list under the key "labels", or null where it says that there is none. */
function labelsIn(bytes: Uint8Array, where: string): unknown[] | null {
  let content: unknown;
  try {
    content = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new FileError(`${where} should be JSON: ${(error as Error).message}.`, { cause: error });
  }
  const labels = (content as { labels?: unknown } | null)?.labels;
  if (labels !== null && !Array.isArray(labels)) {
    throw new FileError(`${where} should hold a list under the key "labels", or null.`);
  }
  return labels;
}

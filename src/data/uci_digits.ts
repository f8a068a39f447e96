/** The text format of the UCI optical digits (optdigits.tra, optdigits.tes). */

import { FileError } from "../gpu/errors.ts";
import { imagesFromCounts } from "./digit_counts.ts";
import { baseName, type ImageData8 } from "./image_data.ts";

const PIXELS = 64;
const FIELDS = PIXELS + 1;
const MAX_COUNT = 16;
const MAX_LABEL = 9;

/**
 * Reads rows of 64 counts from 0 to 16 and a class from 0 to 9, separated by commas; a first row of names is skipped.
 *
 * @param text the file's content.
 * @param fileName names the file in errors; its last part becomes the dataset's name.
 * @throws {FileError} with the number of the line where anything else stands.
 */
export function parseUciDigits(text: string, fileName: string): ImageData8 {
  if (/[\0\ufffd]/.test(text)) {
    throw new FileError(`${fileName} is not a text file; expected rows of ${FIELDS} numbers separated by commas.`);
  }
  const lines = text.trimEnd().split(/\r?\n/);
  const first = isHeader(lines[0]!) ? 1 : 0;
  const rows = lines.length - first;
  if (rows === 0 || text.trim() === "") {
    throw new FileError(`${fileName} holds no digits; expected rows of ${FIELDS} numbers separated by commas.`);
  }
  const counts = new Uint8Array(rows * PIXELS);
  const labels = new Uint16Array(rows);
  for (let row = 0; row < rows; row++) {
    const values = parseRow(lines[first + row]!, `${fileName}, line ${first + row + 1}`);
    counts.set(values.subarray(0, PIXELS), row * PIXELS);
    labels[row] = values[PIXELS]!;
  }
  return imagesFromCounts(baseName(fileName), counts, labels);
}

/** True for a row of as many fields as a digit has, none of which is a number. */
function isHeader(line: string): boolean {
  const fields = line.split(",");
  return fields.length === FIELDS && fields.every((field) => Number.isNaN(Number(field)));
}

/** `where` names the file and the line at the head of an error's sentence. */
function parseRow(line: string, where: string): Uint8Array {
  const fields = line.split(",");
  if (fields.length !== FIELDS) {
    throw new FileError(`${where} has ${fields.length} fields; expected ${PIXELS} counts and a class.`);
  }
  return Uint8Array.from(fields, (field, i) => {
    const [what, max] = i < PIXELS ? ["count", MAX_COUNT] as const : ["class", MAX_LABEL] as const;
    const value = Number(field);
    if (!/^\s*\d+\s*$/.test(field) || value > max) {
      const shown = field.trim().slice(0, 20);
      throw new FileError(
        `${where}, field ${i + 1} is "${shown}"; expected a ${what}, a whole number from 0 to ${max}.`,
      );
    }
    return value;
  });
}

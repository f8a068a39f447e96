/** Reads the reference files in tests/fixtures. */

import { decodeSafetensors } from "../src/io/safetensors.ts";

/** Tensors by name, with `pick(prefix)` for those below a prefix. */
export interface Fixture {
  readonly get: (tensor: string) => Float32Array<ArrayBuffer>;
  readonly pick: (prefix: string) => Map<string, Float32Array<ArrayBuffer>>;
  readonly shape: (tensor: string) => readonly number[];
}

/** Reads tests/fixtures/`name`.safetensors. */
export async function readFixture(name: string): Promise<Fixture> {
  const path = new URL(`./fixtures/${name}.safetensors`, import.meta.url);
  const { tensors } = await decodeSafetensors(await Deno.readFile(path), `${name}.safetensors`);
  const get = (tensor: string) => {
    const found = tensors.get(tensor);
    if (found?.dtype !== "F32") throw new Error(`${name}.safetensors has no f32 tensor ${tensor}.`);
    return found.data;
  };
  return {
    get,
    pick: (prefix) =>
      new Map(
        [...tensors.keys()].filter((key) => key.startsWith(prefix)).map((key) => [key.slice(prefix.length), get(key)]),
      ),
    shape: (tensor) => tensors.get(tensor)!.shape,
  };
}

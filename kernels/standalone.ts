/** Lists the dispatches of one kernel outside a graph, its buffers named by strings: for tests, benches and tuning. */

import type { Buffers, Lowering, Packing, Variant } from "../src/gpu/family.ts";
import type { Dispatch } from "../src/gpu/kernel.ts";
import { pack, packedSize, packTable } from "./conv2d_pack.ts";

/** Dispatches with the buffers they need beside those the caller knows. */
export interface Standalone {
  /** In order. */
  readonly dispatches: readonly Dispatch<string>[];
  /** Elements of every scratch buffer by its name. */
  readonly scratch: Readonly<Record<string, number>>;
  /** Contents of every constant buffer by its name. */
  readonly constants: Readonly<Record<string, Uint32Array<ArrayBuffer>>>;
  /** What the first dispatches, one each, rearrange: in a program, one dispatch does so for all weights of a network. */
  readonly packings: readonly { readonly w: string; readonly packing: Packing }[];
}

/** What `list` lowers to, with the buffers it asks for. */
export function standalone(list: (lowering: Lowering<string>) => readonly Dispatch<string>[]): Standalone {
  const scratch: Record<string, number> = {}, constants: Record<string, Uint32Array<ArrayBuffer>> = {};
  const packs: Dispatch<string>[] = [], packings: Standalone["packings"][number][] = [];
  const newScratch = (elements: number) => {
    const name = `scratch ${Object.keys(scratch).length}`;
    scratch[name] = elements;
    return name;
  };
  const dispatches = list({
    scratch: newScratch,
    packed: (w: string, packing: Packing) => {
      const jobs = [{ ...packing, start: 0 }];
      const table = `table ${packs.length}`, packed = newScratch(packedSize(packing) / (packing.f16 ? 2 : 1));
      constants[table] = packTable(jobs);
      packs.push(pack({ w, table, packed }, jobs));
      packings.push({ w, packing });
      return packed;
    },
  });
  return { dispatches: [...packs, ...dispatches], scratch, constants, packings };
}

/** {@linkcode standalone} of one variant. */
export function standaloneVariant<S, K extends string, O extends string>(
  variant: Variant<S, K, O>,
  buffers: Buffers<string, K, O>,
  s: S,
): Standalone {
  return standalone((lowering) => variant.dispatches(buffers, s, lowering));
}

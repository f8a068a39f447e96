/** What the residual blocks of all networks share. */

import { checkpoint, type Tensor } from "../graph/mod.ts";
import type { NetworkOptions } from "./network.ts";

/** Keeps the variance where two branches are added. */
export const SKIP_SCALE = Math.SQRT1_2;

/** Initial scale of layers that end a residual branch: the branch starts silent. */
export const SILENT = 1e-5;

/** Calls what applies a part of a network. */
export type Around = (part: () => Tensor) => Tensor;

/** How a network's blocks are applied. */
export function around({ checkpointBlocks = false }: NetworkOptions): Around {
  return checkpointBlocks ? checkpoint : (part) => part();
}

/** The name of a level in parameters' names. */
export function resolutionName(resolution: number): string {
  return `${resolution}x${resolution}`;
}

/** Kernel families: interchangeable variants of one computation, and how one is chosen for a shape and an adapter. */

import type { Dispatch } from "./kernel.ts";

/** Where an adapter computes: on the CPU, or on a GPU. */
export type AdapterKind = "software" | "hardware";

/** How the weights of a convolution are rearranged; see kernels/conv2d_pack.wgsl. */
export interface Packing {
  /** Channels that are summed over. */
  readonly inChannels: number;
  /** Entries of the filter. */
  readonly taps: number;
  /** Channels that are computed. */
  readonly outChannels: number;
  /** The same, rounded up to a multiple of 4: the rest is filled with zeros. */
  readonly paddedOut: number;
  /** Elements between two computed channels of the weights. */
  readonly strideOut: number;
  /** Elements between two summed channels of the weights. */
  readonly strideIn: number;
  /** 1 where the filter is turned around. */
  readonly flip: 0 | 1;
  /** True where they are stored as f16, else f32. */
  readonly f16?: boolean | undefined;
}

/** What a variant may ask for while it lists its dispatches. */
export interface Lowering<B> {
  /** A buffer of that many 32-bit elements that only this computation uses. */
  scratch(elements: number): B;
  /** The weights `w` rearranged. */
  packed(w: B, packing: Packing): B;
}

/** Buffers by name, some of them optional. */
export type Buffers<B, K extends string, O extends string = never> =
  & { readonly [name in K]: B }
  & { readonly [name in O]?: B | undefined };

/** One way to compute what its family computes. `S` is the shape; `K` and `O` name the buffers. */
export interface Variant<S, K extends string, O extends string = never> {
  /** True where the variant can compute the shape. */
  fits(s: S): boolean;
  /** Its dispatches in order. */
  dispatches<B>(b: Buffers<B, K, O>, s: S, lowering: Lowering<B>): Dispatch<B>[];
}

/** Interchangeable variants: whichever is chosen, the results agree within rounding. */
export interface Family<S, K extends string, O extends string = never> {
  /** Name in tuning tables. */
  readonly name: string;
  /** The variants by name. */
  readonly variants: Readonly<Record<string, Variant<S, K, O>>>;
  /** The shape as text: shapes of one key share a tuned choice. */
  key(s: S): string;
  /** Name of the variant where nothing was measured. */
  preferred(s: S, adapter: AdapterKind): string;
}

/** Measured choices: family name, then shape key, then the variant's name. */
export type TuningTable = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** Chooses variants for one adapter. */
export class KernelChoices {
  readonly #refused = new Set<string>();

  /** Chooses as tuned, else as preferred for the kind of adapter. */
  constructor(readonly adapter: AdapterKind, readonly table: TuningTable = {}) {}

  /** Name of the variant to run: the tuned one where it is known and fits; one that is or does not is named on the console. */
  name<S, K extends string, O extends string>(family: Family<S, K, O>, s: S): string {
    const preferred = family.preferred(s, this.adapter);
    const key = family.key(s), tuned = this.table[family.name]?.[key];
    if (tuned === undefined) return preferred;
    if (Object.hasOwn(family.variants, tuned) && family.variants[tuned]!.fits(s)) return tuned;
    const entry = `${family.name} ${key}`;
    if (!this.#refused.has(entry)) {
      console.warn(`The tuned variant ${tuned} of ${entry} cannot compute it; ${preferred} does.`);
      this.#refused.add(entry);
    }
    return preferred;
  }

  /** Dispatches of the chosen variant. */
  dispatches<S, K extends string, O extends string, B>(
    family: Family<S, K, O>,
    b: Buffers<NoInfer<B>, K, O>,
    s: S,
    lowering: Lowering<B>,
  ): Dispatch<B>[] {
    return family.variants[this.name(family, s)]!.dispatches(b, s, lowering);
  }
}

/** Counter-based random numbers: a sample's values depend on its global index alone, never on the batch. */

import { GraphError } from "../../gpu/errors.ts";
import { dropout as dropoutKernel } from "../../../kernels/dropout.ts";
import {
  randomNormal as normalKernel,
  randomUniform as uniformKernel,
  shuffledIndices as shuffleKernel,
} from "../../../kernels/random.ts";
import { apply, elementCount, expectDType, expectFloats, type Op, type Shape, type Tensor } from "../tensor.ts";

/** Where a random tensor's numbers come from. */
export interface RandomSource {
  /** Key: u32 [2]. */
  readonly seed: Tensor;
  /** Step counter: u32 []. */
  readonly step: Tensor;
  /** Global index of the batch's first sample: u32 []. */
  readonly first: Tensor;
  /** Separates uses within a step: a constant of the program. */
  readonly stream: number;
  /** Added to `first`: a constant of the program; 0 when absent. */
  readonly offset?: number;
}

interface StreamAttrs {
  readonly stream: number;
  readonly offset: number;
}

function randomOp(name: string, kernel: typeof normalKernel): Op<StreamAttrs> {
  return {
    name,
    vjp: () => [],
    lower: ({ inputs: [seed, step, first], outputs: [y], attrs }) => {
      const batch = y!.shape[0]!;
      const shape = { batch, perSample: y!.size / batch, ...attrs };
      return [kernel({ seed: seed!, step: step!, first: first!, y: y! }, shape)];
    },
  };
}

const normalOp = randomOp("randomNormal", normalKernel);
const uniformOp = randomOp("randomUniform", uniformKernel);

function expectSource(op: string, { seed, step, first }: RandomSource): void {
  expectDType("u32", op, seed, step, first);
  if (seed.size !== 2 || step.size !== 1 || first.size !== 1) {
    throw new GraphError(`${op} expects a seed of two words and a step and a first index of one.`);
  }
}

function random(op: Op<StreamAttrs>, shape: Shape, source: RandomSource): Tensor {
  const { seed, step, first, stream, offset = 0 } = source;
  expectSource(op.name, source);
  return apply(op, { stream, offset }, [seed, step, first], shape);
}

/** Standard normal numbers; axis 0 counts samples (Philox 4x32-10, Box-Muller). */
export function randomNormal(shape: Shape, source: RandomSource): Tensor {
  return random(normalOp, shape, source);
}

/** Uniform numbers in (0, 1); axis 0 counts samples (Philox 4x32-10). */
export function randomUniform(shape: Shape, source: RandomSource): Tensor {
  return random(uniformOp, shape, source);
}

interface DropoutAttrs extends StreamAttrs {
  readonly probability: number;
}

const dropoutOp: Op<DropoutAttrs> = {
  name: "dropout",
  vjp: ({ inputs: [, seed, step, first], attrs }, [dy]) => [
    dy && apply(dropoutOp, attrs, [dy, seed!, step!, first!], dy.shape, dy.dtype),
  ],
  lower: ({ inputs: [x, seed, step, first], outputs: [y], attrs }) => {
    const batch = y!.shape[0]!;
    const shape = { batch, perSample: y!.size / batch, f16: y!.dtype === "f16", ...attrs };
    return [dropoutKernel({ x: x!, seed: seed!, step: step!, first: first!, y: y! }, shape)];
  },
};

/**
 * `x` [N, …] with a share of `probability`, in [0, 1), of its elements, drawn by `source`, set to 0 and the others divided by
 * 1 − probability. Its gradient draws the same again.
 */
export function dropout(x: Tensor, probability: number, source: RandomSource): Tensor {
  expectFloats("dropout", x);
  expectSource("dropout", source);
  if (!(probability >= 0 && probability < 1) || x.shape.length === 0) {
    throw new GraphError(`dropout expects samples and a probability in [0, 1); got ${probability}.`);
  }
  const { seed, step, first, stream, offset = 0 } = source;
  return apply(dropoutOp, { stream, offset, probability }, [x, seed, step, first], x.shape, x.dtype);
}

interface ShuffleAttrs {
  readonly size: number;
  readonly stream: number;
}

const shuffleOp: Op<ShuffleAttrs> = {
  name: "shuffledIndices",
  vjp: () => [],
  lower: ({ inputs: [seed, first], outputs: [y], attrs }) => [
    shuffleKernel({ seed: seed!, first: first!, y: y! }, { count: elementCount(y!.shape), ...attrs }),
  ],
};

/**
 * The entries `first` … `first + count − 1` of an endless sequence of shuffles of 0 … size − 1 → u32 [count]: every
 * stretch of `size` entries from a multiple of `size` holds each index once.
 */
export function shuffledIndices(
  count: number,
  source: { readonly seed: Tensor; readonly first: Tensor; readonly size: number; readonly stream: number },
): Tensor {
  const { seed, first, size, stream } = source;
  expectDType("u32", "shuffledIndices", seed, first);
  return apply(shuffleOp, { size, stream }, [seed, first], [count], "u32");
}

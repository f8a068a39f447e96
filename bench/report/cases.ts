/** The kernels and shapes that the report measures, with their data and float64 references. */

import type { BregmanShape } from "../../kernels/bregman.ts";
import { convOutputSize, type ConvShape } from "../../kernels/conv2d.ts";
import { adamReference } from "../../tests/reference/adam.ts";
import { attentionGradReference, attentionReference } from "../../tests/reference/attention.ts";
import { bregmanGradientReference, bregmanWeightsReference } from "../../tests/reference/bregman.ts";
import { conv2dInputGradReference, conv2dReference, conv2dWeightGradReference } from "../../tests/reference/conv2d.ts";
import { groupNormGradReference, groupNormReference } from "../../tests/reference/group_norm.ts";
import { matmulReference } from "../../tests/reference/matmul.ts";
import type { Arrays, Problem } from "./case.ts";

/** A row of the report before it is measured. */
export interface Case {
  /** Name of the kernel, as `--only` takes it. */
  readonly kernel: string;
  /** Shape, for people. */
  readonly shape: string;
  /** What is computed. */
  readonly problem: Problem;
  /** On what. */
  readonly inputs: () => Arrays;
  /** What it gives, in float64. */
  readonly expected: (inputs: Arrays) => Readonly<Record<string, ArrayLike<number>>>;
  /** Further results, in which the others must agree with the engine. */
  readonly agreed?: readonly string[];
}

/** Every case but the training steps, in the report's order. */
export function kernelCases(): Case[] {
  return [...matmuls(), ...convolutions(), ...groupNorms(), ...attentions(), ...adams(), ...bregmans()];
}

/** Uniform in (−1, 1), the same every time. */
function values(count: number, seed: number): Float32Array<ArrayBuffer> {
  const result = new Float32Array(count);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    result[i] = (state >>> 8) / 2 ** 23 - 1;
  }
  return result;
}

function matmuls(): Case[] {
  const shapes = [[64, 64, 64, true], [512, 512, 512, false], [1024, 1024, 1024, false]] as const;
  return shapes.map(([m, n, k, transposeB]) => {
    const shape = { batch: 1, m, n, k, transposeA: false, transposeB, broadcastA: false, broadcastB: false };
    return {
      kernel: "matmul",
      shape: `${m}x${n}x${k}${transposeB ? ", b transposed" : ""}`,
      problem: { op: "matmul", shape },
      inputs: () => ({ a: values(m * k, 1), b: values(k * n, 2) }),
      expected: ({ a, b }) => ({ out: matmulReference(a!, b!, shape) }),
    };
  });
}

/** [batch, in, out, side, kernel]: layers of the digits UNet and of one for 32x32 images. */
const CONVOLUTIONS = [
  [64, 32, 32, 8, 3],
  [64, 64, 64, 4, 3],
  [4, 64, 64, 32, 3],
  [64, 64, 192, 4, 1],
  [4, 128, 384, 16, 1],
] as const;

function convolutions(): Case[] {
  return CONVOLUTIONS.flatMap(([batch, inChannels, outChannels, side, kernel]) => {
    const s: ConvShape = { batch, inChannels, outChannels, height: side, width: side, kernel, stride: 1, scale: 1 };
    const outputs = batch * outChannels * convOutputSize(side, kernel, 1) ** 2;
    const x = () => values(batch * inChannels * side * side, 1);
    const w = () => values(outChannels * inChannels * kernel * kernel, 2);
    const dy = () => values(outputs, 3);
    const shape = `${inChannels}->${outChannels} at ${side}x${side}, batch ${batch}`;
    const family = `conv${kernel}x${kernel}`;
    return [
      {
        kernel: family,
        shape,
        problem: { op: "conv2d.forward", shape: s },
        inputs: () => ({ x: x(), w: w() }),
        expected: ({ x, w }) => ({ y: conv2dReference(x!, w!, {}, s) }),
      },
      {
        kernel: `${family}.inputGrad`,
        shape,
        problem: { op: "conv2d.inputGrad", shape: s },
        inputs: () => ({ dy: dy(), w: w() }),
        expected: ({ dy, w }) => ({ dx: conv2dInputGradReference(dy!, w!, s) }),
      },
      {
        kernel: `${family}.weightGrad`,
        shape,
        problem: { op: "conv2d.weightGrad", shape: s },
        inputs: () => ({ dy: dy(), x: x() }),
        expected: ({ dy, x }) => ({ dw: conv2dWeightGradReference(dy!, x!, s) }),
      },
    ] satisfies Case[];
  });
}

function groupNorms(): Case[] {
  const shapes = [[64, 32, 8], [64, 64, 4], [4, 64, 32]] as const;
  return [false, true].flatMap((gradient) =>
    shapes.map(([batch, channels, side]) => {
      const s = { batch, channels, groups: channels / 4, size: side * side, eps: 1e-6, silu: true };
      const elements = batch * channels * side * side;
      return {
        kernel: gradient ? "groupNorm+silu.gradient" : "groupNorm+silu",
        shape: `${batch}x${channels}x${side}x${side}, ${s.groups} groups`,
        problem: { op: "groupNorm", gradient, shape: s },
        inputs: () => ({
          x: values(elements, 1),
          gamma: values(channels, 2),
          beta: values(channels, 3),
          ...gradient && { dy: values(elements, 4) },
        }),
        expected: ({ x, gamma, beta, dy }) => {
          const { y } = groupNormReference(x!, gamma!, beta!, s);
          if (!gradient) return { y };
          const { dx, dgamma, dbeta } = groupNormGradReference(x!, gamma!, beta!, dy!, s);
          return { y, dx, dgamma, dbeta };
        },
      } satisfies Case;
    })
  );
}

function attentions(): Case[] {
  const shapes = [[64, 64, 16], [16, 64, 64], [4, 128, 256]] as const;
  return [false, true].flatMap((gradient) =>
    shapes.map(([batch, dim, tokens]) => {
      const s = { batch, dim, queries: tokens, keys: tokens, scale: dim ** -0.5, packed: false };
      const elements = batch * dim * tokens;
      return {
        kernel: gradient ? "attention.gradient" : "attention",
        shape: `batch ${batch}, ${dim} channels, ${tokens} tokens`,
        problem: { op: "attention", gradient, shape: s },
        inputs: () => ({
          q: values(elements, 1),
          k: values(elements, 2),
          v: values(elements, 3),
          ...gradient && { dO: values(elements, 4) },
        }),
        expected: ({ q, k, v, dO }) => {
          const { o } = attentionReference(q!, k!, v!, s);
          return gradient ? { o, ...attentionGradReference(q!, k!, v!, dO!, s) } : { o };
        },
      } satisfies Case;
    })
  );
}

function adams(): Case[] {
  return [609_984, 4_000_000].map((count) => {
    const shape = { count, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 };
    return {
      kernel: "adam+ema",
      shape: `${count} parameters`,
      problem: { op: "adam", shape },
      inputs: () => ({
        grad: values(count, 1),
        hyper: new Float32Array([1e-3, 0.5, 0.1, 0.9]),
        control: new Float32Array([0.5, 1]),
        p: values(count, 2),
        m: values(count, 3),
        v: values(count, 4).map(Math.abs),
        ema: values(count, 5),
      }),
      expected: ({ grad, hyper, control, ...state }) => {
        const [p, m, v, ema] = ["p", "m", "v", "ema"].map((name) => Array.from(state[name]!));
        return { ...adamReference({ p: p!, m: m!, v: v!, ema: ema! }, grad!, hyper!, control!, shape) };
      },
    };
  });
}

function bregmans(): Case[] {
  return [[64, 64], [64, 3072]].map(([batch, perSample]) => {
    const count = batch! * perSample!;
    const weights: BregmanShape = {
      batch: batch!,
      ...{ kind: "jeffreys", lambda: 0, temperature: 1, logitClamp: 10, ratioMin: 0.05, ratioMax: 10, normalise: true },
    };
    const gradient = {
      ...{ batch: batch!, perSample: perSample!, normaliser: true, epsilon: 1e-8 },
      scale: 1 / batch!,
    };
    return {
      kernel: "bregman",
      shape: `batch ${batch}, ${perSample} elements`,
      problem: { op: "bregman", weights, gradient },
      inputs: () => ({
        logits: values(batch!, 1).map((l) => 4 * l),
        blend: new Float32Array([0.7]),
        x: values(count, 2),
        fake: values(count, 3),
        teacher: values(count, 4),
      }),
      expected: ({ logits, blend, x, fake, teacher }) => {
        const { weights: c } = bregmanWeightsReference(logits!, blend![0]!, weights);
        return { weights: c, g: bregmanGradientReference(c, x!, fake!, teacher!, gradient) };
      },
    };
  });
}

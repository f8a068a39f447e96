/** The engine's own kernels as implementations of the report's problems. */

import { adamEma } from "../../kernels/adam.ts";
import { attentionForward, attentionGrad } from "../../kernels/attention.ts";
import { bregmanGradient, bregmanWeights } from "../../kernels/bregman.ts";
import {
  conv2dForward,
  conv2dInputGrad,
  conv2dWeightGrad,
  conv2dWeightGradScratch,
  convOutputSize,
  type ConvShape,
} from "../../kernels/conv2d.ts";
import { groupNormForward, groupNormGrad } from "../../kernels/group_norm.ts";
import { matmul } from "../../kernels/matmul.ts";
import { reduce, reduceScratch } from "../../kernels/reduce.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Dispatch } from "../../src/gpu/kernel.ts";
import { prepareAll } from "../prepared.ts";
import type { Arrays, Counted, Problem } from "./case.ts";
import { ourStep } from "./step.ts";

/** A problem as dispatches over named buffers. */
interface Kernels {
  /** In order. */
  readonly dispatches: readonly Dispatch<string>[];
  /** Elements of every buffer that is not an input. */
  readonly made: Readonly<Record<string, number>>;
  /** Buffers that hold the results, by the results' names. */
  readonly results: Readonly<Record<string, string>>;
}

/** A problem of a few kernels. */
type KernelProblem = Exclude<Problem, { op: "unetStep" }>;

/** The dispatches that solve a problem. */
function kernelsOf(problem: KernelProblem): Kernels {
  switch (problem.op) {
    case "matmul": {
      const { batch, m, n } = problem.shape;
      return {
        dispatches: [matmul({ a: "a", b: "b", out: "out" }, problem.shape)],
        made: { out: batch * m * n },
        results: { out: "out" },
      };
    }
    case "conv2d.forward": {
      const s = problem.shape;
      return {
        dispatches: [conv2dForward<string>({ x: "x", w: "w", bias: undefined, y: "y" }, s)],
        made: { y: s.batch * s.outChannels * outputPlane(s) },
        results: { y: "y" },
      };
    }
    case "conv2d.inputGrad": {
      const s = problem.shape;
      return {
        dispatches: [conv2dInputGrad({ dy: "dy", w: "w", dx: "dx" }, s)],
        made: { dx: s.batch * s.inChannels * s.height * s.width },
        results: { dx: "dx" },
      };
    }
    case "conv2d.weightGrad": {
      const s = problem.shape;
      return {
        dispatches: conv2dWeightGrad({ dy: "dy", x: "x", dw: "dw", scratch: "scratch" }, s),
        made: { dw: s.outChannels * s.inChannels * s.kernel ** 2, scratch: conv2dWeightGradScratch(s) },
        results: { dw: "dw" },
      };
    }
    case "groupNorm":
      return groupNorm(problem);
    case "attention":
      return attention(problem);
    case "adam": {
      const buffers = { grad: "grad", hyper: "hyper", control: "control", p: "p", m: "m", v: "v", ema: "ema" };
      return {
        dispatches: [adamEma(buffers, problem.shape)],
        made: {},
        results: { p: "p", m: "m", v: "v", ema: "ema" },
      };
    }
    case "bregman": {
      const { batch, perSample } = problem.gradient;
      const vectors = { logits: "logits", blend: "blend", weights: "weights", ratios: "ratios", stats: "stats" };
      const images = { weights: "weights", x: "x", fake: "fake", teacher: "teacher", g: "g" };
      return {
        dispatches: [bregmanWeights(vectors, problem.weights), bregmanGradient(images, problem.gradient)],
        made: { weights: batch, ratios: batch, stats: 6, g: batch * perSample },
        results: { weights: "weights", g: "g" },
      };
    }
  }
}

function outputPlane(s: ConvShape): number {
  return convOutputSize(s.height, s.kernel, s.stride) * convOutputSize(s.width, s.kernel, s.stride);
}

/** With the gradient also the sums over the batch that make dgamma and dbeta, as the graph has them. */
function groupNorm({ gradient, shape: s }: Extract<Problem, { op: "groupNorm" }>): Kernels {
  const elements = s.batch * s.channels * s.size;
  const forward = groupNormForward({ x: "x", gamma: "gamma", beta: "beta", y: "y", stats: "stats" }, s);
  const made = { y: elements, stats: 2 * s.batch * s.groups };
  if (!gradient) return { dispatches: [forward], made, results: { y: "y" } };
  const shared = { x: "x", gamma: "gamma", beta: "beta", stats: "stats", dy: "dy" };
  const partial = { dx: "dx", dgamma: "dgammaOfSamples", dbeta: "dbetaOfSamples" };
  const batchSum = { k0: 1, r0: s.batch, k1: s.channels, r1: 1, op: "sum" } as const;
  const sums = (["dgamma", "dbeta"] as const).flatMap((name) =>
    reduce<string>({ x: partial[name], y: name, scratch: "scratch" }, batchSum)
  );
  const perSample = s.batch * s.channels;
  return {
    dispatches: [forward, groupNormGrad({ ...shared, ...partial }, s), ...sums],
    made: {
      ...made,
      ...{ dx: elements, dgammaOfSamples: perSample, dbetaOfSamples: perSample },
      ...{ dgamma: s.channels, dbeta: s.channels, scratch: reduceScratch(batchSum) },
    },
    results: { y: "y", dx: "dx", dgamma: "dgamma", dbeta: "dbeta" },
  };
}

function attention({ gradient, shape: s }: Extract<Problem, { op: "attention" }>): Kernels {
  const buffers = {
    ...{ q: "q", k: "k", v: "v", o: "o", lse: "lse" },
    ...{ dO: "dO", dq: "dq", dk: "dk", dv: "dv", delta: "delta" },
  };
  const queries = s.batch * s.dim * s.queries, keys = s.batch * s.dim * s.keys, rows = s.batch * s.queries;
  const forward = attentionForward(buffers, s);
  const made = { o: queries, lse: rows };
  if (!gradient) return { dispatches: [forward], made, results: { o: "o" } };
  return {
    dispatches: [forward, ...attentionGrad(buffers, s)],
    made: { ...made, dq: queries, dk: keys, dv: keys, delta: rows },
    results: { o: "o", dq: "dq", dk: "dk", dv: "dv" },
  };
}

/** The engine's solution of a problem on `inputs`. */
export async function ours(gpu: Gpu, problem: Problem, inputs: Arrays): Promise<Counted> {
  if (problem.op === "unetStep") return await ourStep(gpu, problem.step, inputs);
  const { dispatches, made, results } = kernelsOf(problem);
  const data: Record<string, Float32Array<ArrayBuffer>> = { ...inputs };
  for (const [name, elements] of Object.entries(made)) data[name] = new Float32Array(elements);
  const prepared = await prepareAll(gpu, dispatches, data);
  const sum = (count: "flops" | "bytes") => dispatches.reduce((total, dispatch) => total + dispatch[count], 0);
  return {
    flops: sum("flops"),
    bytes: sum("bytes"),
    run: prepared.run,
    async results() {
      await prepared.run(1);
      const names = Object.keys(results);
      const read = await prepared.read(names.map((name) => results[name]!));
      return Object.fromEntries(names.map((name, i) => [name, read[i]!]));
    },
    free: prepared.free,
  };
}

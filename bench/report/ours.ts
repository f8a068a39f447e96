/** The engine's own kernels as implementations of the report's problems. */

import { adamEma } from "../../kernels/adam.ts";
import { attention, attentionGrad } from "../../kernels/attention.ts";
import { bregmanGradient, bregmanWeights } from "../../kernels/bregman.ts";
import {
  conv2d,
  conv2dWeightGrad,
  convolution,
  convOutputSize,
  type ConvShape,
  inputGradient,
} from "../../kernels/conv2d.ts";
import { groupNorm, groupNormGrad } from "../../kernels/group_norm.ts";
import { matmul } from "../../kernels/matmul.ts";
import { standalone } from "../../kernels/standalone.ts";
import type { KernelChoices, Lowering } from "../../src/gpu/family.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Dispatch } from "../../src/gpu/kernel.ts";
import { prepareAll } from "../prepared.ts";
import type { Arrays, Counted, Problem } from "./case.ts";
import { ourStep } from "./step.ts";

/** A problem as dispatches over named buffers. */
interface Kernels {
  /** The dispatches in order. */
  list(lowering: Lowering<string>): readonly Dispatch<string>[];
  /** Elements of every buffer that is neither input nor scratch. */
  readonly made: Readonly<Record<string, number>>;
  /** Buffers that hold the results, by the results' names. */
  readonly results: Readonly<Record<string, string>>;
}

/** A problem of a few kernels. */
type KernelProblem = Exclude<Problem, { op: "unetStep" }>;

/** The dispatches that solve a problem. */
function kernelsOf(problem: KernelProblem, choices: KernelChoices): Kernels {
  switch (problem.op) {
    case "matmul": {
      const { batch, m, n } = problem.shape;
      return {
        list: (lowering) => choices.dispatches(matmul, { a: "a", b: "b", out: "out" }, problem.shape, lowering),
        made: { out: batch * m * n },
        results: { out: "out" },
      };
    }
    case "conv2d.forward": {
      const s = problem.shape;
      return {
        list: (lowering) => choices.dispatches(conv2d, { x: "x", w: "w", y: "y" }, convolution(s), lowering),
        made: { y: s.batch * s.outChannels * outputPlane(s) },
        results: { y: "y" },
      };
    }
    case "conv2d.inputGrad": {
      const s = problem.shape;
      return {
        list: (lowering) => choices.dispatches(conv2d, { x: "dy", w: "w", y: "dx" }, inputGradient(s), lowering),
        made: { dx: s.batch * s.inChannels * s.height * s.width },
        results: { dx: "dx" },
      };
    }
    case "conv2d.weightGrad": {
      const s = problem.shape;
      return {
        list: (lowering) => choices.dispatches(conv2dWeightGrad, { dy: "dy", x: "x", dw: "dw" }, s, lowering),
        made: { dw: s.outChannels * s.inChannels * s.kernel ** 2 },
        results: { dw: "dw" },
      };
    }
    case "groupNorm":
      return normalisation(problem, choices);
    case "attention":
      return attentions(problem, choices);
    case "adam": {
      const buffers = { grad: "grad", hyper: "hyper", control: "control", p: "p", m: "m", v: "v", ema: "ema" };
      return {
        list: () => [adamEma(buffers, problem.shape)],
        made: {},
        results: { p: "p", m: "m", v: "v", ema: "ema" },
      };
    }
    case "bregman": {
      const { batch, perSample } = problem.gradient;
      const vectors = { logits: "logits", blend: "blend", weights: "weights", ratios: "ratios", stats: "stats" };
      const images = { weights: "weights", x: "x", fake: "fake", teacher: "teacher", g: "g" };
      return {
        list: () => [bregmanWeights(vectors, problem.weights), bregmanGradient(images, problem.gradient)],
        made: { weights: batch, ratios: batch, stats: 6, g: batch * perSample },
        results: { weights: "weights", g: "g" },
      };
    }
  }
}

function outputPlane(s: ConvShape): number {
  return convOutputSize(s.height, s.kernel, s.stride) * convOutputSize(s.width, s.kernel, s.stride);
}

function normalisation(
  { gradient, shape: s }: Extract<Problem, { op: "groupNorm" }>,
  choices: KernelChoices,
): Kernels {
  const elements = s.batch * s.channels * s.size;
  const inputs = { x: "x", gamma: "gamma", beta: "beta", stats: "stats" };
  const forward = (lowering: Lowering<string>) => choices.dispatches(groupNorm, { ...inputs, y: "y" }, s, lowering);
  const made = { y: elements, stats: 2 * s.batch * s.groups };
  if (!gradient) return { list: forward, made, results: { y: "y" } };
  const results = { dx: "dx", dgamma: "dgamma", dbeta: "dbeta" };
  const backward = (lowering: Lowering<string>) =>
    choices.dispatches(groupNormGrad, { ...inputs, dy: "dy", ...results }, s, lowering);
  return {
    list: (lowering) => [...forward(lowering), ...backward(lowering)],
    made: { ...made, dx: elements, dgamma: s.channels, dbeta: s.channels },
    results: { y: "y", ...results },
  };
}

function attentions({ gradient, shape: s }: Extract<Problem, { op: "attention" }>, choices: KernelChoices): Kernels {
  const queries = s.batch * s.dim * s.queries, keys = s.batch * s.dim * s.keys, rows = s.batch * s.queries;
  const inputs = { q: "q", k: "k", v: "v", o: "o", lse: "lse" };
  const results = { dq: "dq", dk: "dk", dv: "dv" };
  const forward = (lowering: Lowering<string>) => choices.dispatches(attention, inputs, s, lowering);
  const made = { o: queries, lse: rows };
  if (!gradient) return { list: forward, made, results: { o: "o" } };
  return {
    list: (lowering) => [
      ...forward(lowering),
      ...choices.dispatches(attentionGrad, { ...inputs, dO: "dO", ...results }, s, lowering),
    ],
    made: { ...made, dq: queries, dk: keys, dv: keys },
    results: { o: "o", ...results },
  };
}

/** The engine's solution of a problem on `inputs`. */
export async function ours(gpu: Gpu, problem: Problem, inputs: Arrays): Promise<Counted> {
  if (problem.op === "unetStep") return await ourStep(gpu, problem.step, inputs);
  const { list, made, results } = kernelsOf(problem, gpu.choices);
  const { dispatches, scratch, constants } = standalone(list);
  const empty = Object.entries({ ...made, ...scratch }).map(([name, elements]) => [name, new Float32Array(elements)]);
  const data = { ...inputs, ...constants, ...Object.fromEntries(empty) };
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

/** jax-js: every problem in its own ops under `jit`, on WebGPU or WebAssembly. */

import type { AttentionShape } from "../../kernels/attention.ts";
import type { BregmanShape } from "../../kernels/bregman.ts";
import type { ConvShape } from "../../kernels/conv2d.ts";
import type { GroupNormShape } from "../../kernels/group_norm.ts";
import { convOutputSize } from "../../kernels/conv2d.ts";
import type { Implementation, Peer, Problem } from "../report/case.ts";
import { stepImplementation } from "./jax_unet.ts";
import { swapLast } from "./layout.ts";

/** An array of the library; using one up frees it, `ref` keeps it. */
export interface Value {
  readonly shape: number[];
  readonly ref: Value;
  add(x: Value | number): Value;
  sub(x: Value | number): Value;
  mul(x: Value | number): Value;
  div(x: Value | number): Value;
  reshape(shape: readonly number[]): Value;
  data(): Promise<Float32Array<ArrayBuffer>>;
  gpuBufferSync(): GPUBuffer;
  dispose(): void;
}

type Operand = Value | number;

/** A function that owns what it closes over. */
type Owned<F> = F & { dispose(): void };

/** What is used of the library. Its own types would make every type check fetch it. */
export interface JaxModule {
  init(...devices: JaxDevice[]): Promise<string[]>;
  defaultDevice(device: JaxDevice): void;
  getWebGPUDevice(): GPUDevice;
  blockUntilReady(arrays: readonly Value[]): Promise<Value[]>;
  jit(f: (...args: Value[]) => Value[]): Owned<(...args: Value[]) => Value[]>;
  vjp(f: (...args: Value[]) => Value, args: readonly Value[]): [Value, Owned<(cotangent: Value) => Value[]>];
  valueAndGrad(f: (args: Value[]) => Value): (args: Value[]) => [Value, Value[]];
  readonly lax: {
    convGeneralDilated(x: Value, w: Value, strides: readonly number[], padding: readonly [number, number][]): Value;
  };
  readonly nn: { silu(x: Value): Value; softmax(x: Value, axis: number): Value };
  readonly numpy: {
    array(data: Float32Array, options: { shape: readonly number[]; device: JaxDevice }): Value;
    zeros(shape: readonly number[]): Value;
    matmul(a: Value, b: Value): Value;
    matrixTranspose(x: Value): Value;
    split(x: Value, sections: number, axis?: number): Value[];
    concatenate(xs: readonly Value[], axis: number): Value;
    broadcastTo(x: Value, shape: readonly number[]): Value;
    mean(x: Value, axis?: number | readonly number[], options?: { keepdims: boolean }): Value;
    sum(x: Value, axis?: number | readonly number[], options?: { keepdims: boolean }): Value;
    subtract(a: Operand, b: Operand): Value;
    clip(x: Value, min: number, max: number): Value;
    square(x: Value): Value;
    sqrt(x: Value): Value;
    exp(x: Value): Value;
    log(x: Value): Value;
    sin(x: Value): Value;
    cos(x: Value): Value;
    reciprocal(x: Value): Value;
    negative(x: Value): Value;
    absolute(x: Value): Value;
  };
}

/** Where it computes. */
export type JaxDevice = "webgpu" | "wasm";

/** Not a literal in the import below, so that Deno fetches the package when a report is made and not before. */
const PACKAGE = "npm:@jax-js/jax@0.1.25";

/** Loads the library with its WebGPU and WebAssembly backends. */
export async function loadJax(): Promise<JaxModule> {
  const jax: JaxModule = await import(PACKAGE);
  await jax.init("webgpu", "wasm");
  return jax;
}

/** The peer on one of the library's devices. */
export function jaxPeer(jax: JaxModule, device: JaxDevice): Peer {
  return {
    name: device === "webgpu" ? "jax-js" : "jax-js (wasm)",
    build: (problem, inputs) => {
      const array = (data: Float32Array, shape: readonly number[]) => jax.numpy.array(data, { shape, device });
      if (problem.op === "unetStep") {
        return Promise.resolve(stepImplementation(jax, problem.step, inputs, array, runnerOn(jax, device)));
      }
      const expression = express(jax, problem);
      const args = expression.inputs.map(({ name, shape, transposed }) =>
        transposed ? array(swapLast(inputs[name]!, shape), swapped(shape)) : array(inputs[name]!, shape)
      );
      return Promise.resolve(implementation(jax, expression, args, runnerOn(jax, device)));
    },
  };
}

/** A problem as a function of arrays. */
interface Expression {
  /** What the function takes, with our shapes; `transposed`: with the last two axes swapped, on the host. */
  readonly inputs: readonly { readonly name: string; readonly shape: readonly number[]; readonly transposed?: true }[];
  /** What it returns. */
  readonly outputs: readonly { readonly name: string; readonly transposed?: true }[];
  /** Uses its arguments up. */
  readonly compute: (...args: Value[]) => Value[];
}

/** Wraps a jitted function of arrays that stay on the device. */
function implementation(jax: JaxModule, e: Expression, args: Value[], runner: Runner): Implementation {
  const compiled = jax.jit(e.compute);
  const call = () => compiled(...args.map((array) => array.ref));
  return {
    run: runner(call),
    async results() {
      const outputs = call();
      const results: [string, Float32Array<ArrayBuffer>][] = [];
      for (const [i, { name, transposed }] of e.outputs.entries()) {
        const { shape } = outputs[i]!;
        const data = await outputs[i]!.data();
        results.push([name, transposed ? swapLast(data, shape) : data]);
      }
      return Object.fromEntries(results);
    },
    free() {
      for (const array of args) array.dispose();
      compiled.dispose();
    },
  };
}

/** Makes the function that runs `call` many times, drops its results and waits once. */
export type Runner = (call: () => Value[]) => (times: number) => Promise<void>;

/**
 * On WebGPU all runs are queued and awaited once: `gpuBufferSync` submits an array's pending work and lets go of it.
 * WebAssembly has no queue; each run is awaited, which costs it no timer.
 */
function runnerOn(jax: JaxModule, device: JaxDevice): Runner {
  if (device === "wasm") {
    return (call) => async (times) => {
      for (let i = 0; i < times; i++) {
        const outputs = await jax.blockUntilReady(call());
        for (const output of outputs) output.dispose();
      }
    };
  }
  const failure = watch(jax.getWebGPUDevice());
  return (call) => async (times) => {
    for (let i = 0; i < times; i++) for (const output of call()) output.gpuBufferSync();
    await jax.getWebGPUDevice().queue.onSubmittedWorkDone();
    const error = failure();
    if (error) throw error;
  };
}

/** The first error that a device reports from now on, once there is one. */
export function watch(device: GPUDevice): () => Error | undefined {
  let first: Error | undefined;
  device.addEventListener("uncapturederror", (event) => {
    first ??= new Error((event as GPUUncapturedErrorEvent).error.message);
  });
  return () => first;
}

function express(jax: JaxModule, problem: Exclude<Problem, { op: "unetStep" }>): Expression {
  const np = jax.numpy;
  switch (problem.op) {
    case "matmul": {
      const { m, n, k, transposeA, transposeB } = problem.shape;
      const matrix = (x: Value, transposed: boolean) => transposed ? np.matrixTranspose(x) : x;
      return {
        inputs: [
          { name: "a", shape: transposeA ? [k, m] : [m, k] },
          { name: "b", shape: transposeB ? [n, k] : [k, n] },
        ],
        outputs: [{ name: "out" }],
        compute: (a, b) => [np.matmul(matrix(a!, transposeA), matrix(b!, transposeB))],
      };
    }
    case "conv2d.forward":
    case "conv2d.inputGrad":
    case "conv2d.weightGrad":
      return convolution(jax, problem.op, problem.shape);
    case "groupNorm":
      return normalisation(jax, problem.gradient, problem.shape);
    case "attention":
      return attentionOf(jax, problem.gradient, problem.shape);
    case "adam": {
      const { count, ...settings } = problem.shape;
      const vector = (name: string) => ({ name, shape: [count] });
      return {
        inputs: [
          ...[vector("grad"), { name: "hyper", shape: [4] }, { name: "control", shape: [2] }],
          ...[vector("p"), vector("m"), vector("v"), vector("ema")],
        ],
        outputs: [{ name: "p" }, { name: "m" }, { name: "v" }, { name: "ema" }],
        compute: (grad, hyper, control, p, m, v, ema) => {
          const scale = np.split(control!, 2)[0]!;
          return adam(jax, { p: p!, m: m!, v: v!, ema: ema! }, grad!.mul(scale), np.split(hyper!, 4), settings);
        },
      };
    }
    case "bregman":
      return bregman(jax, problem);
  }
}

/** Images [N, C, H, W] and filters [O, C, K, K] of a convolution. */
function convolution(jax: JaxModule, op: string, s: ConvShape): Expression {
  const { batch, inChannels, outChannels, height, width, kernel, stride } = s;
  const padding = (kernel - 1) / 2;
  const pads: [number, number][] = [[padding, padding], [padding, padding]];
  const convolve = (x: Value, w: Value) => jax.lax.convGeneralDilated(x, w, [stride, stride], pads);
  const xShape = [batch, inChannels, height, width], wShape = [outChannels, inChannels, kernel, kernel];
  const [oh, ow] = [convOutputSize(height, kernel, stride), convOutputSize(width, kernel, stride)];
  const x = { name: "x", shape: xShape }, w = { name: "w", shape: wShape };
  const dy = { name: "dy", shape: [batch, outChannels, oh, ow] };
  if (op === "conv2d.forward") {
    return { inputs: [x, w], outputs: [{ name: "y" }], compute: (x, w) => [convolve(x!, w!)] };
  }
  // Linear in what is differentiated: jit leaves nothing of the forward pass.
  const gradient = (f: (x: Value) => Value, shape: number[], dy: Value) => {
    const [y, pull] = jax.vjp(f, [jax.numpy.zeros(shape)]);
    y.dispose();
    const [dx] = pull(dy) as [Value];
    pull.dispose();
    return [dx];
  };
  return op === "conv2d.inputGrad"
    ? {
      inputs: [dy, w],
      outputs: [{ name: "dx" }],
      compute: (dy, w) => gradient((x) => convolve(x, w!), xShape, dy!),
    }
    : {
      inputs: [dy, x],
      outputs: [{ name: "dw" }],
      compute: (dy, x) => gradient((w) => convolve(x!, w), wShape, dy!),
    };
}

/** y = silu(norm(x)) for x [N, C, …] and gamma, beta [C]. */
export function groupNorm(
  jax: JaxModule,
  x: Value,
  gamma: Value,
  beta: Value,
  { groups, eps, silu }: Pick<GroupNormShape, "groups" | "eps" | "silu">,
): Value {
  const np = jax.numpy;
  const shape = [...x.shape];
  const [batch, channels] = shape as [number, number];
  const grouped = x.reshape([batch, groups, -1]);
  const mean = np.mean(grouped.ref, -1, { keepdims: true });
  const centred = grouped.sub(mean);
  const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
  const normal = centred.div(np.sqrt(variance.add(eps))).reshape(shape);
  const perChannel = [1, channels, ...shape.slice(2).map(() => 1)];
  const z = normal.mul(gamma.reshape(perChannel)).add(beta.reshape(perChannel));
  return silu ? jax.nn.silu(z) : z;
}

function normalisation(jax: JaxModule, gradient: boolean, s: GroupNormShape): Expression {
  const shape = [s.batch, s.channels, s.size];
  const forward = (x: Value, gamma: Value, beta: Value) => groupNorm(jax, x, gamma, beta, s);
  const inputs = [
    { name: "x", shape },
    { name: "gamma", shape: [s.channels] },
    { name: "beta", shape: [s.channels] },
  ];
  if (!gradient) {
    return { inputs, outputs: [{ name: "y" }], compute: (x, gamma, beta) => [forward(x!, gamma!, beta!)] };
  }
  return {
    inputs: [...inputs, { name: "dy", shape }],
    outputs: [{ name: "y" }, { name: "dx" }, { name: "dgamma" }, { name: "dbeta" }],
    compute: (x, gamma, beta, dy) => valueAndPullback(jax, forward, [x!, gamma!, beta!], dy!),
  };
}

/** [f(…args), …cotangents of args]. */
function valueAndPullback(
  jax: JaxModule,
  f: (...args: Value[]) => Value,
  args: Value[],
  cotangent: Value,
): Value[] {
  const [y, pull] = jax.vjp(f, args);
  const cotangents = pull(cotangent);
  pull.dispose();
  return [y, ...cotangents];
}

/** softmax(scale q kᵀ) v for q, k, v [B, tokens, dim], the library's own order of axes. */
export function attend(jax: JaxModule, q: Value, k: Value, v: Value, scale: number): Value {
  const np = jax.numpy;
  const scores = np.matmul(q, np.matrixTranspose(k)).mul(scale);
  return np.matmul(jax.nn.softmax(scores, -1), v);
}

function attentionOf(jax: JaxModule, gradient: boolean, s: AttentionShape): Expression {
  const forward = (q: Value, k: Value, v: Value) => attend(jax, q, k, v, s.scale);
  const transposed = true as const;
  const queries = [s.batch, s.dim, s.queries], keys = [s.batch, s.dim, s.keys];
  const inputs = [
    { name: "q", shape: queries, transposed },
    { name: "k", shape: keys, transposed },
    { name: "v", shape: keys, transposed },
  ];
  if (!gradient) {
    return { inputs, outputs: [{ name: "o", transposed }], compute: (q, k, v) => [forward(q!, k!, v!)] };
  }
  return {
    inputs: [...inputs, { name: "dO", shape: queries, transposed }],
    outputs: ["o", "dq", "dk", "dv"].map((name) => ({ name, transposed })),
    compute: (q, k, v, dO) => valueAndPullback(jax, forward, [q!, k!, v!], dO!),
  };
}

/**
 * [p, m, v, ema] after a step; `hyper` are the learning rate, 1 − β₁ᵗ, 1 − β₂ᵗ and the moving average's decay.
 */
export function adam(
  jax: JaxModule,
  state: { readonly p: Value; readonly m: Value; readonly v: Value; readonly ema: Value },
  gradient: Value,
  hyper: readonly Value[],
  s: { readonly beta1: number; readonly beta2: number; readonly epsilon: number; readonly weightDecay: number },
): Value[] {
  const np = jax.numpy;
  const [lr, correction1, correction2, decay] = hyper as [Value, Value, Value, Value];
  const m = state.m.mul(s.beta1).add(gradient.ref.mul(1 - s.beta1));
  const v = state.v.mul(s.beta2).add(np.square(gradient).mul(1 - s.beta2));
  const direction = m.ref.div(correction1).div(np.sqrt(v.ref.div(correction2)).add(s.epsilon));
  const shrunk = s.weightDecay === 0 ? state.p : state.p.ref.sub(state.p.mul(lr.ref.mul(s.weightDecay)));
  const p = shrunk.sub(direction.mul(lr));
  const ema = state.ema.mul(decay.ref).add(p.ref.mul(np.subtract(1, decay)));
  return [p, m, v, ema];
}

function bregman(jax: JaxModule, { weights: w, gradient: s }: Extract<Problem, { op: "bregman" }>): Expression {
  const np = jax.numpy;
  const images = [s.batch, s.perSample];
  return {
    inputs: [
      ...[{ name: "logits", shape: [s.batch] }, { name: "blend", shape: [1] }],
      ...["x", "fake", "teacher"].map((name) => ({ name, shape: images })),
    ],
    outputs: [{ name: "weights" }, { name: "g" }],
    compute: (logits, blend, x, fake, teacher) => {
      const c = jeffreysWeights(jax, logits!, w);
      const mixed = np.subtract(1, blend!.ref).add(blend!.mul(c));
      const weights = mixed.ref.div(np.mean(mixed));
      const distance = np.mean(np.absolute(x!.sub(teacher!.ref)), 1, { keepdims: true }).add(s.epsilon);
      const factor = weights.ref.reshape([s.batch, 1]).mul(s.scale).div(distance);
      return [weights, factor.mul(fake!.sub(teacher!))];
    },
  };
}

/** c(r) = 1 + 1/r = 1 + eˡ of the bounded logits l. */
function jeffreysWeights(jax: JaxModule, logits: Value, s: BregmanShape): Value {
  const np = jax.numpy;
  const logRatio = np.clip(
    np.negative(np.clip(logits, -s.logitClamp, s.logitClamp)),
    Math.log(s.ratioMin),
    Math.log(s.ratioMax),
  );
  return np.exp(np.negative(logRatio)).add(1);
}

function swapped(shape: readonly number[]): number[] {
  return [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
}

/** TensorFlow.js: the problems it has ops for, on its WebGPU backend. */

import { convOutputSize, type ConvShape } from "../../kernels/conv2d.ts";
import type { AttentionShape } from "../../kernels/attention.ts";
import type { GroupNormShape } from "../../kernels/group_norm.ts";
import type { Arrays, Implementation, Peer, Problem } from "../report/case.ts";
import { watch } from "./jax.ts";
import { permuted } from "./layout.ts";

/** Not literals in the imports below: the 60 packages behind them are fetched when a report is made and not before. */
const PACKAGES = ["npm:@tensorflow/tfjs@4.22.0", "npm:@tensorflow/tfjs-backend-webgpu@4.22.0"] as const;

/** A tensor of the library. */
interface Tensor {
  readonly shape: number[];
  add(x: Tensor | number): Tensor;
  sub(x: Tensor | number): Tensor;
  mul(x: Tensor | number): Tensor;
  div(x: Tensor | number): Tensor;
  reshape(shape: readonly number[]): Tensor;
  mean(axis?: number | readonly number[], keepDims?: boolean): Tensor;
  square(): Tensor;
  sqrt(): Tensor;
  abs(): Tensor;
  neg(): Tensor;
  exp(): Tensor;
  sigmoid(): Tensor;
  slice(begin: number, size: number): Tensor;
  clipByValue(min: number, max: number): Tensor;
  data(): Promise<Float32Array<ArrayBuffer>>;
  dispose(): void;
}

/** What is used of the library. Its own types would make every type check fetch it. */
interface TensorFlow {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  backend(): {
    readonly device: GPUDevice;
    readonly commandEncoder: GPUCommandEncoder | null;
    endComputePassEncoder(): void;
    submitQueue(): void;
  };
  engine(): { runKernel(name: string, inputs: Record<string, Tensor>, attrs: Record<string, unknown>): Tensor };
  tensor(data: Float32Array, shape: readonly number[]): Tensor;
  tidy<T>(f: () => T): T;
  matMul(a: Tensor, b: Tensor, transposeA?: boolean, transposeB?: boolean): Tensor;
  conv2d(x: Tensor, filter: Tensor, strides: number, pad: "same"): Tensor;
  conv2dTranspose(
    x: Tensor,
    filter: Tensor,
    outputShape: readonly number[],
    strides: number,
    pad: "same",
  ): Tensor;
  moments(x: Tensor, axes: readonly number[], keepDims: boolean): { mean: Tensor; variance: Tensor };
  softmax(x: Tensor): Tensor;
  valueAndGrads(
    f: (...xs: Tensor[]) => Tensor,
  ): (xs: Tensor[], dy: Tensor) => { readonly value: Tensor; readonly grads: Tensor[] };
}

/** Loads the library. */
export async function tensorflowPeer(): Promise<Peer> {
  const [tf] = await Promise.all(PACKAGES.map((name) => import(name))) as [TensorFlow, unknown];
  if (!await tf.setBackend("webgpu")) throw new Error("TensorFlow.js found no WebGPU.");
  await tf.ready();
  return {
    name: "tensorflow.js",
    build: (problem, inputs) => {
      const expression = problem.op === "unetStep" ? undefined : express(tf, problem);
      return Promise.resolve(expression && implementation(tf, expression, inputs));
    },
  };
}

/** A vector's shape here, and the order its axes are put into for the library. */
interface Layout {
  readonly name: string;
  readonly shape: readonly number[];
  readonly axes?: readonly number[];
}

/** A problem as a function of tensors. */
interface Expression {
  readonly inputs: readonly Layout[];
  readonly outputs: readonly Layout[];
  readonly compute: (...args: Tensor[]) => Tensor[];
}

function implementation(tf: TensorFlow, e: Expression, inputs: Arrays): Implementation {
  const args = e.inputs.map(({ name, shape, axes }) => {
    const data = inputs[name]!;
    return axes ? tf.tensor(permuted(data, shape, axes), axes.map((axis) => shape[axis]!)) : tf.tensor(data, shape);
  });
  const call = () => tf.tidy(() => e.compute(...args));
  const backend = tf.backend();
  const failure = watch(backend.device);
  return {
    async run(times) {
      for (let i = 0; i < times; i++) for (const output of call()) output.dispose();
      // The library submits every 15 dispatches; the rest goes now.
      backend.endComputePassEncoder();
      if (backend.commandEncoder) backend.submitQueue();
      await backend.device.queue.onSubmittedWorkDone();
      const error = failure();
      if (error) throw error;
    },
    async results() {
      const outputs = call();
      const results: [string, Float32Array<ArrayBuffer>][] = [];
      for (const [i, { name, shape, axes }] of e.outputs.entries()) {
        const data = await outputs[i]!.data();
        outputs[i]!.dispose();
        results.push([name, axes ? permuted(data, axes.map((axis) => shape[axis]!), inverse(axes)) : data]);
      }
      return Object.fromEntries(results);
    },
    free() {
      for (const tensor of args) tensor.dispose();
    },
  };
}

function inverse(axes: readonly number[]): number[] {
  return axes.map((_, i) => axes.indexOf(i));
}

function express(tf: TensorFlow, problem: Exclude<Problem, { op: "unetStep" }>): Expression {
  switch (problem.op) {
    case "matmul": {
      const { m, n, k, transposeA, transposeB } = problem.shape;
      return {
        inputs: [
          { name: "a", shape: transposeA ? [k, m] : [m, k] },
          { name: "b", shape: transposeB ? [n, k] : [k, n] },
        ],
        outputs: [{ name: "out", shape: [m, n] }],
        compute: (a, b) => [tf.matMul(a!, b!, transposeA, transposeB)],
      };
    }
    case "conv2d.forward":
    case "conv2d.inputGrad":
    case "conv2d.weightGrad":
      return convolution(tf, problem.op, problem.shape);
    case "groupNorm":
      return normalisation(tf, problem.gradient, problem.shape);
    case "attention":
      return attention(tf, problem.gradient, problem.shape);
    case "adam":
      return adam(problem);
    case "bregman":
      return bregman(problem);
  }
}

/** NCHW to NHWC, and OIHW to the library's HWIO. */
const CHANNELS_LAST = [0, 2, 3, 1], FILTER = [2, 3, 1, 0];

/** Each op by the kernel that computes it alone: a gradient through `tf.grads` would run the forward pass as well. */
function convolution(tf: TensorFlow, op: string, s: ConvShape): Expression {
  const { batch, inChannels, outChannels, height, width, kernel, stride } = s;
  const outputs = [convOutputSize(height, kernel, stride), convOutputSize(width, kernel, stride)];
  const x = { name: "x", shape: [batch, inChannels, height, width], axes: CHANNELS_LAST };
  const image = (name: string) => ({ name, shape: [batch, outChannels, ...outputs], axes: CHANNELS_LAST });
  const w = { name: "w", shape: [outChannels, inChannels, kernel, kernel], axes: FILTER };
  if (op === "conv2d.forward") {
    return { inputs: [x, w], outputs: [image("y")], compute: (x, w) => [tf.conv2d(x!, w!, stride, "same")] };
  }
  if (op === "conv2d.inputGrad") {
    const shape = [batch, height, width, inChannels];
    return {
      inputs: [image("dy"), w],
      outputs: [{ ...x, name: "dx" }],
      compute: (dy, w) => [tf.conv2dTranspose(dy!, w!, shape, stride, "same")],
    };
  }
  const attributes = {
    ...{ strides: [stride, stride], pad: "same", dataFormat: "NHWC", dimRoundingMode: undefined },
    filterShape: [kernel, kernel, inChannels, outChannels],
  };
  return {
    inputs: [image("dy"), x],
    outputs: [{ ...w, name: "dw" }],
    compute: (dy, x) => [tf.engine().runKernel("Conv2DBackpropFilter", { dy: dy!, x: x! }, attributes)],
  };
}

function normalisation(tf: TensorFlow, gradient: boolean, s: GroupNormShape): Expression {
  const shape = [s.batch, s.channels, s.size];
  const vector = (name: string) => ({ name, shape: [s.channels] });
  const forward = (x: Tensor, gamma: Tensor, beta: Tensor) => {
    const grouped = x.reshape([s.batch, s.groups, -1]);
    const { mean, variance } = tf.moments(grouped, [2], true);
    const normal = grouped.sub(mean).div(variance.add(s.eps).sqrt()).reshape(shape);
    const z = normal.mul(gamma.reshape([1, s.channels, 1])).add(beta.reshape([1, s.channels, 1]));
    return z.mul(z.sigmoid());
  };
  const inputs = [{ name: "x", shape }, vector("gamma"), vector("beta")];
  if (!gradient) {
    const compute = (...args: Tensor[]) => [forward(...args as [Tensor, Tensor, Tensor])];
    return { inputs, outputs: [{ name: "y", shape }], compute };
  }
  return {
    inputs: [...inputs, { name: "dy", shape }],
    outputs: [{ name: "y", shape }, { name: "dx", shape }, vector("dgamma"), vector("dbeta")],
    compute: (...args) => valueAndGradients(tf, forward, args),
  };
}

/** [f(…args), …gradients] for arguments followed by the cotangent. */
function valueAndGradients(tf: TensorFlow, f: (...args: [Tensor, Tensor, Tensor]) => Tensor, args: Tensor[]): Tensor[] {
  const { value, grads } = tf.valueAndGrads((...xs) => f(...xs as [Tensor, Tensor, Tensor]))(
    args.slice(0, -1),
    args.at(-1)!,
  );
  return [value, ...grads];
}

function attention(tf: TensorFlow, gradient: boolean, s: AttentionShape): Expression {
  const axes = [0, 2, 1];
  const queries = (name: string) => ({ name, shape: [s.batch, s.dim, s.queries], axes });
  const keys = (name: string) => ({ name, shape: [s.batch, s.dim, s.keys], axes });
  const forward = (q: Tensor, k: Tensor, v: Tensor) =>
    tf.matMul(tf.softmax(tf.matMul(q, k, false, true).mul(s.scale)), v);
  const inputs = [queries("q"), keys("k"), keys("v")];
  if (!gradient) {
    const compute = (...args: Tensor[]) => [forward(...args as [Tensor, Tensor, Tensor])];
    return { inputs, outputs: [queries("o")], compute };
  }
  return {
    inputs: [...inputs, queries("dO")],
    outputs: [queries("o"), queries("dq"), keys("dk"), keys("dv")],
    compute: (...args) => valueAndGradients(tf, forward, args),
  };
}

function adam({ shape: s }: Extract<Problem, { op: "adam" }>): Expression {
  const vector = (name: string) => ({ name, shape: [s.count] });
  return {
    inputs: [
      ...[vector("grad"), { name: "hyper", shape: [4] }, { name: "control", shape: [2] }],
      ...[vector("p"), vector("m"), vector("v"), vector("ema")],
    ],
    outputs: [vector("p"), vector("m"), vector("v"), vector("ema")],
    compute: (...args) => {
      const [grad, hyper, control, p0, m0, v0, ema0] = args as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
      const [lr, correction1, correction2, decay] = [0, 1, 2, 3].map((i) => hyper.slice(i, 1)) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      const g = grad.mul(control.slice(0, 1));
      const m = m0.mul(s.beta1).add(g.mul(1 - s.beta1));
      const v = v0.mul(s.beta2).add(g.square().mul(1 - s.beta2));
      const direction = m.div(correction1).div(v.div(correction2).sqrt().add(s.epsilon));
      const shrunk = s.weightDecay === 0 ? p0 : p0.sub(p0.mul(lr.mul(s.weightDecay)));
      const p = shrunk.sub(direction.mul(lr));
      const ema = ema0.mul(decay).add(p.mul(decay.neg().add(1)));
      return [p, m, v, ema];
    },
  };
}

function bregman({ weights: w, gradient: s }: Extract<Problem, { op: "bregman" }>): Expression {
  const images = (name: string) => ({ name, shape: [s.batch, s.perSample] });
  const vector = (name: string) => ({ name, shape: [s.batch] });
  return {
    inputs: [vector("logits"), { name: "blend", shape: [1] }, images("x"), images("fake"), images("teacher")],
    outputs: [vector("weights"), images("g")],
    compute: (...args) => {
      const [logits, blend, x, fake, teacher] = args as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const logRatio = logits.clipByValue(-w.logitClamp, w.logitClamp).neg()
        .clipByValue(Math.log(w.ratioMin), Math.log(w.ratioMax));
      const mixed = blend.neg().add(1).add(logRatio.neg().exp().add(1).mul(blend));
      const weights = mixed.div(mixed.mean());
      const distance = x.sub(teacher).abs().mean(1, true).add(s.epsilon);
      return [weights, weights.reshape([s.batch, 1]).mul(s.scale).div(distance).mul(fake.sub(teacher))];
    },
  };
}

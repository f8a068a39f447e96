/** The UNet's training step once more, in jax-js: same parameters by name, same loss, same optimiser. */

import { type AdamSettings, averageDecay } from "../../src/optim/adam.ts";
import type { ParameterSpec } from "../../src/nn/layers.ts";
import type { UNetConfig } from "../../src/nn/unet.ts";
import { SIGMA_DATA } from "../../src/diffusion/edm.ts";
import type { Arrays, Implementation, StepProblem } from "../report/case.ts";
import { joined } from "../report/step.ts";
import { adam, attend, groupNorm, type JaxModule, type Runner, type Value } from "./jax.ts";

/** The whole step under one `jit`: it gives 1,370 kernels, of which the convolutions take nearly all the time. */
export function stepImplementation(
  jax: JaxModule,
  { network: { config, parameters }, weights, settings, learningRate }: StepProblem,
  inputs: Arrays,
  array: (data: Float32Array, shape: readonly number[]) => Value,
  runner: Runner,
): Implementation {
  const { imageChannels, resolution, modelChannels } = config;
  const batch = inputs["sigma"]!.length, images = [batch, imageChannels, resolution, resolution];
  const start = () => parameters.map(({ name, shape }) => array(weights.get(name)!, shape));
  const zeros = () => parameters.map(({ name, shape }) => array(new Float32Array(weights.get(name)!.length), shape));
  const { beta1, beta2, ema } = settings;
  const hyper = [learningRate, 1 - beta1, 1 - beta2, averageDecay(ema, 0, batch)];
  const half = modelChannels / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) => 10000 ** (-i / (half - 1)));
  const args = [
    ...[...start(), ...zeros(), ...zeros(), ...start()],
    ...[array(inputs["x0"]!, images), array(inputs["noise"]!, images), array(inputs["sigma"]!, [batch])],
    ...[array(frequencies, [half]), ...hyper.map((value) => array(Float32Array.of(value), []))],
  ];
  const count = parameters.length;
  const compiled = jax.jit((...args) => {
    const part = (i: number) => args.slice(i * count, (i + 1) * count);
    const [x0, noise, sigma, frequencies, ...hyper] = args.slice(4 * count) as [Value, Value, Value, Value, ...Value[]];
    const state = { p: part(0), m: part(1), v: part(2), ema: part(3) };
    return trainingStep(jax, config, parameters, settings, state, { x0, noise, sigma, frequencies }, hyper);
  });
  const call = () => compiled(...args.map((value) => value.ref));
  return {
    run: runner(call),
    async results() {
      const data = await Promise.all(call().map((output) => output.data()));
      const [loss, gradNorm, ...state] = data as [Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>];
      const every = (index: number) => joined(state.filter((_, i) => i % 4 === index));
      return { loss, gradNorm, p: every(0), ema: every(3) };
    },
    free() {
      for (const value of args) value.dispose();
      compiled.dispose();
    },
  };
}

/** Gives a parameter by name; the caller owns what it gets. */
type Lookup = (name: string) => Value;

/** Parameters, moments and moving average, each in the network's order of parameters. */
interface StepState {
  readonly p: readonly Value[];
  readonly m: readonly Value[];
  readonly v: readonly Value[];
  readonly ema: readonly Value[];
}

/** What a step is made on. */
interface StepBatch {
  /** [N, C, H, W] */
  readonly x0: Value;
  /** [N, C, H, W] */
  readonly noise: Value;
  /** [N] */
  readonly sigma: Value;
  /** [modelChannels / 2]: of the noise embedding. */
  readonly frequencies: Value;
}

/**
 * [loss, gradient norm, then p, m, v and ema of every parameter] after a step on `batch`; uses everything up. `hyper` are
 * the learning rate, 1 − β₁, 1 − β₂ and the moving average's decay.
 */
function trainingStep(
  jax: JaxModule,
  config: UNetConfig,
  parameters: readonly ParameterSpec[],
  settings: AdamSettings,
  state: StepState,
  batch: StepBatch,
  hyper: readonly Value[],
): Value[] {
  const np = jax.numpy;
  const lossOf = (values: Value[]) => {
    const byName = new Map(parameters.map(({ name }, i) => [name, values[i]!]));
    return denoisingLoss(new Forward(jax, (name) => byName.get(name)!.ref), config, batch);
  };
  const [loss, gradients] = jax.valueAndGrad(lossOf)(state.p.map((value) => value.ref));
  const squares = gradients.map((gradient) => np.sum(np.square(gradient.ref)));
  const norm = np.sqrt(squares.reduce((a, b) => a.add(b)));
  const scale = np.clip(np.reciprocal(norm.ref.add(1e-6)).mul(settings.clipNorm), 0, 1);
  const { beta1, beta2 } = settings;
  const results = gradients.map((gradient, i) => {
    const own = { p: state.p[i]!, m: state.m[i]!, v: state.v[i]!, ema: state.ema[i]! };
    const shared = hyper.map((value) => value.ref);
    return adam(jax, own, gradient.mul(scale.ref), shared, { beta1, beta2, epsilon: 1e-8, weightDecay: 0 });
  });
  return [loss, norm, ...results.flat()];
}

/** EDM's loss: the batch mean of λ(σ) Σ (D(x₀ + σ n, σ) − x₀)². */
function denoisingLoss(forward: Forward, config: UNetConfig, { x0, noise, sigma, frequencies }: StepBatch): Value {
  const np = forward.jax.numpy;
  const [count] = sigma.shape as [number];
  const perSample = (value: Value) => value.reshape([count, 1, 1, 1]);
  const variance = np.square(sigma.ref).add(SIGMA_DATA ** 2);
  const deviation = np.sqrt(variance.ref);
  const x = x0.ref.add(noise.ref.mul(perSample(sigma.ref)));
  const condition = np.log(sigma.ref).mul(0.25);
  const f = unet(forward, config, x.ref.div(perSample(deviation.ref)), condition, frequencies.ref);
  const skip = perSample(np.reciprocal(variance.ref).mul(SIGMA_DATA ** 2));
  const out = perSample(sigma.ref.mul(SIGMA_DATA).div(deviation));
  const error = np.square(x.mul(skip).add(f.mul(out)).sub(x0.ref));
  const weight = variance.div(np.square(sigma.ref.mul(SIGMA_DATA)));
  return np.mean(np.sum(error, [1, 2, 3]).mul(weight));
}

/** Layers by the names of their parameters. They use their input up. */
class Forward {
  constructor(readonly jax: JaxModule, private readonly p: Lookup) {}

  linear(x: Value, name: string): Value {
    const np = this.jax.numpy;
    return np.matmul(x, np.matrixTranspose(this.p(`${name}.weight`))).add(this.p(`${name}.bias`));
  }

  conv(x: Value, name: string, stride = 1): Value {
    const weight = this.p(`${name}.weight`);
    const [channels, , kernel] = weight.shape as [number, number, number, number];
    const pad = (kernel - 1) / 2;
    const y = this.jax.lax.convGeneralDilated(x, weight, [stride, stride], [[pad, pad], [pad, pad]]);
    return y.add(this.p(`${name}.bias`).reshape([1, channels, 1, 1]));
  }

  norm(x: Value, name: string, silu: boolean): Value {
    const groups = Math.max(1, Math.min(32, Math.floor(x.shape[1]! / 4)));
    return groupNorm(this.jax, x, this.p(`${name}.weight`), this.p(`${name}.bias`), { groups, eps: 1e-6, silu });
  }

  /** A residual block from x and the embedding; `embedding` stays the caller's. */
  block(x: Value, name: string, outChannels: number, embedding: Value): Value {
    const [batch, inChannels] = x.shape as [number, number];
    const condition = this.linear(embedding.ref, `${name}.affine`).reshape([batch, outChannels, 1, 1]);
    const h = this.conv(this.norm(x.ref, `${name}.norm0`, true), `${name}.conv0`).add(condition);
    const residual = this.conv(this.norm(h, `${name}.norm1`, true), `${name}.conv1`);
    const skip = inChannels === outChannels ? x : this.conv(x, `${name}.skip`);
    return residual.add(skip).mul(Math.SQRT1_2);
  }

  /** Single-head self-attention with a skip around it. */
  attend(x: Value, name: string): Value {
    const np = this.jax.numpy;
    const shape = [...x.shape] as [number, number, number, number];
    const [batch, channels, height, width] = shape;
    const tokens = height * width;
    const packed = this.conv(this.norm(x.ref, `${name}.norm2`, false), `${name}.qkv`);
    const [q, k, v] = np.split(packed.reshape([batch, 3 * channels, tokens]), 3, 1).map(np.matrixTranspose) as [
      Value,
      Value,
      Value,
    ];
    const attended = np.matrixTranspose(attend(this.jax, q, k, v, channels ** -0.5)).reshape(shape);
    return this.conv(attended, `${name}.proj`).add(x).mul(Math.SQRT1_2);
  }

  /** Every pixel twice in both directions. */
  upsample(x: Value): Value {
    const [batch, channels, height, width] = x.shape as [number, number, number, number];
    const spread = this.jax.numpy.broadcastTo(
      x.reshape([batch, channels, height, 1, width, 1]),
      [batch, channels, height, 2, width, 2],
    );
    return spread.reshape([batch, channels, 2 * height, 2 * width]);
  }
}

/** `src/nn/unet.ts` once more. */
function unet(f: Forward, config: UNetConfig, x: Value, noise: Value, frequencies: Value): Value {
  const np = f.jax.numpy, { nn } = f.jax;
  const { modelChannels, channelMult, blocks, resolution } = config;
  const [batch] = noise.shape as [number];
  const angles = noise.reshape([batch, 1]).mul(frequencies.reshape([1, modelChannels / 2]));
  const waves = np.concatenate([np.sin(angles.ref), np.cos(angles)], 1);
  const embedding = nn.silu(f.linear(nn.silu(f.linear(waves, "map_layer0")), "map_layer1"));
  const side = (level: number) => `${resolution >> level}x${resolution >> level}`;

  let h = f.conv(x, `enc.${side(0)}_conv`);
  const skips = [h.ref];
  channelMult.forEach((mult, level) => {
    if (level > 0) {
      h = f.conv(h, `enc.${side(level)}_down`, 2);
      skips.push(h.ref);
    }
    for (let i = 0; i < blocks; i++) {
      h = f.block(h, `enc.${side(level)}_block${i}`, modelChannels * mult, embedding);
      skips.push(h.ref);
    }
  });
  const lowest = modelChannels * channelMult.at(-1)!;
  h = f.attend(f.block(h, "mid.block0", lowest, embedding), "mid.block0");
  h = f.block(h, "mid.block1", lowest, embedding);
  for (let level = channelMult.length - 1; level >= 0; level--) {
    for (let i = 0; i <= blocks; i++) {
      const joined = np.concatenate([h, skips.pop()!], 1);
      h = f.block(joined, `dec.${side(level)}_block${i}`, modelChannels * channelMult[level]!, embedding);
    }
    if (level > 0) h = f.conv(f.upsample(h), `dec.${side(level - 1)}_up`);
  }
  return f.conv(f.norm(h, "out.norm", true), "out.conv");
}

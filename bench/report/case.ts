/** What the report compares: problems with their data, and implementations of them. */

import type { AdamShape } from "../../kernels/adam.ts";
import type { AttentionShape } from "../../kernels/attention.ts";
import type { BregmanGradientShape, BregmanShape } from "../../kernels/bregman.ts";
import type { ConvShape } from "../../kernels/conv2d.ts";
import type { GroupNormShape } from "../../kernels/group_norm.ts";
import type { MatmulShape } from "../../kernels/matmul.ts";
import type { UNet } from "../../src/nn/unet.ts";
import type { AdamSettings } from "../../src/optim/adam.ts";
import type { WeightArrays } from "../../src/optim/weights.ts";

/** Vectors by name, in this project's layouts (NCHW, OIHW, channel-first attention). */
export type Arrays = Readonly<Record<string, Float32Array<ArrayBuffer>>>;

/**
 * What is computed, from inputs to results:
 *
 * - `matmul`: a, b → out;
 * - `conv2d.forward`: x, w → y; `conv2d.inputGrad`: dy, w → dx; `conv2d.weightGrad`: dy, x → dw;
 * - `groupNorm`: x, gamma, beta → y, and with `gradient` also dy → dx, dgamma, dbeta [channels];
 * - `attention`: q, k, v → o, and with `gradient` also dO → dq, dk, dv;
 * - `adam`: grad, hyper, control, p, m, v, ema → p, m, v, ema;
 * - `bregman`: logits, blend, x, fake, teacher → weights, g;
 * - `unetStep`: x0, noise, sigma → loss, gradNorm, and p and ema, all parameters one after another.
 *
 * A gradient of group norm or attention includes the forward pass, for every implementation: only so do those that keep
 * statistics and those that recompute them do the same work.
 */
export type Problem =
  | { readonly op: "matmul"; readonly shape: MatmulShape }
  | { readonly op: "conv2d.forward" | "conv2d.inputGrad" | "conv2d.weightGrad"; readonly shape: ConvShape }
  | { readonly op: "groupNorm"; readonly gradient: boolean; readonly shape: GroupNormShape }
  | { readonly op: "attention"; readonly gradient: boolean; readonly shape: AttentionShape }
  | { readonly op: "adam"; readonly shape: AdamShape }
  | { readonly op: "bregman"; readonly weights: BregmanShape; readonly gradient: BregmanGradientShape }
  | { readonly op: "unetStep"; readonly step: StepProblem };

/** The first training step of a network: gradient of EDM's loss, clipping, Adam and the moving average. */
export interface StepProblem {
  /** The network. */
  readonly network: UNet;
  /** Its weights before the step. */
  readonly weights: WeightArrays;
  /** Settings of the optimiser. */
  readonly settings: AdamSettings;
  /** Adam's. */
  readonly learningRate: number;
  /** Images. */
  readonly batch: number;
}

/** Something that computes a problem's results, on data it holds already. */
export interface Implementation {
  /** Runs `times` times and waits once; throws what went wrong on the device. */
  run(times: number): Promise<void>;
  /** The results of one run on the given inputs; called before the first {@linkcode Implementation.run}. */
  results(): Promise<Arrays>;
  /** Gives its memory back. */
  free(): void;
}

/** What an implementation of the engine's also knows: the work of one run. */
export interface Counted extends Implementation {
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes that must be moved at least. */
  readonly bytes: number;
}

/** A library that the engine is compared with. */
export interface Peer {
  /** Its name in the table. */
  readonly name: string;
  /** Prepares a problem; undefined where the library lacks the op. */
  build(problem: Problem, inputs: Arrays): Promise<Implementation | undefined>;
}

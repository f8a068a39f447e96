/**
 * Di-Bregman on WebGPU: a compute engine with hand-written WGSL kernels, and on it one-step diffusion distillation by
 * Bregman density-ratio matching (arXiv 2510.16983). It uses Web APIs alone and has no dependency.
 *
 * @example Sample from a trained generator
 * ```ts
 * import { encodePng, Gpu, imageGrid, ImageSampler } from "@dibregman/dibregman";
 *
 * const gpu = await Gpu.create();
 * const sampler = await ImageSampler.load(gpu, await Deno.readFile("generator.safetensors"));
 * const { pixels, count, height, width } = await sampler.sample({ n: 16, seed: 1 });
 * const grid = imageGrid(pixels, count, height, width, 1, 4, 8);
 * await Deno.writeFile("digits.png", await encodePng(grid.pixels, grid.width, grid.height, 1));
 * ```
 *
 * @example Compute with tensors
 * ```ts
 * import { constant, evaluate, Gpu, matmul, Workspace } from "@dibregman/dibregman";
 *
 * const workspace = new Workspace(await Gpu.create());
 * const a = constant([1, 2, 3, 4], [2, 2]);
 * const { product } = await evaluate(workspace, { product: matmul(a, a) });
 * console.log(product); // Float32Array [7, 10, 15, 22]
 * ```
 *
 * @module
 */

export { BREGMAN_KINDS, type BregmanKind } from "./kernels/bregman.ts";
export type { PointwiseFunction } from "./kernels/pointwise.ts";
export type { Commands, Recorded } from "./src/gpu/commands.ts";
export * from "./src/gpu/errors.ts";
export * from "./src/gpu/family.ts";
export * from "./src/gpu/kernel.ts";
export * from "./src/gpu/gpu.ts";
export * from "./src/gpu/tuning.ts";
export * from "./src/graph/mod.ts";
export type { LabelSettings } from "./src/nn/conditions.ts";
export * from "./src/nn/heads.ts";
export * from "./src/nn/layers.ts";
export * from "./src/nn/network.ts";
export * from "./src/nn/networks.ts";
export * from "./src/nn/preconditioning.ts";
export * from "./src/nn/song_unet.ts";
export * from "./src/nn/unet.ts";
export * from "./src/diffusion/edm.ts";
export * from "./src/diffusion/image_sampler.ts";
export * from "./src/diffusion/preconditioning.ts";
export * from "./src/diffusion/sampler.ts";
export * from "./src/diffusion/solvers.ts";
export * from "./src/diffusion/teacher.ts";
export * from "./src/distill/bregman.ts";
export * from "./src/distill/classifier.ts";
export * from "./src/distill/ratio_bins.ts";
export * from "./src/distill/settings.ts";
export * from "./src/distill/critics.ts";
export * from "./src/distill/generator.ts";
export * from "./src/distill/held_out.ts";
export { type DistillNetworks, type Noisy, sigmaLimitsOf } from "./src/distill/samples.ts";
export * from "./src/optim/accumulate.ts";
export * from "./src/optim/adam.ts";
export * from "./src/optim/weights.ts";
export * from "./src/data/digits.ts";
export * from "./src/data/philox.ts";
export * from "./src/data/scaling.ts";
export * from "./src/eval/evaluate.ts";
export type { FeatureOrigin } from "./src/eval/feature_network.ts";
export {
  type FeatureProgress,
  type FeatureTask,
  type TrainedFeatures,
  trainFeatures,
} from "./src/eval/feature_training.ts";
export * from "./src/eval/frechet.ts";
export * from "./src/io/model.ts";
export * from "./src/io/png.ts";
export * from "./src/io/safetensors.ts";
export * from "./src/io/trace.ts";

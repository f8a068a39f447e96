/** The engine's graph layer: tensors, ops, gradients, programs. */

export * from "./tensor.ts";
export * from "./ops/leaf.ts";
export * from "./ops/shape.ts";
export * from "./ops/pointwise.ts";
export * from "./ops/reduce.ts";
export * from "./ops/linear.ts";
export * from "./ops/normalise.ts";
export * from "./ops/resample.ts";
export * from "./ops/embedding.ts";
export * from "./ops/random.ts";
export * from "./ops/image.ts";
export * from "./ops/augment.ts";
export * from "./ops/adam.ts";
export * from "./ops/accumulate.ts";
export * from "./ops/bregman.ts";
export { checkpoint } from "./checkpoint.ts";
export * from "./gradients.ts";
export * from "./workspace.ts";
export * from "./program.ts";
export * from "./profile.ts";
export * from "./evaluate.ts";

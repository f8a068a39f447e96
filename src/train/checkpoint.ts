/** Checkpoints: all state of a stage in one file, from which it goes on with the same bits. */

import { join } from "@std/path";
import { FileError, NonFiniteError, UsageError } from "../gpu/errors.ts";
import { namesIn, onDisk, writeFileAtomic } from "../io/disk.ts";
import { decodeSafetensors, encodeSafetensors, type StoredTensor } from "../io/safetensors.ts";
import type { Weights } from "../optim/weights.ts";

/** Checkpoints of a stage that are kept. */
const KEPT = 2;

/** Reads and writes the checkpoints of one stage. */
export class Checkpoints {
  /** `weights` are the stage's whole state; `run` identifies the settings the state belongs to. */
  constructor(
    private readonly folder: string,
    private readonly stage: string,
    private readonly run: string,
    private readonly weights: readonly Weights[],
  ) {}

  /**
   * Writes the state after `step` steps and removes old checkpoints.
   *
   * @throws {NonFiniteError} where a weight or a moment is not finite; nothing is written then.
   */
  async save(step: number): Promise<void> {
    const tensors = new Map<string, StoredTensor>();
    for (const part of this.weights) {
      const shapes = new Map(part.network.parameters.map(({ name, shape }) => [name, shape]));
      for (const [name, data] of await part.read()) {
        if (!data.every(Number.isFinite)) {
          throw new NonFiniteError(
            `${this.stage}: ${part.name}.${name} is not finite after step ${step}; the last checkpoint is from before ` +
              "that. Try a lower learning rate.",
          );
        }
        tensors.set(`${part.name}.${name}`, { dtype: "F32", shape: shapes.get(name)!, data });
      }
    }
    const bytes = await encodeSafetensors(tensors, { stage: this.stage, step: String(step), run: this.run });
    await writeFileAtomic(this.path(step), bytes);
    for (const old of (await this.steps()).slice(KEPT)) await this.remove(old);
  }

  /**
   * Restores the newest checkpoint that can be read and returns its step, or 0 where there is none. One that is
   * damaged is removed, and `warn` is told.
   *
   * @throws {UsageError} where one belongs to other settings; nothing is removed then.
   */
  async restore(warn: (message: string) => void): Promise<number> {
    for (const step of await this.steps()) {
      try {
        await this.load(step);
        return step;
      } catch (error) {
        if (!(error instanceof FileError)) throw error;
        warn(`${error.message} Going back to the one before.`);
        await this.remove(step);
      }
    }
    return 0;
  }

  private async load(step: number): Promise<void> {
    const path = this.path(step);
    const bytes = await onDisk(path, "read", () => Deno.readFile(path));
    const { metadata, tensors } = await decodeSafetensors(bytes, path);
    if (metadata.stage !== this.stage || metadata.step !== String(step)) {
      throw new FileError(`${path}: the metadata should say stage ${this.stage}, step ${step}.`);
    }
    if (metadata.run !== this.run) {
      throw new UsageError(
        `${path} belongs to other settings than the run's config.json. Put those back to go on from it, or move it and the ` +
          `other checkpoints of the stage ${this.stage} away to begin that anew.`,
      );
    }
    const parts = this.weights.map((part) => {
      const arrays = new Map<string, Float32Array>();
      for (const { name, shape } of part.network.parameters) {
        const tensor = tensors.get(`${part.name}.${name}`);
        if (tensor?.dtype !== "F32" || tensor.shape.join() !== shape.join()) {
          throw new FileError(`${path}: tensor "${part.name}.${name}" should be F32 [${shape.join(", ")}].`);
        }
        arrays.set(name, tensor.data);
      }
      return { part, arrays };
    });
    for (const { part, arrays } of parts) part.write(arrays);
  }

  /** Steps of the checkpoints there are, newest first. */
  private async steps(): Promise<number[]> {
    const pattern = new RegExp(`^${this.stage}-(\\d+)\\.safetensors$`);
    const steps: number[] = [];
    for (const name of await namesIn(this.folder)) {
      const match = pattern.exec(name);
      if (match) steps.push(Number(match[1]));
    }
    return steps.sort((a, b) => b - a);
  }

  private remove(step: number): Promise<void> {
    const path = this.path(step);
    return onDisk(path, "removed", () => Deno.remove(path));
  }

  private path(step: number): string {
    return join(this.folder, `${this.stage}-${String(step).padStart(6, "0")}.safetensors`);
  }
}

/** The loop that every training stage shares: resume, steps, metrics, checkpoints. */

import { NonFiniteError } from "../gpu/errors.ts";
import type { Run, Workspace } from "../graph/mod.ts";
import type { Trainable } from "../optim/weights.ts";
import { Progress } from "./progress.ts";
import { Checkpoints } from "./checkpoint.ts";
import type { RunFolder, StageName } from "./folder.ts";

/** What a stage does. */
export interface Stage {
  /** Its name. */
  readonly name: StageName;
  /** Number of steps. */
  readonly steps: number;
  /** Images a step handles. */
  readonly imagesPerStep: number;
  /** Steps between checkpoints. */
  readonly checkpointEvery: number;
  /** Steps between two looks at the metrics; the programs must hold as many. */
  readonly readEvery: number;
  /** All that is trained. */
  readonly networks: readonly Trainable[];
  /** The runs of step `step`, counted from 0. */
  runs(step: number): readonly Run[];
  /** The metrics of every step since the last call, in the same order and number for each name. */
  metrics(): Promise<Record<string, readonly number[]>>;
  /** What is worth a look when a checkpoint is made: more values for the log. */
  inspect?(step: number): Promise<Record<string, number>>;
}

/**
 * Runs a stage to its end, from its last checkpoint where there is one.
 *
 * @throws {NonFiniteError} where a metric is a NaN or an infinity; no checkpoint is written after it.
 */
export async function runStage(folder: RunFolder, runId: string, stage: Stage): Promise<void> {
  const { name, steps, networks } = stage;
  const checkpoints = new Checkpoints(folder.file("checkpoints"), name, runId, networks);
  const begun = await checkpoints.restore((message) => console.error(message));
  const before = await folder.rewindLog(name, begun);
  const started = performance.now();
  const seconds = () => before + (performance.now() - started) / 1000;
  const progress = new Progress({ stage: name, total: steps, start: begun, imagesPerStep: stage.imagesPerStep });
  if (begun > 0) progress.log(`${name}: going on from step ${begun}`);
  const { workspace } = networks[0]!;
  for (let step = begun; step < steps;) {
    workspace.submit(stage.runs(step));
    step++;
    const saves = step % stage.checkpointEvery === 0 || step === steps;
    if (step % stage.readEvery !== 0 && !saves) continue;
    const values = averages(name, step, await stage.metrics());
    progress.update(step, values);
    let shown = {};
    if (saves) {
      shown = await stage.inspect?.(step) ?? {};
      const text = Object.entries(shown).map(([key, value]) => `${key} ${(value as number).toFixed(2)}`);
      if (text.length > 0) progress.log(`${name} ${step}/${steps}: ${text.join("  ")}`);
    }
    await folder.log({ stage: name, step, seconds: seconds(), values: { ...values, ...shown, ...memory(workspace) } });
    // Last: a resumed run starts from here, with every line up to here written.
    if (saves) await checkpoints.save(step);
  }
  progress.done();
}

/** Memory of the process and of the buffers on the device, in MB. */
function memory({ gpu }: Workspace): Record<string, number> {
  return { rssMB: Math.round(Deno.memoryUsage().rss / 1e6), deviceMB: Number((gpu.allocatedBytes / 1e6).toFixed(2)) };
}

/** Mean of every metric; a value that is not finite stops the run. */
function averages(stage: string, step: number, metrics: Record<string, readonly number[]>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(metrics).map(([name, values]) => {
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) {
        throw new NonFiniteError(
          `${stage}: ${name} became ${values[bad]} by step ${step}; ` +
            "the last checkpoint is from before that. Try a lower learning rate.",
        );
      }
      return [name, values.reduce((total, value) => total + value, 0) / values.length];
    }),
  );
}

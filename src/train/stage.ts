/** The loop that every training stage shares: resume, steps, metrics, checkpoints. */

import { NonFiniteError } from "../gpu/errors.ts";
import type { Run, Workspace } from "../graph/mod.ts";
import type { Weights } from "../optim/weights.ts";
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
  /** Steps between snapshots; 0 for none. */
  readonly snapshotEvery: number;
  /** Makes one. */
  snapshot(step: number): Promise<void>;
  /** Steps between two lines of the log; the programs must hold the metrics of as many. */
  readonly logEvery: number;
  /** A step after which there is a line of its own, as other metrics begin. */
  readonly looksAfter?: number;
  /** True where gradients are sanitised: single steps whose metrics are not finite are passed over. */
  readonly tolerant: boolean;
  /** All state, in the order of the checkpoints. */
  readonly state: readonly [Weights, ...Weights[]];
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
 * @throws {NonFiniteError} where a metric is a NaN or an infinity, in a tolerant stage for {@linkcode HOPELESS} steps in a
 * row; no checkpoint is written after it.
 */
export async function runStage(folder: RunFolder, runId: string, stage: Stage): Promise<void> {
  const { name, steps, state } = stage;
  const checkpoints = new Checkpoints(folder.file("checkpoints"), name, runId, state);
  const begun = await checkpoints.restore((message) => console.error(message));
  const before = await folder.rewindLog(name, begun);
  const started = performance.now();
  const seconds = () => before + (performance.now() - started) / 1000;
  const progress = new Progress({ stage: name, total: steps, start: begun, imagesPerStep: stage.imagesPerStep });
  if (begun > 0) progress.log(`${name}: going on from step ${begun}`);
  const [{ workspace }] = state;
  const looks = new Looks(begun), streaks = new Streaks();
  let held: Metrics[] = [];
  for (let step = begun; step < steps;) {
    workspace.submit(stage.runs(step));
    step++;
    const saves = step % stage.checkpointEvery === 0 || step === steps;
    const snaps = stage.snapshotEvery > 0 && step % stage.snapshotEvery === 0;
    const logs = step % stage.logEvery === 0 || saves || snaps || step === stage.looksAfter;
    if (!logs && !looks.due(step)) continue;
    const metrics = await stage.metrics();
    const hopeless = streaks.add(metrics, looks.taken(step));
    if (hopeless !== undefined) throw notFinite(name, hopeless, metrics[hopeless]!, step);
    held.push(metrics);
    const values = averages(stage, step, held);
    progress.update(step, values);
    if (!logs) continue;
    held = [];
    if (snaps) await stage.snapshot(step);
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

/** Every step's metrics by name, in the same order and number for each. */
type Metrics = Record<string, readonly number[]>;

/** A look waits for the device, so that the queue never holds more than about this many seconds' work. */
const LOOK_SECONDS = 2;

/** When to look at the metrics: as often as steps are slow. */
class Looks {
  #time = performance.now();
  #every = 1;

  constructor(private step: number) {}

  due(step: number): boolean {
    return step - this.step >= this.#every;
  }

  /** Notes a look after step `step`; returns the steps since the one before. */
  taken(step: number): number {
    const now = performance.now(), steps = step - this.step, seconds = (now - this.#time) / 1000 / steps;
    this.#every = Math.max(1, Math.floor(LOOK_SECONDS / seconds));
    this.#time = now;
    this.step = step;
    return steps;
  }
}

/** Memory of the process and of the buffers on the device, in MB. */
function memory({ gpu }: Workspace): Record<string, number> {
  return { rssMB: Math.round(Deno.memoryUsage().rss / 1e6), deviceMB: Number((gpu.allocatedBytes / 1e6).toFixed(2)) };
}

/** Steps in a row with a metric that is not finite that end a tolerant stage. */
const HOPELESS = 20;

/** For each metric, the steps in a row up to now of which no value was finite. */
class Streaks {
  readonly #lengths = new Map<string, number>();

  /** Adds the values of `steps` steps; returns the name of a metric that was lost for {@linkcode HOPELESS} in a row. */
  add(metrics: Metrics, steps: number): string | undefined {
    for (const [name, values] of Object.entries(metrics)) {
      const aStep = values.length / steps;
      let length = this.#lengths.get(name) ?? 0;
      for (let i = 0; i < steps; i++) {
        length = values.slice(i * aStep, (i + 1) * aStep).some(Number.isFinite) ? 0 : length + 1;
        if (length >= HOPELESS) return name;
      }
      this.#lengths.set(name, length);
    }
    return undefined;
  }
}

function notFinite(stage: string, metric: string, values: readonly number[], step: number): NonFiniteError {
  return new NonFiniteError(
    `${stage}: ${metric} became ${values.find((value) => !Number.isFinite(value))} by step ${step}; ` +
      "the last checkpoint is from before that. Try a lower learning rate.",
  );
}

/** Mean of every metric's finite values; one that is not finite stops the run, unless the stage is tolerant. */
function averages(stage: Stage, step: number, looks: readonly Metrics[]): Record<string, number> {
  const means: Record<string, number> = {};
  let lost = 0;
  for (const name of Object.keys(looks[0]!)) {
    const values = looks.flatMap((look) => look[name]!);
    const finite = values.filter(Number.isFinite);
    if (!stage.tolerant && finite.length < values.length) throw notFinite(stage.name, name, values, step);
    lost = Math.max(lost, values.length - finite.length);
    if (finite.length > 0) means[name] = finite.reduce((total, value) => total + value, 0) / finite.length;
  }
  return stage.tolerant ? { ...means, notFinite: lost } : means;
}

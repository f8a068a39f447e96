/** What a run would do, without doing it: sizes of networks and programs, memory, and expected time. */

import type { ImageData8 } from "../data/image_data.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Run, Workspace } from "../graph/mod.ts";
import type { ModelInfo } from "../io/model.ts";
import { parameterCount } from "../nn/layers.ts";
import type { Network } from "../nn/network.ts";
import { criticWarmupSteps, type RunConfig, stepsOf, teacherDenoiser, unitsOf } from "./config.ts";
import { withWorkspace } from "./run.ts";
import { distillRuns, prepareDistillation, prepareTeacher, teacherRuns } from "./stages.ts";
import { settingConfig, type Study, teacherConfig } from "./study.ts";

/** A training stage before it is run. */
export interface StagePlan {
  /** Its name. */
  readonly name: string;
  /** Parameters of its networks, by name. */
  readonly parameters: Readonly<Record<string, number>>;
  /** Steps. */
  readonly steps: number;
  /** Images a step. */
  readonly batch: number;
  /** Its programs: dispatches, work and memory, a line each. */
  readonly programs: readonly string[];
  /** Floating-point operations a step. */
  readonly flops: number;
  /** Bytes of all buffers on the device. */
  readonly deviceBytes: number;
  /** Seconds a step is expected to take. */
  readonly secondsPerStep: number;
  /** Images of the step that was timed; of a slow one, fewer than it has. */
  readonly timedImages: number;
}

/** A step of the plan: networks and runs on a workspace of its own. */
interface Prepared {
  readonly networks: Readonly<Record<string, { readonly network: Network }>>;
  readonly runs: (step: number) => Run[];
}

type Prepare = (workspace: Workspace, config: RunConfig) => Promise<Prepared>;

/** Compiles the stages of a run and times a step of each. `teacher` is one that is given. */
export async function planRun(
  gpu: Gpu,
  config: RunConfig,
  data: ImageData8,
  teacher?: ModelInfo,
): Promise<StagePlan[]> {
  const info = teacher ?? { ...teacherDenoiser(config, data), ...unitsOf(config, data) };
  const plans: StagePlan[] = [];
  if (!teacher) {
    plans.push(
      await planStage(gpu, config, "teacher", async (workspace, config) => {
        const parts = await prepareTeacher(workspace, config, data);
        return { networks: { teacher: parts.teacher }, runs: teacherRuns(config, parts) };
      }),
    );
  }
  if (!config.teacherOnly) {
    plans.push(
      await planStage(gpu, config, "distill", async (workspace, config) => {
        const parts = await prepareDistillation(workspace, config, data, info);
        const { generator, fakeScore, classifier, teacher } = parts;
        const networks = { generator, ...fakeScore && { fakeScore }, ...classifier && { classifier }, teacher };
        return { networks, runs: distillRuns(config, parts) };
      }),
    );
  }
  return plans;
}

/** Work of the longest step that is timed as it is. */
const TIMED_FLOPS = { software: 2e10, hardware: 2e13 };

async function planStage(
  gpu: Gpu,
  config: RunConfig,
  name: "teacher" | "distill",
  prepare: Prepare,
): Promise<StagePlan> {
  // The first step of all networks; those of the critics alone are taken to last as long.
  const first = (config: RunConfig) => name === "distill" ? criticWarmupSteps(config) : 0;
  const { batch } = config[name];
  const planned = await withWorkspace(gpu, async (workspace) => {
    const { networks, runs } = await prepare(workspace, config);
    const step = runs(first(config)), programs = [...new Set(step.map(({ program }) => program))];
    return {
      parameters: Object.fromEntries(
        Object.entries(networks).map(([name, { network }]) => [name, parameterCount(network.parameters)]),
      ),
      programs: programs.map((program) => program.describe([])),
      flops: step.reduce((total, { program }) => total + program.cost.flops, 0),
      deviceBytes: gpu.allocatedBytes,
    };
  });
  const share = TIMED_FLOPS[gpu.adapter.software ? "software" : "hardware"] / planned.flops;
  const timedImages = imagesToTime(batch, share, config.microbatch);
  const { microbatch: _, ...whole } = config;
  const timed = timedImages === batch ? config : { ...whole, [name]: { ...config[name], batch: timedImages } };
  const seconds = await withWorkspace(
    gpu,
    async (workspace) => await secondsOf(workspace, (await prepare(workspace, timed)).runs, first(timed)),
  );
  const secondsPerStep = seconds * batch / timedImages;
  return { name, steps: stepsOf(config[name]), batch, ...planned, secondsPerStep, timedImages };
}

/**
 * Images of the step that is timed, where the time for it is that of a `share` of the step: all of them, or what fits, but
 * at once no more than the run has in memory.
 */
export function imagesToTime(batch: number, share: number, microbatch = batch): number {
  return share >= 1 ? batch : Math.max(1, Math.min(microbatch, Math.floor(batch * share)));
}

/** Steps are timed for about so long. */
const TIMED_SECONDS = 2;

/** Seconds of a step once its kernels are compiled; programs hold the metrics of at least 60 steps. */
async function secondsOf(workspace: Workspace, runs: (step: number) => Run[], first: number): Promise<number> {
  const { gpu } = workspace;
  workspace.submit(runs(first));
  await gpu.idle();
  const started = performance.now();
  let steps = 0;
  do {
    workspace.submit(runs(first + ++steps));
    await gpu.idle();
  } while (performance.now() - started < 1000 * TIMED_SECONDS && steps < 10);
  return (performance.now() - started) / 1000 / steps;
}

/** Seconds that trainings of a study are expected to take. */
export interface StudyPlan {
  /** One teacher's. */
  readonly teacher: number;
  /** One distillation's of each setting, by name. */
  readonly settings: Readonly<Record<string, number>>;
}

/** Compiles the stages of a teacher and of a run of each setting, and times a step of each. */
export async function planStudy(gpu: Gpu, study: Study, data: ImageData8): Promise<StudyPlan> {
  const seconds = (plans: readonly StagePlan[]) =>
    plans.reduce((sum, { steps, secondsPerStep }) => sum + steps * secondsPerStep, 0);
  const { common, settings } = study;
  const denoiser = { ...teacherDenoiser(common, data), ...unitsOf(common, data) };
  const info: ModelInfo = { kind: "teacher", ...denoiser, provenance: {} };
  const teacher = seconds(await planRun(gpu, teacherConfig(study, 0), data));
  const each: Record<string, number> = {};
  for (const name of Object.keys(settings)) {
    each[name] = seconds(await planRun(gpu, settingConfig(study, name, 0), data, info));
  }
  return { teacher, settings: each };
}

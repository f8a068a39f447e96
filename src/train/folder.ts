/** A run's folder: its settings, metrics, checkpoints, pictures and results. */

import { join } from "@std/path";
import { FileError } from "../gpu/errors.ts";
import { encodeTuning, type Tuning } from "../gpu/tuning.ts";
import { decodeTrace, type TraceSlice } from "../io/trace.ts";
import { parseConfig, type RunConfig } from "./config.ts";
import type { Diagnostics } from "../eval/diagnostics.ts";
import { lockFolder, onDisk, removeTemporaryFiles, statIfThere, writeFileAtomic } from "../io/disk.ts";

/** Names of the results in a run's folder. */
export const RESULTS = { teacher: "teacher.safetensors", generator: "generator.safetensors", summary: "summary.json" };

/** Names of the files to which a run adds a line for what it has measured. */
const LOGS = { metrics: "metrics.jsonl", diagnostics: "diagnostics.jsonl" };

/** Name of the profile in a run's folder. */
export const TRACE = "trace.json";

/** Name of the table of tuned kernels that a run was begun with. */
export const TUNING_FILE = "tuning.json";

/** The stages that train. */
export type StageName = "teacher" | "distill";

/** What every line of `metrics.jsonl` says. */
type MetricsEntry = Omit<MetricsLine, "values">;

/** One line of `metrics.jsonl`. */
export interface MetricsLine {
  /** The stage. */
  readonly stage: StageName;
  /** Steps done. */
  readonly step: number;
  /** Seconds spent in the stage so far, over all the processes that worked on it. */
  readonly seconds: number;
  /** Means since the last line, by name. */
  readonly values: Readonly<Record<string, number>>;
}

const encoder = new TextEncoder();

/** The folders of a run: its own, and those in it. */
function partsOf({ snapshotEvery }: RunConfig): string[] {
  const snapshots = snapshotEvery.teacher > 0 || snapshotEvery.distill > 0;
  return ["", "checkpoints", "samples", ...snapshots ? ["snapshots"] : []];
}

/** Reads and writes what a run leaves behind. */
export class RunFolder {
  /** Works in `path`. */
  constructor(readonly path: string) {}

  /**
   * Makes a folder, unless it is there, and keeps other processes from working on a run in it until the result is disposed
   * of; undefined where one does.
   */
  static async claim(path: string): Promise<Disposable | undefined> {
    await new RunFolder(path).makeFolder("");
    return await lockFolder(path);
  }

  /**
   * {@linkcode RunFolder.claim} for who cannot do without.
   *
   * @throws {FileError} where another process works there.
   */
  static async expectClaim(path: string): Promise<Disposable> {
    const claim = await RunFolder.claim(path);
    if (!claim) throw new FileError(`Another process is working on the run in ${path}.`);
    return claim;
  }

  /**
   * Makes a folder for a new run and writes the kernels' choices and its settings.
   *
   * @throws {FileError} where the folder cannot be made or holds results of a run already.
   */
  static async create(path: string, config: RunConfig, tuning: Tuning): Promise<RunFolder> {
    const folder = new RunFolder(path);
    await RunFolder.expectFree(path);
    for (const part of partsOf(config)) await folder.makeFolder(part);
    // First: with config.json it is a run, and every run has the table that its bits depend on.
    await folder.writeText(TUNING_FILE, encodeTuning(tuning));
    await folder.writeText("config.json", JSON.stringify(config, null, 2) + "\n");
    return folder;
  }

  /** Throws a {@linkcode FileError} where `path` is a file or holds anything that a run would take for its own. */
  static async expectFree(path: string): Promise<void> {
    const folder = new RunFolder(path);
    for (const name of ["config.json", ...Object.values(LOGS), TRACE, ...Object.values(RESULTS)]) {
      if (await folder.has(name)) {
        throw new FileError(
          `${path} already holds a run (${name}); continue it with --resume ${path}, or choose another --out.`,
        );
      }
    }
  }

  /** Makes a folder in the run's, unless it is there. */
  private async makeFolder(name: string): Promise<void> {
    await onDisk(this.file(name), "made", () => Deno.mkdir(this.file(name), { recursive: true }));
  }

  /**
   * Opens the folder of a run that was begun, to look at what is there.
   *
   * @throws {FileError} where there is no `config.json`, or a field of it is not what it should be.
   */
  static async open(path: string): Promise<{ folder: RunFolder; config: RunConfig }> {
    const folder = new RunFolder(path);
    const file = folder.file("config.json");
    let text: string;
    try {
      text = await Deno.readTextFile(file);
    } catch (error) {
      throw new FileError(`${path} holds no run to resume: ${file} could not be read.`, { cause: error });
    }
    return { folder, config: parseConfig(text, file) };
  }

  /** Makes what is missing of the run's folders and removes what a killed process left half-written; for who has claimed it. */
  async tidy(config: RunConfig): Promise<void> {
    for (const part of partsOf(config)) {
      await this.makeFolder(part);
      await removeTemporaryFiles(this.file(part));
    }
  }

  /** Path of a file in the folder. */
  file(name: string): string {
    return join(this.path, name);
  }

  /** Whether the folder holds the file. */
  async has(name: string): Promise<boolean> {
    return (await statIfThere(this.file(name)))?.isFile ?? false;
  }

  /** Reads a file of the folder. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return onDisk(this.file(name), "read", () => Deno.readFile(this.file(name)));
  }

  /** Writes a file of the folder, whole or not at all. */
  write(name: string, bytes: Uint8Array): Promise<void> {
    return writeFileAtomic(this.file(name), bytes);
  }

  /** Writes a text file of the folder, whole or not at all. */
  writeText(name: string, text: string): Promise<void> {
    return this.write(name, encoder.encode(text));
  }

  /** What was profiled before; empty where nothing was. */
  async readTrace(): Promise<Map<string, TraceSlice[]>> {
    if (!await this.has(TRACE)) return new Map();
    return decodeTrace(new TextDecoder().decode(await this.read(TRACE)), this.file(TRACE));
  }

  /** Adds a line to `metrics.jsonl`. */
  async log(line: MetricsLine): Promise<void> {
    const { values, ...rest } = line;
    const text = JSON.stringify({ ...rest, seconds: Number(rest.seconds.toFixed(3)), ...values }) + "\n";
    await this.append(LOGS.metrics, text);
  }

  /** Adds a line to `diagnostics.jsonl`: what the distillation's classifier was found to do after `step` steps. */
  async logDiagnostics(line: { readonly step: number; readonly images: number } & Diagnostics): Promise<void> {
    await this.append(LOGS.diagnostics, JSON.stringify(line) + "\n");
  }

  private async append(name: string, text: string): Promise<void> {
    const path = this.file(name);
    await onDisk(path, "written", () => Deno.writeTextFile(path, text, { append: true }));
  }

  /** Seconds each stage has taken, from its last line. */
  async stageSeconds(): Promise<Partial<Record<StageName, number>>> {
    const seconds: Partial<Record<StageName, number>> = {};
    for (const { entry } of await this.lines<MetricsEntry>(LOGS.metrics)) seconds[entry.stage] = entry.seconds;
    return seconds;
  }

  /** The whole lines of a log; one that was cut off is left out. */
  private async lines<T>(name: string): Promise<{ text: string; entry: T }[]> {
    if (!await this.has(name)) return [];
    return new TextDecoder().decode(await this.read(name)).split("\n").flatMap((text) => {
      try {
        return [{ text, entry: JSON.parse(text) }];
      } catch {
        return [];
      }
    });
  }

  /**
   * Drops the logs' lines of `stage` after `step` (and any cut-off line) and returns the seconds it had taken by then.
   */
  async rewindLog(stage: StageName, step: number): Promise<number> {
    const kept = await this.keepLines<MetricsEntry>(
      LOGS.metrics,
      (entry) => entry.stage !== stage || entry.step <= step,
    );
    if (stage === "distill") await this.keepLines<{ step: number }>(LOGS.diagnostics, (entry) => entry.step <= step);
    return kept.findLast((entry) => entry.stage === stage)?.seconds ?? 0;
  }

  /** Drops the lines of a log that are not `wanted`, and any cut-off line; returns those that stay. */
  private async keepLines<T>(name: string, wanted: (entry: T) => boolean): Promise<T[]> {
    const kept = (await this.lines<T>(name)).filter(({ entry }) => wanted(entry));
    if (await this.has(name)) await this.writeText(name, kept.map(({ text }) => text + "\n").join(""));
    return kept.map(({ entry }) => entry);
  }
}

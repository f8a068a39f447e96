/** A run's folder: its settings, metrics, checkpoints, pictures and results. */

import { join } from "@std/path";
import { FileError } from "../gpu/errors.ts";
import { writeFileAtomic } from "../io/atomic.ts";
import type { RunConfig } from "./config.ts";

/** The stages that train. */
export type StageName = "teacher" | "distill";

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

/** Reads and writes what a run leaves behind. */
export class RunFolder {
  /** Works in `path`. */
  constructor(readonly path: string) {}

  /**
   * Makes a folder for a new run and writes its settings.
   *
   * @throws {FileError} where the folder cannot be made or holds a run already.
   */
  static async create(path: string, config: RunConfig): Promise<RunFolder> {
    const folder = new RunFolder(path);
    try {
      for (const part of ["", "checkpoints", "samples"]) await Deno.mkdir(join(path, part), { recursive: true });
    } catch (error) {
      throw new FileError(`The output folder ${path} could not be made: ${(error as Error).message}`, { cause: error });
    }
    if (await folder.has("config.json")) {
      throw new FileError(`${path} already holds a run; continue it with --resume ${path}, or choose another --out.`);
    }
    await folder.writeText("config.json", JSON.stringify(config, null, 2) + "\n");
    return folder;
  }

  /**
   * Opens the folder of a run that was begun.
   *
   * @throws {FileError} where there is no readable `config.json`.
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
    let config: RunConfig;
    try {
      config = JSON.parse(text);
    } catch (error) {
      throw new FileError(`${file} should be JSON: ${(error as Error).message}`, { cause: error });
    }
    if (typeof config?.teacher?.steps !== "number" || typeof config.distill?.steps !== "number") {
      throw new FileError(`${file}: the fields "teacher" and "distill" should hold a run's settings.`);
    }
    for (const part of ["checkpoints", "samples"]) await Deno.mkdir(folder.file(part), { recursive: true });
    return { folder, config };
  }

  /** Path of a file in the folder. */
  file(name: string): string {
    return join(this.path, name);
  }

  /** Whether the folder holds the file. */
  async has(name: string): Promise<boolean> {
    try {
      return (await Deno.stat(this.file(name))).isFile;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw new FileError(`${this.file(name)} could not be looked at: ${(error as Error).message}`, { cause: error });
    }
  }

  /** Reads a file of the folder. */
  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return await Deno.readFile(this.file(name));
  }

  /** Writes a file of the folder, whole or not at all. */
  write(name: string, bytes: Uint8Array): Promise<void> {
    return writeFileAtomic(this.file(name), bytes);
  }

  /** Writes a text file of the folder, whole or not at all. */
  writeText(name: string, text: string): Promise<void> {
    return this.write(name, encoder.encode(text));
  }

  /** Adds a line to `metrics.jsonl`. */
  async log(line: MetricsLine): Promise<void> {
    const { values, ...rest } = line;
    const text = JSON.stringify({ ...rest, seconds: Number(rest.seconds.toFixed(3)), ...values }) + "\n";
    await Deno.writeTextFile(this.file("metrics.jsonl"), text, { append: true });
  }

  /**
   * Drops the lines of `stage` after `step` (and any cut-off line) and returns the seconds the stage had taken by then.
   */
  async rewindLog(stage: StageName, step: number): Promise<number> {
    if (!await this.has("metrics.jsonl")) return 0;
    const text = new TextDecoder().decode(await this.read("metrics.jsonl"));
    const kept: string[] = [];
    let seconds = 0;
    for (const line of text.split("\n")) {
      let entry: { stage: StageName; step: number; seconds: number };
      try {
        entry = JSON.parse(line);
      } catch {
        continue;
      }
      if (entry.stage === stage && entry.step > step) continue;
      if (entry.stage === stage) seconds = entry.seconds;
      kept.push(line + "\n");
    }
    await this.writeText("metrics.jsonl", kept.join(""));
    return seconds;
  }
}

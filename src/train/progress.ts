/** Progress of a long stage on stderr: one line rewritten in place on a terminal, now and then a plain line elsewhere. */

/** Where progress goes; {@linkcode STDERR} unless a test looks on. */
export interface ProgressSink {
  /** Writes text as it is. */
  write(text: string): void;
  /** Characters a line holds where lines can be rewritten, undefined where they cannot. */
  columns(): number | undefined;
  /** Milliseconds on a clock that never goes back. */
  now(): number;
}

/** What {@linkcode Progress} is told at its start. */
export interface ProgressOptions {
  /** Name of the stage. */
  readonly stage: string;
  /** Steps the stage has. */
  readonly total: number;
  /** Steps already done, where a stage is resumed. */
  readonly start?: number;
  /** Images a step handles; without it no rate is shown. */
  readonly imagesPerStep?: number;
  /** Where to write. */
  readonly sink?: ProgressSink;
}

const REDRAW_MS = 100;
const LINE_MS = 10_000;
const LINE_SHARE = 0.05;
const BAR_WIDTH = 20;
/** The rate is that of about this long, so that the estimate follows a machine that slows down. */
const RATE_WINDOW_MS = 15_000;
const CLEAR_LINE = "\r\x1b[K";

/** Standard error, a terminal or not. */
export const STDERR: ProgressSink = {
  write(text: string): void {
    const bytes = new TextEncoder().encode(text);
    for (let sent = 0; sent < bytes.length;) sent += Deno.stderr.writeSync(bytes.subarray(sent));
  },
  columns(): number | undefined {
    return Deno.stderr.isTerminal() ? terminalWidth() : undefined;
  },
  now: () => performance.now(),
};

/** The progress of one stage: {@linkcode Progress.update} as it goes, {@linkcode Progress.done} at its end. */
export class Progress {
  readonly #options: Required<ProgressOptions>;
  readonly #began: number;
  #step: number;
  #losses: Readonly<Record<string, number>> = {};
  #shown = { time: -Infinity, step: -Infinity };
  #marks: { time: number; step: number }[];

  /** Starts the stage's clock. */
  constructor(options: ProgressOptions) {
    this.#options = { start: 0, imagesPerStep: 0, sink: STDERR, ...options };
    this.#began = this.#options.sink.now();
    this.#step = this.#options.start;
    this.#marks = [{ time: this.#began, step: this.#step }];
  }

  /** Tells that `step` steps are done and, where known, the latest losses; shows it if the last time is long enough ago. */
  update(step: number, losses: Readonly<Record<string, number>> = this.#losses): void {
    this.#step = step;
    this.#losses = losses;
    const time = this.#options.sink.now();
    this.#mark(time);
    const columns = this.#options.sink.columns();
    const waited = time - this.#shown.time, moved = step - this.#shown.step;
    const due = columns === undefined
      ? waited >= LINE_MS || moved >= LINE_SHARE * this.#options.total
      : waited >= REDRAW_MS;
    if (!due) return;
    this.#shown = { time, step };
    if (columns === undefined) this.#options.sink.write(`${this.#line()}\n`);
    else this.#options.sink.write(`${CLEAR_LINE}${this.#line(bar(step, this.#options.total)).slice(0, columns - 1)}`);
  }

  /** Prints a line of its own without disturbing the bar. */
  log(text: string): void {
    const clear = this.#options.sink.columns() === undefined ? "" : CLEAR_LINE;
    this.#options.sink.write(`${clear}${text}\n`);
    this.#shown = { ...this.#shown, time: clear ? -Infinity : this.#shown.time };
  }

  /** Ends the stage with a line of what it took. */
  done(): void {
    const { stage, start, imagesPerStep, sink } = this.#options;
    const elapsed = sink.now() - this.#began, steps = this.#step - start;
    const rate = imagesPerStep ? [`${number(steps * imagesPerStep / elapsed * 1000)} images/s`] : [];
    this.log([`${stage}: ${steps} steps in ${duration(elapsed)}`, ...this.#lossTexts(), ...rate].join("  "));
  }

  #mark(time: number): void {
    const marks = this.#marks;
    if (time - marks.at(-1)!.time >= RATE_WINDOW_MS / 10) marks.push({ time, step: this.#step });
    while (marks.length > 2 && time - marks[1]!.time >= RATE_WINDOW_MS) marks.shift();
  }

  #line(bar = ""): string {
    const { stage, total, imagesPerStep, sink } = this.#options;
    const { time, step } = this.#marks[0]!;
    const stepsPerMs = (this.#step - step) / (sink.now() - time);
    const parts = [`${stage}${bar} ${this.#step}/${total}`];
    if (stepsPerMs > 0 && Number.isFinite(stepsPerMs)) {
      if (imagesPerStep) parts.push(`${number(stepsPerMs * 1000 * imagesPerStep)} images/s`);
      parts.push(`ETA ${duration((total - this.#step) / stepsPerMs)}`);
    }
    parts.push(...this.#lossTexts()); // last: what a narrow terminal cuts off
    return parts.join("  ");
  }

  #lossTexts(): string[] {
    return Object.entries(this.#losses).map(([name, value]) => `${name} ${number(value)}`);
  }
}

function bar(step: number, total: number): string {
  const full = Math.max(0, Math.min(BAR_WIDTH, Math.floor(step / total * BAR_WIDTH)));
  return ` [${"#".repeat(full)}${".".repeat(BAR_WIDTH - full)}]`;
}

/** Milliseconds as `42s`, `3m07s` or `1h02m`. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h${two(Math.floor(seconds % 3600 / 60))}m`;
}

/** A figure to four digits, without an exponent where it can be. */
function number(value: number): string {
  return Number.isFinite(value) && Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
}

function terminalWidth(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80;
  }
}

/** The report's rows: their arithmetic and their rendering as text and markdown. */

/** What the adapter can do at most. */
export interface Ceilings {
  /** GFLOP/s of fused multiply-adds in registers. */
  readonly gflops: number;
  /** GB/s of a large copy, read and written bytes counted. */
  readonly gbps: number;
}

/** One kernel on one shape. Absent values are null: what could not be measured, or was wrong. */
export interface Row {
  /** Name of the kernel. */
  readonly kernel: string;
  /** Shape, for people. */
  readonly shape: string;
  /** Milliseconds of one run of the engine's kernels. */
  readonly ours_ms: number | null;
  /** Their arithmetic rate. */
  readonly gflops: number | null;
  /** Their memory rate, counting every input once and every output once. */
  readonly gbps: number | null;
  /**
   * Share of the ceiling that binds, see {@linkcode bindingCeiling}. Above 100 where data stay in a cache, and for kernels
   * that work in place on a CPU: it reads the destination of a copy before it writes it, three transfers for two counted.
   */
  readonly percent_of_ceiling: number | null;
  /** Milliseconds of the libraries that compute on the same adapter; null where the library failed or was wrong. */
  readonly peers: Readonly<Record<string, number | null>>;
  /** Milliseconds of jax-js on WebAssembly. */
  readonly wasm_ms: number | null;
  /** The fastest peer's time over ours: above 1 the engine is faster. */
  readonly ratio: number | null;
  /** What went wrong, by implementation; absent where nothing did. */
  readonly errors?: Readonly<Record<string, string>>;
}

/** The whole report. */
export interface Report {
  /** The adapter's own name. */
  readonly adapter: string;
  /** Driver and version, as far as it can be found out. */
  readonly driver: string;
  /** Deno's version. */
  readonly deno: string;
  /** When it was made, ISO 8601. */
  readonly date: string;
  /** Measured in the same run. */
  readonly ceilings: Ceilings;
  /** Kernel by kernel. */
  readonly rows: readonly Row[];
}

/** What was measured for one row. */
export interface Measured {
  /** Name of the kernel. */
  readonly kernel: string;
  /** Shape, for people. */
  readonly shape: string;
  /** Floating-point operations of one run. */
  readonly flops: number;
  /** Bytes that one run must move at least. */
  readonly bytes: number;
  /** Milliseconds, or what went wrong. */
  readonly ours: number | Error;
  /** The same of every peer on the adapter that has the op. */
  readonly peers: ReadonlyMap<string, number | Error>;
  /** The same of jax-js on WebAssembly; absent where it was not run. */
  readonly wasm: number | Error | undefined;
}

/**
 * Which ceiling binds work of `flops` operations on `bytes` (the roofline model, Williams et al. 2009): memory where its
 * arithmetic intensity, flops per byte, is below the adapter's own, gflops / gbps, else arithmetic.
 */
export function bindingCeiling(flops: number, bytes: number, { gflops, gbps }: Ceilings): "gflops" | "gbps" {
  return flops / bytes < gflops / gbps ? "gbps" : "gflops";
}

/** A row from what was measured. */
export function makeRow(measured: Measured, ceilings: Ceilings): Row {
  const { kernel, shape, flops, bytes, ours, peers, wasm } = measured;
  const ms = numberOr(ours);
  const rates = ms === null ? null : { gflops: flops / ms / 1e6, gbps: bytes / ms / 1e6 };
  const ceiling = bindingCeiling(flops, bytes, ceilings);
  const times = [...peers.values()].filter((time) => typeof time === "number");
  const outcomes = [["ours", ours], ...peers, ["wasm", wasm]] as const;
  const errors = outcomes.flatMap(([name, outcome]) => outcome instanceof Error ? [[name, outcome.message]] : []);
  return {
    kernel,
    shape,
    ours_ms: ms,
    gflops: rates && rates.gflops,
    gbps: rates && rates.gbps,
    percent_of_ceiling: rates && 100 * rates[ceiling] / ceilings[ceiling],
    peers: Object.fromEntries([...peers].map(([name, outcome]) => [name, numberOr(outcome)])),
    wasm_ms: numberOr(wasm),
    ratio: ms === null || times.length === 0 ? null : Math.min(...times) / ms,
    ...errors.length > 0 && { errors: Object.fromEntries(errors) },
  };
}

function numberOr(outcome: number | Error | undefined): number | null {
  return typeof outcome === "number" ? outcome : null;
}

/** The cells of a report: a header, then a line a row. */
function cells({ rows }: Report): string[][] {
  const names = [...new Set(rows.flatMap(({ peers }) => Object.keys(peers)))];
  const header = ["kernel", "shape", "ours ms", "GFLOP/s", "GB/s", "% of ceiling", ...names.map((n) => `${n} ms`)];
  return [
    [...header, "wasm ms", "ratio"],
    ...rows.map((row) => [
      ...[row.kernel, row.shape, figure(row.ours_ms, row.errors?.["ours"])],
      ...[figure(row.gflops), figure(row.gbps), figure(row.percent_of_ceiling)],
      ...names.map((name) => figure(row.peers[name], row.errors?.[name])),
      ...[figure(row.wasm_ms, row.errors?.["wasm"]), figure(row.ratio)],
    ]),
  ];
}

/** Three significant digits, `-` where there is no value, `error` where it was wrong. */
function figure(value: number | null | undefined, error?: string): string {
  if (error !== undefined) return "error";
  if (value === null || value === undefined) return "-";
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function heading({ adapter, driver, deno, date, ceilings }: Report): string[] {
  return [
    `${adapter}, driver ${driver}, Deno ${deno}, ${date}`,
    `ceilings measured in this run: ${figure(ceilings.gflops)} GFLOP/s, ${figure(ceilings.gbps)} GB/s`,
  ];
}

function errorLines({ rows }: Report): string[] {
  return rows.flatMap(({ kernel, shape, errors = {} }) =>
    Object.entries(errors).map(([name, message]) => `${kernel} (${shape}), ${name}: ${message.replace(/\s+/g, " ")}`)
  );
}

/** The report as text with aligned columns. */
export function renderText(report: Report): string {
  const table = cells(report);
  const widths = table[0]!.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  const align = (cell: string, column: number) =>
    column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!);
  const lines = table.map((line) => line.map(align).join("  ").trimEnd());
  return [...heading(report), "", ...lines, ...sectioned(errorLines(report))].join("\n");
}

/** The report as a markdown table. */
export function renderMarkdown(report: Report): string {
  const [header, ...lines] = cells(report);
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = line(header!.map((_, column) => column < 2 ? "---" : "---:"));
  const errors = errorLines(report).map((text) => `- ${text}`);
  return [
    ...heading(report).flatMap((text) => [text, ""]),
    line(header!),
    rule,
    ...lines.map(line),
    ...sectioned(errors),
  ]
    .join("\n") + "\n";
}

function sectioned(lines: readonly string[]): string[] {
  return lines.length > 0 ? ["", ...lines] : [];
}

/** Types of the standard library's argument parser. */

/** How to read the arguments. */
export interface ParseOptions {
  /** True puts what follows `--` into the result's `"--"` instead of `_`. */
  "--"?: boolean;
  /** Other names of an option. */
  alias?: Readonly<Record<string, string | readonly string[]>>;
  /** Options that take no value; true for all without an `=`. */
  boolean?: boolean | string | readonly string[];
  /** Options whose values stay text. */
  string?: string | readonly string[];
  /** Values of options that are not given. */
  default?: Readonly<Record<string, unknown>>;
  /** True puts everything after the first positional argument into `_`. */
  stopEarly?: boolean;
  /** Options whose values are gathered into an array. */
  collect?: string | readonly string[];
  /** Options that `--no-name` sets to false. */
  negatable?: string | readonly string[];
  /** Called with an option that is not declared; false leaves it out of the result. */
  unknown?: (argument: string, key?: string, value?: unknown) => unknown;
}

/** The arguments by option name; `_` holds the positional ones. */
export interface Args {
  [option: string]: unknown;
  _: (string | number)[];
  "--"?: string[];
}

export function parseArgs(args: readonly string[], options?: ParseOptions): Args;

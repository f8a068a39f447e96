/** A typed table of command-line options: parsing, checks and help text all come from the table. */

import { parseArgs } from "@std/cli/parse-args";
import { UsageError } from "../gpu/errors.ts";
import { suggestion } from "../io/words.ts";

interface Common {
  /** Name without the dashes, words joined by `-`. */
  readonly name: string;
  /** What it is for: a phrase for the help text. */
  readonly help: string;
  /** True where the command cannot do without it. */
  readonly required?: true;
}

/** An option that takes any text that is not empty. */
export interface StringOption extends Common {
  readonly kind: "string";
  readonly default?: string;
  /** Stands for the value in the help text, as in `--out DIR`. */
  readonly placeholder?: string;
}

/** An option that may be given several times, each with a text that is not empty. */
export interface StringsOption extends Common {
  readonly kind: "strings";
  /** Stands for the value in the help text. */
  readonly placeholder?: string;
}

/** An option that takes a decimal number, whole where the kind is `integer`. */
export interface NumberOption extends Common {
  readonly kind: "number" | "integer";
  readonly default?: number;
  /** Least value. */
  readonly min?: number;
  /** Greatest value. */
  readonly max?: number;
  /** Exclusive lower bound. */
  readonly above?: number;
  /** Exclusive upper bound. */
  readonly below?: number;
}

/** An option that takes one of a few words. */
export interface ChoiceOption<Choice extends string = string> extends Common {
  readonly kind: "choice";
  readonly choices: readonly Choice[];
  readonly default?: Choice;
}

/** An option that is there or not. */
export interface FlagOption extends Common {
  readonly kind: "flag";
}

/** One line of a command's table. */
export type Option = StringOption | StringsOption | NumberOption | ChoiceOption | FlagOption;

/** What a command accepts and says about itself. */
export interface Command<Options extends readonly Option[] = readonly Option[]> {
  /** Name as the user types it. */
  readonly name: string;
  /** One sentence for the help text. */
  readonly summary: string;
  /** Its options. Declare them `as const`, so that values get their types. */
  readonly options: Options;
  /** The argument that stands without a name, as in `import FILE`; without it there may be none. */
  readonly operand?: { readonly placeholder: string; readonly help: string };
  /** What arguments after `--` are for; without it there may be none. */
  readonly passThrough?: string;
}

type CamelCase<Name extends string> = Name extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Name;

type ValueOf<O extends Option> = O extends FlagOption ? boolean
  : O extends StringsOption ? readonly string[]
  : O extends NumberOption ? number
  : O extends ChoiceOption<infer Choice> ? Choice
  : string;

type Always<O extends Option> = O extends FlagOption | StringsOption | { default: unknown } | { required: true } ? true
  : false;

/** The values of a table by camel-case name; undefined where an option has no default and was not given. */
export type Values<Options extends readonly Option[]> = {
  [O in Options[number] as CamelCase<O["name"]>]: Always<O> extends true ? ValueOf<O> : ValueOf<O> | undefined;
};

/** Thrown by {@linkcode parseOptions} where the user asked for help: not a failure. */
export class HelpRequest extends Error {
  /** `text` is what to print. */
  constructor(readonly text: string) {
    super(text);
  }
}

/** What {@linkcode parseOptions} returns. */
export interface Parsed<Options extends readonly Option[]> {
  /** The options' values. */
  readonly values: Values<Options>;
  /** The argument without a name, where the command has one. */
  readonly operand: string | undefined;
  /** The arguments after `--`, untouched. */
  readonly rest: readonly string[];
}

/**
 * Reads a command's arguments by its table.
 *
 * @throws {HelpRequest} where `--help` or `-h` is among them.
 * @throws {UsageError} for an unknown, repeated or missing option, a value that is missing or not what the table asks for,
 * and a positional argument.
 */
export function parseOptions<const Options extends readonly Option[]>(
  command: Command<Options>,
  args: readonly string[],
): Parsed<Options> {
  const end = args.indexOf("--");
  const own = end < 0 ? args : args.slice(0, end);
  const rest = end < 0 ? [] : args.slice(end + 1);
  if (own.includes("--help") || own.includes("-h")) throw new HelpRequest(helpText(command));
  if (end >= 0 && !command.passThrough) {
    throw new UsageError(`Command ${command.name} takes no "--" and nothing after it.`);
  }
  const { operand, options } = splitOperand(command, own);
  const given = givenValues(command, options);
  const values: Record<string, unknown> = {};
  for (const option of command.options) values[camelCase(option.name)] = valueOf(option, given[option.name]);
  return { values: values as Values<Options>, operand, rest };
}

/** Takes the argument without a name out of the others. */
function splitOperand(command: Command, args: readonly string[]): { operand?: string; options: readonly string[] } {
  if (!command.operand) return { options: args };
  const { placeholder, help } = command.operand;
  const takesNext = (argument: string | undefined) =>
    command.options.some(({ name, kind }) => kind !== "flag" && argument === `--${name}`);
  const at = args.findIndex((argument, i) => !argument.startsWith("-") && !takesNext(args[i - 1]));
  if (at < 0) throw new UsageError(`${placeholder} is missing: ${help}.`);
  return { operand: args[at]!, options: args.filter((_, i) => i !== at) };
}

/** The help text of one command. */
export function helpText(command: Command): string {
  const operand = command.operand ? [[command.operand.placeholder, command.operand.help]] : [];
  const lines = [
    ...operand,
    ...command.options.map((option) => [usage(option), `${option.help}${remarks(option)}`]),
  ];
  lines.push(["--help", "print this and do nothing else"]);
  const width = Math.max(...lines.map(([left]) => left!.length));
  const rest = command.passThrough ? " [-- arguments]" : "";
  return [
    `${command.summary}`,
    "",
    `Usage: deno task ${command.name}${command.operand ? ` ${command.operand.placeholder}` : ""} [options]${rest}`,
    "",
    ...lines.map(([left, right]) => `  ${left!.padEnd(width)}  ${right}`),
    ...(command.passThrough ? ["", `After --: ${command.passThrough}`] : []),
  ].join("\n");
}

/** The texts given for each option, in the order given: `""` where a value is missing, `true` for a flag. */
function givenValues(command: Command, args: readonly string[]): Record<string, unknown[] | undefined> {
  const flags = command.options.filter((o) => o.kind === "flag").map((o) => o.name);
  const valued = command.options.filter((o) => o.kind !== "flag").map((o) => o.name);
  const { _, ...given } = parseArgs(normalised(command, args), {
    boolean: flags,
    string: valued,
    collect: [...flags, ...valued],
  });
  return given as Record<string, unknown[]>;
}

/**
 * The arguments as `--name`, or `--name=value`, of known options. This closes the parser's gaps: `-x` would pass for `--x`, a
 * flag would take any `=value` and swallow a word `true`, and a negative number would not be taken as a value.
 */
function normalised(command: Command, args: readonly string[]): string[] {
  const result: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const argument = args[i]!, next = args[i + 1];
    const [, name, value] = /^--([^=]*)(?:=(.*))?$/s.exec(argument) ?? [];
    const option = command.options.find((o) => o.name === name);
    if (!option) throw unknownArgument(command, argument);
    if (option.kind === "flag") {
      if (value !== undefined) throw new UsageError(`Option --${name} takes no value, but was given ${quoted(value)}.`);
      result.push(argument);
    } else if (value !== undefined || next === undefined || /^-($|[^.\d])/.test(next)) {
      result.push(argument);
    } else {
      result.push(`${argument}=${next}`);
      i++;
    }
  }
  return result;
}

function unknownArgument(command: Command, argument: string): UsageError {
  if (argument.startsWith("-") && argument.length > 1) {
    const name = argument.replace(/=.*$/s, "");
    const known = [...command.options.map((option) => option.name), "help"];
    const hint = suggestion(name.replace(/^-+/, ""), known, "--");
    return new UsageError(`Command ${command.name} has no option ${quoted(name)}.${hint}`);
  }
  const hint = command.passThrough ? " (put what is to be passed on after --)" : "";
  return new UsageError(`Command ${command.name} takes options only, but was given ${quoted(argument)}${hint}.`);
}

function valueOf(option: Option, given: readonly unknown[] = []): unknown {
  if (option.kind === "strings") return given.map((text) => oneValue({ ...option, kind: "string" }, [text]));
  return oneValue(option, given);
}

function oneValue(option: Exclude<Option, StringsOption>, given: readonly unknown[]): unknown {
  if (given.length > 1) throw new UsageError(`Option --${option.name} was given ${given.length} times; give it once.`);
  if (option.kind === "flag") return given.length === 1;
  const [text] = given as (string | undefined)[];
  if (text === undefined) {
    if (option.required) throw new UsageError(`Option --${option.name} is missing; it expects ${expected(option)}.`);
    return option.default;
  }
  if (text.trim() === "") throw new UsageError(`Option --${option.name} has no value; it expects ${expected(option)}.`);
  const value = option.kind === "number" || option.kind === "integer" ? numberValue(option, text) : text;
  const valid = option.kind === "choice" ? option.choices.includes(text) : value !== undefined;
  if (valid) return value;
  const hint = option.kind === "choice" ? suggestion(text, option.choices) : "";
  throw new UsageError(`Option --${option.name} is ${quoted(text)}, but expects ${expected(option)}.${hint}`);
}

/** The number that `text` spells, undefined where it is none or out of bounds. */
function numberValue(option: NumberOption, text: string): number | undefined {
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return undefined;
  const value = Number(text);
  const { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = option;
  const inside = value >= min && value <= max && value > above && value < below;
  const whole = option.kind === "number" ? Number.isFinite(value) : Number.isSafeInteger(value);
  return inside && whole ? value : undefined;
}

/** What an option takes, as a phrase. */
function expected(option: Exclude<Option, FlagOption>): string {
  switch (option.kind) {
    case "string":
    case "strings":
      return "a text";
    case "choice":
      return `one of ${option.choices.join(", ")}`;
    default:
      return `${option.kind === "integer" ? "a whole number" : "a number"}${bounds(option)}`;
  }
}

function bounds({ min, max, above, below }: NumberOption): string {
  const lower = min !== undefined ? `at least ${min}` : above !== undefined ? `above ${above}` : "";
  const upper = max !== undefined ? `at most ${max}` : below !== undefined ? `below ${below}` : "";
  const both = [lower, upper].filter(Boolean).join(" and ");
  return both && `, ${both}`;
}

function usage(option: Option): string {
  switch (option.kind) {
    case "flag":
      return `--${option.name}`;
    case "string":
    case "strings":
      return `--${option.name} ${option.placeholder ?? "TEXT"}`;
    case "choice":
      return `--${option.name} NAME`;
    default:
      return `--${option.name} N`;
  }
}

function remarks(option: Option): string {
  const parts: string[] = [];
  if (option.kind === "strings") parts.push("may be repeated");
  else if (option.kind !== "flag" && option.kind !== "string") parts.push(expected(option));
  if (option.required) parts.push("required");
  if ("default" in option && option.default !== undefined) parts.push(`default ${option.default}`);
  return parts.length ? ` (${parts.join("; ")})` : "";
}

/** An option's name as its value is called. */
export function camelCase(name: string): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** `text` in quotes on one line, shortened where it is long. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text);
}

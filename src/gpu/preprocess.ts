/** The one WGSL preprocessor: specialises constants and storage types, unrolls marked loops, folds what is then known. */

import { GraphError } from "./errors.ts";

/**
 * Specialises a kernel's source.
 *
 * - `const NAME: T = value;` and `override NAME: T = value;` lines whose NAME is in `constants` become
 *   `const NAME: T = given;` (`const` may size function-space arrays, `override` may not; both may be given).
 * - A `for (var i = A; i < B; i++) {` loop on the line after a `// @unroll` comment is replaced by its body, once per value,
 *   with `i` written as a literal: naga clamps every dynamic index, constant indices keep arrays in registers.
 *   A and B are integer expressions of literals and of constants declared in the file.
 * - In what was unrolled, an `if` without `else` whose condition is such an expression is decided, and an index that is one
 *   is computed: WGSL compilers take long over thousands of them.
 * - An `alias NAME = f32;` or `alias NAME = vecN<f32>;` line whose NAME is in `f16` becomes one of f16. The file converts
 *   what it loads (`f32(x[i])`, `vec4<f32>(x[i])`) and what it stores (`NAME(value)`), which changes nothing in f32.
 *
 * The file is valid WGSL without any of this.
 */
export function specialise(
  source: string,
  constants: Readonly<Record<string, number>> = {},
  f16: readonly string[] = [],
): string {
  let text = source;
  for (const [name, value] of Object.entries(constants)) {
    const declaration = new RegExp(`^(?:const|override) ${name}: (\\w+) = [^;]+;`, "m");
    if (!declaration.test(text)) throw new GraphError(`The kernel declares no constant ${name}.`);
    text = text.replace(declaration, (_, type: string) => `const ${name}: ${type} = ${literal(value, type)};`);
  }
  const known = new Map<string, number>();
  for (const [, name, value] of text.matchAll(/^(?:const|override) (\w+): [ui]32 = (\d+)[ui]?;/gm)) {
    known.set(name!, Number(value));
  }
  return unroll(withF16(text, f16), known);
}

/** The named aliases as types of f16. */
function withF16(source: string, aliases: readonly string[]): string {
  if (aliases.length === 0) return source;
  let text = source;
  for (const name of aliases) {
    const declaration = new RegExp(`^(alias ${name} = (?:vec[234]<)?)f32(>?;)`, "m");
    if (!declaration.test(text)) throw new GraphError(`The kernel declares no alias ${name} of a type of f32.`);
    text = text.replace(declaration, "$1f16$2");
  }
  return `enable f16;\n${text}`;
}

/** A WGSL literal of the given scalar type. */
function literal(value: number, type: string): string {
  if (type === "bool") return value ? "true" : "false";
  if (type === "u32") return `${value}u`;
  if (type === "i32") return `${value}i`;
  const text = String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** Values of the constants that a file declares. */
type Known = ReadonlyMap<string, number>;

const MARK = /\/\/ @unroll[^\n]*\n\s*for \(var (\w+) = ([^;]+); \1 < ([^;]+); \1\+\+\) \{/g;

function unroll(text: string, known: Known): string {
  let result = "", position = 0;
  for (;;) {
    MARK.lastIndex = position;
    const match = MARK.exec(text);
    if (!match) return result + text.slice(position);
    const [head, name, from, to] = match as unknown as [string, string, string, string];
    const bodyStart = match.index + head.length;
    const bodyEnd = closingBrace(text, bodyStart);
    const body = text.slice(bodyStart, bodyEnd);
    const variable = new RegExp(`\\b${name}\\b`, "g");
    result += text.slice(position, match.index);
    for (let i = bound(from, known); i < bound(to, known); i++) {
      result += `{${unroll(fold(body.replace(variable, `${i}u`), known), known)}}\n`;
    }
    position = bodyEnd + 1;
  }
}

function closingBrace(text: string, start: number): number {
  let depth = 1;
  for (let i = start; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return i;
  }
  throw new GraphError("An unrolled loop has no closing brace.");
}

const CONDITION = /\bif \(([\w\s+\-*/%<>=!&|()]+)\) \{/g;
const INDEX = /\[([\w\s+\-*/%()]+)\]/g;

/** Decides conditions and computes indices that are known. */
function fold(text: string, known: Known): string {
  let result = "", position = 0;
  for (;;) {
    CONDITION.lastIndex = position;
    const match = CONDITION.exec(text);
    if (!match) break;
    const start = match.index + match[0].length;
    const end = closingBrace(text, start);
    const value = /^\s*else\b/.test(text.slice(end + 1, end + 10)) ? undefined : evaluate(match[1]!, known);
    if (value === undefined) {
      result += text.slice(position, start);
      position = start;
    } else {
      result += text.slice(position, match.index);
      if (value) result += `{${fold(text.slice(start, end), known)}}`;
      position = end + 1;
    }
  }
  result += text.slice(position);
  return result.replace(INDEX, (whole, expression: string) => {
    const value = evaluate(expression, known);
    return value === undefined ? whole : `[${value}u]`;
  });
}

/** Value of a loop's bound. */
function bound(expression: string, known: Known): number {
  const value = evaluate(expression, known);
  if (value === undefined) throw new GraphError(`An unrolled loop's bound "${expression}" is not a known integer.`);
  return value;
}

/** Binary operators, the loosest first. */
const LEVELS: readonly Readonly<Record<string, (a: number, b: number) => number>>[] = [
  { "||": (a, b) => Number(a || b) },
  { "&&": (a, b) => Number(a && b) },
  { "==": (a, b) => Number(a === b), "!=": (a, b) => Number(a !== b) },
  {
    "<": (a, b) => Number(a < b),
    ">": (a, b) => Number(a > b),
    "<=": (a, b) => Number(a <= b),
    ">=": (a, b) => Number(a >= b),
  },
  { "+": (a, b) => (a + b) >>> 0, "-": (a, b) => (a - b) >>> 0 },
  { "*": (a, b) => Math.imul(a, b) >>> 0, "/": (a, b) => b === 0 ? NaN : Math.floor(a / b), "%": (a, b) => a % b },
];

const TOKEN = /\s*(\d+[ui]?|\w+|\|\||&&|[=!<>]=|[-+*/%<>()])/y;

/** Value of an expression of u32 literals and known names, wrapped as in WGSL; a truth value is 0 or 1. Undefined: not known. */
function evaluate(expression: string, known: Known): number | undefined {
  const tokens: string[] = [];
  let end = 0;
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(expression); match; match = TOKEN.exec(expression)) {
    tokens.push(match[1]!);
    end = TOKEN.lastIndex;
  }
  let at = 0, failed = expression.slice(end).trim() !== "";
  const operand = (): number => {
    const token = tokens[at++];
    if (token === "(") {
      const value = level(0);
      failed ||= tokens[at++] !== ")";
      return value;
    }
    const value = token === undefined ? undefined : /^\d/.test(token) ? parseInt(token) : known.get(token);
    failed ||= value === undefined;
    return value ?? 0;
  };
  const level = (depth: number): number => {
    const operators = LEVELS[depth];
    if (!operators) return operand();
    let value = level(depth + 1);
    for (let operator = operators[tokens[at]!]; operator && !failed; operator = operators[tokens[at]!]) {
      at++;
      value = operator(value, level(depth + 1));
      failed ||= Number.isNaN(value);
    }
    return value;
  };
  const value = level(0);
  return failed || at < tokens.length ? undefined : value;
}

/** The one WGSL preprocessor: specialises constants and storage types, and unrolls marked loops. */

import { GraphError } from "./errors.ts";

/**
 * Specialises a kernel's source.
 *
 * - `const NAME: T = value;` and `override NAME: T = value;` lines whose NAME is in `constants` become
 *   `const NAME: T = given;` (`const` may size function-space arrays, `override` may not; both may be given).
 * - A `for (var i = A; i < B; i++) {` loop on the line after a `// @unroll` comment is replaced by its body, once per value,
 *   with `i` written as a literal: naga clamps every dynamic index, constant indices keep arrays in registers.
 *   A and B are integer literals, names of constants declared in the file, or sums, products and quotients of them.
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

const MARK = /\/\/ @unroll[^\n]*\n\s*for \(var (\w+) = ([^;]+); \1 < ([^;]+); \1\+\+\) \{/;

function unroll(text: string, known: ReadonlyMap<string, number>): string {
  for (;;) {
    const match = MARK.exec(text);
    if (!match) return text;
    const [head, name, from, to] = match as unknown as [string, string, string, string];
    const bodyStart = match.index + head.length;
    const bodyEnd = closingBrace(text, bodyStart);
    const body = text.slice(bodyStart, bodyEnd);
    const variable = new RegExp(`\\b${name}\\b`, "g");
    let expanded = "";
    for (let i = integer(from, known); i < integer(to, known); i++) {
      expanded += `{${body.replace(variable, `${i}u`)}}\n`;
    }
    text = text.slice(0, match.index) + expanded + text.slice(bodyEnd + 1);
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

/** Value of an integer expression: literals, known names, + * / and %, evaluated left to right by precedence. */
function integer(expression: string, known: ReadonlyMap<string, number>): number {
  const sum = (text: string): number => text.split("+").reduce((total, term) => total + product(term), 0);
  const product = (text: string): number => {
    const parts = text.trim().split(/\s*([*/])\s*/);
    let value = atom(parts[0]!);
    for (let i = 1; i < parts.length; i += 2) {
      const right = atom(parts[i + 1]!);
      value = parts[i] === "*" ? value * right : Math.floor(value / right);
    }
    return value;
  };
  const atom = (text: string): number => {
    if (/^\d+[ui]?$/.test(text)) return parseInt(text);
    const value = known.get(text);
    if (value === undefined) throw new GraphError(`An unrolled loop's bound "${expression}" is not a known integer.`);
    return value;
  };
  return sum(expression);
}

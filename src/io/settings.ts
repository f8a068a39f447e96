/** Nested settings with a rule for each: checked, and changed in part. */

import { suggestion } from "./words.ts";

/** Says what is wrong; the message is a clause without its subject, as in `the field "seed" should be a number`. */
export type Fail = (message: string) => never;

/** Limits of a number. */
export interface Limits {
  /** Least value. */
  readonly min?: number;
  /** Greatest value. */
  readonly max?: number;
  /** Exclusive lower bound. */
  readonly above?: number;
  /** Exclusive upper bound. */
  readonly below?: number;
}

/** What one setting may be. */
export type Rule =
  & (
    | { readonly kind: "number"; readonly whole: boolean; readonly limits: Limits }
    | { readonly kind: "choice"; readonly choices: readonly string[] }
    | { readonly kind: "toggle" }
    | { readonly kind: "text" }
    | { readonly kind: "list"; readonly item: Rule; readonly length: Limits }
  )
  & { readonly optional?: boolean };

/** Rules by the settings' names, nested as they are. */
export interface Rules {
  readonly [name: string]: Rule | Rules;
}

/** A number. */
export function number(limits: Limits): Rule {
  return { kind: "number", whole: false, limits };
}

/** A whole number. */
export function whole(limits: Limits): Rule {
  return { kind: "number", whole: true, limits };
}

/** One of a few words. */
export function choice(choices: readonly string[]): Rule {
  return { kind: "choice", choices };
}

/** True or false. */
export const toggle: Rule = { kind: "toggle" };

/** A list whose length is within the limits. */
export function list(item: Rule, length: Limits): Rule {
  return { kind: "list", item, length };
}

/** Any text. */
export const text: Rule = { kind: "text" };

function isRule(rule: Rule | Rules): rule is Rule {
  return typeof rule.kind === "string";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Fails unless `value` has every setting, each by its rule, and no other. */
export function checkSettings(value: unknown, rules: Rules, fail: Fail): void {
  checkGroup(value, rules, "", fail, true);
}

/**
 * `base` with the settings that `changes` has, nested like it, in their place.
 *
 * Fails where one is none of the settings, or not what its rule says.
 */
export function withChanges<T>(base: T, changes: unknown, rules: Rules, fail: Fail): T {
  checkGroup(changes, rules, "", fail, false);
  return merged(base, changes) as T;
}

function merged(base: unknown, changes: unknown): unknown {
  if (!isObject(base) || !isObject(changes)) return changes;
  const result = { ...base };
  for (const [name, value] of Object.entries(changes)) {
    if (value !== undefined) result[name] = merged(base[name], value);
  }
  return result;
}

/** `a.b.c` and a value as nested settings; the value is JSON, or a word where it is none. */
export function settingAt(path: string, text: string): Record<string, unknown> {
  let value: unknown = text;
  try {
    value = JSON.parse(text);
  } catch {
    // A word.
  }
  return path.split(".").reduceRight<unknown>((inner, name) => ({ [name]: inner }), value) as Record<string, unknown>;
}

function checkGroup(value: unknown, rules: Rules, path: string, fail: Fail, all: boolean): void {
  if (!isObject(value)) {
    fail(path === "" ? "there should be an object of settings" : `the field "${path}" should hold settings`);
  }
  const group = value as Record<string, unknown>;
  const inside = (name: string) => path === "" ? name : `${path}.${name}`;
  for (const name of Object.keys(group)) {
    if (!Object.hasOwn(rules, name)) {
      const hint = suggestion(name, Object.keys(rules), path === "" ? "" : `${path}.`);
      fail(`there is no setting "${inside(name)}"${hint && `.${hint}`}`);
    }
  }
  for (const [name, rule] of Object.entries(rules)) {
    const given = group[name];
    if (given === undefined && (!all || rule.optional === true)) continue;
    if (isRule(rule)) {
      const expected = expectation(given, rule);
      if (expected !== undefined) fail(`the field "${inside(name)}" should be ${expected}`);
    } else checkGroup(given, rule, inside(name), fail, all);
  }
}

/** What the rule asks for, where the value is not that. */
function expectation(value: unknown, rule: Rule): string | undefined {
  switch (rule.kind) {
    case "number": {
      const { whole, limits } = rule;
      const ok = typeof value === "number" && Number.isFinite(value) && (!whole || Number.isSafeInteger(value)) &&
        within(value, limits);
      return ok ? undefined : `a ${whole ? "whole " : ""}number${limitText(limits)}`;
    }
    case "choice":
      return rule.choices.includes(value as string) ? undefined : `one of ${rule.choices.join(", ")}`;
    case "toggle":
      return typeof value === "boolean" ? undefined : "a boolean";
    case "text":
      return typeof value === "string" ? undefined : "a text";
    case "list": {
      const { item, length } = rule;
      const ok = Array.isArray(value) && within(value.length, length) &&
        value.every((one) => expectation(one, item) === undefined);
      return ok ? undefined : listText(length, expectation(undefined, item)!);
    }
  }
}

function listText(length: Limits, item: string): string {
  const { min, max } = length;
  if (min !== undefined && min === max) return `a list of ${min}, each ${item}`;
  const limits = limitText(length);
  return `a list, each item ${item}${limits && `; its length${limits}`}`;
}

function within(value: number, limits: Limits): boolean {
  const { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = limits;
  return value >= min && value <= max && value > above && value < below;
}

function limitText({ min, max, above, below }: Limits): string {
  const parts = [
    ...above === undefined ? [] : [`above ${above}`],
    ...min === undefined ? [] : [`at least ${min}`],
    ...max === undefined ? [] : [`at most ${max}`],
    ...below === undefined ? [] : [`below ${below}`],
  ];
  return parts.length === 0 ? "" : `, ${parts.join(" and ")}`;
}

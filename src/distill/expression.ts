/** Expressions of the logit as text: parsed by recursive descent into functions of pointwise ops. */

import { UsageError } from "../gpu/errors.ts";
import {
  abs,
  add,
  affine,
  clamp,
  div,
  exp,
  log,
  max,
  min,
  mul,
  neg,
  sigmoid,
  softplus,
  sqrt,
  sub,
  tanh,
  type Tensor,
} from "../graph/mod.ts";

/** Longest text that is read. */
const MAX_LENGTH = 1000;

/** Deepest nesting of parentheses, signs and powers. */
const MAX_DEPTH = 50;

/** Whole powers up to this are products, which are right for negative bases as well. */
const MAX_PRODUCT_POWER = 1024;

/** From the logit to a tensor of its shape. */
type Build = (logit: Tensor) => Tensor;

/** A part of an expression: a number, or something that depends on the logit, if known also by its logarithm. */
type Term = { readonly number: number } | { readonly build: Build; readonly log?: Build };

/** A function or operator: on numbers as on tensors. */
interface Operation {
  /** How many arguments it takes. */
  readonly arity: number;
  /** On numbers. */
  readonly numbers: (...args: number[]) => number;
  /** On tensors. */
  readonly tensors: (...args: Tensor[]) => Tensor;
}

function unary(numbers: (x: number) => number, tensors: (x: Tensor) => Tensor): Operation {
  return { arity: 1, numbers: (x) => numbers(x!), tensors: (x) => tensors(x!) };
}

function binary(numbers: (a: number, b: number) => number, tensors: (a: Tensor, b: Tensor) => Tensor): Operation {
  return { arity: 2, numbers: (a, b) => numbers(a!, b!), tensors: (a, b) => tensors(a!, b!) };
}

const NEGATION = unary((x) => -x, neg);
const SUMS: ReadonlyMap<string, Operation> = new Map([
  ["+", binary((a, b) => a + b, add)],
  ["-", binary((a, b) => a - b, sub)],
]);
const PRODUCTS: ReadonlyMap<string, Operation> = new Map([
  ["*", binary((a, b) => a * b, mul)],
  ["/", binary((a, b) => a / b, div)],
]);
const FUNCTIONS: ReadonlyMap<string, Operation> = new Map([
  ["exp", unary(Math.exp, exp)],
  ["log", unary(Math.log, log)],
  ["sqrt", unary(Math.sqrt, sqrt)],
  ["abs", unary(Math.abs, abs)],
  ["sigmoid", unary((x) => 1 / (1 + Math.exp(-x)), sigmoid)],
  ["softplus", unary((x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), softplus)],
  ["tanh", unary(Math.tanh, tanh)],
  ["min", binary(Math.min, min)],
  ["max", binary(Math.max, max)],
]);
const NAMES = ["logit", "r", ...FUNCTIONS.keys(), "clamp"].join(", ");

const TOKEN = /\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|[A-Za-z_]\w*|[-+*/^(),]/y;

/**
 * Parses an expression of `logit` and `r` = exp(−logit) with numbers, + − * /, ^ (to the right first, before a sign:
 * −x^2 is −(x^2)), parentheses and the functions exp, log, sqrt, abs, sigmoid, softplus, tanh, min(x, y), max(x, y) and
 * clamp(x, low, high) with numbers as bounds. What it gives makes the graph; numbers are constants of pointwise ops.
 *
 * @throws {UsageError} naming the position, counted from 1, and what was expected there.
 */
export function parseExpression(text: string): (logit: Tensor) => Tensor {
  if (text.length > MAX_LENGTH) {
    throw new UsageError(`An expression has at most ${MAX_LENGTH} characters, but this one has ${text.length}.`);
  }
  return built(new Parser(text).whole());
}

/** A term as a tensor, numbers too: the logit is finite wherever it matters. */
function built(term: Term): Build {
  return "number" in term ? (logit) => affine(logit, 0, term.number) : term.build;
}

class Parser {
  /** Where the token at hand starts. */
  #at = 0;
  /** The token at hand; "" at the end. */
  #token = "";
  #depth = 0;

  constructor(readonly text: string) {
    this.#advance();
  }

  whole(): Term {
    const term = this.#sum();
    if (this.#token !== "") this.#expected("an operator or the end");
    return term;
  }

  #sum(): Term {
    return this.#chain(SUMS, () => this.#product());
  }

  #product(): Term {
    return this.#chain(PRODUCTS, () => this.#signed());
  }

  /** Operands between operators of one rank, the left first. */
  #chain(operators: ReadonlyMap<string, Operation>, operand: () => Term): Term {
    let term = operand();
    for (let operator = operators.get(this.#token); operator; operator = operators.get(this.#token)) {
      const at = this.#at;
      this.#advance();
      term = this.#apply(operator, [term, operand()], at);
    }
    return term;
  }

  #signed(): Term {
    return this.#nested(() => {
      const at = this.#at;
      return this.#take("-") ? this.#apply(NEGATION, [this.#signed()], at) : this.#power();
    });
  }

  #power(): Term {
    const base = this.#primary();
    const at = this.#at;
    return this.#take("^") ? this.#raise(base, this.#signed(), at) : base;
  }

  #primary(): Term {
    const token = this.#token, at = this.#at;
    if (/^[\d.]/.test(token)) {
      this.#advance();
      return this.#number(Number(token), at);
    }
    if (this.#take("(")) {
      const term = this.#sum();
      this.#expect(")");
      return term;
    }
    if (!/^\w/.test(token)) this.#expected('a number, a name or "("');
    this.#advance();
    if (token === "logit") return { build: (logit) => logit };
    if (token === "r") return { build: (logit) => exp(neg(logit)), log: neg };
    if (token === "clamp") return this.#clamp(at);
    const operation = FUNCTIONS.get(token);
    if (!operation) this.#fail(at, `${JSON.stringify(token)} is not known; there are ${NAMES}`);
    const args = this.#arguments(operation.arity);
    const [x] = args as [Term];
    const term = this.#apply(operation, args, at);
    return token === "exp" && "build" in term ? { ...term, log: built(x) } : term;
  }

  #arguments(count: number): Term[] {
    this.#expect("(");
    const args = [this.#sum()];
    while (args.length < count) {
      this.#expect(",");
      args.push(this.#sum());
    }
    this.#expect(")");
    return args;
  }

  #clamp(at: number): Term {
    const [x, low, high] = this.#arguments(3) as [Term, Term, Term];
    if (!("number" in low && "number" in high)) this.#fail(at, "the bounds of clamp should be numbers");
    const bounds = [low.number, high.number] as const;
    if (bounds[0] > bounds[1]) {
      this.#fail(at, `the bounds of clamp, ${bounds[0]} and ${bounds[1]}, are in the wrong order`);
    }
    const numbers = (value: number) => Math.min(bounds[1], Math.max(bounds[0], value));
    return this.#apply(unary(numbers, (tensor) => clamp(tensor, ...bounds)), [x], at);
  }

  #apply({ numbers, tensors }: Operation, args: readonly Term[], at: number): Term {
    const known = args.flatMap((arg) => "number" in arg ? [arg.number] : []);
    if (known.length === args.length) return this.#number(numbers(...known), at);
    const builds = args.map(built);
    return { build: (logit) => tensors(...builds.map((build) => build(logit))) };
  }

  /** Powers: e^x with a product in the exponent, whole ones as products, others as exp(exponent · log(base)). */
  #raise(base: Term, exponent: Term, at: number): Term {
    if ("number" in base && "number" in exponent) return this.#number(base.number ** exponent.number, at);
    const whole = "number" in exponent && Math.abs(exponent.number) <= MAX_PRODUCT_POWER &&
      Number.isInteger(exponent.number);
    if (!("number" in base) && !base.log && whole) {
      return { build: (logit) => product(base.build(logit), exponent.number, affine(logit, 0, 1)) };
    }
    if ("number" in base && !(base.number > 0)) {
      this.#fail(at, `the base of a power that depends on the logit should be positive, not ${base.number}`);
    }
    const ofBase = logarithm(base);
    const power: Build = "number" in exponent
      ? (logit) => affine(ofBase(logit), exponent.number, 0)
      : (logit) => mul(exponent.build(logit), ofBase(logit));
    return { build: (logit) => exp(power(logit)), log: power };
  }

  #number(value: number, at: number): Term {
    if (!Number.isFinite(Math.fround(value))) this.#fail(at, `this number is ${value}, which no float32 holds`);
    return { number: value };
  }

  #nested(parse: () => Term): Term {
    if (++this.#depth > MAX_DEPTH) this.#fail(this.#at, `there are more than ${MAX_DEPTH} levels`);
    const term = parse();
    this.#depth--;
    return term;
  }

  #take(token: string): boolean {
    if (this.#token !== token) return false;
    this.#advance();
    return true;
  }

  #expect(token: string): void {
    if (!this.#take(token)) this.#expected(JSON.stringify(token));
  }

  /** Goes on to the next token. */
  #advance(): void {
    const { text } = this;
    let at = this.#at + this.#token.length;
    while (/[ \t\r\n]/.test(text[at] ?? "")) at++;
    TOKEN.lastIndex = at;
    this.#at = at;
    this.#token = TOKEN.exec(text)?.[0] ?? "";
    if (this.#token === "" && at < text.length) {
      this.#fail(
        at,
        `${JSON.stringify(String.fromCodePoint(text.codePointAt(at)!))} does not belong into an expression`,
      );
    }
  }

  #expected(what: string): never {
    const found = this.#token === "" ? "the end" : JSON.stringify(this.#token);
    this.#fail(this.#at, `${what} was expected, not ${found}`);
  }

  #fail(at: number, message: string): never {
    throw new UsageError(`In the expression, at character ${at + 1}: ${message}.`);
  }
}

function logarithm(term: Term): Build {
  if ("number" in term) return (logit) => affine(logit, 0, Math.log(term.number));
  return term.log ?? ((logit) => log(term.build(logit)));
}

/** x^n of a whole n by squaring; `one` is 1 in its shape. */
function product(x: Tensor, n: number, one: Tensor): Tensor {
  let result = one, square = x;
  for (let left = Math.abs(n); left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) result = result === one ? square : mul(result, square);
    if (left > 1) square = mul(square, square);
  }
  return n < 0 ? div(one, result) : result;
}

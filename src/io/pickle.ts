/** Python's pickle format, protocols 0 to 5, read as plain data: nothing that a pickle names is ever looked up or run. */

import { FileError } from "../gpu/errors.ts";
import { viewOf } from "./bytes.ts";
import { latin1Bytes, latin1Text } from "./latin1.ts";

/**
 * A class or function that a pickle names; it is a name and nothing else.
 *
 * Values that need no name become JavaScript's own: None null, dictionaries `Map`, lists and tuples arrays, sets `Set`,
 * bytes and bytearrays views of the file as `Uint8Array`, text and Python 2's strings (as Latin-1) strings, but those of
 * more than 64 KiB as bytes, integers numbers (`bigint` beyond 2^53).
 */
export class PickleName {
  /** `name` is the module's and the object's, with a dot between. */
  constructor(readonly name: string) {}
}

/** An instance of a class that a pickle names: what it was made from, inert. */
export class PickleObject {
  /** What the pickle hands to the finished object, for most classes its attributes by name. */
  state: unknown = null;

  /** `className` is the module's and the class's name with a dot between, `args` what the constructor was given. */
  constructor(readonly className: string, readonly args: readonly unknown[]) {}
}

/** Where a reading is: what constructors of data need for their errors. */
export interface PickleCall {
  /** The file and the byte of the operation under way. */
  readonly place: string;
  /** What the reading of this file may still use. */
  readonly budget: PickleBudget;
  /** An error that names the place. */
  fail(problem: string): FileError;
}

/**
 * Makes inert data from the arguments of a call. Where it copies what it was given, it must ask the budget first: a
 * pickle can call it on the same large argument at the cost of four bytes.
 */
export type PickleConstructor = (args: readonly unknown[], call: PickleCall) => unknown;

/** Operations of all pickles in a file: real checkpoints have a few thousand to some hundred thousand. */
const MAX_OPERATIONS = 1 << 21;
/** Bytes of an integer; the longest one in a file of PyTorch has 10. */
const MAX_INTEGER_BYTES = 256;
const MAX_PROTOCOL = 5;
/** Longer strings of Python 2 are the contents of arrays: as text they would take several times their memory. */
const MAX_STRING_BYTES = 1 << 16;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bounds the time and memory of reading one file, whatever it says; nested pickles share it. */
export class PickleBudget {
  #operations = MAX_OPERATIONS;
  #copies: number;

  /** For a file of `bytes` bytes: as many may be copied twice. */
  constructor(bytes: number) {
    this.#copies = 2 * bytes;
  }

  /** Takes `count` operations, or as many values copied. Throws where they are used up. */
  spend(count: number, call: Pick<PickleCall, "fail">): void {
    this.#operations -= count;
    if (this.#operations < 0) {
      throw call.fail(`the pickle goes on after ${MAX_OPERATIONS} operations, more than any checkpoint has`);
    }
  }

  /** Takes `count` bytes to be copied. Throws where they are used up. */
  spendBytes(count: number, call: Pick<PickleCall, "fail">): void {
    this.#copies -= count;
    if (this.#copies < 0) throw call.fail("the pickle makes more bytes than its file has");
  }
}

/** A pickle and what may be made from it. */
export interface PickleSource {
  /** Holds the pickle. */
  readonly bytes: Uint8Array;
  /** Names the file in errors. */
  readonly what: string;
  /** Shared by all pickles of a file. */
  readonly budget: PickleBudget;
  /** Constructors by the names they stand for; null where a name may be mentioned but not called. All else is refused. */
  readonly allowed: ReadonlyMap<string, PickleConstructor | null>;
  /** Gives the object outside of the pickle that an identifier stands for. Without it, identifiers are refused. */
  readonly persistentLoad?: (id: unknown, call: PickleCall) => unknown;
}

/**
 * Reads the pickle that begins at byte `start`.
 *
 * @returns its value, and where it ends.
 * @throws {FileError} where it is damaged, names what is not allowed, or needs more than its budget; the message names
 * the file, the byte and what was refused.
 */
export function readPickle(source: PickleSource, start = 0): { value: unknown; end: number } {
  return new Machine(source, start).run();
}

/** The containers and bytes of Python's own library that pickles write as calls. */
export const PLAIN_CONSTRUCTORS: ReadonlyMap<string, PickleConstructor> = new Map<string, PickleConstructor>([
  ["collections.OrderedDict", orderedDict],
  ["_codecs.encode", bytesOf],
  ...["builtins", "__builtin__"].flatMap((module): [string, PickleConstructor][] => [
    [`${module}.set`, setOf],
    [`${module}.frozenset`, setOf],
    [`${module}.bytes`, bytesOf],
    [`${module}.bytearray`, bytesOf],
  ]),
]);

function orderedDict(args: readonly unknown[], call: PickleCall): Map<unknown, unknown> {
  const [pairs = []] = args;
  const isPair = (pair: unknown): pair is [unknown, unknown] => Array.isArray(pair) && pair.length === 2;
  if (args.length > 1 || !Array.isArray(pairs)) throw call.fail("an OrderedDict is not made from a list of pairs");
  call.budget.spend(pairs.length, call);
  if (!pairs.every(isPair)) throw call.fail("an OrderedDict is not made from a list of pairs");
  return new Map(pairs);
}

function setOf(args: readonly unknown[], call: PickleCall): Set<unknown> {
  const [items = []] = args;
  if (args.length > 1 || !Array.isArray(items)) throw call.fail("a set is not made from a list");
  call.budget.spend(items.length, call);
  return new Set(items);
}

/** Bytes as protocols before 3 write them, which had text only: each character is a byte. */
function bytesOf(args: readonly unknown[], call: PickleCall): Uint8Array {
  const [value = "", encoding = "latin1"] = args;
  if (args.length === 1 && value instanceof Uint8Array) return value;
  if (args.length > 2 || typeof value !== "string" || (encoding !== "latin1" && encoding !== "latin-1")) {
    throw call.fail("bytes are not made from text in latin1");
  }
  call.budget.spendBytes(value.length, call);
  if (/[^\0-\xff]/.test(value)) throw call.fail("bytes are made from a character that latin1 does not have");
  return latin1Bytes(value);
}

/** A value for a message: texts in quotes and cut to a length that a terminal can show, objects by their kind. */
export function quoted(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}…` : value);
  return value !== null && typeof value === "object" ? `a value of type ${value.constructor.name}` : String(value);
}

/** The stack machine that a pickle is a program of. */
class Machine implements PickleCall {
  readonly budget: PickleBudget;
  readonly #source: PickleSource;
  readonly #view: DataView;
  readonly #memo = new Map<number, unknown>();
  /** The values since the last mark; those before it wait in `#waiting`. */
  #stack: unknown[] = [];
  #waiting: unknown[][] = [];
  #at: number;
  #operationAt: number;

  constructor(source: PickleSource, start: number) {
    this.#source = source;
    this.budget = source.budget;
    this.#view = viewOf(source.bytes);
    this.#at = this.#operationAt = start;
  }

  get place(): string {
    return `${this.#source.what}, byte ${this.#operationAt}`;
  }

  fail(problem: string): FileError {
    return new FileError(`${this.place}: ${problem}.`);
  }

  run(): { value: unknown; end: number } {
    for (;;) {
      this.#operationAt = this.#at;
      this.budget.spend(1, this);
      const code = this.byte();
      if (code === STOP) return { value: this.pop(), end: this.#at };
      const operation = OPERATIONS.get(code);
      if (!operation) throw this.fail(`0x${code.toString(16).padStart(2, "0")} is no operation of a pickle`);
      operation(this);
    }
  }

  // What follows an operation's code.

  bytes(count: number): Uint8Array {
    const rest = this.#source.bytes.length - this.#at;
    if (count > rest) throw this.fail(`${count} bytes should follow, but ${rest} are left; the file may be cut off`);
    this.#at += count;
    return this.#source.bytes.subarray(this.#at - count, this.#at);
  }

  /** The place in `#view` of the next `count` bytes. */
  next(count: number): number {
    this.bytes(count);
    return this.#at - count;
  }

  byte(): number {
    return this.#view.getUint8(this.next(1));
  }

  uint16(): number {
    return this.#view.getUint16(this.next(2), true);
  }

  uint32(): number {
    return this.#view.getUint32(this.next(4), true);
  }

  int32(): number {
    return this.#view.getInt32(this.next(4), true);
  }

  uint64(): number {
    return Number(this.#view.getBigUint64(this.next(8), true));
  }

  float64(): number {
    return this.#view.getFloat64(this.next(8));
  }

  line(): Uint8Array {
    const end = this.#source.bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.fail("a line that should follow has no end; the file may be cut off");
    const line = this.bytes(end - this.#at);
    this.#at++;
    return line;
  }

  text(bytes: Uint8Array): string {
    try {
      return UTF8.decode(bytes);
    } catch {
      throw this.fail("a text is not UTF-8");
    }
  }

  /** An integer in two's complement, the lowest byte first. */
  integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) {
      throw this.fail(`an integer has ${length} bytes; at most ${MAX_INTEGER_BYTES} are read`);
    }
    let value = 0n;
    for (const byte of this.bytes(length).slice().reverse()) value = value << 8n | BigInt(byte);
    return narrowed(BigInt.asIntN(8 * length, value));
  }

  /** An integer in decimal digits. */
  decimal(text: string): number | bigint {
    if (!/^\s*[+-]?\d{1,600}\s*$/.test(text)) throw this.fail(`${quoted(text)} is no integer`);
    return narrowed(BigInt(text.replace("+", "")));
  }

  // The stack.

  push(value: unknown): void {
    this.#stack.push(value);
  }

  pop(): unknown {
    if (this.#stack.length === 0) throw this.fail("a value is taken from the stack, which has none");
    return this.#stack.pop();
  }

  /** Drops a value or, where there is none after it, a mark. */
  drop(): void {
    if (this.#stack.length > 0) this.#stack.pop();
    else this.popToMark();
  }

  top(): unknown {
    if (this.#stack.length === 0) throw this.fail("the stack's last value is used, but it has none");
    return this.#stack.at(-1);
  }

  mark(): void {
    this.#waiting.push(this.#stack);
    this.#stack = [];
  }

  popToMark(): unknown[] {
    const values = this.#stack;
    const before = this.#waiting.pop();
    if (!before) throw this.fail("the stack has no mark");
    this.#stack = before;
    return values;
  }

  tuple(length: number): void {
    const values = Array.from({ length }, () => this.pop());
    this.push(values.reverse());
  }

  // The memo.

  remember(key: unknown): void {
    if (typeof key !== "number" || key < 0) throw this.fail("the memo's key is no number");
    this.#memo.set(key, this.top());
  }

  memoize(): void {
    this.remember(this.#memo.size);
  }

  recall(key: unknown): void {
    if (typeof key !== "number" || !this.#memo.has(key)) throw this.fail("a value is recalled that was never kept");
    this.push(this.#memo.get(key));
  }

  // Containers.

  append(values: readonly unknown[]): void {
    const list = this.top();
    if (!Array.isArray(list)) throw this.fail("values are appended to what is no list");
    for (const value of values) list.push(value);
  }

  add(values: readonly unknown[]): void {
    const set = this.top();
    if (!(set instanceof Set)) throw this.fail("values are added to what is no set");
    for (const value of values) set.add(value);
  }

  /** `values` are keys and values by turns. */
  assign(values: readonly unknown[]): void {
    const dictionary = this.top();
    if (!(dictionary instanceof Map)) throw this.fail("items are set on what is no dictionary");
    if (values.length % 2) throw this.fail("the last key of a dictionary has no value");
    for (let i = 0; i < values.length; i += 2) dictionary.set(values[i], values[i + 1]);
  }

  // Names and calls.

  name(module: unknown, object: unknown): PickleName {
    if (typeof module !== "string" || typeof object !== "string") throw this.fail("a name is no text");
    const name = `${module}.${object}`;
    if (!this.#source.allowed.has(name)) {
      throw this.fail(`the pickle asks for ${quoted(name)}, which is not allowed here; nothing was run`);
    }
    return new PickleName(name);
  }

  call(target: unknown, args: unknown): void {
    if (!(target instanceof PickleName)) throw this.fail("something is called that is no class or function");
    if (!Array.isArray(args)) throw this.fail(`${quoted(target.name)} is called on what is no tuple`);
    const construct = this.#source.allowed.get(target.name);
    if (!construct) {
      throw this.fail(`the pickle calls ${quoted(target.name)}, which may only be named; nothing was run`);
    }
    this.push(construct(args, this));
  }

  /** Hands `state` to the object on the stack. */
  build(state: unknown): void {
    const object = this.top();
    if (object instanceof PickleName) throw this.fail(`the pickle changes ${quoted(object.name)}; nothing was run`);
    // PyTorch hangs a `_metadata` of module versions on the OrderedDict of a state_dict.
    if (object instanceof Map) return;
    if (!(object instanceof PickleObject)) throw this.fail("a state is given to what has none");
    object.state = state;
  }

  persistent(id: unknown): void {
    if (!this.#source.persistentLoad) {
      throw this.fail(`the pickle refers to an object outside of it by the persistent identifier ${quoted(id)}`);
    }
    this.push(this.#source.persistentLoad(id, this));
  }

  extension(code: number): never {
    throw this.fail(`the pickle asks for entry ${code} of Python's extension registry, which is never read`);
  }

  outOfBand(): never {
    throw this.fail("the pickle asks for a buffer outside of it, which a file cannot have");
  }

  protocol(version: number): void {
    if (version > MAX_PROTOCOL) throw this.fail(`the pickle has protocol ${version}; 0 to ${MAX_PROTOCOL} are read`);
  }

  /** A frame says how much a reader may fetch at once; here all is at hand. */
  frame(length: number): void {
    const rest = this.#source.bytes.length - this.#at;
    if (length > rest) throw this.fail(`a frame of ${length} bytes should follow, but ${rest} are left`);
  }
}

const STOP = ".".charCodeAt(0);

/** Every operation but the last by its code. Those with a comment are named there as Python's `pickletools` has them. */
const OPERATIONS: ReadonlyMap<number, (m: Machine) => void> = new Map<number, (m: Machine) => void>([
  operation("\x80", (m) => m.protocol(m.byte())),
  operation("\x95", (m) => m.frame(m.uint64())),
  // The stack and the memo.
  operation("(", (m) => m.mark()),
  operation("0", (m) => m.drop()),
  operation("1", (m) => void m.popToMark()), // POP_MARK
  operation("2", (m) => m.push(m.top())), // DUP
  operation("p", (m) => m.remember(m.decimal(latin1Text(m.line())))), // PUT
  operation("q", (m) => m.remember(m.byte())), // BINPUT
  operation("r", (m) => m.remember(m.uint32())), // LONG_BINPUT
  operation("\x94", (m) => m.memoize()),
  operation("g", (m) => m.recall(m.decimal(latin1Text(m.line())))), // GET
  operation("h", (m) => m.recall(m.byte())), // BINGET
  operation("j", (m) => m.recall(m.uint32())), // LONG_BINGET
  // Numbers.
  operation("N", (m) => m.push(null)),
  operation("\x88", (m) => m.push(true)),
  operation("\x89", (m) => m.push(false)),
  operation("I", (m) => m.push(textInteger(m, latin1Text(m.line())))), // INT
  operation("L", (m) => m.push(m.decimal(latin1Text(m.line()).replace(/L$/, "")))), // LONG
  operation("F", (m) => m.push(textFloat(m, latin1Text(m.line())))), // FLOAT
  operation("J", (m) => m.push(m.int32())),
  operation("K", (m) => m.push(m.byte())),
  operation("M", (m) => m.push(m.uint16())),
  operation("\x8a", (m) => m.push(m.integer(m.byte()))),
  operation("\x8b", (m) => m.push(m.integer(m.uint32()))),
  operation("G", (m) => m.push(m.float64())),
  // Bytes and texts.
  operation("B", (m) => m.push(m.bytes(m.uint32()))),
  operation("C", (m) => m.push(m.bytes(m.byte()))),
  operation("\x8e", (m) => m.push(m.bytes(m.uint64()))),
  operation("\x96", (m) => m.push(m.bytes(m.uint64()))), // BYTEARRAY8
  operation("S", (m) => m.push(unescaped(m, latin1Text(m.line())))), // STRING
  operation("T", (m) => m.push(longString(m.bytes(m.uint32())))), // BINSTRING
  operation("U", (m) => m.push(latin1Text(m.bytes(m.byte())))), // SHORT_BINSTRING
  operation("V", (m) => m.push(unicodeUnescaped(m, latin1Text(m.line())))), // UNICODE
  operation("X", (m) => m.push(m.text(m.bytes(m.uint32())))),
  operation("\x8c", (m) => m.push(m.text(m.bytes(m.byte())))),
  operation("\x8d", (m) => m.push(m.text(m.bytes(m.uint64())))),
  // Containers.
  operation(")", (m) => m.push([])), // EMPTY_TUPLE
  operation("t", (m) => m.push(m.popToMark())), // TUPLE
  operation("\x85", (m) => m.tuple(1)),
  operation("\x86", (m) => m.tuple(2)),
  operation("\x87", (m) => m.tuple(3)),
  operation("]", (m) => m.push([])), // EMPTY_LIST
  operation("l", (m) => m.push(m.popToMark())), // LIST
  operation("a", (m) => appendOne(m)), // APPEND
  operation("e", (m) => append(m)), // APPENDS
  operation("}", (m) => m.push(new Map())), // EMPTY_DICT
  operation("d", (m) => dictionary(m)), // DICT
  operation("s", (m) => setItem(m)), // SETITEM
  operation("u", (m) => setItems(m)), // SETITEMS
  operation("\x8f", (m) => m.push(new Set())), // EMPTY_SET
  operation("\x90", (m) => addItems(m)), // ADDITEMS
  operation("\x91", (m) => m.push(new Set(m.popToMark()))), // FROZENSET
  // Names and calls.
  operation("c", (m) => m.push(m.name(m.text(m.line()), m.text(m.line())))), // GLOBAL
  operation("\x93", (m) => stackGlobal(m)), // STACK_GLOBAL
  operation("R", (m) => reduce(m)), // REDUCE
  operation("\x81", (m) => reduce(m)), // NEWOBJ
  operation("\x92", (m) => newObjectWithKeywords(m)), // NEWOBJ_EX
  operation("i", (m) => m.call(m.name(m.text(m.line()), m.text(m.line())), m.popToMark())), // INST
  operation("o", (m) => objectOfMark(m)), // OBJ
  operation("b", (m) => m.build(m.pop())), // BUILD
  // What lies outside of the pickle.
  operation("P", (m) => m.persistent(m.text(m.line()))), // PERSID
  operation("Q", (m) => m.persistent(m.pop())), // BINPERSID
  operation("\x82", (m) => m.extension(m.byte())),
  operation("\x83", (m) => m.extension(m.uint16())),
  operation("\x84", (m) => m.extension(m.int32())),
  operation("\x97", (m) => m.outOfBand()),
  operation("\x98", (m) => m.outOfBand()),
]);

function operation(code: string, run: (m: Machine) => void): [number, (m: Machine) => void] {
  return [code.charCodeAt(0), run];
}

function appendOne(m: Machine): void {
  const value = m.pop();
  m.append([value]);
}

function append(m: Machine): void {
  const values = m.popToMark();
  m.append(values);
}

function dictionary(m: Machine): void {
  const values = m.popToMark();
  m.push(new Map());
  m.assign(values);
}

function setItem(m: Machine): void {
  const value = m.pop();
  const key = m.pop();
  m.assign([key, value]);
}

function setItems(m: Machine): void {
  const values = m.popToMark();
  m.assign(values);
}

function addItems(m: Machine): void {
  const values = m.popToMark();
  m.add(values);
}

function stackGlobal(m: Machine): void {
  const object = m.pop();
  m.push(m.name(m.pop(), object));
}

function reduce(m: Machine): void {
  const args = m.pop();
  m.call(m.pop(), args);
}

function newObjectWithKeywords(m: Machine): void {
  const keywords = m.pop();
  if (!(keywords instanceof Map) || keywords.size > 0) throw m.fail("a class is called with keyword arguments");
  reduce(m);
}

function objectOfMark(m: Machine): void {
  const [target, ...args] = m.popToMark();
  m.call(target, args);
}

function textInteger(m: Machine, text: string): number | bigint | boolean {
  return text === "00" ? false : text === "01" ? true : m.decimal(text);
}

function textFloat(m: Machine, text: string): number {
  const named: Record<string, number> = { inf: Infinity, "-inf": -Infinity, nan: NaN };
  const value = Object.hasOwn(named, text) ? named[text]! : Number(text);
  if (text.trim() === "" || (Number.isNaN(value) && text !== "nan")) throw m.fail(`${quoted(text)} is no number`);
  return value;
}

/** A string of Python 2, which had no other type for bytes. */
function longString(bytes: Uint8Array): string | Uint8Array {
  return bytes.length > MAX_STRING_BYTES ? bytes : latin1Text(bytes);
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", "\\": "\\", "'": "'", '"': '"' };

/** A string as Python 2's `repr` writes it. */
function unescaped(m: Machine, line: string): string {
  const text = /^(['"])(.*)\1\s*$/s.exec(line)?.[2];
  if (text === undefined) throw m.fail("a string has no quotes around it");
  return text.replace(/\\(?:x([0-9a-fA-F]{2})|([nrt\\'"])|(.?))/gs, (_, hexadecimal, escape, other) => {
    if (other !== undefined) throw m.fail(`a string has the unknown escape ${quoted(`\\${other}`)}`);
    return escape ? ESCAPES[escape]! : String.fromCharCode(parseInt(hexadecimal, 16));
  });
}

/** A text as Python's codec "raw-unicode-escape" writes it. */
function unicodeUnescaped(m: Machine, line: string): string {
  return line.replace(/\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))/g, (_, four, eight) => {
    const code = parseInt(four ?? eight, 16);
    if (code > 0x10ffff) throw m.fail(`a text has the character 0x${eight}, beyond the last of Unicode`);
    return String.fromCodePoint(code);
  });
}

function narrowed(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

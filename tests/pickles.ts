/** Shared by the tests of imported files: pickles by hand, hostile ones among them, and the files in tests/fixtures/import. */

/** The bytes whose values are the characters' codes. */
export function bytesOf(...parts: readonly string[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(parts.join(""), (character) => character.charCodeAt(0));
}

/** The operation that pushes a text of fewer than 256 ASCII characters. */
export function text(value: string): string {
  return `\x8c${String.fromCharCode(value.length)}${value}`;
}

/** `count` in `width` bytes, the lowest first. */
export function little(count: number, width: number): string {
  return Array.from({ length: width }, (_, i) => String.fromCharCode(Math.floor(count / 256 ** i) % 256)).join("");
}

/** The operation that pushes bytes. */
export function bytes(value: string): string {
  return `B${little(value.length, 4)}${value}`;
}

/**
 * Pickles that would run a command, or change what they should not, in Python: by what must be named in the refusal.
 * Each leaves its result on the stack, without the operation that ends it.
 */
export const HOSTILE: readonly (readonly [named: string, operations: string])[] = [
  ['"os.system"', "\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R"],
  ['"posix.system"', `\x80\x04${text("posix")}${text("system")}\x93${text("true")}\x85R`],
  ['"posix.system"', `\x80\x04${text("posix")}\x94${text("system")}\x94${text("true")}\x94000h\0h\x01\x93h\x02\x85R`],
  ['"nt.system"', "(S'true'\nint\nsystem\n"],
  ['"os.system"', "(cos\nsystem\nS'true'\no"],
  ['"builtins.eval"', "\x80\x02cbuiltins\neval\nX\x03\0\0\x001+1\x85R"],
  ['"__builtin__.eval"', "c__builtin__\neval\n(V1+1\ntR"],
  ['"builtins.exec"', `\x80\x04${text("builtins")}${text("exec")}\x93${text("1")}\x85\x81`],
  ['"subprocess.Popen"', `\x80\x04${text("subprocess")}${text("Popen")}\x93${text("true")}\x85}\x92`],
  ['"builtins.getattr"', "\x80\x02cbuiltins\ngetattr\nccollections\nOrderedDict\nX\x01\0\0\0a\x86R"],
  ['"collections.OrderedDict.fromkeys"', `\x80\x04${text("collections")}${text("OrderedDict.fromkeys")}\x93)R`],
  ['"unknown.Class"', "\x80\x02cunknown\nClass\n)\x81}b"],
  ['changes "collections.OrderedDict"', "\x80\x02ccollections\nOrderedDict\n}b"],
  ["entry 5 of Python's extension registry", "\x80\x02\x82\x05)R"],
  ["entry 1000 of Python's extension registry", "\x80\x02\x83\xe8\x03)R"],
  ["entry 65536 of Python's extension registry", "\x80\x02\x84\0\0\x01\0)R"],
  ["a buffer outside", "\x80\x05\x97"],
];

/** Reads a file of tests/fixtures/import. */
export function readImport(name: string): Promise<Uint8Array<ArrayBuffer>> {
  return Deno.readFile(new URL(`./fixtures/import/${name}`, import.meta.url));
}

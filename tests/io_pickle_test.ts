/** Pickles: every operation, a refusal that names it for all that could run code, and bounds on what is damaged. */

import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { FileError } from "../src/gpu/errors.ts";
import {
  PickleBudget,
  type PickleConstructor,
  PickleName,
  PickleObject,
  type PickleSource,
  PLAIN_CONSTRUCTORS,
  readPickle,
} from "../src/io/pickle.ts";
import { NUMPY_CONSTRUCTORS } from "../src/io/pickle_numpy.ts";
import { bytesOf, HOSTILE, little, readImport, text } from "./pickles.ts";

const POINT: PickleConstructor = (args) => new PickleObject("geometry.Point", args);

function source(bytes: Uint8Array, rest: Partial<PickleSource> = {}): PickleSource {
  const allowed = new Map<string, PickleConstructor | null>([
    ...PLAIN_CONSTRUCTORS,
    ...NUMPY_CONSTRUCTORS,
    ["geometry.Point", POINT],
    ["geometry.PLANE", null],
  ]);
  return { bytes, what: "a.pkl", budget: new PickleBudget(bytes.length), allowed, ...rest };
}

function read(...parts: string[]): unknown {
  const bytes = bytesOf(...parts);
  const { value, end } = readPickle(source(bytes));
  assertEquals(end, bytes.length);
  return value;
}

Deno.test("pickle: what Python writes comes back, protocols 0 to 5", async () => {
  const tuples = [1, [2, 3], [1, 2, 3, 4], []];
  const integers = [0, -2, 255, 65535, 70000, -(2 ** 40), 2n ** 70n, -(2n ** 70n)];
  const expected = new Map<string, unknown>([
    ["numbers", [...integers, 1.5, -Infinity, null, true, false]],
    ["tuples", tuples],
    ["sets", [new Set([7]), new Set([3])]],
    ["bytes", [new Uint8Array([0, 255]), new Uint8Array(), new Uint8Array([128])]],
    ["text", "ä€😀\n\\"],
    ["long", "y".repeat(300)],
    ["inner", new Map<unknown, unknown>([[1, "x"], ["y", new Map()]])],
    ["again", tuples],
  ]);
  for (let protocol = 0; protocol <= 5; protocol++) {
    const bytes = await readImport(`plain_p${protocol}.pkl`);
    const { value, end } = readPickle(source(bytes));
    assertEquals(value, expected, `protocol ${protocol}`);
    assertEquals(end, bytes.length);
    assert((value as Map<string, unknown>).get("again") === (value as Map<string, unknown>).get("tuples"));
  }
});

Deno.test("pickle: operations that Python writes no more are read", () => {
  const cases: [unknown, string][] = [
    ["it's\n\x00", "S'it\\'s\\n\\x00'\n."],
    ["é", "U\x01\xe9."],
    ["é", "T\x01\0\0\0\xe9."],
    [[1, 1], "K\x012\x86."], // DUP
    [1, "K\x01K\x020."], // POP of a value
    [1, "K\x01(0."], // POP of a mark
    [1, "K\x01(K\x02K\x031."],
    [[5, 5], "K\x05p7\n0g7\ng7\n\x86."],
    [[6, 6], "K\x06r\x00\x01\0\x000j\x00\x01\0\0j\x00\x01\0\0\x86."],
    [new Map([["a", 1]]), "(U\x01aK\x01d."],
    [[1, 2], "(K\x01K\x02l."],
    [-2, "\x8b\x02\0\0\0\xfe\xff."],
    [0, "\x8a\x00."],
    [12n ** 20n, `L${12n ** 20n}L\n.`],
    [1e100, "F1e100\n."],
    [new Set([1, 2]), "\x8f(K\x01K\x02\x90."],
    [new PickleObject("geometry.Point", [1, 2]), "(K\x01K\x02igeometry\nPoint\n."],
    [new PickleObject("geometry.Point", [1]), "(cgeometry\nPoint\nK\x01o."],
    [new PickleObject("geometry.Point", [1]), "cgeometry\nPoint\nK\x01\x85\x81."],
    [new PickleObject("geometry.Point", []), "cgeometry\nPoint\n)}\x92."],
    [new PickleName("geometry.PLANE"), "cgeometry\nPLANE\n."],
    [new Map([["a", 1]]), "ccollections\nOrderedDict\n(((U\x01aK\x01lltR."],
  ];
  for (const [expected, operations] of cases) assertEquals(read(operations), expected, JSON.stringify(operations));
  const built = read("cgeometry\nPoint\n)R}U\x01xK\x01sb.");
  assertInstanceOf(built, PickleObject);
  assertEquals(built.state, new Map([["x", 1]]));
});

Deno.test("pickle: attributes of an OrderedDict are left out", () => {
  assertEquals(read("ccollections\nOrderedDict\n)R}U\x09_metadataK\x01sb."), new Map());
});

Deno.test("pickle: NumPy's scalars are numbers in either byte order, other types stay inert", () => {
  const scalar = (type: string, order: string, content: string) =>
    read(
      "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n",
      `${text(type)}\x89\x88\x87R(K\x03${text(order)}NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb`,
      `C${String.fromCharCode(content.length)}${content}\x86R.`,
    );
  assertEquals(scalar("f8", "<", "\0\0\0\0\0\0\xe0?"), 0.5);
  assertEquals(scalar("f8", ">", "?\xe0\0\0\0\0\0\0"), 0.5);
  assertEquals(scalar("f2", "<", "\0\x38"), 0.5);
  assertEquals(scalar("i8", "<", "\xfe\xff\xff\xff\xff\xff\xff\xff"), -2);
  assertEquals(scalar("u2", ">", "\x01\x02"), 258);
  assertEquals(scalar("b1", "|", "\x01"), true);
  assertInstanceOf(scalar("U1", "<", "a\0\0\0"), PickleObject);
  assertThrows(() => scalar("f8", "<", "\0"), FileError, "type f8 does not have 8 bytes");
});

Deno.test("pickle: whatever could run code is refused by name", () => {
  for (const [named, operations] of HOSTILE) {
    const error = assertThrows(() => read(operations, "."), FileError, named);
    assert(/^a\.pkl, byte \d+: /.test(error.message), error.message);
  }
});

Deno.test("pickle: a refusal tells the file, the byte and the name", () => {
  const error = assertThrows(() => read("\x80\x02K\x010cos\nsystem\nX\x04\0\0\0true\x85R."), FileError);
  assertEquals(
    error.message,
    'a.pkl, byte 5: the pickle asks for "os.system", which is not allowed here; nothing was run.',
  );
});

Deno.test("pickle: a name that is allowed is no function to call, and objects outside are refused", () => {
  assertThrows(() => read("cgeometry\nPLANE\n)R."), FileError, 'calls "geometry.PLANE", which may only be named');
  assertThrows(() => read("U\x01a)R."), FileError, "called that is no class");
  assertThrows(() => read("cgeometry\nPoint\nK\x01R."), FileError, "on what is no tuple");
  assertThrows(() => read("cgeometry\nPoint\n)}U\x01aK\x01s\x92."), FileError, "keyword arguments");
  assertThrows(() => read("Pfile-7\n."), FileError, 'the persistent identifier "file-7"');
  assertThrows(() => read("U\x04fileQ."), FileError, 'the persistent identifier "file"');
  const bytes = bytesOf("U\x04fileQ.");
  assertEquals(readPickle(source(bytes, { persistentLoad: (id) => `<${id}>` })).value, "<file>");
});

Deno.test("pickle: each way it can be damaged has its error, naming the file and the byte", () => {
  const cases: [string, string][] = [
    ["byte 0: 1 bytes should follow, but 0 are left", ""],
    ["byte 1: 1 bytes should follow", "N"],
    ["byte 0: 0xff is no operation", "\xff."],
    ["byte 0: the pickle has protocol 6", "\x80\x06."],
    ["byte 0: 4294967295 bytes should follow, but 1 are left", "B\xff\xff\xff\xff."],
    ["byte 0: 18446744073709552000 bytes should follow", `\x8e${"\xff".repeat(8)}.`],
    ["byte 0: 9 bytes should follow, but 3 are left", "\x8c\x09ab."],
    ["a frame of 100 bytes should follow, but 2 are left", `\x95${little(100, 8)}N.`],
    ["an integer has 4294967295 bytes; at most 256", "\x8b\xff\xff\xff\xff."],
    ["no end", "Sabc"],
    ["no quotes", "Sabc\n."],
    ["unknown escape", "S'\\q'\n."],
    ["is not UTF-8", "X\x01\0\0\0\xff."],
    ["beyond the last of Unicode", "V\\Uffffffff\n."],
    ["is no integer", "I1.5\n."],
    ["is no integer", `I${"9".repeat(1000)}\n.`],
    ["is no number", "Fabc\n."],
    ["is no number", "F\n."],
    ["has none", "."],
    ["has none", "K\x01\x86."],
    ["it has none", "2."],
    ["no mark", "t."],
    ["no mark", "0."],
    ["never kept", "h\0."],
    ["never kept", "g-1\n."],
    ["memo's key", "K\x01p-1\n."],
    ["what is no list", "}K\x01a."],
    ["what is no list", "U\x01a(e."],
    ["what is no dictionary", "]K\x01K\x01s."],
    ["has no value", "}(K\x01u."],
    ["what is no set", "](K\x01\x90."],
    ["a name is no text", "K\x01K\x02\x93."],
    ["to what has none", "K\x01}b."],
    ["not made from a list of pairs", "ccollections\nOrderedDict\n(K\x01tR."],
    ["not made from a list of pairs", "ccollections\nOrderedDict\n(](K\x01etR."],
    ["a set is not made from a list", "cbuiltins\nset\n(K\x01tR."],
    ["not made from text in latin1", "c_codecs\nencode\n(U\x01aU\x04utf8tR."],
    ["that latin1 does not have", "c_codecs\nencode\n(V\\u20ac\nU\x06latin1tR."],
  ];
  for (const [expected, operations] of cases) {
    const error = assertThrows(() => read(operations), FileError, expected);
    assert(error.message.startsWith("a.pkl, byte "), error.message);
  }
});

Deno.test("pickle: what would take far more time or memory than the file is refused", () => {
  const set = "\x80\x04cbuiltins\nset\n\x94";
  const cases: [string, string][] = [
    ["operations", "}".repeat(3_000_000)],
    ["operations", `${"(".repeat(3_000_000)}.`],
    // A list of 100,000 numbers, made into a set by every four bytes.
    ["operations", `${set}(${"K\x01".repeat(100_000)}l\x94${"h\0h\x01\x85R".repeat(100_000)}.`],
    ["more bytes than its file", `c_codecs\nencode\n\x94V${"a".repeat(1000)}\n\x85\x94${"h\0h\x01R".repeat(1000)}.`],
  ];
  for (const [expected, operations] of cases) {
    const start = performance.now();
    assertThrows(() => read(operations), FileError, expected);
    const seconds = (performance.now() - start) / 1000;
    assert(seconds < 2, `${seconds} s`);
  }
});

Deno.test("pickle: a list that contains itself is read", () => {
  const list = read("]\x94h\0a.") as unknown[];
  assert(list[0] === list);
});

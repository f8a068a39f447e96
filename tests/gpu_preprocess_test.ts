/** The WGSL preprocessor: constants, unrolled loops, folded conditions and indices. */

import { assertEquals, assertThrows } from "@std/assert";
import { GraphError } from "../src/gpu/errors.ts";
import { specialise } from "../src/gpu/preprocess.ts";

/** The text without its white space. */
const squeezed = (text: string) => text.replace(/\s+/g, "");

const loop = (bounds: string, body: string) => `// @unroll\nfor (var ${bounds}; i++) {${body}}`;

Deno.test("constants are set by name and type; unknown ones are refused", () => {
  const source = "const A: u32 = 1u;\noverride B: f32 = 2.0;\nconst C: bool = true;\nconst A2: i32 = 3;";
  const expected = "const A: u32 = 7u;\nconst B: f32 = 4.0;\nconst C: bool = false;\nconst A2: i32 = 3;";
  assertEquals(specialise(source, { A: 7, B: 4, C: 0 }), expected);
  assertThrows(() => specialise(source, { D: 1 }), GraphError, "The kernel declares no constant D.");
});

Deno.test("marked loops become their bodies, nested ones too; others stay", () => {
  const inner = "// @unroll\nfor (var j = i; j < 2u; j++) { f(i, j); }";
  assertEquals(squeezed(specialise(loop("i = 0u; i < 3u", inner))), "{{f(0u,0u);}{f(0u,1u);}}{{f(1u,1u);}}{}");
  const plain = "for (var i = 0u; i < 3u; i++) { f(i); }";
  assertEquals(specialise(plain), plain);
});

Deno.test("bounds are expressions of the file's constants", () => {
  const head = "const N: u32 = 6u;\nconst K: u32 = 3u;\n";
  const count = (bound: string) =>
    squeezed(specialise(head + loop(`i = 1u; i < ${bound}`, "f();"))).split("{f();}").length;
  assertEquals(["N", "N / K * 2u", "(N + K) % 4u + 2u", "N - K"].map(count), [6, 4, 3, 3]);
  assertThrows(() => count("M"), GraphError, `An unrolled loop's bound "M" is not a known integer.`);
  assertThrows(() => specialise("// @unroll\nfor (var i = 0u; i < 2u; i++) {"), GraphError, "no closing brace");
});

Deno.test("what is known after unrolling is folded: conditions without else, indices", () => {
  const head = "const N: u32 = 3u;\n";
  const body = (text: string) => squeezed(specialise(head + loop("i = 0u; i < 2u", text)).slice(head.length));
  assertEquals(body("if (i >= 1u && N == 3u) { f(); }"), "{}{{f();}}");
  assertEquals(body("if (i > 0u || x) { f(); }"), "{if(0u>0u||x){f();}}{if(1u>0u||x){f();}}");
  assertEquals(body("if (i == 0u) { f(); } else { g(); }"), "{if(0u==0u){f();}else{g();}}{if(1u==0u){f();}else{g();}}");
  // Unsigned: 0 - 1 is the largest number.
  assertEquals(body("if (i - 1u < N) { f(); }"), "{}{{f();}}");
  assertEquals(body("a[(i + N) % 2u * 4u][x + i] = b[N - i];"), "{a[4u][x+0u]=b[3u];}{a[0u][x+1u]=b[2u];}");
  assertEquals(body("a[i / 0u] = 1.5;"), "{a[0u/0u]=1.5;}{a[1u/0u]=1.5;}");
  assertEquals(body("if (i == 1u) { if (N > 3u) { f(); } g(); }"), "{}{{g();}}");
});

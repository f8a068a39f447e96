/** What `mod.ts` reaches has no dependency and uses Web APIs alone. */

import { assert, assertEquals } from "@std/assert";

Deno.test("mod.ts reaches this project's own modules only, and none of them uses Deno's or Node's APIs", async () => {
  const root = new URL("../", import.meta.url);
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", new URL("mod.ts", root).href],
  }).output();
  assertEquals(code, 0);
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as { modules: { specifier: string }[] };
  assert(modules.length > 50, `only ${modules.length} modules`);
  for (const { specifier } of modules) {
    if (/^npm:\/?@webgpu\/types@/.test(specifier)) continue; // declarations of the compiler's settings, never loaded
    assert(specifier.startsWith(root.href), `${specifier} is not of this project`);
    const code = (await Deno.readTextFile(new URL(specifier))).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
    assert(!/\bDeno\.|\bprocess\.|\bBuffer\b|"node:/.test(code), `${specifier} uses more than Web APIs`);
  }
});

/** Atomic writes: the content, the old version after a failure, no temporary file left; folders for one process. */

import { assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { FileError } from "../src/gpu/errors.ts";
import { lockFolder, writeFileAtomic } from "../src/io/disk.ts";

/** Runs `use` with an empty folder that is removed afterwards. */
async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map((entry) => entry.name);
}

Deno.test("writeFileAtomic: writes, replaces, and leaves nothing else behind", () =>
  withFolder(async (folder) => {
    const path = join(folder, "model.bin");
    await writeFileAtomic(path, new Uint8Array([1, 2, 3]));
    const large = Uint8Array.from({ length: 3_000_001 }, (_, i) => i & 0xff);
    await writeFileAtomic(path, large);
    assertEquals(await Deno.readFile(path), large);
    assertEquals(names(folder), ["model.bin"]);
  }));

Deno.test("writeFileAtomic: a failed rename removes the temporary file", () =>
  withFolder(async (folder) => {
    const path = join(folder, "model.bin");
    await Deno.mkdir(path);
    await assertRejects(
      () => writeFileAtomic(path, new Uint8Array(9)),
      FileError,
      "a folder of that name is in the way.",
    );
    assertEquals(names(folder), ["model.bin"]);
  }));

Deno.test("writeFileAtomic: a folder that is missing or a file is named in one sentence", () =>
  withFolder(async (folder) => {
    const missing = join(folder, "no", "model.bin");
    const text = `The file ${missing} could not be written: its folder does not exist.`;
    await assertRejects(() => writeFileAtomic(missing, new Uint8Array()), FileError, text);
    await Deno.writeFile(join(folder, "no"), new Uint8Array());
    await assertRejects(() => writeFileAtomic(missing, new Uint8Array()), FileError, "its folder is a file.");
  }));

Deno.test({
  name: "writeFileAtomic: a folder that may not be written to is a FileError",
  permissions: { write: false },
  fn: async () => {
    await assertRejects(() => writeFileAtomic("model.bin", new Uint8Array()), FileError, "its folder is not writable.");
  },
});

Deno.test("lockFolder: one at a time, any number among others, free again once disposed of", () =>
  withFolder(async (folder) => {
    {
      using alone = await lockFolder(folder);
      assertEquals([alone !== undefined, await lockFolder(folder)], [true, undefined]);
      const other = lockFolder(folder, "amongOthers");
      assertEquals(await Promise.race([other, new Promise((resolve) => setTimeout(resolve, 50, "waits"))]), "waits");
      alone![Symbol.dispose]();
      using _ = await other;
      using __ = await lockFolder(folder, "amongOthers");
      assertEquals(await lockFolder(folder), undefined);
    }
    using again = await lockFolder(folder);
    assertEquals(again !== undefined, true);
    await assertRejects(
      () => lockFolder(join(folder, "no")),
      FileError,
      "could not be locked: its folder does not exist.",
    );
  }));

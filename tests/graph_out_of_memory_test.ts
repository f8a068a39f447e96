/** A device that runs out of memory, in a process whose memory is bounded. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { memoryCanBeBounded } from "./command.ts";

Deno.test({
  name: "a device without memory left says so with figures, and can be used on",
  ignore: !await memoryCanBeBounded(),
  fn: async () => {
    const script = new URL("out_of_memory.ts", import.meta.url).href;
    const { success, stdout, stderr } = await new Deno.Command("sh", {
      args: ["-c", `ulimit -d 2500000 && exec "$0" run -A --no-check "$1"`, Deno.execPath(), script],
      stdin: "null",
    }).output();
    assert(success, new TextDecoder().decode(stderr));
    const { program, left, variables, y } = JSON.parse(new TextDecoder().decode(stdout));
    assertMatch(
      program,
      /^Program large, whose planned memory is 5000\.0 MB \(largest live set 5000\.0 MB\), does not fit\. large\/transient needs 100\.0 MB more, and the device has no memory left; [\d.]+ MB are taken\.$/,
    );
    assertMatch(variables, /^v\d+ needs 100\.0 MB more, and the device has no memory left; [\d.]+ MB are taken\.$/);
    assertEquals([left, y], [0, 1]);
  },
});

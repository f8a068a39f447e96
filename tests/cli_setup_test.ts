/** Tests of the command line as a user types it: wrong arguments, and what is missing: an adapter, a browser. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { openAdapter } from "../src/cli/setup.ts";
import { presetConfig } from "../src/train/config.ts";
import { RunFolder } from "../src/train/folder.ts";
import { dibregman, files } from "./command.ts";

const onLinux = Deno.build.os === "linux";

/** A folder with stand-ins for apt-get and sudo that note their calls in `calls`, and a Vulkan driver list that is missing. */
async function withFakeApt(
  aptGet: string,
  body: (machine: { env: Record<string, string>; folder: string; calls: () => string[] }) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const script = (name: string, text: string) =>
      Deno.writeTextFile(`${folder}/${name}`, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    await script("apt-get", `[ "$1" = --version ] && exit 0\necho "apt-get $*" >> "${folder}/calls"\n${aptGet}`);
    await script("sudo", `shift\nexec "$@"`);
    const drivers = `${folder}/driver.json`;
    const env = {
      PATH: `${folder}:${Deno.env.get("PATH")}`,
      VK_ICD_FILENAMES: drivers,
      VK_DRIVER_FILES: drivers,
      FOLDER: folder,
    };
    const calls = () => {
      try {
        return Deno.readTextFileSync(`${folder}/calls`).trim().split("\n");
      } catch {
        return [];
      }
    };
    await body({ env, folder, calls });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A file of this machine that lists a Vulkan driver, the software one where there is one. */
function driverFile(): string | undefined {
  const files: string[] = [];
  for (const folder of ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"]) {
    try {
      for (const { name } of Deno.readDirSync(folder)) files.push(`${folder}/${name}`);
    } catch {
      // A machine need not have both.
    }
  }
  return files.find((file) => file.includes("lvp_icd")) ?? files[0];
}

const INSTALL = "apt-get install -y mesa-vulkan-drivers libvulkan1";

Deno.test("wrong arguments: one line, exit code 2, no adapter sought, nothing installed", async () => {
  const cases: [string[], string][] = [
    [[], "error: A command is missing"],
    [
      ["tset"],
      `error: There is no command "tset"; it is one of train, sample, eval, compare, import, denoise, test, bench, tune. Did you mean "test"?`,
    ],
    [["../cli/test"], "error: There is no command"],
    [["test", "--no-instal"], `error: Command test has no option "--no-instal". Did you mean "--no-install"?`],
    [["test", "tests/gpu.ts"], `error: Command test takes options only, but was given "tests/gpu.ts"`],
    [["bench", "--no-install=yes"], `error: Option --no-install takes no value, but was given "yes".`],
  ];
  await withFakeApt("exit 0", async ({ env, calls }) => {
    for (const [args, message] of cases) {
      const { code, out, errors } = await dibregman(args, env);
      assertEquals([code, out, errors.length], [2, "", 1], errors.join("\n"));
      assert(errors[0]!.startsWith(message), errors[0]);
    }
    assertEquals(calls(), []);
  });
});

Deno.test("--help goes to stdout with exit code 0", async () => {
  const overview = await dibregman(["--help"]);
  assertEquals([overview.code, overview.errors], [0, [""]]);
  for (const name of ["train", "sample", "eval", "test", "bench"]) assertStringIncludes(overview.out, `\n  ${name} `);
  const test = await dibregman(["test", "--help"]);
  assertEquals([test.code, test.errors], [0, [""]]);
  assertStringIncludes(test.out, "--no-install");
});

Deno.test({
  name: "no adapter and no installing: exit code 1 and the command to run",
  ignore: !onLinux,
  fn: () =>
    withFakeApt("exit 0", async ({ env, calls }) => {
      const ways: [string[], Record<string, string>][] = [
        [["test", "--no-install"], {}],
        [["bench"], { DIBREGMAN_NO_INSTALL: "1" }],
      ];
      for (const [args, extra] of ways) {
        const { code, errors } = await dibregman(args, { ...env, ...extra });
        assertEquals([code, errors.length], [1, 1], errors.join("\n"));
        assertMatch(
          errors[0]!,
          /^error: No WebGPU adapter was found\. .*run: (sudo )?apt-get install -y mesa-vulkan-drivers libvulkan1$/,
        );
      }
      assertEquals(calls(), []);
    }),
});

Deno.test({
  name: "no adapter: package lists are fetched, the driver installed, the command run again with its arguments",
  ignore: !onLinux || driverFile() === undefined,
  fn: () => {
    // The first attempt fails, as on an image without package lists.
    const aptGet = `case "$1" in
  update) touch "$FOLDER/lists" ;;
  install) [ -e "$FOLDER/lists" ] && [ "$DEBIAN_FRONTEND" = noninteractive ] && cp "${driverFile()}" "$FOLDER/driver.json" ;;
esac`;
    return withFakeApt(aptGet, async ({ env, folder, calls }) => {
      const file = `${folder}/tiny_test.ts`;
      await Deno.writeTextFile(
        file,
        `Deno.test("fails on purpose", () => { throw new Error(Deno.env.get("DENO_WEBGPU_BACKEND")); });`,
      );
      const { code, out, errors } = await dibregman(["test", "--", "--no-check", file], env);
      assertEquals(calls(), [INSTALL, "apt-get update", INSTALL]);
      const text = errors.join("\n");
      assertMatch(text, /Installing a software Vulkan driver: .*apt-get install -y mesa-vulkan-drivers libvulkan1/);
      assertMatch(text, /^adapter: .+ \((software|hardware)\)$/m);
      // The exit code is the runner's, and the runner has the backend set.
      assertEquals(code, 1);
      assertStringIncludes(out, "0 passed | 1 failed");
      assertStringIncludes(out, "Error: vulkan");
    });
  },
});

Deno.test({
  name: "no adapter: a run is resumed by the process that comes after the installation",
  ignore: !onLinux || driverFile() === undefined,
  fn: () =>
    withFakeApt(`cp "${driverFile()}" "$FOLDER/driver.json"`, async ({ env, folder }) => {
      const config = presetConfig("digits-tiny"), run = `${folder}/run`;
      const small = { teacher: { ...config.teacher, images: 32 }, evaluation: { ...config.evaluation, samples: 65 } };
      const tuning = { version: 1, adapter: "none", vendor: "none", choices: {} };
      await RunFolder.create(run, { ...config, ...small, teacherOnly: true }, tuning);
      const { code, errors } = await dibregman(["train", "--resume", run], env);
      assertEquals(code, 0, errors.join("\n"));
      assertMatch(errors[0]!, /Installing a software Vulkan driver/);
      assert((await files(run)).includes("summary.json"));
    }),
});

Deno.test({
  name: "an installation that fails or does not help ends in an error, not in a second try",
  ignore: !onLinux,
  fn: async () => {
    await withFakeApt(`echo "E: Could not get lock" >&2; exit 100`, async ({ env, calls }) => {
      const { code, errors } = await dibregman(["test"], env);
      assertEquals(code, 1);
      assertEquals(
        errors.at(-1),
        `error: No WebGPU adapter was found. ${INSTALL} failed: E: Could not get lock`,
      );
      assertEquals(calls().length, 3);
    });
    await withFakeApt("exit 0", async ({ env, calls }) => {
      const { code, errors } = await dibregman(["test"], env);
      assertEquals(code, 1);
      assertStringIncludes(errors.at(-1)!, "error: No WebGPU adapter was found.");
      assertStringIncludes(errors.at(-1)!, "did not change that");
      assertEquals(calls(), [INSTALL]);
    });
  },
});

Deno.test({
  name: "no browser: the tests as a whole install Chromium, where that is allowed, and run",
  ignore: !onLinux || driverFile() === undefined,
  fn: () =>
    withFakeApt(`echo "#!/bin/sh" > "$FOLDER/chromium"`, async ({ env: missing, folder, calls }) => {
      const env = { ...missing, VK_ICD_FILENAMES: driverFile()!, VK_DRIVER_FILES: driverFile()! };
      // Like Ubuntu's chromium-browser without its snap.
      for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
        await Deno.writeTextFile(`${folder}/${name}`, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
      }
      await Deno.mkdir(`${folder}/tests`);
      await Deno.writeTextFile(
        `${folder}/tests/tiny_test.ts`,
        `Deno.test("passes", async () => { await new Promise((done) => setTimeout(done, 1000)); console.log("tiny"); });`,
      );
      const secondTest = (body: string) =>
        Deno.writeTextFile(`${folder}/tests/cli_second_test.ts`, `Deno.test("second", () => { ${body} });`);
      await secondTest(`console.log("second");`);
      const run = async (args: string[], more: Record<string, string> = {}) => {
        const { code, out, errors } = await dibregman(["test", ...args], { ...env, ...more }, folder);
        return { code, passed: out.includes("1 passed"), out, text: errors.join("\n") };
      };

      const one = await run(["--", "tests/tiny_test.ts"]);
      assertEquals([one.code, one.passed, one.text.includes("browser"), calls()], [0, true, false, []]);

      const refused = await run(["--no-install"]);
      assertMatch(refused.text, /^No browser was found: .* run: (sudo )?apt-get install -y chromium$/m);
      assertEquals([refused.code, refused.passed, calls()], [0, true, []]);

      const wrong = await run([], { DIBREGMAN_CHROMIUM: "/no/such/browser" });
      assertEquals([wrong.code, wrong.passed, calls()], [2, false, []]);
      assertStringIncludes(wrong.text, "error: DIBREGMAN_CHROMIUM should be the path of a Chromium; /no/such/browser");

      const installed = await run([]);
      assertMatch(installed.text, /^No browser was found: .* Installing one: (sudo -n )?apt-get install -y chromium$/m);
      assertEquals([installed.code, installed.passed, calls()], [0, true, ["apt-get install -y chromium"]]);

      const again = await run([]);
      assertEquals([again.code, again.text.includes("browser"), calls().length], [0, false, 1]);
      // Two processes at once; what the second says comes last, and its failure is the suite's.
      assertMatch(again.out, /tiny\n[^]*1 passed[^]*second\n[^]*1 passed/);
      await secondTest(`throw new Error("on purpose");`);
      const failed = await run([]);
      assertEquals(failed.code, 1, failed.out);
      assertMatch(failed.out, /1 passed[^]*on purpose[^]*0 passed \| 1 failed/);
    }),
});

Deno.test({
  name: "a software adapter may use this machine's memory and no more, another adapter what it gives",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const gpu = await openAdapter({ install: false });
    const { total } = Deno.systemMemoryInfo();
    if (gpu.adapter.software) assert(gpu.memoryLimit > 0 && gpu.memoryLimit <= total, `${gpu.memoryLimit} of ${total}`);
    else assertEquals(gpu.memoryLimit, Infinity);
    gpu.destroy();
  },
});

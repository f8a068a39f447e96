/** A page in headless Chromium that runs a bundled module and posts messages to the test that opened it. */

import { fromFileUrl } from "@std/path";
import { findBrowser, NO_BROWSER } from "../../src/cli/browser.ts";

/** Milliseconds without a message after which a page is taken for dead: many times what the slowest test takes. */
const SILENCE = 180_000;

/** Milliseconds Chromium has to end by itself. */
const PATIENCE = 5_000;

// SwiftShader's Vulkan driver comes with Chromium: the adapter is the same on every machine.
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--js-flags=--expose-gc",
  "--enable-precise-memory-info",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// What fails before the module runs, or outside of what it awaits, is posted as well.
const HTML = `<!doctype html>
<script>
  const report = (error) => fetch("/failure", { method: "POST", body: String(error?.stack ?? error) });
  addEventListener("error", (event) => report(event.error ?? event.message));
  addEventListener("unhandledrejection", (event) => report(event.reason));
</script>
<script type="module" src="/bundle.js"></script>
`;

/** The messages of a page. */
export class Page {
  /** Why there are no more messages, where that is so. */
  failure: Error | undefined;
  #controller!: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
  #reader = new ReadableStream<Uint8Array<ArrayBuffer>>({ start: (c) => void (this.#controller = c) }).getReader();

  /** The next message. Throws where the page failed, Chromium ended, or nothing came for too long. */
  async next(): Promise<Uint8Array<ArrayBuffer>> {
    const timer = setTimeout(() => this.fail(`The page in Chromium was silent for ${SILENCE / 1000} s.`), SILENCE);
    try {
      return (await this.#reader.read()).value!;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Adds a message. */
  put(message: Uint8Array<ArrayBuffer>): void {
    if (!this.failure) this.#controller.enqueue(message);
  }

  /** Ends the messages; what was not read is lost. */
  fail(message: string): void {
    this.failure ??= new Error(message);
    this.#controller.error(this.failure);
  }
}

/** Opens a page that runs a module with the given source, and closes it when `body` has returned or thrown. */
export async function inChromium(source: string, body: (page: Page) => Promise<void>): Promise<void> {
  const browser = await findBrowser();
  if (!browser) throw new Error(`${NO_BROWSER} On Debian, run: apt-get install chromium`);
  const folder = await Deno.makeTempDir({ prefix: "dibregman-browser-" });
  try {
    const page = new Page();
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      answers(await bundle(source, folder), page),
    );
    const args = [...FLAGS, `--user-data-dir=${folder}/profile`, `http://127.0.0.1:${server.addr.port}/`];
    const stop = start(browser, args, page);
    try {
      await body(page);
    } finally {
      await stop();
      await server.shutdown();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Bundles a module for browsers and returns the code. */
async function bundle(source: string, folder: string): Promise<string> {
  const [entry, file] = [`${folder}/entry.ts`, `${folder}/bundle.js`];
  await Deno.writeTextFile(entry, source);
  const config = fromFileUrl(new URL("../../deno.json", import.meta.url));
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--platform", "browser", "--config", config, "--output", file, entry],
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
  }).output();
  if (!success) throw new Error(`The page cannot be bundled: ${new TextDecoder().decode(stderr)}`);
  return await Deno.readTextFile(file);
}

/** Serves the page, its code and the fixtures; takes its messages. */
function answers(code: string, page: Page): (request: Request) => Promise<Response> {
  const typed = (body: string, type: string) => new Response(body, { headers: { "content-type": type } });
  return async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/") return typed(HTML, "text/html");
    if (pathname === "/bundle.js") return typed(code, "text/javascript");
    if (pathname === "/message") page.put(await request.bytes());
    else if (pathname === "/failure") page.fail(`In Chromium: ${await request.text()}`);
    else if (/^\/fixtures\/\w+\.\w+$/.test(pathname)) {
      return new Response(await Deno.readFile(new URL(`..${pathname}`, import.meta.url)));
    } else return new Response(null, { status: 404 });
    return new Response();
  };
}

/** Starts Chromium; its end, with the last it said, ends the page's messages. Returns what stops it. */
function start(browser: string, args: readonly string[], page: Page): () => Promise<void> {
  const child = new Deno.Command(browser, { args: [...args], stdin: "null", stdout: "null", stderr: "piped" }).spawn();
  const said = new Response(child.stderr).text();
  let running = true;
  const ended = child.status.then(async ({ code }) => {
    running = false;
    page.fail(`Chromium ended with code ${code}: ${(await said).trim().split("\n").slice(-5).join("\n")}`);
  });
  return async () => {
    if (running) child.kill("SIGTERM");
    const timer = setTimeout(() => running && child.kill("SIGKILL"), PATIENCE);
    await ended;
    clearTimeout(timer);
  };
}

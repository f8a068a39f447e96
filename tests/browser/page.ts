/** The page's side of the browser tests: messages, and test suites written for Deno that run on `navigator.gpu`. */

import { Gpu } from "../../src/gpu/gpu.ts";

/** A test a suite registered. */
interface Case {
  readonly suite: string;
  readonly name: string;
  readonly fn: () => unknown;
}

/** The first message of {@linkcode runSuites}: every test that will be run, in order. */
export type Registered = readonly { readonly suite: string; readonly name: string }[];

/** A message of {@linkcode runSuites} for each test: the stack of what it threw, or null. */
export type Result = string | null;

/** Posts a message to the test that opened the page. */
export async function send(message: Uint8Array<ArrayBuffer> | Registered | Result): Promise<void> {
  const body = message instanceof Uint8Array ? message : JSON.stringify(message);
  const { ok } = await fetch("/message", { method: "POST", body });
  if (!ok) throw new Error("A message was not taken.");
}

/** Loads the suites, by name, and runs their tests one after the other. */
export async function runSuites(suites: Readonly<Record<string, () => Promise<unknown>>>): Promise<void> {
  const cases: Case[] = [];
  for (const [suite, load] of Object.entries(suites)) {
    installDeno((name, fn) => cases.push({ suite, name, fn }));
    await load();
  }
  (await Gpu.create()).destroy(); // without an adapter every test would fail, each in its own way
  await send(cases.map(({ suite, name }) => ({ suite, name })));
  for (const { fn } of cases) await send(await outcome(fn));
}

async function outcome(fn: () => unknown): Promise<Result> {
  try {
    await fn();
    return null;
  } catch (error) {
    return error instanceof Error ? error.stack ?? error.message : String(error);
  }
}

/** Puts in place what the suites use of Deno's APIs; anything else fails the test that calls it. */
function installDeno(register: (name: string, fn: () => unknown) => void): void {
  const deno = {
    test(first: string | { name: string; fn: () => unknown }, fn?: () => unknown) {
      if (typeof first === "string") register(first, fn!);
      else register(first.name, first.fn);
    },
    build: { os: "browser" },
    readFile: async (url: URL) => {
      const response = await fetch(url);
      if (!response.ok) throw new Error(`${url} is not served.`);
      return await response.bytes();
    },
    memoryUsage,
  };
  Object.assign(globalThis, { Deno: deno });
}

/** The live heap of JavaScript, as far as Chromium tells (with the flags in chromium.ts). */
function memoryUsage(): { rss: number } {
  const { gc, performance } = globalThis as unknown as {
    gc(): void;
    performance: { memory: { usedJSHeapSize: number } };
  };
  gc();
  return { rss: performance.memory.usedJSHeapSize };
}

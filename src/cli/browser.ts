/** The browser in which the tests compile and run the kernels a second time. */

import { UsageError } from "../gpu/errors.ts";
import { installPackages } from "./packages.ts";

/** The environment variable that may hold the path of a Chromium. */
const VARIABLE = "DIBREGMAN_CHROMIUM";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

/** What is said where {@linkcode findBrowser} finds none. */
export const NO_BROWSER = `No browser was found: none of ${NAMES.join(", ")} can be run.`;

const ELSEWHERE = `Install Chromium, or set ${VARIABLE} to its path.`;

/**
 * Name or path of a Chromium that can be run, or undefined.
 *
 * @throws {UsageError} where the environment variable `DIBREGMAN_CHROMIUM` names something else.
 */
export async function findBrowser(): Promise<string | undefined> {
  const chosen = Deno.env.get(VARIABLE);
  for (const name of chosen ? [chosen] : NAMES) if (await runs(name)) return name;
  if (chosen) throw new UsageError(`${VARIABLE} should be the path of a Chromium; ${chosen} cannot be run.`);
}

/** Installs Chromium where there is no browser, or says what the user can do; the tests that need it then fail. */
export async function ensureBrowser(install: boolean): Promise<void> {
  if (await findBrowser()) return;
  const notice = `${NO_BROWSER} Installing one`;
  const advice = await installPackages({ packages: ["chromium"], notice, elsewhere: ELSEWHERE }, install);
  if (advice) console.error(`${NO_BROWSER} ${advice}`);
}

async function runs(program: string): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args: ["--version"], stdin: "null" }).output()).success;
  } catch {
    return false;
  }
}

/** Where this program keeps what it can make anew. */

import { isAbsolute, join } from "@std/path";

/** The user's cache folder, unless `DIBREGMAN_CACHE` names another; undefined where there is none. */
export function cacheFolder(
  os: string = Deno.build.os,
  env: (name: string) => string | undefined = (name) => Deno.env.get(name),
): string | undefined {
  const named = env("DIBREGMAN_CACHE");
  if (named) return named;
  const xdg = env("XDG_CACHE_HOME"), base = env(os === "windows" ? "LOCALAPPDATA" : "HOME");
  if (os !== "windows" && os !== "darwin" && xdg && isAbsolute(xdg)) return join(xdg, "dibregman");
  if (!base) return undefined;
  const within = { windows: [], darwin: ["Library", "Caches"] }[os] ?? [".cache"];
  return join(base, ...within, "dibregman");
}

/** The standard library's path functions, with types for their npm build, which ships none. */

// @ts-types="./path.d.ts"
export * from "deno-std/path/mod.js";

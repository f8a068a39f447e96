/** The standard library's assertions, with types for their npm build, which ships none. */

// @ts-types="./assert.d.ts"
export * from "deno-std/assert/mod.js";

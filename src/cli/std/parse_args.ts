/** The standard library's argument parser, with types for its npm build, which ships none. */

// @ts-types="./parse_args.d.ts"
export * from "deno-std/cli/parse_args.js";

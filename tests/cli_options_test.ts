/** Tests of src/cli/options.ts and src/train/progress.ts. */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { type Command, HelpRequest, helpText, parseOptions } from "../src/cli/options.ts";
import { suggestion } from "../src/io/words.ts";
import { duration, Progress } from "../src/train/progress.ts";
import { UsageError } from "../src/gpu/errors.ts";

const TRAIN = {
  name: "train",
  summary: "Trains.",
  options: [
    { name: "out", kind: "string", placeholder: "DIR", help: "folder of the run" },
    { name: "model", kind: "string", required: true, help: "model file" },
    { name: "teacher-steps", kind: "integer", default: 100, min: 1, help: "steps of the teacher" },
    { name: "lambda", kind: "number", above: -1, help: "parameter of the family" },
    { name: "ema", kind: "number", default: 0.99, min: 0, below: 1, help: "decay" },
    { name: "h", kind: "choice", choices: ["kl", "jeffreys", "logistic"], default: "jeffreys", help: "generator h" },
    { name: "no-install", kind: "flag", help: "install nothing" },
  ],
} as const satisfies Command;

const parse = (...args: string[]) => parseOptions(TRAIN, ["--model", "m", ...args]).values;

/** The message with which the arguments are refused. */
function refusal(...args: string[]): string {
  const { message } = assertThrows(() => parse(...args), UsageError);
  assert(!message.includes("\n"));
  return message;
}

Deno.test("defaults, and undefined where there is none", () => {
  assertEquals(parse(), {
    out: undefined,
    model: "m",
    teacherSteps: 100,
    lambda: undefined,
    ema: 0.99,
    h: "jeffreys",
    noInstall: false,
  });
});

Deno.test("values get the table's types", () => {
  const values = parse(
    "--out=a=b",
    "--teacher-steps",
    "1e3",
    "--lambda",
    "-.5",
    "--ema=0",
    "--h",
    "kl",
    "--no-install",
  );
  const steps: number = values.teacherSteps, lambda: number | undefined = values.lambda;
  const h: "kl" | "jeffreys" | "logistic" = values.h, out: string | undefined = values.out;
  assertEquals([out, steps, lambda, h, values.ema, values.noInstall], ["a=b", 1000, -0.5, "kl", 0, true]);
  assertEquals(parse("--lambda=-0.25").lambda, -0.25);
  assertEquals(parse("--out", "2").out, "2");
});

Deno.test("unknown options are named, with the closest one there is", () => {
  assertEquals(refusal("--lamda", "3"), `Command train has no option "--lamda". Did you mean "--lambda"?`);
  assertEquals(refusal("--steps=3"), `Command train has no option "--steps". Did you mean "--teacher-steps"?`);
  assertEquals(refusal("--zzzzzz"), `Command train has no option "--zzzzzz".`);
  assertStringIncludes(refusal("--install"), `"--no-install"`);
  for (const argument of ["-o", "--__proto__", "--constructor", "--no-out", "--out.x", "---out", "-"]) {
    assertStringIncludes(refusal(argument, "x"), JSON.stringify(argument));
  }
});

Deno.test("stray positional arguments, also after --", () => {
  assertStringIncludes(refusal("foo"), `"foo"`);
  assertStringIncludes(refusal("--no-install", "true"), `"true"`);
  assertStringIncludes(refusal("-3"), `"-3"`);
  assertStringIncludes(refusal(""), `""`);
  assertStringIncludes(refusal("--", "foo"), `"--"`);
});

Deno.test("missing values, repeated and missing options", () => {
  for (const args of [["--out"], ["--out", "--h", "kl"], ["--out="], ["--out", ""], ["--out", " "]]) {
    assertEquals(refusal(...args), "Option --out has no value; it expects a text.");
  }
  assertStringIncludes(refusal("--h", "kl", "--h", "kl"), "Option --h was given 2 times");
  assertStringIncludes(refusal("--no-install", "--no-install"), "Option --no-install was given 2 times");
  assertStringIncludes(refusal("--no-install=false"), `takes no value, but was given "false"`);
  assertThrows(() => parseOptions(TRAIN, []), UsageError, "Option --model is missing; it expects a text.");
});

Deno.test("numbers that are none, not whole or out of bounds", () => {
  const steps = (value: string) => `Option --teacher-steps is "${value}", but expects a whole number, at least 1.`;
  for (const value of ["0", "-3", "1.5", "abc", "0x10", "Infinity", "NaN", "1e99", "12px", "1,000"]) {
    assertEquals(refusal("--teacher-steps", value), steps(value));
  }
  assertStringIncludes(refusal("--lambda", "-1"), `--lambda is "-1", but expects a number, above -1.`);
  assertStringIncludes(refusal("--lambda", "1e999"), "a number, above -1");
  assertStringIncludes(refusal("--ema", "1"), `"1", but expects a number, at least 0 and below 1.`);
});

Deno.test("choices that are none", () => {
  assertEquals(
    refusal("--h", "jefreys"),
    `Option --h is "jefreys", but expects one of kl, jeffreys, logistic. Did you mean "jeffreys"?`,
  );
  assertEquals(refusal("--h", "KL"), `Option --h is "KL", but expects one of kl, jeffreys, logistic.`);
});

Deno.test("a value over several lines or of great length stays a short message on one line", () => {
  assert(refusal("--h", `a\nb${"c".repeat(1000)}`).length < 200);
});

Deno.test("what follows -- is passed on where the command says so", () => {
  const command = { name: "test", summary: "Tests.", options: [], passThrough: "files" } as const;
  assertEquals(parseOptions(command, ["--", "a", "--", "--help"]).rest, ["a", "--", "--help"]);
  assertThrows(() => parseOptions(command, ["a"]), UsageError, "after --");
});

Deno.test("help names every option with what it expects, whatever else is wrong", () => {
  for (const args of [["--help"], ["-h"], ["--nonsense", "--help"]]) {
    const { text } = assertThrows(() => parseOptions(TRAIN, args), HelpRequest);
    assertEquals(text, helpText(TRAIN));
  }
  for (const option of TRAIN.options) assertStringIncludes(helpText(TRAIN), `  --${option.name}`);
  assertStringIncludes(helpText(TRAIN), "(a whole number, at least 1; default 100)");
});

Deno.test("suggestion stays silent where nothing is close", () => {
  assertEquals(suggestion("x", ["h"]), "");
  assertEquals(suggestion("trian", ["train", "test"]), ` Did you mean "train"?`);
});

/** A sink that keeps what is written, with a clock that is moved by hand. */
function sink(width?: number) {
  const state = { text: "", time: 0 };
  return {
    state,
    write: (text: string) => void (state.text += text),
    columns: () => width,
    now: () => state.time,
  };
}

Deno.test("progress in a file: a line every ten seconds or five per cent, then the sum", () => {
  const out = sink();
  const progress = new Progress({ stage: "teacher", total: 1000, imagesPerStep: 128, sink: out });
  for (let step = 1; step <= 1000; step++) {
    out.state.time += 500;
    progress.update(step, { loss: 0.123456 });
  }
  progress.done();
  const lines = out.state.text.trimEnd().split("\n");
  assertEquals(lines.length, 51);
  assertEquals(lines[25], "teacher 501/1000  256 images/s  ETA 4m10s  loss 0.1235");
  assertEquals(lines.at(-1), "teacher: 1000 steps in 8m20s  loss 0.1235  256 images/s");
  assert(!out.state.text.includes("\r"));

  const fast = sink();
  const short = new Progress({ stage: "sample", total: 1000, sink: fast });
  for (let step = 1; step <= 1000; step++) short.update(step);
  assertEquals(fast.state.text.split("\n").length, 21);
});

Deno.test("progress on a terminal: one line rewritten, never wider than it", () => {
  const out = sink(60);
  const progress = new Progress({ stage: "distil", total: 100, imagesPerStep: 64, sink: out });
  for (let step = 1; step <= 50; step++) {
    out.state.time += 50;
    progress.update(step, { generator: 0.5, fake: 0.25, classifier: 0.6931 });
  }
  progress.log("checkpoint saved");
  const draws = out.state.text.split("\r\x1b[K");
  assertEquals(draws.length, 1 + 25 + 1);
  for (const draw of draws) assert(draw.length < 60, draw);
  assert(draws[25]!.startsWith("distil [#########...........] 49/100  1280 images/s  ETA 3s"), draws[25]);
  assertEquals(draws[26], "checkpoint saved\n");
});

Deno.test("progress of a resumed stage counts its own steps only", () => {
  const out = sink();
  const progress = new Progress({ stage: "teacher", total: 100, start: 90, imagesPerStep: 10, sink: out });
  out.state.time = 1000;
  progress.update(95);
  assertEquals(out.state.text, "teacher 95/100  50 images/s  ETA 1s\n");
});

Deno.test("durations", () => {
  assertEquals([0, 59_400, 59_600, 187_000, 3_600_000, 7_380_000].map(duration), [
    "0s",
    "59s",
    "1m00s",
    "3m07s",
    "1h00m",
    "2h03m",
  ]);
});

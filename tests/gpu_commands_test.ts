/** What is recorded and submitted, call by call, on a device that only writes down what it is told. */

import { assertEquals } from "@std/assert";
import { Commands, type Recorded } from "../src/gpu/commands.ts";

/** A device, and its calls so far: passes in brackets, `t` where they are timed, jobs ended by a bar. */
function notingDevice(): { device: GPUDevice; calls: () => string } {
  let calls = "";
  const pass = {
    setPipeline: (pipeline: string) => calls += `${pipeline}:`,
    setBindGroup: () => {},
    dispatchWorkgroups: (x: number) => calls += x,
    end: () => calls += "]",
  };
  const encoder = {
    beginComputePass: (descriptor?: GPUComputePassDescriptor) => {
      calls += descriptor?.timestampWrites ? "t[" : "[";
      return pass;
    },
    copyBufferToBuffer: () => calls += "c",
    resolveQuerySet: () => calls += "r",
    finish: () => {},
  };
  const device = { createCommandEncoder: () => encoder, queue: { submit: () => calls += "|" } };
  return { device: device as unknown as GPUDevice, calls: () => calls };
}

/** A dispatch of one workgroup to be told by, and `flops` operations. */
function dispatch(pipeline: string, x: number, flops: number): Recorded {
  return { pipeline: pipeline as unknown as GPUComputePipeline, group: {} as GPUBindGroup, flops, x, y: 1, z: 1 };
}

const BUFFER = {} as GPUBuffer, SET = {} as GPUQuerySet;

Deno.test("commands: dispatches share a pass and a pipeline until a copy comes between", () => {
  const { device, calls } = notingDevice();
  const commands = new Commands(device);
  commands.copy(BUFFER, 0, BUFFER, 0, 4);
  for (const [i, pipeline] of ["a", "a", "b"].entries()) commands.dispatch(dispatch(pipeline, i, 1e10));
  commands.copy(BUFFER, 0, BUFFER, 0, 4);
  commands.dispatch(dispatch("b", 3, 1e10));
  commands.submit();
  assertEquals(calls(), "c[a:01b:2]c[b:3]|");
  commands.submit();
  assertEquals(calls(), "c[a:01b:2]c[b:3]|", "nothing is left");
});

Deno.test("commands: a job ends before the dispatch that would be too much, one too large has a job of its own", () => {
  const { device, calls } = notingDevice();
  const commands = new Commands(device, 10);
  for (const [i, flops] of [4, 6, 1, 0, 25, 0, 3].entries()) commands.dispatch(dispatch("a", i, flops));
  commands.copy(BUFFER, 0, BUFFER, 0, 4);
  commands.submit();
  assertEquals(calls(), "[a:01]|[a:23]|[a:4]|[a:56]c|");
});

Deno.test("commands: a timed dispatch has its pass, also where it is larger than a job", () => {
  const { device, calls } = notingDevice();
  const commands = new Commands(device, 10);
  const writes = { querySet: SET, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
  for (const [i, flops] of [4, 25, 5].entries()) commands.timed(dispatch("a", i, flops), writes);
  commands.resolve(SET, 6, BUFFER);
  commands.submit();
  assertEquals(calls(), "t[a:0]|t[a:1]|t[a:2]r|");
});

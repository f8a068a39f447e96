/** Typed errors: everything the library throws on purpose is a {@linkcode DiBregmanError}. */

/** Base of every error this library throws on purpose; its message is a full sentence meant for the user. */
export class DiBregmanError extends Error {
  /** A message and, where there is one, the error behind it. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** No WebGPU adapter could be found. */
export class AdapterError extends DiBregmanError {}

/** A program needs more than the device offers. */
export class LimitError extends DiBregmanError {
  /** Name of the limit, as WebGPU spells it. */
  readonly limit: string;
  /** What is needed, in the limit's unit. */
  readonly needed: number;
  /** What the device offers, in the limit's unit. */
  readonly offered: number;

  /** `what` names the thing that needs it. */
  constructor(what: string, limit: string, needed: number, offered: number) {
    super(`${what} needs ${limit} = ${needed}, but this device offers ${offered}.`);
    this.limit = limit;
    this.needed = needed;
    this.offered = offered;
  }
}

/** A shader did not compile; the message shows the source line. */
export class ShaderError extends DiBregmanError {}

/** The device ran out of memory. */
export class OutOfMemoryError extends DiBregmanError {}

/** The device was lost. */
export class DeviceLostError extends DiBregmanError {}

/** WebGPU reported a validation error: a defect in this library or in a user's kernel. */
export class ValidationError extends DiBregmanError {}

/** Shapes, data types or graph structure do not fit. */
export class GraphError extends DiBregmanError {}

/** A file is not what it should be; the message names the file, the field and what was expected. */
export class FileError extends DiBregmanError {}

/** An option or argument is wrong. */
export class UsageError extends DiBregmanError {}

/** A loss, gradient or weight became NaN or infinite. */
export class NonFiniteError extends DiBregmanError {}

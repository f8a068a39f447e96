/** Bytes that are embedded in a module as text. */

/** The bytes that `text` stands for in base64 (RFC 4648); white space is skipped. */
export function decodeBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Markup as text: elements with escaped attributes and contents, for SVG and XHTML alike. */

/** Attributes by name; one that is undefined is left out. */
export type Attributes = Readonly<Record<string, string | number | undefined>>;

/** Text as it may stand between tags or in an attribute; characters that XML forbids become U+FFFD. */
export function escapeXml(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
    // deno-lint-ignore no-control-regex
    .replaceAll(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd");
}

/** An element; its `children` are markup already. Numbers in attributes are rounded to hundredths. */
export function element(name: string, attributes: Attributes = {}, ...children: readonly string[]): string {
  const parts = Object.entries(attributes).flatMap(([key, value]) => {
    if (value === undefined) return [];
    return [` ${key}="${typeof value === "number" ? rounded(value) : escapeXml(value)}"`];
  });
  const head = `<${name}${parts.join("")}`;
  return children.length === 0 ? `${head}/>` : `${head}>${children.join("")}</${name}>`;
}

/** A number to hundredths, as in the coordinates of a picture. */
export function rounded(value: number): string {
  if (!Number.isFinite(value)) throw new RangeError(`A coordinate became ${value}.`);
  return String(Number(value.toFixed(2)));
}

/** An element that holds text. */
export function textElement(name: string, attributes: Attributes, text: string): string {
  return element(name, attributes, escapeXml(text));
}

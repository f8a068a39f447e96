/** A strict reader of XML without a DTD: elements, attributes, text, comments; anything else is an error. */

/** An element. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  /** All text within, of children too. */
  readonly text: string;
}

const NAME = "[A-Za-z_:][\\w:.-]*";
const TOKEN = new RegExp(
  `<(/?)(${NAME})((?:\\s+${NAME}\\s*=\\s*(?:"[^"<]*"|'[^'<]*'))*)\\s*(/?)>|<!--(?:(?!--)[^])*-->|[^<]+`,
  "y",
);
const ATTRIBUTE = new RegExp(`(${NAME})\\s*=\\s*(?:"([^"]*)"|'([^']*)')`, "g");

/** Reads one element with all that is in it; an HTML page's doctype may precede it. Throws where it is not well-formed. */
export function parseXml(source: string): XmlElement {
  const markup = source.replace(/^<!DOCTYPE html>\s*/, "").trim();
  const open: { name: string; attributes: Record<string, string>; children: XmlElement[]; text: string }[] = [
    { name: "", attributes: {}, children: [], text: "" },
  ];
  for (let at = 0; at < markup.length; at = TOKEN.lastIndex) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(markup);
    if (!match) throw new Error(`not well-formed: ${markup.slice(at, at + 60)}`);
    const [token, closing, name, attributes, selfClosing] = match, current = open.at(-1)!;
    if (name === undefined) {
      if (token.startsWith("<!--")) continue;
      if (open.length === 1) throw new Error(`text outside of the element: ${token.slice(0, 60)}`);
      current.text += decoded(token);
    } else if (closing) {
      if (current.name !== name || attributes || selfClosing) {
        throw new Error(`<${current.name}> is closed by ${token}`);
      }
      open.pop();
      open.at(-1)!.children.push(current);
      open.at(-1)!.text += current.text;
    } else {
      const element = { name, attributes: attributesOf(attributes!), children: [], text: "" };
      if (selfClosing) current.children.push(element);
      else open.push(element);
    }
  }
  const [root] = open, [element, ...others] = root!.children;
  if (open.length !== 1 || !element || others.length > 0) {
    throw new Error(`there should be one element, all of it closed`);
  }
  return element;
}

function attributesOf(text: string): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const [, name, double, single] of text.matchAll(ATTRIBUTE)) {
    if (name! in attributes) throw new Error(`the attribute ${name} stands twice`);
    attributes[name!] = decoded(double ?? single!);
  }
  return attributes;
}

function decoded(text: string): string {
  return text.replaceAll(/&(#(\d+)|#x([\da-f]+)|lt|gt|amp|quot|apos)?(;?)/gi, (whole, entity, decimal, hex, end) => {
    if (!entity || !end) throw new Error(`a bare ampersand: ${text.slice(0, 60)}`);
    if (decimal || hex) return String.fromCodePoint(parseInt(decimal ?? hex, decimal ? 10 : 16));
    return { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" }[entity as string] ?? whole;
  });
}

/** All elements of a name and, where one is given, of a class, in order. */
export function elementsOf(root: XmlElement, name: string, className?: string): XmlElement[] {
  const own = root.name === name && (!className || root.attributes.class?.split(" ").includes(className)) ? [root] : [];
  return [...own, ...root.children.flatMap((child) => elementsOf(child, name, className))];
}

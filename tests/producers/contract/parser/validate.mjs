// A document on standard input; what the official parser says of it, as JSON, on standard output.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
console.log(JSON.stringify({ valid: document !== undefined, diagnostics: diagnostics.map((one) => ({ severity: one.severity, code: one.code, message: one.message, path: one.path.join("/") })) }));

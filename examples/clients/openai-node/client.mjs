// One text and its answer, with OpenAI's own package and nothing else.
//
//   node client.mjs URL NAMESPACE/ENDPOINT TEXT
//
// URL is that of a gateway, such as http://127.0.0.1:8080/v1. OPENAI_API_KEY is a key of `guideway keys create`.
// The text is printed as it comes, then the rest of the reply as one line of JSON. Exit code 0: completed; 1: refused.
import OpenAI, { OpenAIError } from "openai";

const [baseURL, model, text] = process.argv.slice(2);
if (!text) {
  console.error("usage: client.mjs URL NAMESPACE/ENDPOINT TEXT");
  process.exit(64);
}
try {
  const client = new OpenAI({ baseURL });
  const stream = await client.chat.completions.create({
    model,
    messages: [{ role: "user", content: text }],
    stream: true,
  });
  let told;
  for await (const chunk of stream) {
    for (const choice of chunk.choices) process.stdout.write(choice.delta.content ?? "");
    told = chunk.guideway ?? told;
  }
  console.log();
  console.log(JSON.stringify({ version: told.endpoint_version, usage: told.usage, value: told.samples[0].value }));
} catch (error) {
  // Without a key the package does not begin.
  if (!(error instanceof OpenAIError)) throw error;
  console.error(`${error.code ?? "not sent"}: ${error.message}`);
  process.exitCode = 1;
}

#!/usr/bin/env bash
# ai 6.0.326 (the AI SDK) with @ai-sdk/openai-compatible 2.0.92: the longer a server asks it to wait, the
# sooner it is back.
#
# Input: a 429 with `Retry-After: 4`, and a 429 with `Retry-After: 60`; one retry each.
# Guess: it waits 4 and 60 seconds, or fails at once if 60 are too many for it.
# Seen: 4 seconds, and 2 seconds: a wait of a minute or more is taken for no wait at all, and its own
# first backoff stands in its place. A busy server that asks for more patience gets less.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
npm install --silent --no-audit --no-fund --prefix "$lab" ai@6.0.326 @ai-sdk/openai-compatible@2.0.92
cat > "$lab/ask.mjs" <<'JAVASCRIPT'
import assert from "node:assert";
import { readFileSync } from "node:fs";
import http from "node:http";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const arrived = {};
const engine = http.createServer((request, response) => {
  let body = "";
  request.on("data", (data) => (body += data));
  request.on("end", () => {
    const seconds = JSON.parse(body).model; // the name of the model is the wait to ask for
    (arrived[seconds] ??= []).push(performance.now());
    response.writeHead(429, { "retry-after": seconds, "content-type": "application/json" });
    response.end('{"error": {"message": "busy", "type": "rate_limit_error", "code": 429}}');
  });
});
await new Promise((listening) => engine.listen(0, "127.0.0.1", listening));

const name = new URL("node_modules/ai/package.json", import.meta.url);
console.log("ai", JSON.parse(readFileSync(name)).version);
const baseURL = `http://127.0.0.1:${engine.address().port}/v1`;
const provider = createOpenAICompatible({ name: "stub", baseURL, apiKey: "none" });
const waits = {};
for (const seconds of ["4", "60"]) {
  const asked = { model: provider(seconds), prompt: "Greet me.", maxRetries: 1 };
  await assert.rejects(generateText(asked));
  const [first, second] = arrived[seconds];
  waits[seconds] = (second - first) / 1000;
  console.log(`Retry-After ${seconds}: asked again after ${waits[seconds].toFixed(1)} s`);
}
engine.closeAllConnections();
engine.close();
assert(waits["4"] >= 3.9, "the short wait has changed");
assert(waits["60"] < 30, "the long wait has changed");
JAVASCRIPT
node "$lab/ask.mjs"

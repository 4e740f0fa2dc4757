// Shows /openapi.json: operations by tag, schemas, and a form to try each operation.
// Everything is set as text, never as markup. The token stays in this page's memory.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const token = element("input", { type: "password", autocomplete: "off", id: "token", placeholder: "cat_…" });
let spec;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const child of children.flat()) made.append(child);
  return made;
}

// Text with `code` in it.
function prose(text) {
  return String(text).split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

function paragraphs(text) {
  return text.split("\n\n").map((part) => element("p", {}, prose(part)));
}

function resolved(node) {
  if (!node || !node.$ref) return node || {};
  const { $ref, ...more } = node;
  const target = $ref.slice(2).split("/").reduce((at, step) => at[step], spec);
  return { ...resolved(target), ...more };
}

function typeOf(schema) {
  if (!schema) return "any";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return element("a", { href: `#schema-${name}` }, name);
  }
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  const options = schema.anyOf || schema.oneOf;
  if (options) return element("span", {}, options.flatMap((one, i) => (i ? [" | ", typeOf(one)] : [typeOf(one)])));
  if (schema.type === "array") return element("span", {}, typeOf(schema.items), "[]");
  return [schema.type || "any", schema.format].filter(Boolean).join(" ");
}

function limitsOf(schema) {
  const words = { minLength: "at least {} characters", maxLength: "at most {} characters", minItems: "at least {}",
    maxItems: "at most {}", minimum: "≥ {}", maximum: "≤ {}", pattern: "matches {}", default: "default {}" };
  const parts = (schema.anyOf || []).concat(schema).concat(schema.items || []);
  return Object.entries(words).flatMap(([key, text]) => parts
    .filter((part) => part[key] !== undefined)
    .map((part) => text.replace("{}", () => (key === "pattern" ? part[key] : JSON.stringify(part[key])))));
}

function row(name, required, schema, description) {
  const notes = [description, ...limitsOf(schema)].filter(Boolean).join("; ");
  return element("tr", {}, element("td", {}, element("code", {}, name), required ? element("span", { class: "req", title: "required" }, " *") : ""),
    element("td", {}, typeOf(schema)), element("td", { class: "dim" }, prose(notes)));
}

function members(schema) {
  const known = resolved(schema);
  const rows = Object.entries(known.properties || {})
    .map(([name, part]) => row(name, (known.required || []).includes(name), part, part.description));
  return rows.length ? element("table", {}, rows) : element("p", { class: "dim" }, typeOf(known));
}

function example(value) {
  return element("pre", {}, JSON.stringify(value, null, 2));
}

function parametersOf(operation) {
  return (operation.parameters || []).map(resolved);
}

function answers(operation) {
  return Object.entries(operation.responses).map(([status, answer]) => {
    const content = Object.entries(answer.content || {}).map(([, one]) => one);
    const cell = element("td", {}, prose(answer.description));
    if (Number(status) < 400 && content[0]) cell.append(element("div", {}, typeOf(content[0].schema)));
    if (content[0] && content[0].example !== undefined) cell.append(example(content[0].example));
    const headers = Object.keys(answer.headers || {}).filter((name) => name !== "X-Request-Id");
    if (headers.length) cell.append(element("div", { class: "dim" }, "Headers: ", headers.join(", ")));
    return element("tr", {}, element("td", { class: "status" }, status), cell);
  });
}

function tryIt(path, method, operation) {
  const inputs = parametersOf(operation).filter((one) => one.in !== "header").map((one) => {
    const input = element("input", { "aria-label": one.name, placeholder: one.required ? "required" : "" });
    return { one, input, field: element("label", { class: "field" }, element("code", {}, one.name), input) };
  });
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const body = content && element("textarea", { "aria-label": "body", spellcheck: "false" });
  if (body) body.value = JSON.stringify(content.example, null, 2);
  const output = element("pre", { "aria-live": "polite" }, "");
  const button = element("button", { type: "button" }, "Send");
  output.hidden = true;
  button.addEventListener("click", async () => {
    button.disabled = true;
    output.hidden = false;
    output.textContent = await sent(path, method, inputs, body);
    button.disabled = false;
  });
  return element("details", {}, element("summary", {}, "Try it"), inputs.map((one) => one.field), body || "", element("p", {}, button), output);
}

async function sent(path, method, inputs, body) {
  let where = path;
  const query = new URLSearchParams();
  for (const { one, input } of inputs) {
    if (one.in === "path") where = where.replace(`{${one.name}}`, () => encodeURIComponent(input.value));
    else if (input.value) query.append(one.name, input.value);
  }
  const headers = {};
  if (token.value) headers.Authorization = `Bearer ${token.value}`;
  if (body) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(where + (query.size ? `?${query}` : ""), { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
    const text = await answer.text();
    const lines = [...answer.headers].map(([name, value]) => `${name}: ${value}`);
    return [`${answer.status} ${answer.statusText}`, ...lines, "", pretty(text)].join("\n");
  } catch (error) {
    return `not sent: ${error.message}`;
  }
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

function operationOf(path, method, operation) {
  const parameters = parametersOf(operation);
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const parts = [operation.description ? element("p", {}, prose(operation.description)) : ""];
  if (parameters.length) {
    parts.push(element("h3", {}, "Parameters"),
      element("table", {}, parameters.map((one) => row(one.name, one.required, one.schema, [one.in, one.description].filter(Boolean).join(": ")))));
  }
  if (content) parts.push(element("h3", {}, "Body: ", typeOf(content.schema)), members(content.schema), example(content.example));
  parts.push(element("h3", {}, "Answers"), element("table", {}, answers(operation)), tryIt(path, method, operation));
  return element("details", { class: "op", id: operation.operationId },
    element("summary", {}, element("span", { class: `verb ${method}` }, method), element("span", { class: "path" }, path),
      element("span", { class: "dim" }, prose(operation.summary))),
    element("div", { class: "body" }, parts));
}

function listOf(tag) {
  return Object.entries(spec.paths).flatMap(([path, item]) => METHODS
    .filter((method) => item[method] && item[method].tags.includes(tag))
    .map((method) => ({ path, method, operation: item[method] })));
}

function section(tag) {
  return element("section", { id: `tag-${tag.name}` }, element("h2", {}, tag.name), element("p", { class: "dim" }, prose(tag.description)),
    listOf(tag.name).map(({ path, method, operation }) => operationOf(path, method, operation)));
}

function schemas() {
  const all = Object.entries(spec.components.schemas).sort(([a], [b]) => (a < b ? -1 : 1));
  return element("section", { id: "schemas" }, element("h2", {}, "Schemas"), all.map(([name, schema]) => element("details", { class: "op", id: `schema-${name}` },
    element("summary", {}, element("code", {}, name)),
    element("div", { class: "body" }, schema.description ? element("p", {}, prose(schema.description)) : "", members(schema)))));
}

function contents() {
  return spec.tags.map((tag) => element("div", {}, element("h2", {}, tag.name), listOf(tag.name).map(({ method, operation }) =>
    element("a", { href: `#${operation.operationId}`, title: operation.summary },
      element("span", { class: `verb ${method}` }, method), element("span", {}, operation.operationId.split(".")[1])))));
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
  if (target) target.scrollIntoView();
}

function filtered(text) {
  for (const link of document.querySelectorAll("#toc a")) {
    const words = `${link.hash} ${link.title}`.toLowerCase();
    link.hidden = !words.includes(text);
  }
}

async function show() {
  const main = document.getElementById("main");
  try {
    spec = await (await fetch("/openapi.json")).json();
  } catch (error) {
    main.replaceChildren(element("p", {}, `/openapi.json cannot be read: ${error.message}`));
    return;
  }
  main.replaceChildren(element("h1", {}, spec.info.title), element("p", { class: "dim" }, `Version ${spec.info.version}, `, element("a", { href: "/openapi.json" }, "OpenAPI ", spec.openapi)),
    ...paragraphs(spec.info.description), element("div", { class: "token" }, element("label", { for: "token" }, "Admin token for Try it"), token),
    ...spec.tags.map(section), schemas());
  document.getElementById("toc").replaceChildren(...contents());
  document.getElementById("filter").addEventListener("input", (event) => filtered(event.target.value.toLowerCase()));
  addEventListener("hashchange", openTarget);
  openTarget();
}

show();

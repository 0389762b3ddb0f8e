// Draws /openapi.json: operations by noun, each with its parameters, body and answers. No dependency, no inline code.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const child of children) if (child !== null) element.append(child);
  return element;
}

function nameOf(reference) {
  return reference.split("/").pop();
}

// A schema in few words; a reference becomes a link to its own box.
function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) {
    const link = make("a", "type", nameOf(schema.$ref));
    link.href = "#" + nameOf(schema.$ref);
    return link;
  }
  const options = schema.anyOf || schema.oneOf;
  if (options) {
    const span = make("span", "");
    options.forEach((option, index) => span.append(index ? " or " : "", typeOf(option)));
    return span;
  }
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return make("span", "", "list of ", typeOf(schema.items || (schema.prefixItems || [])[0]));
  return [schema.type, schema.format].filter(Boolean).join(", ");
}

function table(headings, rows) {
  const head = make("tr", "", ...headings.map((heading) => make("th", "", heading)));
  const body = rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell))));
  return make("table", "", make("thead", "", head), make("tbody", "", ...body));
}

function fields(schema) {
  const required = new Set(schema.required || []);
  return Object.entries(schema.properties || {}).map(([name, field]) => [
    make("code", "", name),
    typeOf(field),
    required.has(name) ? "required" : "",
    field.description || "",
  ]);
}

function operation(method, path, what) {
  const box = make("div", "");
  if (what.parameters && what.parameters.length) {
    const rows = what.parameters.map((p) => [make("code", "", p.name), p.in, typeOf(p.schema), p.description || ""]);
    box.append(make("h3", "", "Parameters"), table(["Name", "In", "Type", ""], rows));
  }
  if (what.requestBody) {
    const types = Object.entries(what.requestBody.content).map(([media, body]) => [make("code", "", media), typeOf(body.schema)]);
    box.append(make("h3", "", "Body"), table(["Media type", "Type"], types));
  }
  const answers = Object.entries(what.responses).map(([status, answer]) => {
    const body = Object.values(answer.content || {})[0];
    return [status === "default" ? "error" : status, body ? typeOf(body.schema) : "", answer.description];
  });
  box.append(make("h3", "", "Answers"), table(["Status", "Type", ""], answers));
  const line = make(
    "summary", "",
    make("span", "method " + method, method.toUpperCase()),
    make("code", "path", path),
    make("span", "about", what.summary || ""),
    what.security ? make("span", "lock", "needs a token") : null,
  );
  return make("details", "", line, box);
}

function draw(api) {
  const root = document.getElementById("api");
  root.replaceChildren(make("h1", "", api.info.title + " " + api.info.version), make("p", "", api.info.description));
  const nouns = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => methods[name])) {
      const noun = methods[method].tags[0];
      if (!nouns.has(noun)) nouns.set(noun, []);
      nouns.get(noun).push(operation(method, path, methods[method]));
    }
  }
  for (const [noun, operations] of nouns) root.append(make("h2", "", noun), ...operations);
  root.append(make("h2", "", "Types"));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const line = make("summary", "", make("code", "path", name), make("span", "about", schema.description || ""));
    const box = make("details", "", line, make("div", "", table(["Field", "Type", "", ""], fields(schema))));
    box.id = name;
    root.append(box);
  }
  openTarget();
}

function openTarget() {
  const box = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (box && box.tagName === "DETAILS") {
    box.open = true;
    box.scrollIntoView();
  }
}

window.addEventListener("hashchange", openTarget);
fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(draw)
  .catch(() => document.getElementById("api").replaceChildren(make("p", "", "The API's description could not be loaded.")));

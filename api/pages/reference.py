"""The reference of the API as one page: `/openapi.json` as people read it, drawn here, so that no script has to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, Final

import msgspec

from api.pages.html import Html, code, element, joined, link, marked, table
from api.samples import sample
from domain.errors import CATALOGUE

Json = Mapping[str, Any]

METHODS: Final = ("get", "post", "put", "patch", "delete")

_CHOSEN: Final = {"IdempotencyKey": '-H "Idempotency-Key: k1"', "Prefer": '-H "Prefer: wait=5"'}


def reference(document: Json) -> Html:
    """The page's body."""
    return _Reference(document).page()


class _Reference:
    def __init__(self, document: Json) -> None:
        self._document = document
        self._components: Json = document["components"]
        self._schemas: Json = self._components["schemas"]
        # what any request may be answered with has no headers but those of all answers
        self._common: Json = self._components["responses"]["MalformedRequest"]["headers"]

    def page(self) -> Html:
        groups = self._groups()
        return element(
            "div",
            self._contents(groups),
            element("div", self._introduction(), *self._sections(groups), self._types(), class_="reference"),
            class_="beside",
        )

    def _operations(self) -> Iterator[tuple[str, str, Json]]:
        for path, methods in self._document["paths"].items():
            yield from ((method, path, methods[method]) for method in METHODS if method in methods)

    def _groups(self) -> dict[str, list[tuple[str, str, Json]]]:
        groups: dict[str, list[tuple[str, str, Json]]] = {tag["name"]: [] for tag in self._document["tags"]}
        for found in self._operations():
            groups[found[2]["tags"][0]].append(found)
        return groups

    def _answer(self, answer: Json) -> Json:
        """An answer itself, if it was named by reference."""
        return self._components["responses"][_name(answer)] if "$ref" in answer else answer

    # -- what stands around the operations

    def _contents(self, groups: Mapping[str, list[tuple[str, str, Json]]]) -> Html:
        search = element("input", type="search", id="search", placeholder="Find", aria_label="Find", hidden="hidden")
        lists = [
            element(
                "section",
                element("h2", link(f"#{tag}", tag)),
                element("ul", *(element("li", _entry(*found)) for found in operations)),
            )
            for tag, operations in groups.items()
        ]
        return element("nav", search, *lists, link("#types", "Types"), class_="contents", aria_label="Operations")

    def _introduction(self) -> Html:
        info = self._document["info"]
        log_in = 'curl -s "$DAYBOOK/auth/login" -H "Content-Type: application/json" \\\n  -d ' + quote(
            '{"username":"ada","password":"…"}'
        )
        headers = [
            (code(name), marked(self._components["headers"][_name(header)]["description"]))
            for name, header in self._common.items()
        ]
        schemes = self._components["securitySchemes"].values()
        return joined(
            element("h1", f"{info['title']} {info['version']}"),
            element("p", marked(info["description"])),
            element("p", "The same for machines: ", link("/openapi.json", "/openapi.json"), "."),
            element("h3", "Who is asking"),
            element("p", marked("`Authorization: Bearer …` with one of these:")),
            element("ul", *(element("li", marked(scheme["description"])) for scheme in schemes)),
            element("p", marked("The examples below want `$DAYBOOK`, this address, and `$TOKEN`, an access token:")),
            element("pre", log_in),
            element("h3", "Headers of every request and answer"),
            element("p", code("X-Correlation-ID"), ": ", marked(self._correlation()["description"])),
            table(("Header", ""), headers),
        )

    def _correlation(self) -> Json:
        found: Json = self._components["parameters"]["CorrelationId"]
        return found

    def _sections(self, groups: Mapping[str, list[tuple[str, str, Json]]]) -> Iterator[Html]:
        about = {tag["name"]: tag.get("description", "") for tag in self._document["tags"]}
        for tag, operations in groups.items():
            heading = joined(element("h2", tag), element("p", about[tag], class_="about"))
            yield element("section", heading, *(self._operation(*found) for found in operations), id=tag)

    # -- one operation

    def _operation(self, method: str, path: str, what: Json) -> Html:
        parts = (
            element("h3", _method(method), code(path), class_="operation"),
            element("p", what["summary"], "." if what["summary"][-1:].isalnum() else ""),
            element("p", marked(what["description"])) if "description" in what else Html(""),
            self._security(what),
            self._parameters(what),
            self._body(what),
            element("h4", "Answers"),
            table(("Status", "", "Headers"), [self._row(*found) for found in what["responses"].items()]),
            self._examples(method, path, what),
        )
        return element("article", *parts, id=what["operationId"])

    def _security(self, what: Json) -> Html:
        if "security" not in what:
            return element("p", "Open to everybody.", class_="security")
        scopes = [scope for way in what["security"] for scope in way.get("key", ())]
        if not scopes:
            return element("p", "Needs a login; API keys are not good for this.", class_="security")
        named = joined(*(code(scope) for scope in scopes), between=" or ")
        return element("p", "Needs a login, or an API key with ", named, ".", class_="security")

    def _parameters(self, what: Json) -> Html:
        rows = []
        for parameter in what["parameters"]:
            if "$ref" in parameter and _name(parameter) == "CorrelationId":
                continue
            given = self._components["parameters"][_name(parameter)] if "$ref" in parameter else parameter
            kind = joined(given["in"], ", required" if given.get("required") else "")
            rows.append((code(given["name"]), kind, self._type(given["schema"]), marked(given["description"])))
        return joined(element("h4", "Parameters"), table(("Name", "In", "Type", ""), rows)) if rows else Html("")

    def _body(self, what: Json) -> Html:
        body = what.get("requestBody")
        if body is None:
            return Html("")
        kinds = (joined(code(media), ": ", self._type(one["schema"])) for media, one in body["content"].items())
        about = body.get("description", "" if body["required"] else "May be left out.")
        first = next(iter(body["content"].values()))["schema"]
        return joined(
            element("h4", "Body"),
            element("p", joined(*kinds, between="; "), ". ", marked(about)),
            self._fields(first),
        )

    def _row(self, status: str, answer: Json) -> tuple[str, ...]:
        told = self._answer(answer)
        more = [code(name) for name in told["headers"] if name not in self._common]
        says = [told["description"], " "] if status < "400" else []
        for media, content in told.get("content", {}).items():
            codes = [link(f"/problems/{one}", code(one)) for one in _codes(content["schema"])]
            kind = self._type(content["schema"])
            other = joined(kind, " as ", code(media))
            says.append(joined(*codes, between=", ") if codes else kind if media == "application/json" else other)
        return element("span", status, class_=f"status s{status[0]}"), joined(*says), joined(*more, between=", ")

    def _examples(self, method: str, path: str, what: Json) -> Html:
        request = element("pre", self._curl(method, path, what))
        answer = self._sample(what)
        return joined(element("h4", "Example"), request, answer)

    def _curl(self, method: str, path: str, what: Json) -> str:
        examples = {place["name"]: place.get("example", "…") for place in what["parameters"] if "name" in place}
        parts = ["curl" if method == "get" else f"curl -X {method.upper()}"]
        for name, example in examples.items():
            path = path.replace("{" + name + "}", str(example))
        parts.append(f'"$DAYBOOK{path}"')
        if "security" in what:
            parts.append('\\\n  -H "Authorization: Bearer $TOKEN"')
        taken = {_name(place) for place in what["parameters"] if "$ref" in place}
        parts += [text for name, text in _CHOSEN.items() if name in taken and method != "get"]
        if "requestBody" in what:
            media, content = next(iter(what["requestBody"]["content"].items()))
            body = msgspec.json.encode(content["example"]).decode()
            parts.append(f'\\\n  -H "Content-Type: {media}" \\\n  -d {quote(body)}')
        return " ".join(parts)

    def _sample(self, what: Json) -> Html:
        for status, answer in what["responses"].items():
            for media, content in answer.get("content", {}).items():
                if status < "300" and (media.endswith("json")):
                    value = sample(content["schema"], self._schemas, whole=True)
                    line = media.endswith("ndjson")
                    text = msgspec.json.encode(value)
                    drawn = text if line else msgspec.json.format(text, indent=2)
                    return element("pre", f"{status}\n{drawn.decode()}")
        return Html("")

    # -- types

    def _types(self) -> Html:
        boxes = [
            element(
                "article",
                element("h3", name),
                element("p", marked(schema.get("description", ""))),
                self._fields(schema),
                id=name,
            )
            for name, schema in sorted(self._schemas.items())
        ]
        return element("section", element("h2", "Types"), *boxes, id="types")

    def _fields(self, schema: Json) -> Html:
        if "$ref" in schema:
            return self._fields(self._schemas[_name(schema)])
        required = set(schema.get("required", ()))
        rows = [
            (code(name), self._type(field), "required" if name in required else "", marked(_about(field)))
            for name, field in schema.get("properties", {}).items()
        ]
        return table(("Member", "Type", "", ""), rows)

    def _type(self, schema: Json) -> Html:
        """A schema in few words; a name is a link to its box."""
        if "$ref" in schema:
            return link(f"#{_name(schema)}", _name(schema))
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return joined(*(self._type(option) for option in options), between=" or ")
        if "enum" in schema:
            return joined(*(code(str(value)) for value in schema["enum"]), between=" or ")
        if "const" in schema:
            return code(str(schema["const"]))
        if schema.get("type") == "array":
            items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
            return joined("list of ", self._type(items))
        if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
            return joined("object of ", self._type(schema["additionalProperties"]))
        return joined(*_words(schema))


def _words(schema: Json) -> Iterator[str]:
    yield str(schema.get("format", schema.get("type", "anything")))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        yield f" from {low}" if high is None or high > 1 << 60 else f" from {low} to {high}"
    if "default" in schema and schema["default"] is not None:
        yield f", {msgspec.json.encode(schema['default']).decode()} by default"


def _about(field: Json) -> str:
    """What a field says of itself, or its first kind of value does."""
    options = field.get("anyOf", ())
    found = field.get("description") or next((one["description"] for one in options if "description" in one), "")
    return str(found)


def _codes(schema: Json) -> list[str]:
    """The codes that a problem's schema lets it have."""
    narrowed = schema["allOf"][-1]["properties"] if "allOf" in schema else {}
    return [one for one in narrowed.get("code", {}).get("enum", ()) if one in CATALOGUE]


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _method(method: str) -> Html:
    return element("span", method.upper(), class_=f"method {method}")


def _entry(method: str, path: str, what: Json) -> Html:
    about = element("span", what["summary"], class_="about")
    return element("a", _method(method), code(path), about, href=f"#{what['operationId']}")

"""The OpenAPI document, made from the table of endpoints and the structs of their bodies."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

import likewise
from likewise.service import bodies
from likewise.service.refusals import CODES, Envelope
from likewise.service.settings import Settings

LARGEST = 3.4028234663852886e38  # of float32
REF = "#/components/schemas/{name}"
OTHER = "ItemOfKnown"  # what a known item is, where it is not what a query is
ALWAYS = ("unauthorized", "forbidden", "too_many_requests", "internal", "busy", "stopping")
OF_BODIES = ("too_slow", "too_large", "unsupported_media_type", "invalid")


@dataclass(frozen=True)
class Parameter:
    """A parameter of an address or a header.

    Attributes:
        name: Its name.
        place: "path", "query" or "header".
        schema: Its JSON schema.
        sentence: What it is.
    """

    name: str
    place: str
    schema: Mapping[str, Any]
    sentence: str


@dataclass(frozen=True)
class Endpoint:
    """One address with one method.

    Attributes:
        method: GET, POST, PATCH or DELETE.
        path: With parameters in braces.
        name: Name of the operation, and of the method of `Routes` that answers it.
        sentence: What it does.
        answers: The struct of its answer, or a media type.
        asks: The struct of its body; None for none.
        query: The struct of the parameters behind the path; None for none.
        form: Fields of a form that says the same as the body; empty where there is no form.
        scope: "read", "write", or None for everybody.
        status: Status of the answer.
        codes: Codes of refusals beyond those that any endpoint has.
        parameters: Parameters of the path and the headers.
        exported: Whether an exported model answers it too.
    """

    method: str
    path: str
    name: str
    sentence: str
    answers: Any
    asks: Any = None
    query: Any = None
    form: Sequence[str] = ()
    scope: str | None = "read"
    status: int = 200
    codes: Sequence[str] = ()
    parameters: Sequence[Parameter] = field(default=())
    exported: bool = False


_FILE = {"type": "string", "format": "binary"}
_TEXT = {"type": "string", "minLength": 1}
_JSON = {"type": "string", "description": "JSON."}
# Fields of forms that are not as in the body; items by what the model takes. Vectors have no form.
FIELDS: dict[str, Any] = {"label": _TEXT, "id": _TEXT, "where": _JSON, "metadata": _JSON}
FORMS: dict[str, dict[str, Any]] = {
    "image": {"image": {"type": "array", "items": _FILE, "minItems": 1}, "a": _FILE, "b": _FILE},
    "text": {"text": {"type": "array", "items": _TEXT, "minItems": 1}, "a": _TEXT, "b": _TEXT},
}
ID = Parameter("id", "path", {"type": "string", "minLength": 1}, "The id.")
IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "Chosen by the client. A request that is sent again with the same key is carried out once.",
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/match",
        "match",
        "Which known thing each item is, or that it is unknown.",
        bodies.MatchAnswers,
        bodies.MatchRequest,
        form=("image", "text", "point", "k", "where", "candidates"),
        codes=("not_calibrated", "too_few_items", "storage_failed"),
        exported=True,
    ),
    Endpoint(
        "POST",
        "/v1/verify",
        "verify",
        "Whether the two items of each pair are the same.",
        bodies.VerifyAnswers,
        bodies.VerifyRequest,
        form=("a", "b", "point", "prior"),
        codes=("not_calibrated",),
        exported=True,
    ),
    Endpoint(
        "POST",
        "/v1/lookup",
        "lookup",
        "The known items that are most like each item.",
        bodies.LookupAnswers,
        bodies.LookupRequest,
        form=("image", "text", "k", "where"),
        codes=("too_few_items", "storage_failed"),
        exported=True,
    ),
    Endpoint(
        "POST",
        "/v1/embed",
        "embed",
        "The embedding of each item.",
        bodies.Embeddings,
        bodies.EmbedRequest,
        form=("image", "text", "queries"),
        exported=True,
    ),
    Endpoint(
        "POST",
        "/v1/items",
        "add_items",
        "Add known items, all of them or none. They are on disk when this is answered.",
        bodies.Added,
        bodies.AddRequest,
        form=("image", "text", "label", "id", "metadata"),
        scope="write",
        status=201,
        codes=("read_only", "id_taken", "key_reused", "storage_failed"),
        parameters=(IDEMPOTENCY,),
    ),
    Endpoint(
        "GET",
        "/v1/items",
        "list_items",
        "Known items, newest first.",
        bodies.KnownItems,
        query=bodies.ItemsPage,
        codes=("not_found", "storage_failed"),
        exported=True,
    ),
    Endpoint(
        "GET",
        "/v1/items/{id}",
        "get_item",
        "A known item.",
        bodies.KnownItem,
        codes=("not_found", "storage_failed"),
        parameters=(ID,),
        exported=True,
    ),
    Endpoint(
        "GET",
        "/v1/items/{id}/picture",
        "get_picture",
        "The small picture of a known item.",
        "image/*",
        codes=("not_found", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint(
        "PATCH",
        "/v1/items/{id}",
        "relabel_item",
        "Give a known item another label. It is on disk when this is answered.",
        bodies.KnownItem,
        bodies.RelabelRequest,
        scope="write",
        codes=("read_only", "not_found", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint(
        "DELETE",
        "/v1/items/{id}",
        "remove_item",
        "Remove a known item. That is on disk when this is answered.",
        bodies.Removed,
        scope="write",
        codes=("read_only", "not_found", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint(
        "GET",
        "/v1/unknowns",
        "list_unknowns",
        "Items that were matched as unknown, newest first.",
        bodies.Unknowns,
        query=bodies.Page,
        codes=("not_kept", "storage_failed"),
    ),
    Endpoint(
        "GET",
        "/v1/unknowns/{id}/picture",
        "get_unknown_picture",
        "The small picture of an unknown.",
        "image/*",
        codes=("not_kept", "not_found", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint(
        "POST",
        "/v1/unknowns/{id}/enroll",
        "enroll_unknown",
        "Add an unknown to the known items, and take it out of the queue.",
        bodies.Added,
        bodies.EnrollRequest,
        scope="write",
        status=201,
        codes=("not_kept", "read_only", "not_found", "id_taken", "key_reused", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint(
        "DELETE",
        "/v1/unknowns/{id}",
        "remove_unknown",
        "Take an unknown out of the queue.",
        bodies.Removed,
        scope="write",
        codes=("not_kept", "not_found", "storage_failed"),
        parameters=(ID,),
    ),
    Endpoint("GET", "/v1/model", "model_card", "What is served.", bodies.ModelCard, exported=True),
    Endpoint(
        "GET",
        "/v1/drift",
        "drift",
        "Whether today's distances look like those that were calibrated on.",
        bodies.DriftReport,
        query=bodies.DriftQuery,
        codes=("not_calibrated",),
    ),
    Endpoint(
        "GET",
        "/v1/health",
        "health",
        "That the service lives.",
        bodies.Health,
        scope=None,
        exported=True,
    ),
    Endpoint(
        "GET", "/v1/ready", "ready", "That it answers.", bodies.Health, scope=None, exported=True
    ),
    Endpoint(
        "GET",
        "/v1/metrics",
        "metrics",
        "Numbers for Prometheus.",
        "text/plain; version=0.0.4",
        exported=True,
    ),
)


@dataclass(frozen=True)
class Served:
    """What of a service its document tells.

    Attributes:
        has_keys: Whether clients must give a key.
        takes: Kind of a query: "image", "text" or "vector".
        points: Names of the operating points that match.
        pair_points: Names of the operating points that verify.
        width: Numbers of a query that is a vector, if it is known.
        dimension: Numbers of an embedding, if it is known.
        settings: Limits.
        exported: Whether an exported model answers, which can do less.
        known_takes: Kind of a known item, with two towers; None where it is that of a query.
        known_width: Numbers of a known item that is a vector, with two towers.
    """

    has_keys: bool
    takes: str
    points: tuple[str, ...] = ()
    pair_points: tuple[str, ...] = ()
    width: int | None = None
    dimension: int | None = None
    settings: Settings = field(default_factory=Settings)
    exported: bool = False
    known_takes: str | None = None
    known_width: int | None = None

    @property
    def kinds(self) -> tuple[str, str]:
        """Kinds of a query and of a known item."""
        return self.takes, self.known_takes or self.takes


def document(served: Served) -> dict[str, Any]:
    """The OpenAPI document of a service.

    Example:
        >>> told = document(Served(has_keys=False, takes="text"))
        >>> told["paths"]["/v1/match"]["post"]["operationId"]
        'match'
        >>> told["components"]["schemas"]["Item"]["oneOf"]
        [{'required': ['text']}, {'required': ['embedding']}]
    """
    structs: set[type] = {Envelope}
    offered = [each for each in ENDPOINTS if _is_offered(each, served)]
    for each in offered:
        structs |= {kind for kind in (each.asks, each.answers) if isinstance(kind, type)}
    ordered = sorted(structs, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=REF)
    _narrow(schemas, served)
    paths: dict[str, dict[str, Any]] = {}
    for each in offered:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, served, schemas)
    components: dict[str, Any] = {"schemas": schemas}
    if served.has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "likewise",
            "version": likewise.__version__,
            "summary": "Which known thing an item is, with error rates that are guaranteed.",
        },
        "paths": paths,
        "components": components,
    }


def _is_offered(endpoint: Endpoint, served: Served) -> bool:
    if served.exported:
        return endpoint.exported
    # Unknowns are queries, which are no known items with two towers.
    return served.known_takes is None or endpoint.name != "enroll_unknown"


def _narrow(schemas: dict[str, dict[str, Any]], served: Served) -> None:
    """Tell what this model takes, and the limits of this service."""
    settings = served.settings
    query, known = served.kinds
    if served.known_takes is not None:
        schemas[OTHER] = {**copy.deepcopy(schemas["Item"]), "title": OTHER}
        schemas["Pair"]["properties"]["b"] = {"$ref": REF.format(name=OTHER)}
        either = [{"$ref": REF.format(name=name)} for name in ("Item", OTHER)]
        schemas["EmbedRequest"]["properties"]["items"]["items"] = {"anyOf": either}
    known_width = served.width if served.known_takes is None else served.known_width
    for name, takes, width in (
        ("Item", query, served.width),
        ("NewItem", known, known_width),
        (OTHER, known, known_width),
    ):
        if name in schemas:  # where nothing can be added, there is no NewItem
            _narrow_item(schemas[name], takes, width, served)
    for name in ("MatchRequest", "LookupRequest"):
        fields = schemas[name]["properties"]
        fields["k"]["maximum"] = settings.most_neighbors
        for only in ("where", "candidates") if served.exported else ():
            fields.pop(only, None)
    _name_points(schemas["MatchRequest"]["properties"]["point"], served.points)
    _name_points(schemas["VerifyRequest"]["properties"]["point"], served.pair_points)
    for each in schemas.values():
        for many in ("items", "pairs"):
            if many in each.get("properties", {}) and "minItems" in each["properties"][many]:
                each["properties"][many]["maxItems"] = settings.most_items


def _narrow_item(schema: dict[str, Any], takes: str, width: int | None, served: Served) -> None:
    kinds = (takes, "embedding")
    fields = schema["properties"]
    for kind in ("image", "text", "vector"):
        if kind not in kinds:
            del fields[kind]
    schema["oneOf"] = [{"required": [kind]} for kind in kinds]
    if "text" in fields:
        fields["text"]["maxLength"] = served.settings.most_characters
    for kind, count in (("vector", width), ("embedding", served.dimension)):
        if kind in fields:
            number = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
            fields[kind]["items"] = number
            if count is not None:
                fields[kind] |= {"minItems": count, "maxItems": count}


def _form_fields(endpoint: Endpoint, served: Served) -> tuple[dict[str, Any], list[str]]:
    """The items of a form, and which of them it must have; none where it cannot hold them."""
    query, known = served.kinds
    if endpoint.name == "verify":
        if query not in FORMS or known not in FORMS:
            return {}, []
        return {"a": FORMS[query]["a"], "b": FORMS[known]["b"]}, ["a", "b"]
    taken = {"add_items": (known,), "embed": (query, known)}.get(endpoint.name, (query,))
    fields = {kind: FORMS[kind][kind] for kind in dict.fromkeys(taken) if kind in FORMS}
    return fields, list(fields) if len(fields) == 1 else []


def _name_points(schema: dict[str, Any], names: Sequence[str]) -> None:
    if names:
        schema["enum"] = sorted(names)
    if schema["default"] not in names:
        del schema["default"]


def _operation(
    endpoint: Endpoint, served: Served, schemas: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.sentence,
        "parameters": [
            {
                "name": each.name,
                "in": each.place,
                "required": each.place == "path",
                "schema": each.schema,
                "description": each.sentence,
            }
            for each in endpoint.parameters
        ]
        + _query(endpoint, served),
        "responses": _responses(endpoint),
    }
    if endpoint.asks is not None:
        content: dict[str, Any] = {"application/json": {"schema": _ref(endpoint.asks)}}
        items, required = _form_fields(endpoint, served)
        if endpoint.form and items:
            known = schemas[endpoint.asks.__name__]["properties"]
            fields = FIELDS | items
            content["multipart/form-data"] = {
                "schema": {
                    "type": "object",
                    "properties": {
                        name: fields[name] if name in fields else known[name]
                        for name in endpoint.form
                        if name in fields or name in known
                    },
                    "required": required,
                    "additionalProperties": False,
                }
            }
        told["requestBody"] = {"required": True, "content": content}
    if served.has_keys and endpoint.scope is not None:
        told["security"] = [{"key": []}]
    return told


def _query(endpoint: Endpoint, served: Served) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    _, schemas = msgspec.json.schema_components([endpoint.query])
    if endpoint.query is bodies.DriftQuery:
        _name_points(schemas["DriftQuery"]["properties"]["point"], served.points)
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.pop("description"),
            "schema": schema,
        }
        for name, schema in schemas[endpoint.query.__name__]["properties"].items()
    ]


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    if isinstance(endpoint.answers, str):
        media = {endpoint.answers: {"schema": {"type": "string"}}}
    else:
        media = {"application/json": {"schema": _ref(endpoint.answers)}}
    responses: dict[str, Any] = {
        str(endpoint.status): {"description": endpoint.sentence, "content": media}
    }
    codes = [*ALWAYS, *endpoint.codes]
    if endpoint.scope is None:
        codes = ["internal", "stopping", "too_many_requests"]
    if endpoint.asks is not None:
        codes += OF_BODIES
    if endpoint.query is not None:
        codes.append("invalid")
    for code in dict.fromkeys(codes):
        status, sentence = CODES[code]
        told = responses.setdefault(
            str(status),
            {"description": "", "content": {"application/json": {"schema": _ref(Envelope)}}},
        )
        told["description"] = f"{told['description']} `{code}`: {sentence}".strip()
    return responses


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": REF.format(name=kind.__name__)}

"""The OpenAPI document, and a fuzzer that lives by it."""

import json

import pytest
from falcon.inspect import inspect_routes
from jsonschema import Draft202012Validator
from schemathesis.openapi import from_dict

from pensieved.http.admission import Admission
from pensieved.http.app import create_app
from pensieved.http.door import OPEN_ROUTES
from pensieved.http.openapi import OPERATIONS, document
from support.front import StandInDaemon, question, running_front
from support.fuzz import EXAMPLES, Fuzzer, fuzz, fuzzable_front


@pytest.fixture(scope="module")
def described():
    return json.loads(json.dumps(document()))


def test_every_route_is_in_the_document_and_the_other_way_round(described):
    app = create_app(StandInDaemon(), Admission(1, 1))._app._app
    routes = {
        (route.path.replace(":path}", "}"), method.method.lower())
        for route in inspect_routes(app)
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }
    assert routes == {(path, method) for path, methods in described["paths"].items() for method in methods}


def test_what_needs_no_key_is_what_the_door_leaves_open(described):
    assert {operation.path for operation in OPERATIONS if operation.open} == OPEN_ROUTES
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == (path not in OPEN_ROUTES)


def test_the_daemon_serves_it():
    with running_front(api_keys=("a-key",)) as front:
        response = front.get("/openapi.json")
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json()["openapi"] == "3.1.0"


def test_it_is_a_valid_document(described):
    from_dict(described).validate()
    identifiers = [one["operationId"] for path in described["paths"].values() for one in path.values()]
    assert len(set(identifiers)) == len(identifiers)
    for schema in described["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(described):
    known = described["components"]["schemas"]
    text = json.dumps(described)
    found = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert found <= set(known)
    assert not [name for name in known if name.startswith("_") or "." in name]


def test_bounds_of_the_structs_are_in_it(described):
    fields = described["components"]["schemas"]["MessagesRequest"]["properties"]
    assert fields["messages"]["minItems"] == 1
    assert fields["max_tokens"]["minimum"] == 0


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path != "/v1/embeddings"])
def test_examples_are_valid_for_the_document_and_for_the_daemon(described, path):
    body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(body | {"components": described["components"]})
    validator.validate(EXAMPLES[path])
    with fuzzable_front() as front:
        assert front.post(path, EXAMPLES[path]).status == 200
        answer = front.post(path, EXAMPLES[path] | {"stream": False})
    schema = described["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    Draft202012Validator(schema | {"components": described["components"]}).validate(answer.json())


def test_errors_are_as_described(described):
    with running_front() as front:
        for path in EXAMPLES:
            schema = described["paths"][path]["post"]["responses"]["400"]["content"]["application/json"][
                "schema"
            ]
            validator = Draft202012Validator(schema | {"components": described["components"]})
            validator.validate(front.post(path, question(model=5)).json())


@pytest.mark.parametrize("field", ["top_k", "max_tokens"])
@pytest.mark.parametrize("number", [2**31, 2**63, 2**64, 10**350])
def test_numbers_beyond_what_the_engine_counts_to(field, number):
    """Found by the fuzzer."""
    with running_front() as front:
        assert front.say(**{field: number}).status in {200, 400}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_breaks_it():
    """`make fuzz` sends 10,000."""
    with fuzzable_front() as front:
        fuzzer = Fuzzer(front.url)
        try:
            fuzz(fuzzer, 600, 1)
        finally:
            fuzzer.close()
        assert sum(fuzzer.answers.values()) >= 600
        assert (front.admission.running, front.admission.queued) == (0, 0)

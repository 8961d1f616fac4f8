"""POST /v1/responses, without a store: a request carries its whole conversation."""

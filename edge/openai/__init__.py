"""OpenAI's words for requests and answers, for every door that speaks them.

`schema` and `parse` bring bodies to the service's `Request`; `shape`, `collect` and `response`
bring its pieces back. Nothing here knows of HTTP or MQTT, and nothing has state of its own.
"""

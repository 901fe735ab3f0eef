"""HTTP: the ASGI application, connection limits, access control, OpenAPI document and pages."""

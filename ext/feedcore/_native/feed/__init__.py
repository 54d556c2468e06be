"""Pages made by compiled code, from the request's bytes to the reply's."""

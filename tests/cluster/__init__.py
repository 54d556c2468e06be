"""Contract suites, one class a port; an adapter subclasses them."""

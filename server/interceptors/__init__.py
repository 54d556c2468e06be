"""What happens around every call. A plain list of `async (call, request, proceed)`, composed in
wiring."""

"""One module a question; each prints a Markdown table with the machine and the commit."""

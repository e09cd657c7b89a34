"""Where archcost meets the tools that people work in; each file is thin and calls the public API."""
